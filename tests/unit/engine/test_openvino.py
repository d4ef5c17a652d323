"""The OpenVINO backend: its logits are ONNX Runtime's, whatever the batch, and what it lacks is refused by name."""

import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_bundle import CLASSES, write_linear_bundle, write_linear_graph
from onnx_bundle import IMAGE_SHAPE as LINEAR_SHAPE
from small_convolution import IMAGE_SHAPE, NUM_CLASSES, small_convolution
from table_committee import make_table_bench

from cascade_serve.bundle import Bundle
from cascade_serve.core.arrays import FloatArray, ImageArray
from cascade_serve.core.plan import Fingerprint
from cascade_serve.core.request import Request, Terms
from cascade_serve.engine import onnx as onnx_backend
from cascade_serve.engine import openvino as openvino_backend
from cascade_serve.engine.onnx import Device
from cascade_serve.engine.opening import Backend, OpeningConfig, open_engine
from cascade_serve.engine.openvino import OpenVinoSession, make_openvino_runners, split
from cascade_serve.engine.protocol import EngineConfig
from cascade_serve.errors import BundleError, ConfigError, MemberError, MissingExtraError

TOLERANCE = 1e-5
"""How far fp32 logits of the two runtimes may differ, relative to the largest: both sum floats, in their own order."""
INT8_TOLERANCE = 0.02
"""The same of int8: a value that lies between two steps may be rounded to either, and shifts what is behind it."""


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_linear_bundle(tmp_path / "linear" / "1", tmp_path / "sources")


def random_images(rows: int, image_shape: tuple[int, int, int] = IMAGE_SHAPE, seed: int = 0) -> ImageArray:
    return np.random.default_rng(seed).integers(0, 256, size=(rows, *image_shape), dtype=np.uint8)


def by_onnxruntime(graph: bytes, images_BHWC: ImageArray) -> FloatArray:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    logits_BK: FloatArray = session.run(["logits"], {"images": images_BHWC})[0]
    return logits_BK


def with_precision(bundle: Bundle, member: str, precision: str) -> Bundle:
    members = tuple(
        replace(other, precision=precision) if other.name == member else other for other in bundle.plan.members
    )
    return replace(bundle, plan=replace(bundle.plan, members=members))


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", TOLERANCE), ("int8", INT8_TOLERANCE)])
@pytest.mark.parametrize("threads", [0, 1, 2])
def test_logits_are_those_of_onnxruntime(precision: str, tolerance: float, threads: int) -> None:
    graph = small_convolution(quantised=precision == "int8").SerializeToString()
    images_BHWC = random_images(43)
    expected_BK = by_onnxruntime(graph, images_BHWC)
    logits_BK = OpenVinoSession(graph, precision=precision, threads=threads).logits(images_BHWC)
    assert logits_BK.dtype == np.float32
    assert logits_BK.shape == (43, NUM_CLASSES)
    assert np.abs(logits_BK - expected_BK).max() <= tolerance * np.abs(expected_BK).max()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_row_gets_the_same_logits_alone_and_in_any_batch(precision: str) -> None:
    graph = small_convolution(quantised=precision == "int8").SerializeToString()
    session = OpenVinoSession(graph, precision=precision, threads=1)
    images_BHWC = random_images(40)
    alone_BK = np.concatenate([session.logits(images_BHWC[row : row + 1]) for row in range(40)])
    for rows in range(1, 41):
        np.testing.assert_allclose(
            session.logits(images_BHWC[:rows]), alone_BK[:rows], atol=TOLERANCE * np.abs(alone_BK).max()
        )


@given(st.integers(1, 300), st.sets(st.sampled_from([2, 4, 8, 16, 24, 32])))
def test_a_batch_is_cut_into_parts_of_the_sizes_there_are(num_rows: int, larger: set[int]) -> None:
    sizes = (1, *sorted(larger))
    parts = list(split(num_rows, sizes))
    assert np.concatenate([np.arange(num_rows)[rows] for rows, _ in parts]).tolist() == list(range(num_rows))
    assert {size for _, size in parts} <= set(sizes)
    assert all(7 / 8 <= (rows.stop - rows.start) / size <= 1 for rows, size in parts)


