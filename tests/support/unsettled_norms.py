"""Random networks whose batch normalisation does something."""

import torch
from torch import nn

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def unsettle(module: nn.Module) -> nn.Module:
    """Draw statistics and offsets, without which batch normalisation would be the identity and errors invisible."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, _NORMS) and part.running_mean is not None and part.running_var is not None:
                part.running_mean.normal_(0, 0.1, generator=generator)
                part.running_var.uniform_(0.5, 1.5, generator=generator)
                part.bias.normal_(0, 0.1, generator=generator)
    return module
