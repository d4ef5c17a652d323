"""The whole search: from images to a policy schedule in a folder."""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from training.augment.ops import get_op, initial_policy
from training.augment.policy import Policy
from training.data.images import LabelledImages
from training.errors import DataError, PolicySearchError
from training.files import write_whole
from training.inputs import Normalisation
from training.policy_search.config import Backend, PolicySearchConfig, RayConfig
from training.policy_search.history import IntervalRecord, policy_to_json
from training.policy_search.image_trial import ImageTrials
from training.policy_search.local import PARTIAL_FILE, STATE_FILE, run_local
from training.policy_search.ray_backend import run_ray
from training.policy_search.ray_cluster import device_there
from training.policy_search.result import SearchResult, make_result, read_fingerprint, read_result, write_result
from training.policy_search.sample import stratified_rows
from training.policy_search.trial import MakeTrial, Progress
from training.settings import to_json

__all__ = ["SearchResult", "search_policy", "search_population"]

_RAY_FOLDER = "ray"
_ELAPSED_FILE = "elapsed.json"
_FINGERPRINT_FILE = "fingerprint.txt"


def search_policy(
    config: PolicySearchConfig,
    train: LabelledImages,
    validation: LabelledImages,
    normalisation: Normalisation,
    folder: Path,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> SearchResult:
    """Search an augmentation schedule (Ho et al., ICML 2019), over all ops that are registered.

    A search that is finished in ``folder`` is read; one that was killed goes on.

    Args:
        config: how.
        train: training images; trials learn from ``train_images`` of them.
        validation: images that trials are judged on: neither test nor calibration, and none of ``train``.
        normalisation: of the pixels; its mean also fills gaps.
        folder: made where it is absent; gets the files of :func:`training.policy_search.result.write_result`.
        device: where trials are trained; under Ray, in each of its processes.
        progress: called after each interval of each trial.

    Returns:
        the best schedule, and all that led to it.

    Raises:
        DataError: train and validation have images in common, differ in size or classes, or are empty.
        PolicySearchError: every trial diverged; the folder holds another search, or can't be read or written; or Ray
            can't do it.
        ZooError: the architecture can't be built.
    """
    _check_data(train, validation)
    generator = np.random.default_rng([config.seed, 5])
    part = train.take(stratified_rows(train.labels_B, min(config.train_images, len(train)), generator))
    initial = initial_policy()
    ops = tuple(get_op(name) for name in dict.fromkeys(entry.op for entry in initial))
    if config.backend is Backend.RAY and config.ray.gpus_per_trial:
        device = device_there(device)
    make_trial = ImageTrials(config, part, validation, normalisation, device=device, ops=ops)
    identity = {
        "train_sha256": part.sha256,
        "validation_sha256": validation.sha256,
        "normalisation": to_json(normalisation),
    }
    return search_population(config, make_trial, initial, folder, identity=identity, progress=progress)


def search_population(
    config: PolicySearchConfig,
    make_trial: MakeTrial,
    initial: Policy,
    folder: Path,
    *,
    identity: Mapping[str, JsonValue],
    progress: Progress | None = None,
) -> SearchResult:
    """Search with trials of any kind.

    Args:
        config: how; what says how images are trained on is not looked at, but for the epochs.
        make_trial: makes the trials.
        initial: policy that PBA starts from, and whose ops the controls draw numbers for.
        folder: as for :func:`search_policy`.
        identity: whatever else decides the result, such as fingerprints of data.
        progress: called after each interval of each trial.

    Raises:
        PolicySearchError: as for :func:`search_policy`.
    """
    fingerprint = _fingerprint(config, initial, identity)
    _enter(folder, fingerprint)
    if read_fingerprint(folder) is not None:
        return read_result(folder, seed=config.seed)
    clock = _Clock(folder / _ELAPSED_FILE)

    def hear(record: IntervalRecord) -> None:
        clock.keep()
        if progress is not None:
            progress(record)

    if config.backend is Backend.RAY:
        ray_folder = folder / _RAY_FOLDER
        ray_folder.mkdir(exist_ok=True)
        records = run_ray(config, make_trial, initial, folder=ray_folder, progress=hear)
    else:
        records = run_local(config, make_trial, initial, folder=folder, fingerprint=fingerprint, progress=hear)
    result = make_result(records, seed=config.seed, seconds=clock.seconds)
    write_result(result, folder, fingerprint=fingerprint, config=to_json(config))
    _tidy(folder)
    return result


def _check_data(train: LabelledImages, validation: LabelledImages) -> None:
    common = np.intersect1d(train.ids_B, validation.ids_B)
    if len(common):
        raise DataError(f"ids: train and validation share {len(common)} images, such as {common[0]}; must be disjoint")
    shapes = [list(data.images_BHWC.shape[1:]) for data in (train, validation)]
    if not len(train) or not len(validation) or shapes[0] != shapes[1] or train.classes != validation.classes:
        raise DataError(
            f"train, validation: got {len(train)} and {len(validation)} images of [H, W, C] {shapes[0]} and {shapes[1]}"
            f" in {len(train.classes)} and {len(validation.classes)} classes; must be at least one each, alike"
        )


def _fingerprint(config: PolicySearchConfig, initial: Policy, identity: Mapping[str, JsonValue]) -> str:
    """Give the sha256 of all that decides the result; where and how often it is written down does not."""
    deciding = replace(config, ray=RayConfig(synchronous=config.ray.synchronous), checkpoint_interval_s=0)
    value = {"config": to_json(deciding), "initial": policy_to_json(initial), **identity}
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _enter(folder: Path, fingerprint: str) -> None:
    """Make the folder this search's own, or make sure that it is."""
    path = folder / _FINGERPRINT_FILE
    try:
        if not path.exists():
            write_whole(path, fingerprint.encode())
        found = path.read_text(encoding="utf-8")
    except OSError as error:
        raise PolicySearchError(f"{error.filename or folder}: {error.strerror}") from error
    if found != fingerprint:
        raise PolicySearchError(f"{folder}: holds a search of other data or settings; take another folder")


def _tidy(folder: Path) -> None:
    """Remove what only an unfinished search needs."""
    for name in (STATE_FILE, PARTIAL_FILE, _ELAPSED_FILE):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / _RAY_FOLDER, ignore_errors=True)


class _Clock:
    """Wall-clock time of a search over all of its processes.

    Args:
        path: keeps it from one to the next.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start_s = time.monotonic()
        try:
            self._before_s = float(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else 0.0
        except (OSError, ValueError, TypeError) as error:
            raise PolicySearchError(f"{path}: can't be read: {error!r}") from error

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._before_s + time.monotonic() - self._start_s

    def keep(self) -> None:
        """Write the time down; a process that is killed meanwhile leaves the former one.

        Raises:
            PolicySearchError: it can't be written.
        """
        try:
            write_whole(self._path, json.dumps(self.seconds).encode())
        except OSError as error:
            raise PolicySearchError(f"{error.filename or self._path}: {error.strerror}") from error
