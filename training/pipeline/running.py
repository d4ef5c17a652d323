"""The commands of the pipeline: which stages each goes through, in order."""

import json
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from training.config import member_stage
from training.errors import RunDirError
from training.files import write_whole
from training.pipeline.data_stage import prepare_data
from training.pipeline.evaluation_stage import evaluate_members
from training.pipeline.listening import Listener
from training.pipeline.member_stage import train_members
from training.pipeline.order import Order
from training.pipeline.policy_stage import search_schedule, take_policy
from training.pipeline.selection_stage import select_subset, take_chosen
from training.run_dir import RunDir
from training.run_stage import FinishedStage
from training.selection.subset import read_subset
from training.settings import to_json

RUN_FILE = "run.json"


class RunFile(BaseModel):
    """What lies beside the stages, as ``run.json``: what was asked for last.

    Attributes:
        command: such as ``run``.
        recipe: as the user named it.
        task: of the zoo.
        members: name → stage; empty where none were asked for.
        config: the full configuration.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: str
    recipe: str
    task: str
    members: dict[str, str]
    config: JsonValue


def run_all(order: Order, listener: Listener) -> tuple[FinishedStage, ...]:
    """Do all that the configuration says, up to evaluated members.

    Args:
        order: what, on what, and where to.
        listener: hears of it.

    Returns:
        the members' stages.

    Raises:
        TrainingError, ZooError: something can't be done; what was finished before is kept.
    """
    config = order.config
    with RunDir(order.out) as run:
        _write_run_file(order, "run", with_members=True)
        material = prepare_data(run, order, listener)
        subset = select_subset(run, order, material, listener) if config.should_select else None
        chosen = take_chosen(material, subset)
        schedule = search_schedule(run, order, material, chosen, listener) if config.should_search else None
        members = train_members(run, order, material, chosen, policy=take_policy(schedule), listener=listener)
        evaluate_members(run, config, material, members, listener)
    return members


def select_only(order: Order, listener: Listener) -> Path:
    """Choose a subset, and give its file; otherwise as :func:`run_all`."""
    with RunDir(order.out) as run:
        _write_run_file(order, "select", with_members=False)
        return select_subset(run, order, prepare_data(run, order, listener), listener)


def search_only(order: Order, listener: Listener) -> Path:
    """Search a policy schedule on all of train, and give its file; otherwise as :func:`run_all`."""
    with RunDir(order.out) as run:
        _write_run_file(order, "search-policy", with_members=False)
        material = prepare_data(run, order, listener)
        return search_schedule(run, order, material, take_chosen(material, None), listener)


def train_only(
    order: Order,
    listener: Listener,
    *,
    subset: Path | None = None,
    policy_schedule: Path | None = None,
    is_flattened: bool = False,
) -> tuple[FinishedStage, ...]:
    """Train and evaluate the members on given files, without the recipe's own selection and search.

    Args:
        order: what, on what, and where to.
        listener: hears of it.
        subset: file of a subset of train; None for all of it.
        policy_schedule: file of a schedule; None leaves the members' own policies.
        is_flattened: each image draws one of the schedule's policies in every epoch, whatever their order.

    Returns:
        the members' stages.

    Raises:
        TrainingError, ZooError: as for :func:`run_all`.
    """
    order = replace(order, config=replace(order.config, should_select=False, should_search=False))
    # Files at fault are told before the images are read.
    policy = take_policy(policy_schedule, is_flattened=is_flattened)
    if subset is not None:
        read_subset(subset)
    with RunDir(order.out) as run:
        _write_run_file(order, "train", with_members=True)
        material = prepare_data(run, order, listener)
        chosen = take_chosen(material, subset)
        members = train_members(run, order, material, chosen, policy=policy, listener=listener)
        evaluate_members(run, order.config, material, members, listener)
    return members


def read_run_file(run_dir: Path) -> RunFile:
    """Read what was asked for last in a run's folder.

    Raises:
        RunDirError: it is no run's folder, or the file is damaged.
    """
    path = run_dir / RUN_FILE
    try:
        return RunFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RunDirError(f"{path}: {error.strerror}; must be the folder of a run") from error
    except ValidationError as error:
        raise RunDirError(f"{path}: damaged: {error.errors()[0]['msg']}") from error


def _write_run_file(order: Order, command: str, *, with_members: bool) -> None:
    names = [member.name for member in order.config.members] if with_members else []
    content = RunFile(
        command=command,
        recipe=order.recipe,
        task=order.config.task,
        members={name: member_stage(name) for name in names},
        config=to_json(order.config),
    )
    path = order.out / RUN_FILE
    try:
        write_whole(path, json.dumps(content.model_dump(mode="json"), indent=1).encode() + b"\n")
    except OSError as error:
        raise RunDirError(f"{error.filename or path}: {error.strerror}") from error
