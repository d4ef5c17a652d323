"""From a run's trained members to members of a zoo; the one file of training that knows ``cascade_serve.zoo``."""

import json
from collections.abc import Sequence
from pathlib import Path

from cascade_serve.errors import ConfigError
from cascade_serve.zoo import Addition, Descent, TorchModel, add_member
from model_zoo.card import Card, TrainingCard
from model_zoo.errors import CardError
from model_zoo.store import CARD_FILE, check_free, read_member
from training.data.images import write_image_folder
from training.errors import MemberExportError, RunDirError
from training.files import file_sha256, write_whole
from training.member_job import WEIGHTS_FILE, MemberFacts
from training.pipeline.data_stage import STAGE as DATA_STAGE
from training.pipeline.listening import Listener
from training.pipeline.member_stage import read_facts
from training.pipeline.parts import check_exportable, read_images
from training.pipeline.running import read_run_file
from training.run_dir import RunDir
from training.run_stage import FinishedStage

IMAGES_STAGE = "images"
PARTS = ("calibration", "test")
_EXPORTS_FILE = "exports.json"


def export_run(run_dir: Path, zoo: Path, listener: Listener) -> Path:
    """Add a run's members to a zoo; those that are there already, made of the same weights, are left as they are.

    Calibration and test images are written into the run's folder, as ``images/<part>/<class>/<id>.png``, without loss:
    what the calibration logits were computed on, and what ``cascade-serve evaluate`` takes.

    Args:
        run_dir: the run's folder, whose members are trained.
        zoo: made where it is absent.
        listener: hears of progress.

    Returns:
        ``zoo/<task>``.

    Raises:
        RunDirError: members are not trained, or the folder is damaged.
        MemberExportError: the serving side refuses a member; says why.
        ZooError: a member does not fit the zoo's task, or can't be exported.
    """
    content = read_run_file(run_dir)
    if not content.members:
        raise RunDirError(f"{run_dir}: cascade-train {content.command} trained no members; use cascade-train train")
    task_path = zoo / content.task
    with RunDir(run_dir) as run:
        members = {name: run.descent(stage)[-1] for name, stage in content.members.items()}
        images = _write_images(run, listener)
        for name, member in members.items():
            _export(name, member, task_path, images / PARTS[0], listener)
    return task_path


def check_zoo(run_dir: Path, zoo: Path, task: str, names: Sequence[str]) -> None:
    """Refuse a zoo that would not take a run's members, before they are trained.

    Args:
        run_dir: the run's folder, which need not be there yet.
        zoo: where its members are to go.
        task: of the zoo.
        names: of the members.

    Raises:
        ZooError: the zoo can't be written, or holds members of these names that this run has not put there.
    """
    exported = _Exported(run_dir)
    for name in names:
        target = zoo / task / name
        check_free(target, overwrite=exported.is_own(target))


def _write_images(run: RunDir, listener: Listener) -> Path:
    """Write calibration and test images as files, or take those that lie there."""
    data = run.find(DATA_STAGE)
    files = {part: data.folder / f"{part}.safetensors" for part in PARTS}
    with run.stage(IMAGES_STAGE, config=None, inputs=files) as stage:
        if not stage.is_done:
            listener.begin("writing calibration and test images", None)
            for part, file in files.items():
                rows = read_images(file)
                check_exportable(rows, part)
                write_image_folder(rows, stage.path / part)
            stage.finish()
        return stage.path


def _export(name: str, member: FinishedStage, task_path: Path, calibration: Path, listener: Listener) -> None:
    facts = read_facts(member)
    descent = _descent(facts)
    target = task_path / name
    card = _read_card(target)
    if card is not None and (card.training, card.provenance.train_sha256) == (descent.training, descent.train_sha256):
        listener.tell(f"{target} (as before)")
        return
    exported = _Exported(member.folder.parent)
    addition = Addition(
        name=name,
        task_path=task_path,
        data=calibration,
        model=TorchModel(
            architecture=facts.config.architecture,
            arguments=facts.config.arguments,
            weights=member.folder / WEIGHTS_FILE,
            mean=facts.normalisation.mean,
            std=facts.normalisation.std,
        ),
        descent=descent,
        image_size=facts.image_size,
        overwrite=exported.is_own(target),
    )
    try:
        added = add_member(addition, listener.begin)
    except ConfigError as error:
        raise MemberExportError(f"member {name!r}: {error}") from error
    exported.remember(target)
    for warning in added.warnings:
        listener.tell(f"warning: {warning}")
    listener.tell(f"{target}: {added.member.card.cost.flops:,} FLOPs, {added.member.card.cost.params:,} parameters")


def _read_card(target: Path) -> Card | None:
    """Give the card of a member that is whole; None where there is none, or a damaged one."""
    try:
        return read_member(target).card
    except CardError:
        return None


def _descent(facts: MemberFacts) -> Descent:
    return Descent(
        training=TrainingCard(
            seconds=facts.process_seconds,
            wall_seconds=facts.seconds,
            evaluations=facts.evaluations,
            energy_joules=facts.energy.joules,
            co2_kg=facts.energy.co2_kg,
            device=facts.device,
        ),
        train_sha256=facts.train_sha256,
        selection=facts.selection,
        policy_schedule=facts.policy_schedule,
        data_schedule=facts.data_schedule,
        seeds=(facts.config.loop.seed,),
    )


class _Exported:
    """Remembers, in the run's folder, which members of which zoos this run has written: those it may replace."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / _EXPORTS_FILE

    def is_own(self, target: Path) -> bool:
        """Tell whether the member that lies there is one that this run wrote."""
        card = target / CARD_FILE
        return card.is_file() and self._read().get(str(target.absolute())) == file_sha256(card)

    def remember(self, target: Path) -> None:
        """Note a member that was written."""
        content = {**self._read(), str(target.absolute()): file_sha256(target / CARD_FILE)}
        try:
            write_whole(self._path, json.dumps(content, indent=1, sort_keys=True).encode() + b"\n")
        except OSError as error:
            raise RunDirError(f"{error.filename or self._path}: {error.strerror}") from error

    def _read(self) -> dict[str, str]:
        try:
            return dict(json.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError) as error:
            raise RunDirError(f"{self._path}: can't be read: {error}") from error