@pytest.mark.parametrize(
    ("num_rows", "sizes"),
    [(1, [1]), (3, [2, 1]), (6, [4, 2]), (7, [8]), (13, [8, 4, 1]), (30, [32]), (71, [32, 32, 8])],
)
def test_parts_are_large_and_nearly_full(num_rows: int, sizes: list[int]) -> None:
    assert [size for _, size in split(num_rows, (1, 2, 4, 8, 16, 32))] == sizes


def test_a_large_graph_is_compiled_for_fewer_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = small_convolution().SerializeToString()
    monkeypatch.setattr(openvino_backend, "_LARGE_BYTES", len(graph) - 1)
    images_BHWC = random_images(12)
    session = OpenVinoSession(graph, precision="fp32", threads=1)
    np.testing.assert_allclose(session.logits(images_BHWC), by_onnxruntime(graph, images_BHWC), atol=1e-4)
    assert set(session._requests) == {1, 8}


def test_logits_are_the_callers_own() -> None:
    session = OpenVinoSession(small_convolution().SerializeToString(), precision="fp32", threads=1)
    first_BK = session.logits(random_images(4))
    before_BK = first_BK.copy()
    assert (session.logits(random_images(4, seed=1)) != before_BK).any()
    np.testing.assert_array_equal(first_BK, before_BK)


def test_images_may_lie_anywhere() -> None:
    session = OpenVinoSession(small_convolution().SerializeToString(), precision="fp32", threads=1)
    images_BHWC = random_images(8)
    expected_BK = session.logits(images_BHWC)
    images_BHWC.flags.writeable = False
    np.testing.assert_array_equal(session.logits(images_BHWC), expected_BK)
    np.testing.assert_array_equal(session.logits(images_BHWC[::2]), session.logits(images_BHWC[::2].copy()))


