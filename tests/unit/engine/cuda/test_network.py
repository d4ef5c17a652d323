"""Networks on their way to a device: batch norms folded without a change, and a session for calibration."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_bundle import TASK, build

from cascade_serve.engine.cuda import TorchSession
from cascade_serve.engine.cuda.folding import fold_norms
from cascade_serve.errors import ConfigError
from model_zoo.errors import ExportError
from model_zoo.served import ServedModule


def norms_of(network: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in network.modules())


def test_batch_norms_vanish_and_nothing_changes() -> None:
    network = build("digits_cnn_l").module
    images_BCHW = torch.randn(5, 1, 8, 8)
    folded = fold_norms(network, images_BCHW)
    assert (norms_of(network), norms_of(folded)) == (3, 0)
    with torch.inference_mode():
        torch.testing.assert_close(folded(images_BCHW), network(images_BCHW), rtol=1e-4, atol=1e-5)


class Shared(nn.Module):
    """One convolution, called twice: folding a norm into it would change the other call."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 1, 3, padding=1)
        self.norm = nn.BatchNorm2d(1)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        maps_BCHW: Tensor = self.norm(self.convolution(images_BCHW)) + self.convolution(images_BCHW)
        return maps_BCHW.flatten(1)


class Branching(Shared):
    def forward(self, images_BCHW: Tensor) -> Tensor:
        return super().forward(images_BCHW) * (2 if images_BCHW.sum() > 0 else 3)


@pytest.mark.parametrize("network", [Shared(), Branching()], ids=["shared", "untraceable"])
def test_a_norm_that_can_not_be_folded_stays(network: nn.Module) -> None:
    network.eval()
    images_BCHW = torch.randn(5, 1, 8, 8)
    folded = fold_norms(network, images_BCHW)
    assert norms_of(folded) == 1
    torch.testing.assert_close(folded(images_BCHW), network(images_BCHW))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 1e-2), ("bf16", 1e-1)])
def test_a_session_gives_the_networks_logits(device: str, precision: str, tolerance: float) -> None:
    built = build("digits_cnn_s")
    images_BHWC = np.random.default_rng(0).integers(0, 256, size=(9, 8, 8, 1), dtype=np.uint8)
    images_BHWC.flags.writeable = False
    with torch.inference_mode():
        wanted_BK = ServedModule(built.module, built.preset, TASK)(torch.tensor(images_BHWC)).numpy()
    session = TorchSession(ServedModule(built.module, built.preset, TASK), precision=precision, device=device)
    logits_BK = session.logits(images_BHWC)
    assert logits_BK.dtype == np.float32
    np.testing.assert_allclose(logits_BK, wanted_BK, atol=tolerance)
    if precision != "fp32":
        assert np.abs(logits_BK - wanted_BK).max() > 0


def test_a_session_of_another_precision_is_refused() -> None:
    built = build("digits_cnn_s")
    with pytest.raises(ConfigError, match="precision: got 'int8'"):
        TorchSession(ServedModule(built.module, built.preset, TASK), precision="int8")


def test_a_device_without_room_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_arguments: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 9 GiB")

    served = ServedModule(build("digits_cnn_s").module, build("digits_cnn_s").preset, TASK)
    session = TorchSession(served, precision="fp32", device="cpu")
    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "to", fill)
        with pytest.raises(ExportError, match=r"fails on images \(2, 8, 8, 1\): tried to allocate 9 GiB"):
            session.logits(np.zeros((2, 8, 8, 1), dtype=np.uint8))
    monkeypatch.setattr(ServedModule, "to", fill)
    with pytest.raises(ConfigError, match=r"^torch can't lay the network out on cpu: tried to allocate 9 GiB$"):
        TorchSession(served, precision="fp32", device="cpu")
