"""What a run's folder holds, as the report's sections take it: data, members, logs, accuracies, cards."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from model_zoo.card import Card
from model_zoo.errors import CardError, ZooError
from model_zoo.registry import build_model
from model_zoo.store import CARD_FILE
from training.errors import RunDirError, TrainingError
from training.evaluation import Evaluation
from training.files import file_sha256
from training.member_job import MemberFacts
from training.pipeline.data_stage import STAGE as DATA
from training.pipeline.evaluation_stage import STAGE as EVALUATION
from training.pipeline.evaluation_stage import read_accuracy
from training.pipeline.member_stage import read_facts
from training.pipeline.running import RUN_FILE, RunFile, read_run_file
from training.report.stages import RunStage, StageState, read_stages
from training.reports import EpochReport
from training.run_record import RECORD_FILE
from training.run_stage import SCRATCH, FinishedStage

LOG_FILE = "log.jsonl"
EXPORTS_FILE = "exports.json"
_REPORT = TypeAdapter(EpochReport)
_CONFIG_FIELDS = {"device", "members", "seed", "source", "splits", "threads"}


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFacts:
    """What the data stage noted.

    Attributes:
        images: by part.
        height, width, channels: of an image.
        classes: their names, as the user gave them.
        skipped, resized: files, each with ``path`` and ``reason``.
        sha256: of each part's images.
    """

    images: Mapping[str, int]
    height: int
    width: int
    channels: int
    classes: tuple[str, ...]
    skipped: tuple[Mapping[str, Any], ...]
    resized: tuple[Mapping[str, Any], ...]
    sha256: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One member as the report finds it.

    Attributes:
        name: in the zoo.
        stage: that trains it.
        architecture: its name.
        facts: what came of its training; None where that isn't done.
        reports: its epochs so far.
        accuracy: by part; empty where it isn't evaluated.
        card: of the zoo's member that it was exported to; None where it wasn't, or that one has changed.
        num_params: its parameters; None where its architecture can't be built here.
    """

    name: str
    stage: RunStage
    architecture: str
    facts: MemberFacts | None
    reports: tuple[EpochReport, ...]
    accuracy: Mapping[str, Evaluation]
    card: Card | None
    num_params: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunContents:
    """A run.

    Attributes:
        path: its folder.
        run: what was asked for last.
        stages: by name, each after what it read.
        data: what the data stage noted; None where it isn't done.
        members: in the order of the configuration.
        zoo_task: folder of the zoo's task that members were exported to; None where they weren't.
    """

    path: Path
    run: RunFile
    stages: Mapping[str, RunStage]
    data: DataFacts | None
    members: tuple[Member, ...]
    zoo_task: Path | None

    @property
    def config(self) -> Mapping[str, Any]:
        """The full configuration, as JSON."""
        config: Any = self.run.config
        return dict(config)

    @property
    def trained(self) -> tuple[tuple[Member, MemberFacts], ...]:
        """The members whose training is done, with its facts."""
        return tuple((member, member.facts) for member in self.members if member.facts is not None)

    @property
    def open_stages(self) -> tuple[RunStage, ...]:
        """What the last command needs and is not done."""
        stages = self.stages.values()
        return tuple(stage for stage in stages if stage.is_asked_for and stage.state is not StageState.DONE)

    def done(self, name: str) -> FinishedStage | None:
        """Give a stage that is done and up to date; None where it isn't."""
        stage = self.stages.get(name)
        return stage.finished if stage is not None and stage.state is StageState.DONE else None

    def is_read_by_members(self, name: str) -> bool:
        """Tell whether a trained member has read what a stage made."""
        records = [member.stage.finished.record for member, _ in self.trained if member.stage.finished is not None]
        return any(read.stage == name for record in records for read in record.inputs.values())


def read_contents(run_dir: Path) -> RunContents:
    """Read a run's folder, finished or not.

    Raises:
        RunDirError: it is no run's folder, or a file in it is damaged or of another version; the message names it.
    """
    run = read_run_file(run_dir)
    _check_config(run, run_dir / RUN_FILE)
    stages = read_stages(run_dir, run)
    contents = RunContents(path=run_dir, run=run, stages=stages, data=None, members=(), zoo_task=None)
    facts: DataFacts | None = _read(contents.done(DATA), _to_data_facts)
    accuracy = _read(contents.done(EVALUATION), read_accuracy) or {}
    cards = _read_cards(run_dir)
    members = [
        _member(config, stages[run.members[config["name"]]], facts, accuracy.get(config["name"], {}), cards)
        for config in contents.config["members"]
        if config["name"] in run.members
    ]
    own = {member.name for member in members if member.card is not None}
    tasks = [path.parent for path in cards if path.name in own]
    return RunContents(
        path=run_dir, run=run, stages=stages, data=facts, members=tuple(members), zoo_task=tasks[-1] if tasks else None
    )


