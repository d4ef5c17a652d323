"""How a model is trained: the whole configuration of the loop."""

from dataclasses import dataclass, field
from enum import StrEnum

from training.augment.config import AugmentConfig
from training.data_schedule.config import AllData, DataScheduleConfig
from training.evaluation import Tta
from training.lr import LrConfig, OneCycle
from training.optim import OptimConfig
from training.proxy_filter import ProxyFilterConfig
from training.seeds import check_seed


class Precision(StrEnum):
    """Of convolutions and matrix products; weights, norms, losses and optimiser states are always float32."""

    FP32 = "fp32"
    """Float32; on a GPU, convolutions may round to TF32, as torch lets them."""
    BF16 = "bf16"
    """Bfloat16 by autocast."""
    FP16 = "fp16"
    """Float16 by autocast, losses scaled so that small gradients survive (Micikevicius et al., arXiv 1710.03740)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """How a model is trained.

    Attributes:
        epochs: planned; an epoch is what the data schedule says.
        batch_size: images a step. Where an epoch's number is no multiple, its last two batches share what is left:
            none is dropped, and none has less than half. With a proxy filter, the images that it chooses from.
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
        tta: views of an image whose logits validation averages.
        precision: of convolutions and matrix products.
        channels_last: images and filters lie in memory with the channels last, which tensor cores want.
        compile: through ``torch.compile``; the first step then takes much longer. Batches that are not full are not
            compiled, as each size would be compiled anew.
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
    tta: Tta = Tta.NONE
    precision: Precision = Precision.FP32
    channels_last: bool = False
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("ema_every", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: got {getattr(self, name)}; must be at least {least}")
        check_seed(self.seed)
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing: got {self.label_smoothing}; must be at least 0 and under 1")
        if self.gradient_clip is not None and not 0 < self.gradient_clip < float("inf"):
            raise ValueError(f"gradient_clip: got {self.gradient_clip}; must be above 0 and finite")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay: got {self.ema_decay}; must be at least 0 and under 1")
        if self.ema_lookahead and self.ema_decay is None:
            raise ValueError("ema_decay: got none; ema_lookahead must have one")

    @property
    def rows_per_step(self) -> int:
        """Images of a full batch that the model is trained on."""
        return self.batch_size if self.proxy_filter is None else self.proxy_filter.num_kept(self.batch_size)
