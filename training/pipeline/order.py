"""What a command asks of the pipeline."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import torch

from training.config import RunConfig
from training.errors import DeviceError

_DEVICE = re.compile(r"cpu|cuda(:\d+)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What is run, on what, and where its files go.

    Attributes:
        recipe: as the user named it.
        config: the recipe's, with the user's settings.
        settings: those, as the user typed them.
        data: folder or archive of the images; None for sources that need no files.
        out: the run's folder.
        address: Ray cluster that members train on; None trains them here.
        should_export: the members go to a zoo in the end, so what would keep them out is told before they are trained.
    """

    recipe: str
    config: RunConfig
    settings: tuple[str, ...] = ()
    data: Path | None = None
    out: Path
    address: str | None = None
    should_export: bool = False

    def command(self, verb: str) -> str:
        """Give the line to type for another command on the same recipe, data and device."""
        words = ["cascade-train", verb, self.recipe]
        if self.data is not None:
            words += ["--data", str(self.data)]
        if self.config.device != "cpu":
            words += ["--device", self.config.device]
        if self.config.seed:
            words += ["--seed", str(self.config.seed)]
        for setting in self.settings:
            words += ["--set", setting]
        return shlex.join(words)


def check_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises:
        DeviceError: torch does not see it, or it is no device.
    """
    if _DEVICE.fullmatch(device) is None:
        raise DeviceError(f"device: got {device!r}; must be cpu, cuda or cuda:N")
    if device == "cpu":
        return
    if not torch.cuda.is_available():
        raise DeviceError(f"device: got {device!r}; torch {torch.__version__} sees no CUDA device here; use cpu")
    number, count = int(device.partition(":")[2] or 0), torch.cuda.device_count()
    if number >= count:
        raise DeviceError(f"device: got {device!r}; must be cuda:0 to cuda:{count - 1}")
