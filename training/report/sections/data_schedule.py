"""The data schedule: images an epoch, and the evaluations that it, and the subset, saved and cost."""

from itertools import pairwise
from typing import Any

from matplotlib.ticker import FuncFormatter, MaxNLocator

from cascade_serve.core.cost import format_flops
from training.data_schedule.config import format_data_schedule
from training.member_job import MemberFacts
from training.pipeline.policy_stage import STAGE as POLICY
from training.pipeline.selection_stage import RANKING
from training.pipeline.selection_stage import STAGE as SELECTION
from training.report.contents import Member, RunContents
from training.report.markup import Markup, code, join, numbers, paragraph, table, words
from training.report.pictures import (
    BLUE,
    GREY,
    ORANGE,
    Picture,
    PictureName,
    add_legend,
    gallery,
    new_axes,
    shorten,
    styles,
)
from training.report.quantities import UNKNOWN, percent
from training.report.savings import full_evaluations, saved_share
from training.report.section import Section


def data_schedule_section(contents: RunContents) -> Section | None:
    """Tell which part of the data each epoch was trained on; None where no member has begun."""
    members = [member for member in contents.members if member.reports]
    if not members:
        return None
    pictures = (_draw_images(contents, members), *_draw_evaluations(contents))
    body = join([_table(contents), _spent(contents), gallery(pictures)])
    return Section(anchor="evaluations", title="Data schedule and evaluations", body=body, pictures=pictures)


def images_an_epoch(member: Member) -> list[int]:
    """Count the single images that each of a member's epochs was trained on."""
    totals = [0, *(report.evaluations for report in member.reports)]
    return [after - before for before, after in pairwise(totals)]


def _table(contents: RunContents) -> Markup:
    trained = contents.trained
    if not trained:
        return join([])
    has_filter = any(found.config.loop.proxy_filter is not None for _, found in trained)
    rows = [_row(contents, member, found, has_filter=has_filter) for member, found in trained]
    titles = ("images", "epochs", "all of train", "trained on", "saved by the subset", "saved by the schedule", "saved")
    extra = ("by the filter's proxy",) if has_filter else ()
    columns = [*words("member", "data schedule"), *numbers(*titles, *extra)]
    caption = (
        "Evaluations, single images trained on: of all of train in every epoch, and as they were. The shares saved are"
        " of the first."
    )
    return table(caption, columns, rows)


def _row(contents: RunContents, member: Member, found: MemberFacts, *, has_filter: bool) -> list[object]:
    loop = found.config.loop
    full, saved = full_evaluations(contents, found), saved_share(contents, found)
    by_subset = None if full is None else 1 - found.num_images * loop.epochs / full
    by_schedule = None if saved is None or by_subset is None else saved - by_subset
    shares = [UNKNOWN if share is None else percent(share) for share in (by_subset, by_schedule, saved)]
    schedule = code(format_data_schedule(loop.data_schedule))
    row: list[object] = [member.name, schedule, f"{found.num_images:,}", loop.epochs]
    row += [UNKNOWN if full is None else f"{full:,}", f"{found.evaluations:,}", *shares]
    return [*row, f"{member.reports[-1].proxy_evaluations:,}"] if has_filter else row


def _spent(contents: RunContents) -> Markup:
    """Say what choosing and searching took of evaluations, which the savings don't count."""
    spent = []
    rankings = [name for name in contents.stages if name.startswith(RANKING)]
    for name, key, what in (
        (SELECTION, "evaluations", "by the proxy of the selection"),
        *((name, "evaluations", f"by the proxy of the ranking by {name.removeprefix(RANKING)}") for name in rankings),
        (POLICY, "search_evaluations", "in the search for a policy"),
    ):
        stage = contents.done(name)
        if stage is not None and contents.is_read_by_members(name):
            result: Any = stage.record.result
            # Earlier versions did not say what a ranking took.
            spent += [f"{result[key]:,} {what}"] if key in result else []
    if not spent:
        return join([])
    return paragraph(
        f"Not counted above: evaluations {' and '.join(spent)}. They are of other, usually smaller networks.",
        class_="note",
    )


def _draw_images(contents: RunContents, members: list[Member]) -> Picture:
    figure, axes = new_axes()
    looks = styles([member.name for member in contents.members])
    width = max(len(member.reports) for member in members)
    lines: dict[tuple[int, ...], list[Member]] = {}
    for member in members:
        lines.setdefault(tuple(images_an_epoch(member)), []).append(member)
    for counts, same in lines.items():
        names = ", ".join(shorten(member.name) for member in same)
        axes.stairs(counts, [epoch + 0.5 for epoch in range(len(counts) + 1)], label=names, baseline=None,
                    **looks[same[0].name])  # fmt: skip
    if contents.data is not None:
        train = contents.data.images["train"]
        axes.axhline(train, color=GREY, linestyle="--", linewidth=1.2, label=f"all {train:,} of train")
    axes.set_xlim(0.5, width + 0.5)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("images trained on")
    add_legend(figure, columns=2)
    told = "; ".join(
        f"{', '.join(member.name for member in same)} from {counts[0]:,} to {counts[-1]:,}"
        for counts, same in lines.items()
    )
    return Picture(
        name=PictureName.IMAGES_AN_EPOCH,
        figure=figure,
        caption="Images that each epoch was trained on.",
        text=f"Images trained on in each epoch: {told}.",
    )


def _draw_evaluations(contents: RunContents) -> list[Picture]:
    """Draw each member's evaluations, and what was saved of all of train in every epoch."""
    trained = contents.trained
    fulls = [full_evaluations(contents, found) for _, found in trained]
    if not trained or None in fulls:
        return []
    spent = [found.evaluations for _, found in trained]
    saved = [(full or 0) - used for full, used in zip(fulls, spent, strict=True)]
    figure, axes = new_axes((5.2, 1.3 + 0.4 * len(trained)))
    rows = range(len(trained))
    axes.barh(rows, spent, color=BLUE, height=0.6, label="trained on")
    axes.barh(rows, saved, left=spent, color=ORANGE, hatch="///", edgecolor="white", linewidth=0, height=0.6,
              label="saved")  # fmt: skip
    axes.set_yticks(rows, [shorten(member.name) for member, _ in trained])
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_flops(value)))
    axes.set_xlabel("evaluations: single images trained on")
    add_legend(figure)
    told = "; ".join(
        f"{member.name} {used:,} of {full:,}" for (member, _), used, full in zip(trained, spent, fulls, strict=True)
    )
    return [
        Picture(
            name=PictureName.EVALUATIONS,
            figure=figure,
            caption="Evaluations of each member, against all of train in every epoch.",
            text=f"Evaluations: {told}.",
        )
    ]
