"""Members for scikit-learn's handwritten digits, small enough to be trained while one waits."""

from training.data.splits import SplitConfig
from training.loop import LoopConfig
from training.members import MemberConfig
from training.optim import OptimConfig


def digits_splits(seed: int = 0) -> SplitConfig:
    """Divide the 1,797 digits: 600 train well enough, and each row more to calibrate on sharpens the plan's promise."""
    return SplitConfig(calibration=797, test=400, seed=seed)


def digits_members(seed: int = 0) -> tuple[MemberConfig, ...]:
    """Give three members of growing size, each four to five times as dear as the one before it."""
    loop = LoopConfig(epochs=30, optim=OptimConfig(peak_lr=0.1), label_smoothing=0.05, max_shift_px=1, seed=seed)
    return tuple(
        MemberConfig(name=name, architecture=f"digits_cnn_{size}", loop=loop)
        for name, size in (("small", "s"), ("medium", "m"), ("large", "l"))
    )
