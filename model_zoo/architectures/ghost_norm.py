"""Batch normalisation over parts of a batch, and with scales that are not trained.

Source: Hoffer et al., "Train longer, generalize better" (NeurIPS 2017, arXiv 1705.08741); used with parts of 32
images and frozen scales by Page, "How to Train Your ResNet 8: Bag of Tricks" (2019).
"""
# Shapes: B rows, C channels, H height, W width, G ghost batches, R rows of each.

import torch
from torch import Tensor, nn
from torch.nn import functional


class GhostBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that, in training, normalises each ghost batch by its own mean and variance.

    A batch of B rows has max(1, B // ghost_batch_size) ghost batches; rows left over, fewer than a ghost batch, join
    the last one. Which rows go together is of no matter in a shuffled batch: G ghost batches without rows left over
    have row b in ghost batch b modulo G.

    Running statistics move towards the ghost batches' average. In evaluation it is plain batch normalisation, and its
    weights have the same names.

    Args:
        num_features: C.
        ghost_batch_size: rows of a ghost batch, at least 1; more than half a batch gives the plain one.
        eps: added to variances.
        momentum: share of a new batch in the running statistics.

    Raises:
        ValueError: ghost_batch_size is below 1.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, ghost_batch_size: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        if ghost_batch_size < 1:
            raise ValueError(f"ghost_batch_size: got {ghost_batch_size}; must be at least 1")
        self.ghost_batch_size = ghost_batch_size
        self._share = momentum

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        """Normalise float [B, C, H, W].

        Raises:
            ValueError: in training, a ghost batch has a single value a channel, and so no variance.
        """
        if not self.training:
            # Before anything looks at the number of rows, so that exported graphs don't fix it.
            return super().forward(maps_BCHW)
        rows = len(maps_BCHW)
        ghosts = rows // self.ghost_batch_size
        if ghosts < 2:
            return super().forward(maps_BCHW)
        self.num_batches_tracked.add_(1)
        whole = rows - rows % self.ghost_batch_size
        if whole == rows:
            output_BCHW, mean_GC, var_GC = self._normalise(maps_BCHW, ghosts)
        else:
            split = whole - self.ghost_batch_size
            first_BCHW, first_mean_GC, first_var_GC = self._normalise(maps_BCHW[:split], ghosts - 1)
            last_BCHW, last_mean_GC, last_var_GC = self._normalise(maps_BCHW[split:], 1)
            output_BCHW = torch.cat([first_BCHW, last_BCHW])
            mean_GC = torch.cat([first_mean_GC, last_mean_GC])
            var_GC = torch.cat([first_var_GC, last_var_GC])
        with torch.no_grad():
            self.running_mean.lerp_(mean_GC.mean(dim=0), self._share)
            self.running_var.lerp_(var_GC.mean(dim=0), self._share)
        return output_BCHW

    def _normalise(self, maps_BCHW: Tensor, ghosts: int) -> tuple[Tensor, Tensor, Tensor]:
        """Give normalised maps, and the means and unbiased variances [G, C] of ghost batches of equal size."""
        rows, channels, height, width = maps_BCHW.shape
        if rows // ghosts * height * width < 2:
            raise ValueError(
                f"maps: got {[rows, channels, height, width]} in {ghosts} ghost batches; "
                "each must have at least 2 values a channel"
            )
        # Batch normalisation over G x C channels, which is one call of a fast kernel.
        mean_GC = torch.zeros(ghosts * channels, device=maps_BCHW.device)
        var_GC = torch.zeros_like(mean_GC)
        output_BCHW = functional.batch_norm(
            maps_BCHW.reshape(rows // ghosts, ghosts * channels, height, width),
            mean_GC,
            var_GC,
            self.weight.repeat(ghosts),
            self.bias.repeat(ghosts),
            training=True,
            momentum=1.0,
            eps=self.eps,
        )
        # channels_last can't be viewed as G x C channels: it was copied, and is brought back for what follows.
        is_last = maps_BCHW.is_contiguous(memory_format=torch.channels_last) and not maps_BCHW.is_contiguous()
        output_BCHW = output_BCHW.reshape(maps_BCHW.shape).contiguous(
            memory_format=torch.channels_last if is_last else torch.contiguous_format
        )
        return output_BCHW, mean_GC.view(ghosts, channels), var_GC.view(ghosts, channels)


def make_norm(
    channels: int, *, ghost_batch_size: int = 0, has_scale: bool = True, momentum: float = 0.1
) -> nn.BatchNorm2d:
    """Build a batch normalisation.

    Args:
        channels: C.
        ghost_batch_size: rows of a ghost batch; 0 takes the whole batch.
        has_scale: the scale is trained; otherwise it stays at 1.
        momentum: share of a new batch in the running statistics.
    """
    norm = (
        GhostBatchNorm2d(channels, ghost_batch_size, momentum=momentum)
        if ghost_batch_size
        else nn.BatchNorm2d(channels, momentum=momentum)
    )
    norm.weight.requires_grad = has_scale
    return norm