def _check_config(run: RunFile, path: Path) -> None:
    """Refuse the file of a version whose configuration is built otherwise."""
    config = run.config if isinstance(run.config, dict) else {}
    absent = sorted(_CONFIG_FIELDS - config.keys())
    if absent:
        raise RunDirError(f"{path}: config: got no {', '.join(absent)}; must be a run's configuration")


def _read(stage: FinishedStage | None, reader: Any) -> Any:
    """Read a stage's result; its file is whole, but may be of another version."""
    if stage is None:
        return None
    try:
        return reader(stage)
    except (TrainingError, ValidationError, KeyError, TypeError) as error:
        message = str(error).splitlines()[0]
        raise RunDirError(f"{stage.folder / RECORD_FILE}: result: {message}: run the stage again") from error


def _to_data_facts(stage: FinishedStage) -> DataFacts:
    result: Any = stage.record.result
    height, width, channels = result["size"]
    return DataFacts(
        images=result["images"],
        height=height,
        width=width,
        channels=channels,
        classes=tuple(result["classes"]),
        skipped=tuple(result["skipped"]),
        resized=tuple(result["resized"]),
        sha256=result["sha256"],
    )


def _member(
    config: Mapping[str, Any],
    stage: RunStage,
    data: DataFacts | None,
    accuracy: Mapping[str, Evaluation],
    cards: Mapping[Path, Card],
) -> Member:
    done = stage.finished if stage.state is StageState.DONE else None
    facts: MemberFacts | None = _read(done, read_facts)
    return Member(
        name=config["name"],
        stage=stage,
        architecture=config["architecture"],
        facts=facts,
        reports=_read_log(stage),
        accuracy=accuracy,
        card=None if facts is None else _own_card(config["name"], facts, cards),
        num_params=None if data is None else _count_params(config, data),
    )


def _read_log(stage: RunStage) -> tuple[EpochReport, ...]:
    """Read the epochs of a training, done or on its way."""
    if stage.state is StageState.DONE and stage.finished is not None:
        return _parse_log(stage.finished.folder / LOG_FILE, is_whole=True)
    if stage.partial is not None:
        return _parse_log(stage.partial / SCRATCH / LOG_FILE, is_whole=False)
    return ()


def _parse_log(path: Path, *, is_whole: bool) -> tuple[EpochReport, ...]:
    """Read a log; of one that is still being written, the last line may be cut, or there may be none yet."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        if not is_whole:
            return ()
        raise RunDirError(f"{path}: can't be read: {error}") from error
    reports = []
    for number, line in enumerate(lines, start=1):
        try:
            reports.append(_REPORT.validate_json(line))
        except ValidationError as error:
            if not is_whole and number == len(lines):
                break
            raise RunDirError(
                f"{path}: line {number}: {error.errors()[0]['msg']}; must be an epoch's report"
            ) from error
    return tuple(reports)


def _read_cards(run_dir: Path) -> dict[Path, Card]:
    """Read the cards of the members that were exported and are still what they were then, by their folders."""
    path = run_dir / EXPORTS_FILE
    try:
        exports = dict(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise RunDirError(f"{path}: can't be read: {error}") from error
    cards = {}
    for folder, sha256 in exports.items():
        card = Path(folder) / CARD_FILE
        try:
            if file_sha256(card) == sha256:
                cards[Path(folder)] = Card.from_json(card.read_bytes(), str(card))
        except (OSError, CardError):
            # The zoo is elsewhere, or went on without this run.
            continue
    return cards


def _own_card(name: str, facts: MemberFacts, cards: Mapping[Path, Card]) -> Card | None:
    """Find the card of a member as it is now; what an earlier training of this run exported doesn't count."""
    own = [card for folder, card in cards.items() if folder.name == name and _is_of(card, facts)]
    return own[-1] if own else None


def _is_of(card: Card, facts: MemberFacts) -> bool:
    training = card.training
    return training is not None and (training.seconds, training.evaluations, card.provenance.train_sha256) == (
        facts.process_seconds,
        facts.evaluations,
        facts.train_sha256,
    )


def _count_params(config: Mapping[str, Any], data: DataFacts) -> int | None:
    try:
        built = build_model(
            config["architecture"],
            classes=len(data.classes),
            channels=data.channels,
            image_size=data.height,
            arguments=config["arguments"],
        )
    except ZooError:
        return None
    return sum(parameter.numel() for parameter in built.module.parameters())
