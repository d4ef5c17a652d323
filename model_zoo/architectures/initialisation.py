"""How the residual networks for small images draw their weights."""

from torch import nn


def draw_weights(network: nn.Module) -> None:
    """Draw convolutions from N(0, 2 / fan-out), and set the biases of linear layers to zero.

    Source: He et al., "Delving Deep into Rectifiers" (2015, arXiv 1502.01852), section 2.2, backward case; with torch's
    own uniform draw of linear weights it is what the programs published with pre-activation ResNets, PyramidNets and
    Shake-Shake do.

    Args:
        network: its convolutions, anywhere inside, have no biases; normalisation is left at scale 1 and offset 0.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
