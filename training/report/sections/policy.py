"""The policy schedule: how it looks, and the search that found it."""

from itertools import groupby
from typing import Any

from matplotlib.ticker import MaxNLocator

from training.augment.config import PolicyKind
from training.augment.picture import draw_policy_schedule
from training.augment.policy import Policy, PolicySchedule
from training.augment.schedule_files import read_policy_schedule
from training.pipeline.policy_stage import SCHEDULE_FILE, STAGE
from training.policy_search.history import IntervalRecord
from training.policy_search.lineage import last_records, lineage
from training.policy_search.result import SearchResult, read_result
from training.report.contents import RunContents
from training.report.markup import Markup, code, facts, join, numbers, paragraph, table, words
from training.report.pictures import BLUE, GREY, RED, Picture, PictureName, add_legend, gallery, new_axes
from training.report.quantities import duration, percent
from training.report.section import Section
from training.run_stage import FinishedStage

_NUM_OPS = 4
"""Named for each step of the lineage, the most probable first."""
_IDLE = " No op was ever probable in its lineage: its schedule changes nothing."


def policy_section(contents: RunContents) -> Section | None:
    """Tell of the policy schedule; None where images were changed by none."""
    stage = contents.done(STAGE)
    if stage is not None:
        body, pictures = _of_search(contents, stage)
    else:
        body, pictures = _of_members(contents)
    if not body:
        return None
    return Section(anchor="policy", title="Policy schedule", body=join(body), pictures=tuple(pictures))


def _of_search(contents: RunContents, stage: FinishedStage) -> tuple[list[Markup], list[Picture]]:
    summary: Any = stage.record.result
    result = read_result(stage.folder, seed=summary["seed"])
    best = lineage(result.records, last_records(result.records)[result.best_trial].key)
    schedule = read_policy_schedule(stage.folder / SCHEDULE_FILE)
    is_idle = not any(_is_active(record.policy) for record in best)
    pictures = [*([] if is_idle else [_draw_schedule(schedule)]), _draw_trials(result, best)]
    used = "" if contents.is_read_by_members(STAGE) else " The members of this run have not been trained under it."
    body = [
        paragraph(_story(result), _IDLE if is_idle else "", used),
        facts(_facts(summary, result)),
        gallery(pictures),
        _lineage(best),
    ]
    return body, pictures


def _story(result: SearchResult) -> str:
    clones = sum(record.cloned_from is not None for record in result.records)
    return (
        f"{len(result.accuracies)} trials; {clones} times one took over another's weights and policy."
        f" Trial {result.best_trial} was best at the end."
    )


def _facts(summary: Any, result: SearchResult) -> list[tuple[str, object]]:
    low, high = min(result.accuracies), max(result.accuracies)
    return [
        ("strategy", summary["strategy"]),
        (
            "trials",
            f"{summary['population']}, of {summary['search_epochs']} epochs on {summary['train_images']:,} images",
        ),
        ("network", code(summary["architecture"])),
        ("best validation accuracy", f"{percent(result.best_accuracy)}, by which it was chosen: it flatters"),
        ("all trials at the end", f"{percent(low)} to {percent(high)}"),
        ("evaluations", f"{result.evaluations:,}, over all trials"),
        ("time", f"{duration(result.seconds)} on the wall, {duration(result.trial_seconds)} summed over trials"),
        ("seed", summary["seed"]),
    ]


def _draw_schedule(schedule: PolicySchedule) -> Picture:
    steps = len(schedule.segments)
    return Picture(
        name=PictureName.POLICY_SCHEDULE,
        figure=draw_policy_schedule(schedule),
        caption=(
            "Probability and magnitude of each op over the epochs of the search, its copies averaged; members stretch"
            " it to their own epochs."
        ),
        text=f"Policy schedule of {schedule.epochs} epochs with {steps} {'policy' if steps == 1 else 'policies'}.",
        is_on_paper=True,
    )


