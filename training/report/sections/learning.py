"""Learning curves: loss, learning rate and accuracy of all members, over epochs and over evaluations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cascade_serve.core.cost import format_flops
from training.report.contents import Member, RunContents
from training.report.markup import Markup, join, paragraph
from training.report.pictures import GREY, Picture, PictureName, add_legend, gallery, new_axes, shorten, styles
from training.report.quantities import percent
from training.report.section import Section
from training.reports import EpochReport

_FEW_EPOCHS = 40
"""Up to so many, each has a dot."""
_TEST_STEP = 0.035
"""Between the members' accuracies on test, right of the curves, as a share of these."""

_Looks = Mapping[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Axis:
    """What lies along a picture.

    Attributes:
        name: in words.
        label: below the axis.
        place: of an epoch's report.
    """

    name: str
    label: str
    place: Callable[[EpochReport], float]


_EPOCHS = _Axis(name="epochs", label="epoch", place=lambda report: report.epoch)
_EVALUATIONS = _Axis(name="evaluations", label="single images trained on", place=lambda report: report.evaluations)


def learning_section(contents: RunContents) -> Section | None:
    """Draw how the members learned; None where none has begun."""
    members = [member for member in contents.members if member.reports]
    if not members:
        return None
    looks = styles([member.name for member in contents.members])
    pictures = (
        _draw_accuracy(members, looks, PictureName.LEARNING_OVER_EPOCHS, _EPOCHS),
        _draw_accuracy(members, looks, PictureName.LEARNING_OVER_EVALUATIONS, _EVALUATIONS),
        _draw_loss(members, looks),
        _draw_rate(members, looks),
    )
    body = join([*_notes(members), gallery(pictures)])
    return Section(anchor="learning", title="Learning curves", body=body, pictures=pictures)


def _notes(members: list[Member]) -> list[Markup]:
    notes = []
    if not any(report.validation_accuracy is not None for member in members for report in member.reports):
        notes.append(
            "No validation accuracy was measured on the way. Accuracy on test, measured once at the end, stands right"
            " of the curves with its 95 % interval, where it is known."
        )
    unfinished = [
        f"{member.name} ({member.reports[-1].epoch} of {member.reports[-1].epochs} epochs)"
        for member in members
        if member.facts is None
    ]
    if unfinished:
        notes.append(f"Unfinished: {', '.join(unfinished)}.")
    return [paragraph(note, class_="note") for note in notes]


def _draw_loss(members: list[Member], looks: _Looks) -> Picture:
    figure, axes = new_axes()
    for member in members:
        _plot(axes, member, _EPOCHS, lambda report: report.loss, label=shorten(member.name), **looks[member.name])
    _finish(axes, _EPOCHS)
    axes.set_ylabel("training loss")
    add_legend(figure)
    ends = "; ".join(
        f"{member.name} from {member.reports[0].loss:.3g} to {member.reports[-1].loss:.3g}" for member in members
    )
    return Picture(
        name=PictureName.LOSS,
        figure=figure,
        caption=(
            "Mean training loss of each epoch, augmented and with label smoothing: members with different settings are"
            " not to be compared by it."
        ),
        text=f"Training loss over epochs: {ends}.",
    )


def _draw_rate(members: list[Member], looks: _Looks) -> Picture:
    figure, axes = new_axes()
    alike: dict[tuple[float, ...], list[Member]] = {}
    for member in members:
        alike.setdefault(tuple(report.lr for report in member.reports), []).append(member)
    for same in alike.values():
        label = ", ".join(shorten(member.name) for member in same)
        _plot(axes, same[0], _EPOCHS, lambda report: report.lr, label=label, **looks[same[0].name])
    _finish(axes, _EPOCHS)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("learning rate")
    add_legend(figure)
    peaks = "; ".join(f"{member.name} {max(report.lr for report in member.reports):.3g}" for member in members)
    return Picture(
        name=PictureName.LEARNING_RATE,
        figure=figure,
        caption="Learning rate of each epoch's last step; it goes by the examples planned, not by epochs.",
        text=f"Learning rate over epochs, at its largest: {peaks}.",
    )


def _draw_accuracy(members: list[Member], looks: _Looks, name: PictureName, axis: _Axis) -> Picture:
    figure, axes = new_axes()
    has_validation = False
    for member in members:
        validated = [report for report in member.reports if report.validation_accuracy is not None]
        look = looks[member.name]
        faint = {**look, "alpha": 0.5} if validated else look
        _plot(axes, member, axis, lambda report: 100 * report.accuracy, **faint)
        axes.plot([], [], label=shorten(member.name), **look)
        if validated:
            has_validation = True
            places = [axis.place(report) for report in validated]
            shares = [100 * (report.validation_accuracy or 0) for report in validated]
            axes.plot(places, shares, marker="s", markersize=4, **look)
    has_test = _mark_test(axes, members, looks, axis)
    _finish(axes, axis)
    axes.set_ylabel("accuracy, %")
    axes.legend(
        handles=_key(has_validation=has_validation, has_test=has_test), loc="lower right", fontsize=8, frameon=False
    )
    add_legend(figure)
    return Picture(
        name=name,
        figure=figure,
        caption=f"Accuracy over {axis.name}; on training images as they are augmented, while they are trained on.",
        text=f"Accuracy over {axis.name}, at the end: {'; '.join(_end(member) for member in members)}.",
    )


def _plot(axes: Axes, member: Member, axis: _Axis, value: Callable[[EpochReport], float], **look: Any) -> None:
    marker = "." if len(member.reports) <= _FEW_EPOCHS else None
    places = [axis.place(report) for report in member.reports]
    axes.plot(places, [value(report) for report in member.reports], marker=marker, markersize=5, **look)


def _finish(axes: Axes, axis: _Axis) -> None:
    axes.set_xlabel(axis.label)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_flops(value)))


def _mark_test(axes: Axes, members: list[Member], looks: _Looks, axis: _Axis) -> bool:
    """Mark the accuracies on test beside each other, right of all curves; tell whether there are any."""
    end = max(axis.place(member.reports[-1]) for member in members)
    evaluated = [member for member in members if "test" in member.accuracy]
    for number, member in enumerate(evaluated, start=1):
        found = member.accuracy["test"]
        low, high = found.interval
        axes.errorbar(
            [end * (1 + number * _TEST_STEP)], [100 * found.top1],
            yerr=[[100 * (found.top1 - low)], [100 * (high - found.top1)]], fmt="D", markerfacecolor="none",
            markersize=6, capsize=3, linewidth=1.2, color=looks[member.name]["color"],
        )  # fmt: skip
    return bool(evaluated)


def _key(*, has_validation: bool, has_test: bool) -> list[Line2D]:
    """Say which mark is what, in grey."""
    signs = [Line2D([], [], color=GREY, marker=".", label="training")]
    if has_validation:
        signs.append(Line2D([], [], color=GREY, marker="s", markersize=4, label="validation"))
    if has_test:
        signs.append(
            Line2D([], [], color=GREY, marker="D", markerfacecolor="none", linestyle="none", label="test, at the end")
        )
    return signs


def _end(member: Member) -> str:
    last = member.reports[-1]
    words = [f"{member.name} {percent(last.accuracy)} in training"]
    if last.validation_accuracy is not None:
        words.append(f"{percent(last.validation_accuracy)} in validation")
    if "test" in member.accuracy:
        words.append(f"{percent(member.accuracy['test'].top1)} on test")
    return ", ".join(words)
