"""How a model is trained: the whole configuration of the loop."""

from dataclasses import dataclass, field
from enum import StrEnum

from training.augment.config import AugmentConfig
from training.data_schedule.config import AllData, DataScheduleConfig
from training.lr import LrConfig, OneCycle
from training.optim import OptimConfig
from training.proxy_filter import ProxyFilterConfig


class Precision(StrEnum):
    """Of convolutions and matrix products; weights, norms, losses and optimiser states are always float32."""

    FP32 = "fp32"
    """Float32."""
    BF16 = "bf16"
    """Bfloat16 by autocast."""
    FP16 = "fp16"
    """Float16 by autocast, losses scaled so that small gradients survive (Micikevicius et al., arXiv 1710.03740)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """How a model is trained.

    Attributes:
        epochs: planned; an epoch is what the data schedule says.
        batch_size: images a step at most: an epoch is cut into as few batches as that allows, of equal size up to one
            image. None is dropped, and none is left over as a small batch. With a proxy filter, the images that it
            chooses from.
        optim: optimiser.
        lr: learning rate over the planned number of examples.
        augment: what is done to the images at random.
        data_schedule: which part of the data each epoch trains on.
        label_smoothing: share of the target that is spread over all classes (Szegedy et al., arXiv 1512.00567).
        gradient_clip: largest L2 norm of all gradients together; None leaves them as they are.
        ema_decay: of the exponential moving average of the weights, per update; None keeps no average.
        ema_every: steps from one update of the average to the next.
        ema_lookahead: the average also becomes the model's weights at each update, and its decay grows with the run
            (Zhang et al., arXiv 1907.08610, as airbench has it).
        proxy_filter: a proxy that sees each batch first, and leaves the hardest of it to the model; None leaves all.
        flip_tta: validation averages an image's and its mirror image's logits.
        precision: of convolutions and matrix products.
        channels_last: images and filters lie in memory with the channels last, which tensor cores want.
        compile: through ``torch.compile``; the first steps then take much longer.
        seed: of shuffling, augmentation and dropout.
    """

    epochs: int = 20
    batch_size: int = 64
    optim: OptimConfig = field(default_factory=OptimConfig)
    lr: LrConfig = field(default_factory=OneCycle)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    data_schedule: DataScheduleConfig = field(default_factory=AllData)
    label_smoothing: float = 0.0
    gradient_clip: float | None = None
    ema_decay: float | None = None
    ema_every: int = 1
    ema_lookahead: bool = False
    proxy_filter: ProxyFilterConfig | None = None
    flip_tta: bool = False
    precision: Precision = Precision.FP32
    channels_last: bool = False
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("ema_every", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: got {getattr(self, name)}; must be at least {least}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing: got {self.label_smoothing}; must be at least 0 and under 1")
        if self.gradient_clip is not None and not 0 < self.gradient_clip < float("inf"):
            raise ValueError(f"gradient_clip: got {self.gradient_clip}; must be above 0 and finite")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay: got {self.ema_decay}; must be at least 0 and under 1")
        if self.ema_lookahead and self.ema_decay is None:
            raise ValueError("ema_decay: got none; ema_lookahead must have one")
