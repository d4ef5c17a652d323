"""A member's network for a device: from its weights, in its precision, channels last; and as a session of its own."""
# Shapes: B rows, K classes, HWC image, BCHW images as the network sees them.

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cascade_serve.core.arrays import FloatArray, ImageArray
from cascade_serve.engine.cuda.folding import fold_norms
from cascade_serve.errors import BundleError, ConfigError
from model_zoo.card import Card
from model_zoo.errors import ExportError, ZooError
from model_zoo.served import ServedModule, load_served
from model_zoo.store import CARD_FILE

DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The precisions that torch runs: of the weights, and of all that lies between the preamble and the logits."""
_COMPARED_IMAGES = 2


def load_network(folder: Path, precision: str, device: torch.device) -> ServedModule:
    """Load a member's network onto a device.

    Args:
        folder: holds its card and weights.
        precision: one of ``DTYPES``.
        device: where it will run.

    Returns:
        takes uint8 [B, H, W, C] at the task's size, gives float32 logits [B, K].

    Raises:
        ConfigError: torch has no such precision.
        BundleError: the files are missing or broken, or the member has no torch weights.
    """
    try:
        dtype = find_dtype(precision)
        served = load_served(folder, Card.from_json((folder / CARD_FILE).read_bytes(), str(folder / CARD_FILE)))
    except OSError as error:
        raise BundleError(
            f"{folder / CARD_FILE}: {error.strerror}; the torch engine needs the member's card"
        ) from error
    except ConfigError as error:
        raise ConfigError(f"member {folder.name!r}: {error}") from error
    except ZooError as error:
        raise BundleError(f"member {folder.name!r}: the torch engine can't run it: {error}") from error
    return to_device(served, dtype, device)


def find_dtype(precision: str) -> torch.dtype:
    """Give the type that a precision is computed in.

    Raises:
        ConfigError: torch has no such precision here.
    """
    if precision not in DTYPES:
        raise ConfigError(f"precision: got {precision!r}; the torch engine runs {', '.join(DTYPES)} alone")
    return DTYPES[precision]


def to_device(served: ServedModule, dtype: torch.dtype, device: torch.device) -> ServedModule:
    """Make a network ready for a device; changed in place.

    The preamble stays in float32, as in the exported graph, and the logits come out in float32.

    Args:
        served: in float32 on the CPU, in evaluation mode.
        dtype: one of ``DTYPES``.
        device: where it will run.

    Returns:
        the same module.
    """
    height, width = served.size
    sample_BCHW = torch.randn((_COMPARED_IMAGES, served.channels, height, width), generator=torch.Generator())
    network = fold_norms(served.network, sample_BCHW)
    network = network.to(dtype=dtype).to(memory_format=torch.channels_last)
    served.network = _InPrecision(network, dtype)
    return served.eval().requires_grad_(requires_grad=False).to(device)


class _InPrecision(nn.Module):
    """A network of another type than float32, fed with float32."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self._dtype = dtype

    def forward(self, images_BCHW: Tensor) -> Tensor:
        logits_BK: Tensor = self.network(images_BCHW.to(dtype=self._dtype, memory_format=torch.channels_last))
        return logits_BK


class TorchSession:
    """One member on torch, for calibration: computes what the engine would, without its batching.

    Args:
        served: in float32 on the CPU, in evaluation mode; left as it is.
        precision: one of ``DTYPES``.
        device: such as ``cpu`` or ``cuda:0``; None takes a CUDA device where there is one.

    Raises:
        ConfigError: torch has no such precision, or no such device, or no room on it.
    """

    def __init__(self, served: ServedModule, *, precision: str, device: str | None = None) -> None:
        self._device = find_device(device or ("cuda:0" if torch.cuda.is_available() else "cpu"))
        dtype = find_dtype(precision)
        try:
            self._served = to_device(copy.deepcopy(served), dtype, self._device)
        except RuntimeError as error:
            raise ConfigError(f"torch can't lay the network out on {self._device}: {error}") from error

    def logits(self, images_BHWC: ImageArray) -> FloatArray:
        """Run the member.

        Args:
            images_BHWC: uint8 [B, H, W, C] at the task's size.

        Returns:
            float32 logits [B, K].

        Raises:
            ExportError: the network fails, or the device has no room for the images.
        """
        try:
            # Writable and apart: torch warns of memory that it may not write to.
            images = torch.from_numpy(np.array(images_BHWC)).to(self._device)
            with torch.inference_mode(), exact_float32():
                logits_BK: FloatArray = self._served(images).cpu().numpy()
        except RuntimeError as error:
            raise ExportError(f"the network fails on images {images_BHWC.shape}: {error}") from error
        return logits_BK


def exact_float32() -> Any:
    """Let no convolution of float32 run in TF32, which rounds like another precision; a context."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def find_device(name: str) -> torch.device:
    """Name a device that this machine has.

    Args:
        name: ``cpu`` or ``cuda:INDEX``.

    Raises:
        ConfigError: it has none, or not so many.
    """
    device = torch.device(name)
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available():
        raise ConfigError(f"device: got {name!r}; torch {torch.__version__} finds no CUDA device here")
    index = device.index or 0
    if index >= torch.cuda.device_count():
        raise ConfigError(f"device id: got {index}; must be under {torch.cuda.device_count()}")
    return torch.device("cuda", index)
