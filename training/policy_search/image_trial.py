"""A trial that is a network on images: trained by the loop, judged on images that are held out for it."""
# Shapes: B images, C channels, H height, W width, K classes.

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from model_zoo.registry import build_model, check_runs
from training.augment.build import policy_augmentation
from training.augment.ops import Op, op_names, register_op
from training.augment.policy import Policy
from training.data.device import DeviceImages, hold_on_device
from training.data.images import LabelledImages
from training.errors import DataError
from training.evaluation import view_logits
from training.inputs import Normalisation, Normaliser
from training.loop_config import LoopConfig
from training.policy_search.config import PolicySearchConfig
from training.policy_search.trial import TrialReport
from training.run import TrainingRun
from training.steps import autocast_dtype

_JUDGED_IMAGES = 500
"""Images that are judged together."""
_ON_DEVICE = {"_held", "_judge"}
"""What each process makes for itself."""


class Judge:
    """Measures the accuracy of networks on images that it holds on the device.

    Args:
        data: the images.
        normalisation: of the pixels, as trained.
        loop: its precision, memory format and test-time views are used.
        device: where the networks lie.
    """

    def __init__(self, data: LabelledImages, normalisation: Normalisation, loop: LoopConfig, device: str) -> None:
        self._held = hold_on_device(data, device)
        memory_format = torch.channels_last if loop.channels_last else torch.contiguous_format
        self._normalise = Normaliser(normalisation, self._held.device, memory_format)
        self._dtype = autocast_dtype(loop.precision)
        self._tta = loop.tta

    def __call__(self, model: nn.Module) -> float:
        """Give the share of images that a network in evaluation mode gets right."""
        held, device = self._held, self._held.device
        correct = torch.zeros((), dtype=torch.int64, device=device)
        parts = zip(held.images_NCHW.split(_JUDGED_IMAGES), held.labels_N.split(_JUDGED_IMAGES), strict=True)
        with torch.inference_mode(), torch.autocast(device.type, dtype=self._dtype, enabled=self._dtype is not None):
            for images_BCHW, labels_B in parts:
                logits_BK = view_logits(model, self._normalise(images_BCHW), self._tta)
                correct += (logits_BK.argmax(dim=1) == labels_B).sum()
        return int(correct) / len(held)


class ImageTrial:
    """A network in training under one policy at a time.

    Args:
        run: of the network.
        judge: measures its accuracy.
        normalisation: of the pixels; its mean fills gaps.
    """

    def __init__(self, run: TrainingRun, judge: Judge, normalisation: Normalisation) -> None:
        self._run = run
        self._judge = judge
        self._fill = [round(255 * mean) for mean in normalisation.mean]
        self._evaluations = 0

    def advance(self, epochs: int, policy: Policy) -> TrialReport:
        """Train for some epochs under a policy and judge on the validation images."""
        before = self._evaluations
        augmentation = policy_augmentation(policy, self._run.config.augment, self._fill)
        for _ in range(epochs):
            self._evaluations = self._run.run_epoch(augmentation).evaluations
        accuracy = self._judge(self._run.averaged_model())
        return TrialReport(accuracy=accuracy, evaluations=self._evaluations - before)

    def state_dict(self) -> dict[str, Any]:
        """Give a snapshot."""
        return {"run": self._run.state_dict(), "evaluations": self._evaluations}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a snapshot of any trial of the search."""
        self._run.load_state_dict(state["run"])
        self._evaluations = state["evaluations"]


class ImageTrials:
    """Makes the trials of a search; the images lie on the device once for all of them.

    Args:
        config: of the search.
        train: images that every trial learns from.
        validation: images that it is judged on.
        normalisation: of the pixels.
        device: where to train.
        ops: those of the policies. They travel with this object: a process that it is sent to registers those that it
            doesn't know.
    """

    def __init__(
        self,
        config: PolicySearchConfig,
        train: LabelledImages,
        validation: LabelledImages,
        normalisation: Normalisation,
        *,
        device: str,
        ops: tuple[Op, ...],
    ) -> None:
        self._config = config
        self._train = train
        self._validation = validation
        self._normalisation = normalisation
        self._device = device
        self._ops = ops
        # All trials share the order of images: what tells them apart is their weights and policies. A clone goes
        # on with its parent's random numbers too, so that it differs by its policy, and not by its luck.
        self._loop = replace(config.loop, seed=config.seed)

    @cached_property
    def _held(self) -> DeviceImages:
        return hold_on_device(self._train, self._device)

    @cached_property
    def _judge(self) -> Judge:
        return Judge(self._validation, self._normalisation, self._loop, self._device)

    def __call__(self, trial: int) -> ImageTrial:
        """Build the network of a trial, with weights of its own.

        Raises:
            DataError: the images don't fit.
            ZooError: the architecture can't be built, or can't run on images of that size.
        """
        _, height, width, channels = self._train.images_BHWC.shape
        if height != width:
            raise DataError(f"images: got {height}x{width} pixels; must be square")
        built = build_model(
            self._config.architecture,
            classes=len(self._train.classes),
            channels=channels,
            image_size=height,
            arguments=self._config.arguments,
            seed=weights_seed(self._config.seed, trial),
        )
        if built.preset.channels != channels:
            architecture, wanted = self._config.architecture, built.preset.channels
            raise DataError(f"images: got {channels} channels; must be {wanted}, which {architecture} takes")
        check_runs(built, height, width, channels)
        run = TrainingRun(
            built.module, self._train, self._loop, self._normalisation, device=self._device, held=self._held
        )
        return ImageTrial(run, self._judge, self._normalisation)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in _ON_DEVICE}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        for op in self._ops:
            if op.name not in op_names():
                register_op(op)


def weights_seed(seed: int, trial: int) -> int:
    """Give the seed of a trial's weights, unlike those of other trials and of searches with other seeds."""
    return int(np.random.SeedSequence((seed, 3, trial)).generate_state(1)[0])