@pytest.fixture
def no_switches() -> Iterator[None]:
    """Let a thread run until it gives the interpreter up by itself."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before_s)


@pytest.mark.usefixtures("no_switches")
def test_other_threads_run_meanwhile() -> None:
    session = OpenVinoSession(small_convolution().SerializeToString(), precision="fp32", threads=1)
    session.logits(random_images(32))
    infer = session._requests[32]._request.infer
    counted, is_over = [0], threading.Event()

    def count() -> None:
        while not is_over.is_set():
            counted[0] += 1
            time.sleep(0)

    counter = threading.Thread(target=count)
    counter.start()
    gained = 0
    for _ in range(100_000):
        before = counted[0]
        infer()
        gained += counted[0] - before
        if gained:
            break
    is_over.set()
    counter.join()
    assert gained


@pytest.mark.parametrize("images", [np.zeros((1, 1, 1, 3), np.uint8), np.zeros((1, *IMAGE_SHAPE), np.float32)])
def test_images_of_another_shape_or_type_are_refused(images: ImageArray) -> None:
    session = OpenVinoSession(small_convolution().SerializeToString(), precision="fp32", threads=1)
    with pytest.raises(MemberError, match=r"images: got (uint8 \(1, 1, 1, 3\)|float32 .*); must be uint8"):
        session.logits(images)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int4"])
def test_a_precision_that_the_processor_lacks_is_refused_by_name(bundle: Bundle, precision: str) -> None:
    capabilities = openvino_backend._core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision.upper() in capabilities:
        pytest.skip(f"OpenVINO has {precision} on this processor")
    with pytest.raises(ConfigError, match=rf"member 'middle': precision: got {precision}; must be fp32 or int8"):
        make_openvino_runners(with_precision(bundle, "middle", precision), EngineConfig())


def test_bf16_rounds_as_bf16_does() -> None:
    if "BF16" not in openvino_backend._core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("needs a processor on which OpenVINO has bf16")
    graph = small_convolution().SerializeToString()
    images_BHWC = random_images(8)
    expected_BK = by_onnxruntime(graph, images_BHWC)
    difference = np.abs(OpenVinoSession(graph, precision="bf16", threads=1).logits(images_BHWC) - expected_BK).max()
    assert 1e-4 < difference / np.abs(expected_BK).max() < 0.05


def test_what_openvino_computes_otherwise_than_asked_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # Where it has no f16, OpenVINO takes the hint and computes in f32.
    if "FP16" in openvino_backend._core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("OpenVINO has fp16 on this processor")
    monkeypatch.setitem(openvino_backend._PRECISIONS, "fp32", ("FP32", "f16"))
    with pytest.raises(ConfigError, match="INFERENCE_PRECISION_HINT: got f32; must be f16"):
        OpenVinoSession(small_convolution().SerializeToString(), precision="fp32", threads=1)


def test_onnxruntime_refuses_bf16_by_name(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="member 'large': precision: got bf16; must be fp32 or fp16 or int8"):
        onnx_backend.make_runners(with_precision(bundle, "large", "bf16"), EngineConfig(), Device.CPU)


@pytest.fixture
def no_openvino(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    openvino_backend._core.cache_clear()
    monkeypatch.setitem(sys.modules, "openvino", None)
    yield
    openvino_backend._core.cache_clear()


@pytest.mark.usefixtures("no_openvino")
def test_an_absent_openvino_is_named_with_its_extra(bundle: Bundle) -> None:
    with pytest.raises(MissingExtraError, match=r"openvino is not installed; .*'cascade-serve\[openvino\]'"):
        make_openvino_runners(bundle, EngineConfig())


def test_a_file_that_is_no_graph_is_refused(bundle: Bundle) -> None:
    (bundle.member_path("large") / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(BundleError, match=r"large/model\.onnx: OpenVINO can't load the graph"):
        make_openvino_runners(bundle, EngineConfig())


@pytest.mark.parametrize(
    ("shape", "num_classes", "message"),
    [((8, 4, 3), len(CLASSES), r"inputs: got .*8, 4, 3"), (LINEAR_SHAPE, 7, r"outputs: got .*7")],
)
def test_a_graph_for_another_task_is_refused(
    bundle: Bundle, shape: tuple[int, int, int], num_classes: int, message: str
) -> None:
    write_linear_graph(bundle.member_path("small") / "model.onnx", 0, shape, num_classes)
    with pytest.raises(BundleError, match=message):
        make_openvino_runners(bundle, EngineConfig())


def test_what_fails_names_the_member(bundle: Bundle) -> None:
    (runner,) = make_openvino_runners(bundle, EngineConfig())
    with pytest.raises(MemberError, match=r"member 'middle': .*got uint8 \(1, 5, 5, 3\)"):
        runner.run(1, np.zeros((1, 5, 5, 3), dtype=np.uint8))


def test_an_engine_answers_many_threads_as_onnxruntime_does(bundle: Bundle) -> None:
    config = EngineConfig(workers=3, max_batch_size=8)
    engines = [
        open_engine(bundle, OpeningConfig(engine=config, backend=backend), make_table_bench().watcher)
        for backend in (Backend.ONNX, Backend.OPENVINO)
    ]
    requests = [
        Request(images_BHWC=random_images(rows, LINEAR_SHAPE, seed=rows), terms=Terms(confidence_threshold=0.9))
        for rows in range(1, 25)
    ]
    expected = [engines[0].admit(request).result() for request in requests]
    engines[1].warm_up()
    with ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(lambda request: engines[1].admit(request).result(), requests))
    for reply, other in zip(replies, expected, strict=True):
        np.testing.assert_array_equal(reply.exit_stage_B, other.exit_stage_B)
        np.testing.assert_allclose(reply.probabilities_BK, other.probabilities_BK, atol=1e-5)
    assert engines[1].fingerprint == Fingerprint(engine="openvino", precision="fp32")
    for engine in engines:
        engine.close()


def test_a_plan_calibrated_on_onnxruntime_is_refused_or_served_uncertified(tmp_path: Path) -> None:
    bundle = write_linear_bundle(
        tmp_path / "linear" / "1",
        tmp_path / "sources",
        measured_on=Fingerprint(engine="onnxruntime", precision="fp32"),
    )
    watcher = make_table_bench().watcher
    with pytest.raises(BundleError, match="calibrated on onnxruntime in fp32, and would be served on openvino in fp32"):
        open_engine(bundle, OpeningConfig(backend=Backend.OPENVINO), watcher)
    engine = open_engine(bundle, OpeningConfig(backend=Backend.OPENVINO, allow_uncertified=True), watcher)
    assert not engine.admit(Request(images_BHWC=random_images(1, LINEAR_SHAPE))).result().certified
    engine.close()


def test_a_gpu_is_refused(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="device: got 'cuda'; the openvino engine runs on 'cpu' alone"):
        open_engine(bundle, OpeningConfig(backend=Backend.OPENVINO, device=Device.CUDA), make_table_bench().watcher)
