"""``serve --engine openvino`` as an operator meets it."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from onnx_bundle import IMAGE_SHAPE, write_linear_bundle
from table_committee import make_table_bench

from cascade_serve import Client
from cascade_serve.core.plan import Fingerprint
from cascade_serve.core.request import Request
from cascade_serve.engine.opening import OpeningConfig, open_engine
from cascade_serve.engine.protocol import EngineConfig

ON_ONNX_RUNTIME = Fingerprint(engine="onnxruntime", precision="fp32")


@contextmanager
def serving(repository: Path, *options: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "cascade_serve", "serve", str(repository), "--engine", "openvino"]
    ports = ["--port", "0", "--metrics-port", "0"]
    with subprocess.Popen(
        [*command, *ports, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def address_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    match = re.match(r"serving gRPC on (\S+),", line)
    assert match is not None, line
    return match[1]


def test_a_plan_calibrated_on_onnxruntime_is_served_only_when_asked_and_alike(tmp_path: Path) -> None:
    bundle = write_linear_bundle(
        tmp_path / "repository" / "linear" / "1", tmp_path / "sources", measured_on=ON_ONNX_RUNTIME
    )
    with serving(tmp_path / "repository") as process:
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (2, "")
    assert "calibrated on onnxruntime in fp32, and would be served on openvino in fp32" in errors

    images_BHWC = np.random.default_rng(0).integers(0, 256, (11, *IMAGE_SHAPE), dtype=np.uint8)
    engine = open_engine(bundle, OpeningConfig(engine=EngineConfig(max_batch_size=8)), make_table_bench().watcher)
    expected = engine.admit(Request(images_BHWC=images_BHWC)).result()
    engine.close()
    options = ("--allow-uncertified", "--workers", "2", "--max-batch-size", "8")
    with serving(tmp_path / "repository", *options) as process:
        with Client(address_of(process), timeout_s=60) as client:
            answer = client.infer(images_BHWC, model="linear")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert not answer.certified
    assert answer.exit_stage is not None
    assert answer.probabilities is not None
    np.testing.assert_array_equal(answer.exit_stage, expected.exit_stage_B)
    np.testing.assert_allclose(answer.probabilities, expected.probabilities_BK, atol=1e-5)
