"""Optimisers and schedules of the fast-training programs, turned into our terms.

Those programs sum the loss over a batch where ours averages it, so their rates are multiplied by the batch's size. What
they call weight decay is, for a group, our rate times our decay, and the same for all groups of a program.
"""

from training.lr import LrConfig, OneCycle, PiecewiseLinear
from training.optim import OptimConfig, OptimizerName

Recipe = tuple[OptimConfig, LrConfig]


def page_sgd(*, epochs: float = 10, flat_epochs: float = 2, peak_lr: float = 1.0) -> Recipe:
    """Give the optimiser at the end of Page's ladder, for batches of 512 and an average of the weights.

    Source: Page, "How to Train Your ResNet 8: Bag of Tricks" (2019): up to the peak in a fifth of the epochs, down to a
    tenth of it, and flat while the weights are averaged (decay 0.99, every 5 steps); everything decays; biases learn 64
    times as fast, since norm scales are frozen.

    Args:
        epochs: of the run: 14 with Cutout of 5 and no average, 13 with it, 10 with flip test-time augmentation.
        flat_epochs: at the end; 0 goes down to nothing, as in the rows before the average.
        peak_lr: 0.6 until whitening comes in.
    """
    end_lr = 0.1 * peak_lr if flat_epochs else 0.0
    knots = [(0.0, 0.0), (0.2, peak_lr), (1 - flat_epochs / epochs, end_lr)]
    flat = [(1.0, end_lr)] if flat_epochs else []
    return OptimConfig(decay_all=True, norm_bias_lr_factor=64), PiecewiseLinear(knots=(*knots, *flat))


def airbench_sgd(
    *,
    lr: float = 11.5,
    weight_decay: float = 0.0153,
    momentum: float = 0.85,
    batch_size: int = 1024,
    epochs: float = 9.9,
) -> Recipe:
    """Give the optimiser of airbench94 (11.5, 9.9 epochs) and airbench95 (10, 15 epochs).

    Source: Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (2024, arXiv 2404.00498), and its programs.
    There the whitening layer's bias follows the schedule for 3 epochs and is frozen then; here its schedule is squeezed
    into them. Their weight average is ``WeightAverage(..., decay=0.95, every=5, is_lookahead=True)``.

    Args:
        lr: for 1,024 summed losses, without the lengthening of steps by momentum.
        weight_decay: of 1,024 images, likewise.
        momentum: Nesterov's.
        batch_size: images a step.
        epochs: of the run, at least 3.
    """
    lengthening = 1 + 1 / (1 - momentum)
    optim = OptimConfig(
        momentum=momentum,
        weight_decay=weight_decay / lr,
        decay_all=True,
        norm_bias_lr_factor=64,
        whitening_bias_share=min(1.0, 3 / epochs),
    )
    peak_lr = lr / lengthening * batch_size / 1024
    return optim, OneCycle(peak_lr=peak_lr, warmup_share=0.23, start_factor=0.2, end_factor=0.07)


def airbench_muon(*, batch_size: int = 2000, epochs: float = 8) -> Recipe:
    """Give the optimisers of airbench94_muon: Muon at 0.24 on filters, SGD on biases (0.053) and head (0.67).

    Source: Jordan, program airbench94_muon (2024): all rates fall linearly to nothing, that of the whitening layer's
    bias within 3 epochs; decay is 2e-6 an image. What differs from the program: rates are those of a batch's middle,
    not of its start; weights are float32 under autocast, not float16; the whitening layer's bias starts at 0, not at
    random.

    Args:
        batch_size: images a step.
        epochs: of the run, at least 3.
    """
    filter_lr, bias_lr, head_lr = 0.24, 0.053, 0.67
    optim = OptimConfig(
        name=OptimizerName.MUON,
        momentum=0.85,
        weight_decay=2e-6 * batch_size / filter_lr,
        decay_all=True,
        rest_lr_factor=bias_lr * batch_size / filter_lr,
        head_lr_factor=head_lr / bias_lr,
        whitening_bias_share=min(1.0, 3 / epochs),
        filter_momentum=0.6,
        newton_schulz_steps=3,
    )
    return optim, OneCycle(peak_lr=filter_lr, warmup_share=0.0)
