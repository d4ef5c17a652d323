"""The pairs of networks that are measured on a GPU, with random weights, and images for them."""
# Shapes: N images, HWC image.

from dataclasses import dataclass

import numpy as np

from cascade_serve.core.arrays import ImageArray
from cascade_serve.core.combine import Combine
from cascade_serve.core.confidence import Confidence
from cascade_serve.core.plan import Member, Plan, Policy, Stage, Task
from model_zoo.card import TaskCard
from model_zoo.registry import BuiltModel, build_model

NUM_CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two stages.

    Attributes:
        networks: registry names, small and large.
        size: height and width of the images, pixels.
        batch_size: the largest bucket.
    """

    networks: tuple[str, str]
    size: int
    batch_size: int


PAIRS = {
    "resnet": Pair(networks=("resnet20", "resnet56"), size=32, batch_size=256),
    "efficientnet": Pair(networks=("timm/efficientnet_b0", "timm/efficientnet_b4"), size=224, batch_size=64),
    "vit": Pair(networks=("timm/vit_small_patch16_224", "timm/vit_large_patch16_224"), size=224, batch_size=64),
}


def task_of(pair: Pair) -> TaskCard:
    classes = tuple(f"class {index}" for index in range(NUM_CLASSES))
    return TaskCard(height=pair.size, width=pair.size, channels=3, classes=classes)


def plan_of(pair: Pair, precision: str) -> Plan:
    task = task_of(pair)
    members = tuple(Member(name=name, flops=1, precision=precision, files={}) for name in ("small", "large"))
    stages = (Stage(member="small", threshold=0.5), Stage(member="large"))
    return Plan(
        task=Task(height=task.height, width=task.width, channels=task.channels, classes=task.classes),
        members=members,
        combine=Combine.MEAN_PROBS,
        confidence=Confidence.MAX_PROB,
        policies={"default": Policy(name="default", stages=stages, worst_case_flops=2)},
    )


def build(pair: Pair) -> list[BuiltModel]:
    size = pair.size if pair.size != 32 else None
    return [build_model(name, classes=NUM_CLASSES, image_size=size) for name in pair.networks]


def random_images(pair: Pair) -> ImageArray:
    """Make noise of another brightness and contrast in each image, or networks would answer all of them alike."""
    rng, count = np.random.default_rng(0), 16 * pair.batch_size
    noise_NHWC = rng.integers(0, 256, size=(count, pair.size, pair.size, 3), dtype=np.uint8)
    ceiling_N = rng.integers(1, 256, size=(count, 1, 1, 3), dtype=np.uint8)
    return np.minimum(noise_NHWC, ceiling_N)
