"""The stage of policy search, and what the members make of a policy schedule, found or given."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from training.augment.config import PolicyKind
from training.augment.policy import PolicySchedule
from training.augment.schedule_files import read_schedule_file, write_policy_schedule
from training.errors import PolicySearchError, SettingsError
from training.member_job import cpu_threads
from training.members import MemberConfig
from training.pipeline.data_stage import Material
from training.pipeline.listening import Listener
from training.pipeline.order import Order
from training.pipeline.selection_stage import Chosen
from training.policy_search.config import PolicySearchConfig, RayConfig
from training.policy_search.result import SearchResult
from training.policy_search.search import search_policy
from training.run_dir import Input, RunDir
from training.settings import to_json

STAGE = "policy"
SCHEDULE_FILE = "schedule.json"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PolicyInForce:
    """What the members' images are changed by, beside their own crop, flip and Cutout.

    Attributes:
        schedule: takes the place of the members' own policies; None leaves these.
        is_flattened: the schedule's policies are drawn from in no order, PBA's ablation.
        file: that the schedule was read from.
        description: how it came about, for cards and reports.
    """

    schedule: PolicySchedule | None = None
    is_flattened: bool = False
    file: Path | None = None
    description: JsonValue = None

    @property
    def inputs(self) -> dict[str, Input]:
        """The schedule as a stage's input."""
        return {} if self.file is None else {"policy_schedule": self.file}

    def apply(self, member: MemberConfig) -> MemberConfig:
        """Put the schedule into a member's configuration."""
        if self.schedule is None:
            return member
        kind = PolicyKind.FLATTENED if self.is_flattened else PolicyKind.SCHEDULE
        augment = replace(member.loop.augment, policy=kind, policy_schedule=self.schedule)
        return replace(member, loop=replace(member.loop, augment=augment))


def take_policy(file: Path | None, *, is_flattened: bool = False) -> PolicyInForce:
    """Read a schedule: our own JSON, or the text that PBA's authors published.

    Args:
        file: None leaves the members' own policies.
        is_flattened: see :class:`PolicyInForce`.

    Raises:
        AugmentError: the file can't be read or is no schedule.
        SettingsError: there is no file to flatten.
    """
    if file is None:
        if is_flattened:
            raise SettingsError("--flatten: got no --policy-schedule; must have one")
        return PolicyInForce()
    found = read_schedule_file(file)
    description: dict[str, JsonValue] = {
        "epochs": found.schedule.epochs,
        "segments": len(found.schedule.segments),
        **dict(found.metadata),
    }
    if is_flattened:
        description["policy"] = PolicyKind.FLATTENED.value
    return PolicyInForce(schedule=found.schedule, is_flattened=is_flattened, file=file, description=description)


def search_schedule(run: RunDir, order: Order, material: Material, chosen: Chosen, listener: Listener) -> Path:
    """Search a policy schedule, or take the one that lies there.

    Args:
        run: the run's folder.
        order: its configuration says how to search.
        material: the data, with images to judge policies on.
        chosen: what trials learn from.
        listener: hears of progress.

    Returns:
        the schedule's file.

    Raises:
        PolicySearchError: the search can't be run.
        RunDirError: the folder is at fault.
    """
    search = order.config.policy_search
    assert search is not None, "checked before"
    inputs = {"train": material.file("train"), **chosen.inputs, "validation": material.file("policy_validation")}
    with run.stage(STAGE, config=_settings(order, material, search), inputs=inputs) as stage:
        is_new = not stage.is_done
        if is_new:
            advance = listener.begin("searching a policy schedule", search.population * search.num_intervals)
            with cpu_threads(order.config.threads):
                result = search_policy(
                    search,
                    chosen.rows,
                    material.parts.by_name["policy_validation"],
                    material.parts.normalisation,
                    stage.path,
                    device=order.config.device,
                    progress=lambda _record: advance(1),
                )
            description = _describe(search, result, min(search.train_images, len(chosen.rows)))
            _write(result.schedule, stage.path / SCHEDULE_FILE, description)
            stage.finish(description)
        found = read_schedule_file(stage.path / SCHEDULE_FILE).metadata
        listener.tell(
            f"policy search: {found['population']} trials of {found['search_epochs']} epochs,"
            f" {found['search_seconds']:.1f} s; policies of the best: {found['segments']},"
            f" which is {100 * found['validation_accuracy']:.1f} % right{'' if is_new else ' (as before)'}"
        )
        return stage.path / SCHEDULE_FILE


def _settings(order: Order, material: Material, search: PolicySearchConfig) -> JsonValue:
    # Where Ray's processes run, and how often a state is written down, decides nothing.
    deciding = replace(search, ray=RayConfig(synchronous=search.ray.synchronous), checkpoint_interval_s=0)
    return {
        "policy_search": to_json(deciding),
        "normalisation": material.normalisation,
        "device": order.config.device,
    }


def _describe(search: PolicySearchConfig, result: SearchResult, train_images: int) -> dict[str, Any]:
    return {
        "strategy": search.strategy.value,
        "population": search.population,
        "search_epochs": search.epochs,
        "train_images": train_images,
        "architecture": search.architecture,
        "arguments": dict(search.arguments),
        "seed": search.seed,
        "segments": len(result.schedule.segments),
        "validation_accuracy": result.best_accuracy,
        "search_evaluations": result.evaluations,
        "search_seconds": result.seconds,
    }


def _write(schedule: PolicySchedule, path: Path, description: dict[str, Any]) -> None:
    try:
        write_policy_schedule(schedule, path, description)
    except OSError as error:
        raise PolicySearchError(f"{error.filename or path}: {error.strerror}") from error
