"""Bundles on the torch engine: the networks' own logits come out, and what can't be run is refused by name."""

from pathlib import Path

import numpy as np
import pytest
import torch
from table_committee import Watcher
from torch_bundle import TASK, write_torch_bundle

from cascade_serve.core.arrays import FloatArray, ImageArray
from cascade_serve.core.combine import Combine, member_score
from cascade_serve.core.plan import Fingerprint
from cascade_serve.core.request import Reply, Request, Terms
from cascade_serve.engine.cuda import opening
from cascade_serve.engine.onnx import Device
from cascade_serve.engine.opening import Backend, OpeningConfig, open_engine
from cascade_serve.engine.protocol import EngineConfig
from cascade_serve.errors import BundleError, ConfigError
from model_zoo.served import ServedModule

DEVICES = [Device.CPU, pytest.param(Device.CUDA, marks=pytest.mark.gpu)]


def random_images(rows: int) -> ImageArray:
    shape = (rows, TASK.height, TASK.width, TASK.channels)
    return np.random.default_rng(5).integers(0, 256, size=shape, dtype=np.uint8)


def config(device: Device = Device.CPU, *, allow_uncertified: bool = False) -> OpeningConfig:
    engine = EngineConfig(workers=2, max_batch_size=8, max_queue_rows=64)
    return OpeningConfig(engine=engine, backend=Backend.TORCH, device=device, allow_uncertified=allow_uncertified)


def probabilities_of(network: ServedModule, images_BHWC: ImageArray) -> FloatArray:
    with torch.inference_mode():
        logits_BK = network(torch.from_numpy(images_BHWC)).numpy()
    return member_score(Combine.MEAN_PROBS, logits_BK, 1.0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 1e-2), ("bf16", 5e-2)])
def test_answers_are_those_of_the_networks(tmp_path: Path, device: Device, precision: str, tolerance: float) -> None:
    bundle, networks = write_torch_bundle(tmp_path / "digits" / "1", tmp_path / "sources", precision=precision)
    images_BHWC = random_images(50)
    small_BK, large_BK = (probabilities_of(network, images_BHWC) for network in networks)
    engine = open_engine(bundle, config(device), Watcher())
    engine.warm_up()

    def ask(threshold: float) -> Reply:
        request = Request(images_BHWC=images_BHWC, terms=Terms(confidence_threshold=threshold))
        return engine.admit(request).result()

    np.testing.assert_allclose(ask(0.0).probabilities_BK, small_BK, atol=tolerance)
    both = ask(1.0)
    np.testing.assert_allclose(both.probabilities_BK, (small_BK + large_BK) / 2, atol=tolerance)
    assert both.flops_B.tolist() == [3000] * 50
    # Half-way between two rows, so that rounding sends none the other way.
    ordered = np.sort(small_BK.max(axis=1))
    gap = int(np.diff(ordered[10:40]).argmax()) + 10
    threshold = float(ordered[gap : gap + 2].mean())
    if ordered[gap + 1] - ordered[gap] > 2 * tolerance:
        mixed = ask(threshold)
        assert mixed.exit_stage_B.tolist() == (small_BK.max(axis=1) < threshold).astype(int).tolist()
    assert engine.fingerprint == Fingerprint(engine="torch", precision=precision)
    engine.close()


def test_probabilities_stay_behind_where_nobody_wants_them(tmp_path: Path) -> None:
    bundle, _ = write_torch_bundle(tmp_path / "digits" / "1", tmp_path / "sources")
    engine = open_engine(bundle, config(), Watcher())
    images_BHWC = random_images(20)
    wanted = engine.admit(Request(images_BHWC=images_BHWC)).result()
    spared = engine.admit(Request(images_BHWC=images_BHWC, wants_probabilities=False)).result()
    engine.close()
    assert spared.probabilities_BK.shape == (20, 0)
    np.testing.assert_array_equal(spared.label_B, wanted.label_B)
    np.testing.assert_array_equal(wanted.label_B, wanted.probabilities_BK.argmax(axis=1))
    np.testing.assert_allclose(spared.confidence_B, wanted.confidence_B, atol=1e-6)


@pytest.mark.parametrize("left_out", ["model.safetensors", "card.json"])
def test_a_member_without_torch_files_is_refused_by_name(tmp_path: Path, left_out: str) -> None:
    bundle, _ = write_torch_bundle(tmp_path / "digits" / "1", tmp_path / "sources", left_out=left_out)
    with pytest.raises(BundleError, match=rf"small/{left_out}"):
        open_engine(bundle, config(), Watcher())


def test_a_members_own_onnx_file_is_refused_by_name(tmp_path: Path) -> None:
    bundle, _ = write_torch_bundle(tmp_path / "digits" / "1", tmp_path / "sources")
    card = bundle.member_path("large") / "card.json"
    card.write_text(card.read_text().replace('"digits_cnn_m"', '"onnx"'))
    with pytest.raises(BundleError, match=r"member 'large': the torch engine .* was made from an ONNX file"):
        open_engine(bundle, config(), Watcher())


def test_a_precision_that_torch_lacks_is_refused_by_name(tmp_path: Path) -> None:
    bundle, _ = write_torch_bundle(tmp_path / "digits" / "1", tmp_path / "sources", precision="int8")
    with pytest.raises(ConfigError, match="member 'small': precision: got 'int8'; the torch engine runs fp32, bf16"):
        open_engine(bundle, config(), Watcher())


def test_a_plan_of_another_engine_is_refused_or_flagged(tmp_path: Path) -> None:
    other = Fingerprint(engine="onnxruntime", precision="fp32")
    bundle, _ = write_torch_bundle(tmp_path / "digits" / "1", tmp_path / "sources", measured_on=other)
    with pytest.raises(BundleError, match="would be served on torch in fp32"):
        open_engine(bundle, config(), Watcher())
    open_engine(bundle, config(allow_uncertified=True), Watcher()).close()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_an_absent_device_is_refused(tmp_path: Path) -> None:
    bundle, _ = write_torch_bundle(tmp_path / "digits" / "1", tmp_path / "sources")
    with pytest.raises(ConfigError, match=r"device: got 'cuda:0'; torch .* finds no CUDA device"):
        open_engine(bundle, config(Device.CUDA), Watcher())


def test_a_device_without_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, _ = write_torch_bundle(tmp_path / "digits" / "1", tmp_path / "sources")

    def fill(*_arguments: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 9 GiB")

    monkeypatch.setattr(opening, "DeviceSlab", fill)
    with pytest.raises(ConfigError, match=r"lay it out on cpu with max_queue_rows 64, .* tried to allocate 9 GiB"):
        open_engine(bundle, config(), Watcher())


def test_several_devices_are_for_torch_on_cuda_alone() -> None:
    with pytest.raises(ValueError, match=r"device_ids: got \(0, 1\); must be one, but for torch on cuda"):
        OpeningConfig(backend=Backend.ONNX, device=Device.CUDA, device_ids=(0, 1))
    with pytest.raises(ValueError, match="at least one, each once"):
        OpeningConfig(backend=Backend.TORCH, device=Device.CUDA, device_ids=(1, 1))


@pytest.mark.parametrize("backend", [Backend.ONNX, Backend.TORCH])
def test_a_cpu_has_no_number(backend: Backend) -> None:
    with pytest.raises(ValueError, match=r"device_ids: got \(3,\) on cpu; only CUDA devices have one"):
        OpeningConfig(backend=backend, device_ids=(3,))
