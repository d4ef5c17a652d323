"""The training of one member as a piece of work: from a job to files and facts, here or in another process."""
# Shapes: N images.

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import JsonValue

from cascade_serve.core.arrays import FloatArray
from training.augment.config import PolicyKind
from training.data.images import LabelledImages
from training.data_schedule.config import AllData, format_data_schedule
from training.energy import CodecarbonMeter, Energy
from training.errors import WeightsError
from training.inputs import Normalisation
from training.members import MemberConfig, train_member
from training.reports import Progress
from training.weights import write_weights

WEIGHTS_FILE = "weights.safetensors"
LOG_FILES = ("log.jsonl", "dawnbench.tsv")
TENSORBOARD_FOLDER = "tensorboard"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MemberJob:
    """All that a member's training needs besides its images; may travel to another process.

    Attributes:
        config: of the member.
        normalisation: of its pixels.
        device: where to train.
        threads: CPU threads of torch's; None leaves them.
        energy_country: whose electricity is measured; None measures none.
        tensorboard: curves are written for TensorBoard too.
        validate_every: epochs from one look at unseen images to the next; None never looks.
        scores_N: float32 [N], higher first, for a data schedule that is ordered by a score.
        selection, policy_schedule: how its images and policies came about; handed through to its facts.
    """

    config: MemberConfig
    normalisation: Normalisation
    device: str = "cpu"
    threads: int | None = None
    energy_country: str | None = None
    tensorboard: bool = False
    validate_every: int | None = None
    scores_N: FloatArray | None = None
    selection: JsonValue = None
    policy_schedule: JsonValue = None


@dataclass(frozen=True, kw_only=True, slots=True)
class MemberFacts:
    """What is known of a trained member: what its card, and reports, are made of.

    Attributes:
        config: of the member.
        normalisation: of its pixels.
        image_size: height and width of what it was trained on, pixels.
        num_images: that it was trained on.
        train_sha256: fingerprint of these.
        device: where it was trained: ``cpu``, or a GPU's name.
        evaluations: single images trained on.
        seconds: wall-clock time inside epochs.
        process_seconds: CPU time inside epochs, over all threads.
        wall_seconds: of the whole call that finished the training.
        peak_memory_bytes: see ``training.reports``.
        energy: what was measured.
        selection: how the images were chosen, and by which proxy; None for all of train.
        policy_schedule: how they were augmented by policies; None for not at all.
        data_schedule: which part of them an epoch trained on; None for everything.
    """

    config: MemberConfig
    normalisation: Normalisation
    image_size: int
    num_images: int
    train_sha256: str
    device: str
    evaluations: int
    seconds: float
    process_seconds: float
    wall_seconds: float
    peak_memory_bytes: int
    energy: Energy = field(default_factory=Energy)
    selection: JsonValue = None
    policy_schedule: JsonValue = None
    data_schedule: JsonValue = None


def train_into(
    job: MemberJob,
    rows: LabelledImages,
    folder: Path,
    scratch: Path,
    *,
    validation: LabelledImages | None = None,
    progress: Progress | None = None,
) -> MemberFacts:
    """Train a member, and write its weights and logs.

    Args:
        job: which and how.
        rows: N images that it trains on.
        folder: exists; gets weights and logs.
        scratch: keeps checkpoints while it trains; a killed training goes on from there.
        validation: unseen images, for a job that looks at some.
        progress: called after each epoch.

    Returns:
        what is known of it now.

    Raises:
        TrainingError, ZooError: as for ``train_member``.
        WeightsError: weights or logs can't be written.
    """
    with cpu_threads(job.threads):
        trained = train_member(
            job.config,
            rows,
            job.normalisation,
            device=job.device,
            folder=scratch,
            validation=None if job.validate_every is None else validation,
            validate_every=job.validate_every or 1,
            scores_N=job.scores_N,
            progress=progress,
            energy_meter=None if job.energy_country is None else CodecarbonMeter(job.energy_country),
            tensorboard=job.tensorboard,
        )
    config, result = job.config, trained.result
    write_weights(trained.model, folder / WEIGHTS_FILE, _metadata(config, rows))
    _keep_logs(scratch, folder, with_tensorboard=job.tensorboard)
    return MemberFacts(
        config=config,
        normalisation=job.normalisation,
        image_size=rows.images_BHWC.shape[1],
        num_images=len(rows),
        train_sha256=rows.sha256,
        device=torch.cuda.get_device_name(job.device) if job.device.startswith("cuda") else job.device,
        evaluations=result.evaluations,
        seconds=result.seconds,
        process_seconds=result.process_seconds,
        wall_seconds=result.wall_seconds,
        peak_memory_bytes=result.peak_memory_bytes,
        energy=result.energy,
        selection=job.selection,
        policy_schedule=job.policy_schedule or _own_policy(config),
        data_schedule=_data_schedule(config),
    )


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Let torch use so many CPU threads for a while; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _metadata(config: MemberConfig, rows: LabelledImages) -> Mapping[str, str | int]:
    return {"architecture": config.architecture, "seed": config.loop.seed, "data_sha256": rows.sha256}


def _keep_logs(scratch: Path, folder: Path, *, with_tensorboard: bool) -> None:
    try:
        for name in LOG_FILES:
            shutil.copyfile(scratch / name, folder / name)
        if with_tensorboard:
            shutil.copytree(scratch / TENSORBOARD_FOLDER, folder / TENSORBOARD_FOLDER, dirs_exist_ok=True)
    except OSError as error:
        raise WeightsError(f"{error.filename or folder}: {error.strerror}") from error


def _own_policy(config: MemberConfig) -> JsonValue:
    """Tell what policy the member's own configuration has."""
    augment = config.loop.augment
    if augment.policy is PolicyKind.NONE:
        return None
    if augment.policy_schedule is None:
        return {"policy": augment.policy.value}
    schedule = augment.policy_schedule
    return {"policy": augment.policy.value, "epochs": schedule.epochs, "segments": len(schedule.segments)}


def _data_schedule(config: MemberConfig) -> JsonValue:
    schedule = config.loop.data_schedule
    if isinstance(schedule, AllData):
        return None
    return {"schedule": format_data_schedule(schedule), "epochs": config.loop.epochs}
