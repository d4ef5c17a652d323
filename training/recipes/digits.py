"""Members for scikit-learn's handwritten digits, small enough to be trained while one waits."""

from dataclasses import replace

from training.augment.config import AugmentConfig
from training.config import RunConfig, SelectionConfig
from training.data.digits import DigitsSource
from training.data.splits import SplitConfig
from training.data_schedule.config import DataIncrement
from training.loop_config import LoopConfig
from training.lr import OneCycle
from training.members import MemberConfig
from training.policy_search.config import PolicySearchConfig
from training.selection.core_set import CoreSetConfig

# Shifts by a pixel; what comes in from outside is paper.
_SHIFT = AugmentConfig(pad_px=1, pad_mode="constant", fill=(0,))


def digits(*, device: str = "cpu", seed: int = 0) -> RunConfig:
    """Give the whole way in some seconds: a proxy's core-set, a small policy search, three members of growing size.

    The search is short: the policies that it finds then are gentle, or none, which is what suits so easy a set and
    networks that would rather see more of the plain images.

    Args:
        device: where to train; a GPU is no faster on images of 8x8 pixels.
        seed: of splits, selection, search and training.
    """
    short = LoopConfig(epochs=8, lr=OneCycle(peak_lr=0.1), augment=_SHIFT, seed=seed)
    loop = replace(short, epochs=50, label_smoothing=0.05, data_schedule=DataIncrement(fraction=0.5))
    return RunConfig(
        task="digits",
        source=DigitsSource(),
        splits=SplitConfig(policy_validation=100, calibration=697, test=400, seed=seed),
        selection=SelectionConfig(
            proxy=MemberConfig(name="proxy", architecture="digits_cnn_xs", loop=short),
            core_set=CoreSetConfig(score="forgetting_events", fraction=0.9, seed=seed),
        ),
        should_select=True,
        policy_search=PolicySearchConfig(
            population=4,
            perturbation_interval=3,
            train_images=400,
            architecture="digits_cnn_m",
            loop=replace(short, epochs=12),
            seed=seed,
        ),
        should_search=True,
        members=tuple(
            MemberConfig(name=name, architecture=f"digits_cnn_{size}", loop=loop)
            for name, size in (("small", "s"), ("medium", "m"), ("large", "l"))
        ),
        device=device,
        threads=1,
        validate_every=5,
        seed=seed,
    )
