"""A cascade of torch members, from ``zoo add --engine torch`` to answers over the wire."""
# Shapes: N images, B rows, K classes.

from pathlib import Path

import numpy as np
import pytest
import torch
from fitted_classifier import digits, write_digits
from typer.testing import CliRunner

from cascade_serve import Client
from cascade_serve.bundle import load_bundle
from cascade_serve.cli.app import app
from cascade_serve.core.plan import Fingerprint
from cascade_serve.engine.onnx import Device
from cascade_serve.engine.opening import Backend, OpeningConfig
from cascade_serve.engine.protocol import EngineConfig
from cascade_serve.rpc.server import ServerConfig
from cascade_serve.serving import ServeConfig, ServingProcess
from model_zoo import store
from model_zoo.image_folder import read_images, scan_image_folder

IMAGES, LABELS = digits()
DEVICES = [Device.CPU, pytest.param(Device.CUDA, marks=pytest.mark.gpu)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a certified plan of two random networks in bf16, and the images that it was calibrated on."""
    folder = tmp_path_factory.mktemp("torch")
    write_digits(folder / "data", IMAGES[:120], LABELS[:120])
    common = ["--task", "digits", "--zoo", folder / "zoo", "--data", folder / "data", "--engine", "torch"]
    for name in ("xs", "m"):
        run("zoo", "add", name, *common, "--arch", f"digits_cnn_{name}", "--precision", "bf16")
    run("plan", folder / "zoo" / "digits", "--out", folder / "repository" / "digits" / "1", "--min-accuracy", "0.01")
    return folder


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_weights_stay_in_float32_and_the_card_names_the_engine(folder: Path) -> None:
    member = store.read_member(folder / "zoo" / "digits" / "m")
    assert (member.card.engine, member.card.precision) == ("torch", "bf16")
    assert member.card.conversion is not None
    assert member.card.conversion.max_logit_difference > 0
    from safetensors.torch import load_file

    weights = load_file(member.path / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.float32}
    assert any("running_mean" in name for name in weights)


@pytest.mark.parametrize("device", DEVICES)
def test_answers_over_the_wire_are_the_calibrated_ones(folder: Path, device: Device) -> None:
    bundle = load_bundle(folder / "repository" / "digits" / "1")
    assert bundle.plan.calibration is not None
    assert bundle.plan.calibration.fingerprint == Fingerprint(engine="torch", precision="bf16")
    images = read_images(scan_image_folder(folder / "data"), height=8, width=8, channels=1).images_NHWC
    config = ServeConfig(
        repository=folder / "repository",
        server=ServerConfig(port=0),
        opening=OpeningConfig(engine=EngineConfig(workers=2, max_batch_size=32), backend=Backend.TORCH, device=device),
        metrics_port=0,
        watch_interval_s=0,
    )
    process = ServingProcess(config)
    process.start()
    first = bundle.plan.policies["default"].stages[0].member
    cap = bundle.plan.members[bundle.plan.member_index[first]].flops
    try:
        with Client(f"127.0.0.1:{process.server.port}") as client:
            prediction = client.infer(images[:50], model="digits", max_flops=cap)
            labels_alone = client.infer(images[:50], model="digits", max_flops=cap, outputs=["label"])
    finally:
        process.stop()
    assert prediction.label is not None
    assert labels_alone.probabilities is None
    np.testing.assert_array_equal(labels_alone.label, prediction.label)
    stored_NK = store.read_calibration(store.read_member(folder / "zoo" / "digits" / first)).logits_NK[:50]
    # Calibrated on a GPU, where there is one; bf16 rounds otherwise on another device, and there in other batches too.
    share = np.mean(prediction.label == stored_NK.argmax(axis=1))
    assert share > 0.9 if torch.cuda.is_available() else share == 1