def _draw_trials(result: SearchResult, best: tuple[IntervalRecord, ...]) -> Picture:
    """Draw each trial's accuracy over the epochs, and the line of weights that led to the best."""
    figure, axes = new_axes()
    trials = range(len(result.accuracies))
    by_key = {record.key: record for record in result.records}
    for trial in trials:
        for record in result.trial_records(trial):
            if record.parent is not None:
                parent = by_key[record.parent]
                axes.plot([parent.end_epoch, record.end_epoch], [100 * parent.accuracy, 100 * record.accuracy],
                          color=GREY, linewidth=0.9, linestyle=":" if record.cloned_from is not None else "-",
                          alpha=0.8)  # fmt: skip
    sound = [record for record in result.records if not record.diverged]
    axes.plot([record.end_epoch for record in sound], [100 * record.accuracy for record in sound], color=GREY,
              marker=".", markersize=4, linestyle="none", label="trials (dotted: a clone)")  # fmt: skip
    diverged = [record for record in result.records if record.diverged]
    if diverged:
        axes.plot([record.end_epoch for record in diverged], [100 * record.accuracy for record in diverged], color=RED,
                  marker="x", linestyle="none", label="diverged")  # fmt: skip
    axes.plot([record.end_epoch for record in best], [100 * record.accuracy for record in best], color=BLUE,
              marker="o", markersize=4, linewidth=1.8, label="lineage of the best")  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.set_xlabel("epoch of the search")
    axes.set_ylabel("validation accuracy, %")
    add_legend(figure)
    return Picture(
        name=PictureName.POLICY_TRIALS,
        figure=figure,
        caption="Validation accuracy of the trials; the lineage of the best is the schedule.",
        text=(
            f"Validation accuracy of {len(trials)} trials: in the end {percent(min(result.accuracies))} to"
            f" {percent(max(result.accuracies))}."
        ),
    )


def _lineage(best: tuple[IntervalRecord, ...]) -> Markup:
    rows = []
    for policy, group in groupby(best, key=lambda record: record.policy):
        records = list(group)
        trials = ", ".join(str(trial) for trial in dict.fromkeys(record.trial for record in records))
        epochs = f"{records[0].start_epoch + 1} to {records[-1].end_epoch}"
        rows.append((epochs, trials, percent(records[-1].accuracy), _ops(policy)))
    columns = [*words("epochs"), *numbers("trial", "accuracy"), *words("most probable ops")]
    return table("Lineage of the best trial: whose weights they were, and what changed the images.", columns, rows)


def _ops(policy: Policy) -> str:
    active = sorted(
        (entry for entry in policy if entry.probability > 0), key=lambda entry: (-entry.probability, entry.op)
    )
    shown = [f"{entry.op} {10 * entry.probability} % at {entry.magnitude}" for entry in active[:_NUM_OPS]]
    more = [f"and {len(active) - _NUM_OPS} more"] if len(active) > _NUM_OPS else []
    return ", ".join([*shown, *more]) or "none"


def _is_active(policy: Policy) -> bool:
    return any(entry.probability > 0 for entry in policy)


def _of_members(contents: RunContents) -> tuple[list[Markup], list[Picture]]:
    """Tell of the policies that members have without a search in this run."""
    augments = {member.name: found.config.loop.augment for member, found in contents.trained}
    named = {name: augment for name, augment in augments.items() if augment.policy is not PolicyKind.NONE}
    if not named:
        return [], []
    words = ", ".join(f"{name} by {augment.policy}" for name, augment in named.items())
    body = [paragraph(f"Images were changed by policies that were not searched in this run: {words}.")]
    schedules = [augment.policy_schedule for augment in named.values() if augment.policy_schedule is not None]
    if not schedules:
        return body, []
    pictures = [_draw_schedule(schedules[0])]
    if any(schedule != schedules[0] for schedule in schedules):
        body.append(paragraph("The members' schedules differ; the first one's is shown.", class_="note"))
    return [*body, gallery(pictures)], pictures
