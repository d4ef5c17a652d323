"""What is drawn on the CPU goes to the device that trains, which nobody waits for."""

import torch
from torch import Tensor


def send(drawn: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the CPU to a device, in the order of the work that the device has still to do.

    From ordinary memory a copy to a GPU waits until all that work is done; from pinned memory it does not.

    Args:
        drawn: on the CPU; may be let go of at once.
        device: where to; on the CPU the tensor itself comes back.
    """
    return drawn.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else drawn
