"""A study of selection: accuracy against subset size, and the proxy's speed-up where it counts.

A run trains its members on one subset; a study trains a target on many, over seeds. Whoever does one in Python writes
it into a run's folder by :func:`write_study`, and it shows in that run's report.
"""

from dataclasses import dataclass
from pathlib import Path

from training.errors import SelectionError
from training.report.markup import Markup, element, numbers, table, words
from training.report.pictures import Picture, PictureName, gallery
from training.report.quantities import UNKNOWN, percent
from training.selection.records import read_record, write_record
from training.selection.study import CurvePoint, SelectionStudy, SpeedUp, compare_arms, draw_study

STUDY_FILE = "study.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyFile:
    """What ``study.json`` holds.

    Attributes:
        study: the arms.
        target: name of the arm in which the target is its own proxy; None where there is none, and so no speed-up.
    """

    study: SelectionStudy
    target: str | None = None

    def __post_init__(self) -> None:
        if self.target is not None:
            try:
                self.study.arm(self.target)
            except SelectionError as error:
                raise ValueError(f"target: {error}") from error


def write_study(study: SelectionStudy, run_dir: Path, *, target: str | None = None) -> Path:
    """Put a study into a run's folder, for its report.

    Args:
        study: the arms, over seeds.
        run_dir: the run's folder.
        target: name of the arm in which the target is its own proxy.

    Returns:
        the file.

    Raises:
        SelectionError: the file can't be written.
        ValueError: the study has no arm of that name.
    """
    path = run_dir / STUDY_FILE
    write_record(StudyFile(study=study, target=target), path)
    return path


def study_parts(run_dir: Path) -> tuple[list[Markup], list[Picture]]:
    """Tell of the study in a run's folder; nothing where there is none.

    Raises:
        SelectionError: the file is damaged.
    """
    path = run_dir / STUDY_FILE
    if not path.exists():
        return [], []
    file = read_record(StudyFile, path)
    picture = Picture(
        name=PictureName.SELECTION_STUDY,
        figure=draw_study(file.study),
        caption="Accuracy of the target against the images that it is trained on; controls are grey.",
        text=f"Selection curve: {file.study.title}. The table below has its numbers.",
        is_on_paper=True,
    )
    parts = [element("h3", "Accuracy against size"), gallery([picture]), _points(file.study)]
    return [*parts, *_speed_ups(file)], [picture]


def _points(study: SelectionStudy) -> Markup:
    rows = [
        (arm.name, f"{point.subset_size:,}", _mean(point), len(point.accuracies))
        for arm in study.arms
        for point in arm.points
    ]
    if study.full is not None:
        rows.append(("everything", f"{study.full.subset_size:,}", _mean(study.full), len(study.full.accuracies)))
    columns = [*words("chosen by"), *numbers("images", "accuracy", "seeds")]
    return table(f"{study.title}: mean and standard deviation over seeds.", columns, rows)


def _mean(point: CurvePoint) -> str:
    return percent(point.mean, 2) + ("" if point.std is None else f" ± {100 * point.std:.2f}")


def _speed_ups(file: StudyFile) -> list[Markup]:
    """Compare each proxy's arm with the target's own, where both were timed."""
    if file.target is None:
        return []
    rows = []
    for arm in file.study.arms:
        if arm.name == file.target or arm.is_control or not all(point.selection_s for point in arm.points):
            continue
        rows += [_row(arm.name, found) for found in compare_arms(file.study, proxy=arm.name, target=file.target)]
    caption = (
        f"Selection by a proxy against {file.target}. A speed-up counts only where the error is at most one standard"
        " deviation, over seeds, above that on the target's own choice."
    )
    titles = ("images", "speed-up", "error, against the target's own", "one standard deviation")
    columns = [*words("chosen by"), *numbers(*titles), *words("counts")]
    return [table(caption, columns, rows)] if rows else []


def _row(name: str, found: SpeedUp) -> tuple[object, ...]:
    return (
        name,
        f"{found.subset_size:,}",
        f"{found.ratio:.1f}x" if found.counts else f"({found.ratio:.1f}x)",
        f"{100 * found.error_difference:+.2f} points",
        UNKNOWN if found.tolerance is None else f"{100 * found.tolerance:.2f} points",
        "yes" if found.counts else "no",
    )
