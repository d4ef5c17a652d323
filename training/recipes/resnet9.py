"""A run for a family of ResNet-9 of growing width, which most of our recipes are; after Page's way of training it."""

from dataclasses import dataclass, replace

from training.augment.config import AugmentConfig, Flip
from training.config import RunConfig, SelectionConfig
from training.data.data_set import DataSource
from training.data.splits import SplitConfig
from training.data_schedule.config import AllData, DataIncrement, DataScheduleConfig
from training.loop_config import LoopConfig, Precision
from training.lr import OneCycle
from training.members import MemberConfig
from training.optim import OptimConfig
from training.policy_search.config import PolicySearchConfig
from training.selection.core_set import CoreSetConfig

ARCHITECTURE = "resnet9"

PHOTOGRAPHS = AugmentConfig(pad_px=4, flip=Flip.RANDOM, cutout_px=8)
"""For photographs of some 32x32 pixels, of which a mirror image is as good."""
SIGNS = AugmentConfig(pad_px=2, pad_mode="constant", cutout_px=6)
"""For digits and the like, of which a mirror image is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How much work a machine can be asked for; each doubling of a width is four times the FLOPs.

    Attributes:
        widths: of the members, growing.
        epochs: of each member. A cascade saves the more, the less its small members are behind, and their epochs cost
            little.
        data_schedule: of the members.
        batch_size: images a step, of everything.
        peak_lr: largest learning rate, for the mean loss of a batch.
        proxy_width, proxy_epochs: of the model that selects.
        trials, trial_width, trial_epochs, trial_images: of the policy search.
    """

    widths: tuple[int, ...]
    epochs: tuple[int, ...]
    data_schedule: DataScheduleConfig
    batch_size: int
    peak_lr: float
    proxy_width: int
    proxy_epochs: int
    trials: int
    trial_width: int
    trial_epochs: int
    trial_images: int

    def for_longer(self, factor: float) -> "Scale":
        """Give the same with the members trained so many times as long."""
        return replace(self, epochs=tuple(round(factor * epochs) for epochs in self.epochs))


CPU = Scale(
    widths=(4, 8, 16),
    epochs=(20, 20, 12),
    data_schedule=DataIncrement(fraction=0.5),
    batch_size=128,
    peak_lr=0.2,
    proxy_width=4,
    proxy_epochs=5,
    trials=8,
    trial_width=4,
    trial_epochs=20,
    trial_images=2000,
)
"""Two slow cores and half an hour."""
GPU = Scale(
    widths=(8, 16, 32, 64),
    epochs=(24, 24, 24, 24),
    data_schedule=AllData(),
    batch_size=512,
    peak_lr=0.4,
    proxy_width=16,
    proxy_epochs=10,
    trials=16,
    trial_width=32,
    trial_epochs=60,
    trial_images=4000,
)
"""One data-centre GPU and a few minutes."""


def scale_for(device: str) -> Scale:
    """Give what suits a device."""
    return GPU if device.startswith("cuda") else CPU


def resnet9_run(
    task: str,
    source: DataSource,
    splits: SplitConfig,
    scale: Scale,
    augment: AugmentConfig,
    *,
    device: str,
    seed: int,
) -> RunConfig:
    """Give a run that trains one member a width; it selects and searches only when told to by ``--set``.

    Args:
        task: of the zoo.
        source: of the images.
        splits: of them.
        scale: sizes and epochs.
        augment: of members, proxy and trials.
        device: where to train.
        seed: of selection, search and training.
    """
    loop = fast_loop(scale, augment, device=device, seed=seed)
    members = zip(scale.widths, scale.epochs, strict=True)
    return RunConfig(
        task=task,
        source=source,
        splits=splits,
        members=tuple(_member(f"resnet9-w{width}", width, replace(loop, epochs=epochs)) for width, epochs in members),
        selection=SelectionConfig(
            proxy=_member(
                "proxy", scale.proxy_width, replace(loop, epochs=scale.proxy_epochs, data_schedule=AllData())
            ),
            core_set=CoreSetConfig(seed=seed),
        ),
        policy_search=PolicySearchConfig(
            population=scale.trials,
            train_images=scale.trial_images,
            architecture=ARCHITECTURE,
            arguments={"width": scale.trial_width},
            loop=replace(loop, epochs=scale.trial_epochs, data_schedule=AllData()),
            seed=seed,
        ),
        device=device,
        seed=seed,
        validate_every=1 if device.startswith("cuda") else 2,
    )


def fast_loop(scale: Scale, augment: AugmentConfig, *, device: str, seed: int) -> LoopConfig:
    """Give one-cycle training with Nesterov momentum and smoothed labels, in half precision on a GPU."""
    is_cuda = device.startswith("cuda")
    return LoopConfig(
        epochs=max(scale.epochs),
        batch_size=scale.batch_size,
        optim=OptimConfig(weight_decay=5e-4),
        lr=OneCycle(peak_lr=scale.peak_lr, warmup_share=0.2),
        augment=augment,
        data_schedule=scale.data_schedule,
        label_smoothing=0.1,
        precision=Precision.BF16 if is_cuda else Precision.FP32,
        channels_last=True,
        seed=seed,
    )


def _member(name: str, width: int, loop: LoopConfig) -> MemberConfig:
    return MemberConfig(name=name, architecture=ARCHITECTURE, arguments={"width": width}, loop=loop)
