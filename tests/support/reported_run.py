"""A small but whole run on images whose classes have names that are markup, for tests of its report."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from training.augment.config import AugmentConfig
from training.config import RunConfig, SelectionConfig
from training.data.digits import load_digits
from training.data.folder import CorruptFiles, FolderSource
from training.data.images import LabelledImages, write_image_folder
from training.data.splits import SplitConfig
from training.data_schedule.config import DataStep
from training.loop_config import LoopConfig
from training.lr import OneCycle
from training.members import MemberConfig
from training.pipeline.listening import Quiet
from training.pipeline.order import Order
from training.pipeline.running import run_all
from training.policy_search.config import PolicySearchConfig
from training.selection.core_set import CoreSetConfig

CLASSES = ("<b onclick='x'>zero", 'one" & $x_', "two")
CORRUPT = "two/<i>broken.png"
_SHIFT = AugmentConfig(pad_px=1, pad_mode="constant", fill=(0,))
_LOOP = LoopConfig(epochs=2, batch_size=32, lr=OneCycle(peak_lr=0.1), augment=_SHIFT)


def make_config() -> RunConfig:
    """Give a core-set, a policy search, and two members, one under a data schedule."""
    return RunConfig(
        task="tricky",
        source=FolderSource(corrupt=CorruptFiles.SKIP),
        splits=SplitConfig(policy_validation=30, calibration=60, test=60),
        selection=SelectionConfig(
            proxy=MemberConfig(name="proxy", architecture="digits_cnn_xs", loop=_LOOP),
            core_set=CoreSetConfig(score="forgetting_events", fraction=0.5),
        ),
        should_select=True,
        policy_search=PolicySearchConfig(
            population=3,
            perturbation_interval=1,
            train_images=40,
            resample_probability=1.0,
            architecture="digits_cnn_xs",
            loop=replace(_LOOP, epochs=4),
        ),
        should_search=True,
        members=(
            MemberConfig(name="small", architecture="digits_cnn_xs", loop=replace(_LOOP, epochs=4)),
            MemberConfig(
                name="large",
                architecture="digits_cnn_s",
                loop=replace(_LOOP, epochs=4, data_schedule=DataStep(fraction=0.5, share=0.5)),
            ),
        ),
        threads=1,
    )


def write_images(folder: Path) -> Path:
    """Write a third of the digits as an image folder, and beside them a file that is no image."""
    digits = load_digits()
    chosen = digits.take(np.flatnonzero(digits.labels_B < len(CLASSES)))
    write_image_folder(
        LabelledImages(images_BHWC=chosen.images_BHWC, labels_B=chosen.labels_B, ids_B=chosen.ids_B, classes=CLASSES),
        folder,
    )
    (folder / CORRUPT).write_bytes(b"no image")
    return folder


def make_run(folder: Path) -> Path:
    """Do the whole run, and give its folder."""
    out = folder / "run"
    run_all(
        Order(recipe="tricky <recipe>", config=make_config(), data=write_images(folder / "images"), out=out), Quiet()
    )
    return out
