"""A member alone on a device: what runs is its network as it is served, over images that lie there already."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import stand_in_cuda
import torch
from torch import Tensor
from torch_bundle import TASK, write_torch_member

from cascade_serve.core.arrays import ImageArray
from cascade_serve.engine.cuda import SoloDevice
from cascade_serve.errors import BundleError, ConfigError, MemberError
from model_zoo.served import ServedModule
from model_zoo.store import WEIGHTS_FILE

DEVICES = ["cpu", "stand-in", pytest.param("cuda:0", marks=pytest.mark.gpu)]


def random_images(rows: int, seed: int = 0) -> ImageArray:
    shape = (rows, TASK.height, TASK.width, TASK.channels)
    return np.random.default_rng(seed).integers(0, 256, size=shape, dtype=np.uint8)


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> stand_in_cuda.StandIn:
    return stand_in_cuda.install(monkeypatch)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SoloDevice:
    if request.param == "stand-in":
        stand_in_cuda.install(monkeypatch)
    return SoloDevice("cuda:0" if request.param == "stand-in" else request.param, threads=1)


@pytest.mark.parametrize("device", DEVICES, indirect=True)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 1e-2), ("bf16", 1e-1)])
def test_every_run_computes_the_members_logits_anew(
    tmp_path: Path, device: SoloDevice, precision: str, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = write_torch_member(tmp_path / "small", "digits_cnn_s", precision=precision)
    said: list[Tensor] = []
    forward = ServedModule.forward

    def note(network: ServedModule, images: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert {parameter.dtype for parameter in network.parameters()} == {
            {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        }
        said.append(forward(network, images))
        return said[-1]

    prepare = device.load(tmp_path / "small", precision)
    monkeypatch.setattr(ServedModule, "forward", note)
    sizes = (9, 2, 1)
    runs = [prepare(random_images(size, size)) for size in sizes]
    for run, size in zip(runs, sizes, strict=True):
        # What a capture left behind, a run must write anew.
        with torch.inference_mode():
            for logits_BK in said:
                # Read back, which waits for it: a run has a stream of its own, and might be quicker.
                logits_BK.zero_().cpu()
        run()
        logits_BK = [logits_BK for logits_BK in said if len(logits_BK) == size][-1]
        with torch.inference_mode():
            wanted_BK = forward(wanted, torch.from_numpy(random_images(size, size)))
        np.testing.assert_allclose(logits_BK.cpu().numpy(), wanted_BK.numpy(), atol=tolerance)


def test_on_cuda_a_run_is_a_replay_up_to_the_end_of_its_stream(tmp_path: Path, house: stand_in_cuda.StandIn) -> None:
    write_torch_member(tmp_path / "small", "digits_cnn_s")
    run = SoloDevice("cuda:1", threads=1).load(tmp_path / "small", "fp32")(random_images(4))
    # Weights and images are there before another stream reads them; then the warm-up, apart from the capture.
    (_, stream, _) = house.log[2]
    assert [entry[:2] for entry in house.log] == [
        ("synchronize", "default"),
        ("synchronize", stream),
        ("capture", stream),
        ("replay",),
        ("synchronize", stream),
    ]
    house.log.clear()
    run()
    run()
    assert house.log == 2 * [("replay",), ("synchronize", stream)]


def test_all_graphs_of_a_device_share_its_stream_and_memory(tmp_path: Path, house: stand_in_cuda.StandIn) -> None:
    device = SoloDevice("cuda:0", threads=1)
    for name in ("small", "large"):
        write_torch_member(tmp_path / name, "digits_cnn_s")
        prepare = device.load(tmp_path / name, "fp32")
        for rows in (8, 1):
            prepare(random_images(rows))
    captures = [entry for entry in house.log if entry[0] == "capture"]
    assert len(captures) == 4
    assert len(set(captures)) == 1


@pytest.mark.usefixtures("house")
def test_fp32_stays_fp32() -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    SoloDevice("cuda:0", threads=1)
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (False, False)


def test_a_cpus_threads_are_those_asked_for() -> None:
    for threads in (3, 1):
        SoloDevice("cpu", threads)
        assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("house")
def test_a_device_says_what_it_is() -> None:
    assert SoloDevice("cuda:1", threads=1).gpu == "Stand-In 1"
    assert SoloDevice("cpu", threads=1).gpu is None
    with pytest.raises(ConfigError, match="device id: got 2; must be under 2"):
        SoloDevice("cuda:2", threads=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_a_machine_without_cuda_says_so() -> None:
    with pytest.raises(ConfigError, match=r"device: got 'cuda:0'; torch \S+ finds no CUDA device here"):
        SoloDevice("cuda:0", threads=1)


def test_what_can_not_be_loaded_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_torch_member(tmp_path / "small", "digits_cnn_s")
    device = SoloDevice("cpu", threads=1)
    with pytest.raises(
        ConfigError, match="member 'small': precision: got 'int8'; the torch engine runs fp32, bf16, fp"
    ):
        device.load(tmp_path / "small", "int8")

    def fill(*_arguments: object) -> None:
        raise RuntimeError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(ServedModule, "to", fill)
        with pytest.raises(ConfigError, match="member 'small': torch can't lay it out on cpu: CUDA out of memory"):
            device.load(tmp_path / "small", "fp32")
    (tmp_path / "small" / WEIGHTS_FILE).unlink()
    with pytest.raises(BundleError, match=f"member 'small': .*{WEIGHTS_FILE}"):
        device.load(tmp_path / "small", "fp32")


@pytest.mark.parametrize("device", ["cpu", "stand-in"], indirect=True)
def test_a_network_that_fails_is_a_member_that_failed(
    tmp_path: Path, device: SoloDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_torch_member(tmp_path / "small", "digits_cnn_s")
    prepare = device.load(tmp_path / "small", "fp32")

    def fail(*_arguments: object) -> None:
        raise RuntimeError("no room for the workspace")

    monkeypatch.setattr(ServedModule, "forward", fail)
    with pytest.raises(MemberError, match="no room for the workspace"):
        prepare(random_images(2))()
