"""The stages of the members: each is trained, and written as weights and logs."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from training.cluster import FinishedJob, train_on_cluster
from training.config import RunConfig, member_stage
from training.data.images import LabelledImages
from training.data_schedule.config import AllData, InfoBatch
from training.files import write_whole
from training.member_job import MemberFacts, MemberJob, train_into
from training.pipeline.data_stage import Material
from training.pipeline.listening import EpochProgress, Listener
from training.pipeline.order import Order
from training.pipeline.policy_stage import PolicyInForce
from training.pipeline.selection_stage import Chosen, rank_images, read_scores
from training.run_dir import Input, RunDir
from training.run_stage import FinishedStage, Stage
from training.settings import from_json, to_json

VALIDATION = "calibration"
"""Part that members' curves are drawn on, where a run asks for them."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Images:
    """What all members train on, and what their curves are drawn on."""

    rows: LabelledImages
    validation: LabelledImages


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Planned:
    """A member's stage before it is opened."""

    job: MemberJob
    inputs: dict[str, Input]

    @property
    def stage(self) -> str:
        return member_stage(self.job.config.name)

    @property
    def settings(self) -> JsonValue:
        job = self.job
        return {
            "member": to_json(job.config),
            "normalisation": to_json(job.normalisation),
            "device": job.device,
            "threads": job.threads,
            "energy_country": job.energy_country,
            "tensorboard": job.tensorboard,
            "validate_every": job.validate_every,
        }


def train_members(
    run: RunDir, order: Order, material: Material, chosen: Chosen, *, policy: PolicyInForce, listener: Listener
) -> tuple[FinishedStage, ...]:
    """Train all members that are not trained yet: one after the other, or side by side where there is a cluster.

    Args:
        run: the run's folder.
        order: names the members.
        material: the data.
        chosen: what they train on.
        policy: what their images are changed by.
        listener: hears of progress.

    Returns:
        a finished stage a member, in the order of the configuration.

    Raises:
        TrainingError, ZooError: one can't be trained; those that were are kept.
    """
    rankings = {
        score: rank_images(run, order, material, chosen, score=score, listener=listener)
        for score in _ordering_scores(order.config)
    }
    planned = [
        _plan(order.config, place, material, chosen, policy=policy, rankings=rankings)
        for place in range(len(order.config.members))
    ]
    images = _Images(rows=chosen.rows, validation=material.parts.by_name[VALIDATION])
    if order.address is not None:
        return _train_there(run, order.address, planned, images, listener)
    return tuple(_train_here(run, member, images, listener) for member in planned)


def read_facts(stage: FinishedStage) -> MemberFacts:
    """Give what a member's stage tells of it."""
    return from_json(MemberFacts, stage.record.result)


def _ordering_scores(config: RunConfig) -> list[str]:
    """Name the scores that the members' data schedules are ordered by."""
    scores = [_ordering_score(config, place) for place in range(len(config.members))]
    return sorted({score for score in scores if score is not None})


def _ordering_score(config: RunConfig, place: int) -> str | None:
    schedule = config.members[place].loop.data_schedule
    return None if isinstance(schedule, AllData | InfoBatch) else schedule.score


def _plan(
    config: RunConfig,
    place: int,
    material: Material,
    chosen: Chosen,
    *,
    policy: PolicyInForce,
    rankings: dict[str, Path],
) -> _Planned:
    score = _ordering_score(config, place)
    ranking = None if score is None else rankings[score]
    job = MemberJob(
        config=policy.apply(config.members[place]),
        normalisation=material.parts.normalisation,
        device=config.device,
        threads=config.threads,
        energy_country=config.energy_country,
        tensorboard=config.tensorboard,
        validate_every=config.validate_every,
        scores_N=None if ranking is None else read_scores(ranking, chosen.rows),
        selection=chosen.description,
        policy_schedule=policy.description,
    )
    inputs: dict[str, Input] = {"train": material.file("train"), **chosen.inputs, **policy.inputs}
    if ranking is not None:
        inputs["ranking"] = ranking
    if config.validate_every is not None:
        inputs["validation"] = material.file(VALIDATION)
    return _Planned(job=job, inputs=inputs)


def _train_here(run: RunDir, member: _Planned, images: _Images, listener: Listener) -> FinishedStage:
    name = member.job.config.name
    with run.stage(member.stage, config=member.settings, inputs=member.inputs) as stage:
        if stage.is_done:
            _tell_as_before(stage.done, listener)
            return stage.done
        progress = EpochProgress(listener, name)
        facts = train_into(
            member.job, images.rows, stage.path, stage.scratch, validation=images.validation, progress=progress
        )
        return _finish(stage, facts, listener)


def _train_there(
    run: RunDir, address: str, planned: Sequence[_Planned], images: _Images, listener: Listener
) -> tuple[FinishedStage, ...]:
    """Train on a cluster what is not trained yet; each member's stage is finished as it comes back."""
    with ExitStack() as stack:
        stages = [
            stack.enter_context(run.stage(member.stage, config=member.settings, inputs=member.inputs))
            for member in planned
        ]
        waiting = [place for place, stage in enumerate(stages) if not stage.is_done]
        for stage in stages:
            if stage.is_done:
                _tell_as_before(stage.done, listener)
        if waiting:
            advance = listener.begin(f"training {len(waiting)} members on the cluster", len(waiting))
            jobs, scratch = [planned[place].job for place in waiting], [stages[place].scratch for place in waiting]
            for finished in train_on_cluster(jobs, images.rows, address, validation=images.validation, scratch=scratch):
                stage = stages[waiting[finished.place]]
                _write_files(finished, stage.path)
                _finish(stage, finished.facts, listener)
                advance(1)
        return tuple(stage.done for stage in stages)


def _write_files(finished: FinishedJob, folder: Path) -> None:
    for path, content in finished.files.items():
        write_whole(folder / path, content)


def _finish(stage: Stage, facts: MemberFacts, listener: Listener) -> FinishedStage:
    done = stage.finish(to_json(facts))
    listener.tell(_words(facts.config.name, facts))
    return done


def _tell_as_before(done: FinishedStage, listener: Listener) -> None:
    facts = read_facts(done)
    listener.tell(f"{_words(facts.config.name, facts)} (as before)")


def _words(name: str, facts: MemberFacts) -> str:
    return (
        f"{name}: {facts.config.architecture} {facts.evaluations:,} evaluations of {facts.num_images:,} images,"
        f" {facts.seconds:.1f} s"
    )
