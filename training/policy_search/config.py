"""What a policy search is asked to do."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import JsonValue

from training.augment.config import AugmentConfig, Flip
from training.loop_config import LoopConfig
from training.lr import Cosine
from training.optim import OptimConfig
from training.policy_search.exploit import QUANTILE
from training.policy_search.explore import RESAMPLE_PROBABILITY


class Strategy(StrEnum):
    """How policies change in the course of a search.

    The two random ones are PBA's controls at equal compute: as many trials, epochs and judgements, and the same choice
    of the best at the end.
    """

    PBA = "pba"
    """Population based augmentation: exploit and explore."""
    RANDOM_CONSTANT = "random_constant"
    """Each trial draws a policy uniformly and keeps it: random search over policies."""
    RANDOM_SCHEDULE = "random_schedule"
    """As many trials as PBA would replace explore their own policy, chosen by chance: PBA without its selection."""


class Backend(StrEnum):
    """What runs the trials."""

    LOCAL = "local"
    """This process, in turn; needs no ray."""
    RAY = "ray"
    """Ray Tune's PopulationBasedTraining, on this machine or on a cluster."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RayConfig:
    """How Ray is used.

    Attributes:
        address: of a running cluster, as ``ray.init`` takes it; None starts one on this machine, for loopback only, and
            ends it after the search. All nodes of a cluster must see the search's folder under the same path.
        cpus_per_trial: CPU cores that a running trial holds; a fraction lets several share one.
        gpus_per_trial: GPUs, likewise.
        num_cpus: cores that a cluster started here may use; None is all of them.
        max_failures: how often a trial whose process died is taken up again from its last checkpoint; -1 is always.
        synchronous: exploit when all trials have come to the same epoch, as the local backend does. False is Ray's own
            default: each trial is compared with what the others reported last, and nobody waits for a slower one.
        keep_checkpoints: of each trial, at least 3: others may yet have to load them.
        object_store_bytes: memory for shared objects of a cluster started here; holds the images once.
    """

    address: str | None = None
    cpus_per_trial: float = 1.0
    gpus_per_trial: float = 0.0
    num_cpus: int | None = None
    max_failures: int = 3
    synchronous: bool = True
    keep_checkpoints: int = 4
    object_store_bytes: int = 512 * 1024**2

    def __post_init__(self) -> None:
        for name, least in (("gpus_per_trial", 0), ("max_failures", -1), ("keep_checkpoints", 3)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name}: got {getattr(self, name)}; must be at least {least}")
        if not self.cpus_per_trial > 0:
            raise ValueError(f"cpus_per_trial: got {self.cpus_per_trial}; must be above 0")
        if self.num_cpus is not None and self.num_cpus < self.cpus_per_trial:
            raise ValueError(
                f"num_cpus: got {self.num_cpus}; must be at least cpus_per_trial, which is {self.cpus_per_trial}"
            )
        # Ray's own lower limit.
        if self.object_store_bytes < 75 * 1024**2:
            raise ValueError(f"object_store_bytes: got {self.object_store_bytes}; must be at least {75 * 1024**2}")


PAPER_LOOP = LoopConfig(
    epochs=200,
    batch_size=128,
    optim=OptimConfig(weight_decay=5e-4),
    lr=Cosine(peak_lr=0.1),
    gradient_clip=5.0,
    augment=AugmentConfig(pad_px=4, pad_mode="constant", flip=Flip.RANDOM, cutout_px=16),
)
"""How the paper trains a trial on CIFAR-10."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicySearchConfig:
    """A search for an augmentation schedule (Ho et al., ICML 2019, section 3; defaults are those for CIFAR-10).

    Attributes:
        population: trials, at least 1.
        perturbation_interval: epochs between exploits, at least 1.
        train_images: size of the stratified random part of the training images that trials learn from; all of them
            where there are fewer.
        strategy: PBA or one of its controls.
        quantile: share of the population that is replaced, and that replaces it; above 0 and at most 0.5.
        resample_probability: of each number of a policy when it explores, 0..1.
        architecture: a trial's network, a name of ``model_zoo.registry``.
        arguments: of its builder.
        loop: how a trial is trained. Its crop, flip and Cutout are applied after the searched policy; its own policy
            and seed are not used.
        seed: of the images chosen, of each trial's weights, of the order of images, which is the same for all trials,
            and of exploit and explore.
        backend: what runs the trials.
        checkpoint_interval_s: the local backend writes its state down after the first interval to end so many seconds
            after the last time; 0 is after each. What a killed search has to do again is at most that and an interval.
        ray: settings of the ray backend.
    """

    population: int = 16
    perturbation_interval: int = 3
    train_images: int = 4000
    strategy: Strategy = Strategy.PBA
    quantile: float = QUANTILE
    resample_probability: float = RESAMPLE_PROBABILITY
    architecture: str = "wrn40_2"
    arguments: Mapping[str, JsonValue] = field(default_factory=dict)
    loop: LoopConfig = field(default_factory=lambda: PAPER_LOOP)
    seed: int = 0
    backend: Backend = Backend.LOCAL
    checkpoint_interval_s: float = 10.0
    ray: RayConfig = field(default_factory=RayConfig)

    def __post_init__(self) -> None:
        for name, least in (
            ("population", 1),
            ("perturbation_interval", 1),
            ("train_images", 1),
            ("seed", 0),
            ("checkpoint_interval_s", 0),
        ):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name}: got {getattr(self, name)}; must be at least {least}")
        if not 0 < self.quantile <= 0.5:
            raise ValueError(f"quantile: got {self.quantile}; must be above 0 and at most 0.5")
        if not 0 <= self.resample_probability <= 1:
            raise ValueError(f"resample_probability: got {self.resample_probability}; must lie in 0..1")

    @property
    def epochs(self) -> int:
        """Epochs of each trial."""
        return self.loop.epochs

    @property
    def num_intervals(self) -> int:
        """Intervals of each trial; the last may be shorter."""
        return math.ceil(self.epochs / self.perturbation_interval)

    def interval_epochs(self, start_epoch: int) -> int:
        """Count the epochs of the interval that begins with ``start_epoch`` epochs done."""
        return min(self.perturbation_interval, self.epochs - start_epoch)
