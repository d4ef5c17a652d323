"""The distributed population: Ray Tune's PopulationBasedTraining with the same explore."""

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from training.augment.policy import Policy
from training.errors import PolicySearchError
from training.policy_search.config import PolicySearchConfig, Strategy
from training.policy_search.controls import plan_policies
from training.policy_search.exploit import choose_parents
from training.policy_search.explore import explore
from training.policy_search.history import IntervalRecord, policy_from_json, policy_to_json
from training.policy_search.lineage import last_records
from training.policy_search.ray_cluster import ray_cluster
from training.policy_search.ray_sessions import JOURNAL, Checkpoint, next_session, read_checkpoints, read_records
from training.policy_search.ray_trainable import (
    ACCURACY,
    INTERVAL,
    POLICY,
    START,
    TRIAL,
    SearchOrder,
    Start,
    interval_number,
    trainable_class,
    trial_name,
)
from training.policy_search.ray_watch import watch
from training.policy_search.trial import MakeTrial, Progress


def run_ray(
    config: PolicySearchConfig,
    make_trial: MakeTrial,
    initial: Policy,
    *,
    folder: Path,
    progress: Progress | None = None,
) -> tuple[IntervalRecord, ...]:
    """Run a search on Ray.

    Exploit is Ray's: as ours, but equal accuracies are not ordered by chance, and an asynchronous search compares
    trials of different epochs. A trial whose process dies goes on from its last checkpoint, on another. A search whose
    driver died goes on, when it is called again, from the last checkpoints: a synchronous PBA from the last interval
    that all trials came to the end of, with the exploit after it drawn anew. Timing decides on the order of results, so
    that two searches with one seed may differ.

    Args:
        config: of the search.
        make_trial: makes the trials; pickled, so that what it holds travels to every process.
        initial: policy that PBA starts from.
        folder: exists; gets a folder a session. All nodes of a cluster must see it under the same path.
        progress: called after each interval of each trial, in this process.

    Returns:
        one record for each interval that was trained, also those that a retry repeated; each trial's in order of time.

    Raises:
        PolicySearchError: ray or the cluster is not there, a trial failed too often, or the search was interrupted.
    """
    earlier = read_records(folder)
    if not _unfinished(earlier, config):
        return earlier
    plan = plan_policies(config, initial)
    starts = make_starts(config, initial, read_checkpoints(folder))
    order = SearchOrder(config=config, make_trial=make_trial, plan=plan, starts=starts)
    with ray_cluster(config.ray):
        # Ray draws an exploited trial's parent from Python's global generator.
        random.seed(config.seed)
        _fit(order, folder, progress)
    records = read_records(folder)
    unfinished = _unfinished(records, config)
    if unfinished:
        raise PolicySearchError(f"search: stopped before trials {unfinished} were done; call again to go on")
    return records


def _unfinished(records: tuple[IntervalRecord, ...], config: PolicySearchConfig) -> list[int]:
    last = last_records(records)
    return [trial for trial in range(config.population) if trial not in last or last[trial].end_epoch < config.epochs]


def make_starts(config: PolicySearchConfig, initial: Policy, checkpoints: tuple[Checkpoint, ...]) -> dict[int, Start]:
    """Tell what each trial of a session begins with.

    Args:
        config: of the search.
        initial: policy of a trial that begins afresh.
        checkpoints: of earlier sessions, older ones first.

    Returns:
        by trial.
    """
    fresh = dict.fromkeys(range(config.population), Start(policy=initial))
    # What ended is not gone on from: a trial that is alone at its end trains its last interval again.
    usable = [checkpoint for checkpoint in checkpoints if checkpoint.record.end_epoch < config.epochs]
    if config.strategy is Strategy.PBA and config.ray.synchronous:
        return _common_starts(config, usable) or fresh
    own = {checkpoint.record.trial: _start(checkpoint, checkpoint.record.policy) for checkpoint in usable}
    return fresh | own


def _start(checkpoint: Checkpoint, policy: Policy) -> Start:
    return Start(policy=policy, checkpoint=str(checkpoint.folder), end_epoch=checkpoint.record.end_epoch)


def _common_starts(config: PolicySearchConfig, checkpoints: list[Checkpoint]) -> dict[int, Start]:
    """Exploit and explore at the last epoch that all trials have a checkpoint of."""
    by_epoch: dict[int, dict[int, Checkpoint]] = {}
    for checkpoint in checkpoints:
        by_epoch.setdefault(checkpoint.record.end_epoch, {})[checkpoint.record.trial] = checkpoint
    complete = [epoch for epoch, found in by_epoch.items() if len(found) == config.population]
    if not complete:
        return {}
    epoch = max(complete)
    found = by_epoch[epoch]
    generator = np.random.default_rng([config.seed, 0, interval_number(epoch, config)])
    accuracies = [found[trial].record.accuracy for trial in range(config.population)]
    starts = {trial: _start(checkpoint, checkpoint.record.policy) for trial, checkpoint in found.items()}
    for child, parent in choose_parents(accuracies, generator, config.quantile).items():
        policy = explore(found[parent].record.policy, generator, config.resample_probability)
        starts[child] = _start(found[parent], policy)
    return starts


def _fit(order: SearchOrder, folder: Path, progress: Progress | None) -> None:
    from ray import tune

    config = order.config
    session = next_session(folder.resolve())
    session.mkdir()
    seen = watch(session / JOURNAL, progress)
    trainable = tune.with_resources(
        tune.with_parameters(trainable_class(), order=order),
        {"cpu": config.ray.cpus_per_trial, "gpu": config.ray.gpus_per_trial},
    )
    tuner = tune.Tuner(
        trainable,
        param_space={
            START: tune.grid_search(
                [{TRIAL: trial, POLICY: policy_to_json(start.policy)} for trial, start in sorted(order.starts.items())]
            )
        },
        tune_config=tune.TuneConfig(
            metric=ACCURACY,
            mode="max",
            scheduler=_scheduler(order),
            # A paused trial's process is used by the next: starting one takes seconds.
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=session.name,
            storage_path=str(session.parent),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1, num_to_keep=config.ray.keep_checkpoints),
            failure_config=tune.FailureConfig(max_failures=config.ray.max_failures),
            callbacks=[seen],
            stop=seen,
            verbose=0,
        ),
    )
    tuner.fit()
    if seen.failure is not None:
        raise PolicySearchError(f"{seen.failure}; the others are kept: call again to go on")


def _name(trial: Any) -> str:
    return trial_name(trial.config[START][TRIAL])


def _scheduler(order: SearchOrder) -> Any:
    from ray.tune.schedulers import PopulationBasedTraining

    config = order.config
    if order.plan is not None:
        return None
    first = min(start.end_epoch for start in order.starts.values())
    return PopulationBasedTraining(
        time_attr=INTERVAL,
        perturbation_interval=1,
        # A synchronous scheduler waits for the interval after this one; it can't tell that a search goes on.
        burn_in_period=interval_number(first, config) + 1,
        quantile_fraction=config.quantile,
        custom_explore_fn=_explorer(config, interval_number(first, config)),
        synch=config.ray.synchronous,
        log_config=False,
    )


def _explorer(config: PolicySearchConfig, interval: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Make what Ray calls with a copy of the parent's configuration, for the child's."""
    generator = np.random.default_rng([config.seed, 2, interval])

    def change(trial_config: dict[str, Any]) -> dict[str, Any]:
        start: Mapping[str, Any] = trial_config[START]
        policy = explore(policy_from_json(start[POLICY]), generator, config.resample_probability)
        return {**trial_config, START: {**start, POLICY: policy_to_json(policy)}}

    return change
