"""Selection via proxy: what was kept, by which score and proxy, in which time, of which classes."""
# Shapes: N images of train, K classes.

from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from cascade_serve.core.arrays import BoolArray, IntArray
from training.errors import RunDirError
from training.pipeline.data_stage import STAGE as DATA
from training.pipeline.selection_stage import SCORES_FILE, STAGE, SUBSET_FILE, describe_subset
from training.report.contents import RunContents
from training.report.markup import Markup, code, details, facts, join, numbers, paragraph, table, words
from training.report.pictures import Picture, gallery
from training.report.quantities import duration, percent
from training.report.section import Section
from training.report.sections.selection_pictures import draw_classes, draw_rounds, draw_scores
from training.report.sections.study import study_parts
from training.run_stage import FinishedStage
from training.selection.subset import Subset, read_subset
from training.selection.timing import PhaseSeconds, SelectionSeconds

_ROUNDS = "round-*.json"
_NO_SPEED_UP = (
    "No speed-up is stated: it counts only against the target as its own proxy, over seeds, and where the error on the"
    " proxy's choice lies within one standard deviation of that on the target's own (Coleman et al., arXiv 1906.11829)."
    " A single run has no such comparison."
)


def selection_section(contents: RunContents) -> Section | None:
    """Tell what was selected; None where everything was trained on and nothing was studied."""
    stage = contents.done(STAGE)
    study_html, pictures = study_parts(contents.path)
    if stage is not None:
        body, own = _of_stage(contents, stage)
        pictures = [*own, *pictures]
    else:
        body = _of_given(contents)
    if not body and not study_html:
        return None
    notes = [] if study_html else [paragraph(_NO_SPEED_UP, class_="note")]
    return Section(
        anchor="selection", title="Selection", body=join([*body, *notes, *study_html]), pictures=tuple(pictures)
    )


def _of_stage(contents: RunContents, stage: FinishedStage) -> tuple[list[Markup], list[Picture]]:
    subset = read_subset(stage.folder / SUBSET_FILE)
    rounds = [read_subset(path) for path in sorted(stage.folder.glob(_ROUNDS))]
    train = contents.done(DATA)
    assert train is not None, "the selection has read it"
    assert contents.data is not None, "the selection has read it"
    ids_N, labels_N = _read_labels(train)
    is_kept_N = np.isin(ids_N, np.array(subset.ids))
    pictures = [draw_rounds(rounds)] if rounds else []
    scores_file = stage.folder / SCORES_FILE
    if scores_file.name in stage.record.outputs:
        pictures.append(draw_scores(_read_arrays(scores_file)["scores"], is_kept_N, subset))
    counts = _counts(labels_N, is_kept_N, len(contents.data.classes))
    pictures.append(draw_classes(contents.data.classes, *counts))
    used = "" if contents.is_read_by_members(STAGE) else " The members of this run have not been trained on it."
    body = [
        paragraph(_words(subset, len(ids_N)), used),
        facts(_facts(describe_subset(subset, len(ids_N)))),
        _rounds(rounds, len(ids_N)) if rounds else _seconds(subset.seconds),
        gallery(pictures),
        _classes(contents.data.classes, *counts),
    ]
    return body, pictures


def _words(subset: Subset, num_images: int) -> str:
    return (
        f"{len(subset):,} of {num_images:,} training images ({percent(len(subset) / num_images)}) were chosen by"
        f" {subset.score}."
    )


def _of_given(contents: RunContents) -> list[Markup]:
    """Tell of a subset that was made elsewhere and given to the members as a file."""
    told = [found.selection for _, found in contents.trained if found.selection is not None]
    if not told:
        return []
    return [paragraph("The members were trained on a subset that was given as a file."), facts(_facts(told[0]))]


def _facts(description: Any) -> list[tuple[str, object]]:
    proxy = description["proxy"]
    return [
        ("score", description["score"]),
        ("kept", f"{description['subset_size']:,} of {description['num_images']:,} images"),
        ("asked for", percent(description["fraction"]) + (", of each class" if description["class_balance"] else "")),
        ("proxy", "none was needed" if proxy is None else _proxy(proxy)),
        ("proxy's evaluations", f"{description['evaluations']:,}"),
        ("time", duration(description["seconds"])),
        ("seed", description["seed"]),
    ]


def _proxy(proxy: Any) -> Markup:
    schedule = proxy.get("data_schedule", "none")
    arguments = "".join(f", {name}={value}" for name, value in proxy.get("arguments", {}).items())
    shown = f"{arguments}, {proxy['epochs']} epochs" + ("" if schedule == "none" else f", {schedule}")
    return join([code(proxy["architecture"]), shown])


def _seconds(seconds: SelectionSeconds) -> Markup:
    rows = [(name, *_cells(phase)) for name, phase in _phases(seconds).items()]
    return table("Time of each phase of the selection.", [*words("phase"), *numbers("on the wall", "CPU time")], rows)


def _rounds(rounds: list[Subset], num_images: int) -> Markup:
    """Give what each round added, and the time that it took."""
    before = [None, *rounds[:-1]]
    rows = []
    for number, (subset, earlier) in enumerate(zip(rounds, before, strict=True)):
        times = _phases(subset.seconds)
        earlier_times = _phases(SelectionSeconds() if earlier is None else earlier.seconds)
        spent = [duration(times[name].wall_s - earlier_times[name].wall_s) for name in times]
        name = "start, at random" if number == 0 else f"round {number}"
        rows.append((name, f"{len(subset):,}", percent(len(subset) / num_images), *spent))
    columns = [*words(""), *numbers("labelled", "share", *_phases(SelectionSeconds()))]
    return table(
        "Active learning, round by round: images labelled so far, and time on the wall of each round.", columns, rows
    )


def _phases(seconds: SelectionSeconds) -> dict[str, PhaseSeconds]:
    return {
        "training the proxy": seconds.training,
        "scoring": seconds.scoring,
        "ranking": seconds.ranking,
        "together": seconds.total,
    }


def _cells(phase: PhaseSeconds) -> tuple[str, str]:
    return duration(phase.wall_s), duration(phase.process_s)


def _counts(labels_N: IntArray, is_kept_N: BoolArray, num_classes: int) -> tuple[IntArray, IntArray]:
    """Count the images of each class, int64 [K], and those kept of them, int64 [K]."""
    return np.bincount(labels_N, minlength=num_classes), np.bincount(labels_N[is_kept_N], minlength=num_classes)


def _classes(classes: tuple[str, ...], all_K: IntArray, kept_K: IntArray) -> Markup:
    titles = ("images", "share", "kept", "share of the kept", "kept of the class")
    rows = [
        (
            name,
            f"{images:,}",
            percent(images / all_K.sum()),
            f"{kept:,}",
            percent(kept / kept_K.sum()),
            percent(kept / images) if images else "",
        )
        for name, images, kept in zip(classes, all_K.tolist(), kept_K.tolist(), strict=True)
    ]
    columns = [*words("class"), *numbers(*titles)]
    return details(
        "Classes in numbers", table("Each class among all training images and among the kept.", columns, rows)
    )


def _read_labels(data: FinishedStage) -> tuple[IntArray, IntArray]:
    """Read ids and labels of train, int64 [N] both, without its images."""
    path = data.folder / "train.safetensors"
    try:
        with safe_open(path, framework="numpy") as file:
            return file.get_tensor("ids"), file.get_tensor("labels")
    except (SafetensorError, OSError) as error:
        raise RunDirError(f"{path}: can't be read: {error}") from error


def _read_arrays(path: Any) -> dict[str, Any]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise RunDirError(f"{path}: can't be read: {error}") from error
