"""The members: size, cost, accuracy with intervals, and what their training took."""

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from cascade_serve.core.cost import format_flops
from training.evaluation import Evaluation
from training.report.contents import Member, RunContents
from training.report.markup import Markup, join, numbers, paragraph, table, words
from training.report.pictures import (
    Picture,
    PictureName,
    add_legend,
    gallery,
    marker,
    new_axes,
    nice_limits,
    shorten,
    styles,
)
from training.report.quantities import UNKNOWN, carbon, duration, energy, percent, percent_interval
from training.report.savings import saved_share
from training.report.section import Section

PARTS = ("test", "calibration")
_OFFSET = 0.14
"""Between the two parts of a member, in rows of the picture."""


def members_section(contents: RunContents) -> Section | None:
    """Tell what each member is and can do; None where the run has none."""
    if not contents.members:
        return None
    pictures = [*_draw_accuracy(contents), *_draw_over_cost(contents)]
    body = join([_sizes(contents), _costs(contents), _energy_note(contents), gallery(pictures)])
    return Section(anchor="members", title="Members", body=body, pictures=tuple(pictures))


def _sizes(contents: RunContents) -> Markup:
    columns = [
        *words("member", "architecture"),
        *numbers("parameters", "FLOPs an image", *(f"{part} accuracy [95 %]" for part in PARTS)),
        *words("state"),
    ]
    rows = [
        (
            member.name,
            member.architecture,
            UNKNOWN if member.num_params is None else f"{member.num_params:,}",
            UNKNOWN if member.card is None else format_flops(member.card.cost.flops),
            *(_accuracy(member.accuracy.get(part)) for part in PARTS),
            _state(member),
        )
        for member in contents.members
    ]
    caption = (
        f"Accuracy is top-1 with its two-sided 95 % Wilson interval, on images that no member was trained on"
        f"{_sizes_of_parts(contents)}. It is one training run's: another seed would give a somewhat different one."
        " FLOPs are two a multiply-add, counted on the exported graph"
        f"{'' if any(member.card for member in contents.members) else ', and known once a member is exported'}."
    )
    return table(caption, columns, rows)


def _sizes_of_parts(contents: RunContents) -> str:
    images = {part: found.n for member in contents.members for part, found in member.accuracy.items()}
    sizes = ", ".join(f"{images[part]:,} {part}" for part in PARTS if part in images)
    return f" ({sizes})" if sizes else ""


def _accuracy(found: Evaluation | None) -> str:
    return UNKNOWN if found is None else percent_interval(found.top1, found.interval)


def _state(member: Member) -> str:
    if member.reports and member.facts is None:
        return f"{member.stage.state}: {member.reports[-1].epoch} of {member.reports[-1].epochs} epochs"
    return str(member.stage.state)


def _costs(contents: RunContents) -> Markup:
    titles = ("epochs", "evaluations", "saved", "time in epochs", "CPU time", "energy", "CO2")
    rows = []
    for member, found in contents.trained:
        saved = saved_share(contents, found)
        rows.append(
            (
                member.name,
                f"{found.config.loop.epochs:,}",
                f"{found.evaluations:,}",
                UNKNOWN if saved is None else percent(saved),
                duration(found.seconds),
                duration(found.process_seconds),
                energy(found.energy.joules),
                carbon(found.energy.co2_kg),
            )
        )
    if not rows:
        return join([])
    caption = (
        "What training took. An evaluation is a single image trained on; saved is the share of those that all of train"
        " in every epoch would have been. Time in epochs is on the wall, CPU time over all threads of the process."
    )
    return table(caption, [*words("member"), *numbers(*titles)], rows)


def _energy_note(contents: RunContents) -> Markup:
    tools = sorted({found.energy.tool for _, found in contents.trained if found.energy.tool is not None})
    if tools:
        return paragraph(f"Energy and CO2 were measured by {', '.join(tools)}, of the whole machine.", class_="note")
    if not contents.trained:
        return join([])
    return paragraph(
        "Energy was not measured; evaluations and CPU time stand in for it. With ",
        "--set energy_country=FRA (or another country) codecarbon measures it.",
        class_="note",
    )


def _draw_accuracy(contents: RunContents) -> list[Picture]:
    """Draw each member's accuracies as dots with their intervals."""
    members = [member for member in contents.members if member.accuracy]
    if not members:
        return []
    figure, axes = new_axes((5.2, 1.3 + 0.45 * len(members)))
    looks = styles(PARTS)
    for place, part in enumerate(PARTS):
        measured = [(row, member.accuracy[part]) for row, member in enumerate(members) if part in member.accuracy]
        axes.errorbar(
            [100 * found.top1 for _, found in measured],
            [row + (2 * place - 1) * _OFFSET for row, _ in measured],
            xerr=[
                [100 * (found.top1 - found.interval[0]) for _, found in measured],
                [100 * (found.interval[1] - found.top1) for _, found in measured],
            ],
            fmt=marker(place), markersize=5, capsize=3, linewidth=1.4, color=looks[part]["color"], label=part,
        )  # fmt: skip
    axes.set_yticks(range(len(members)), [shorten(member.name) for member in members])
    axes.invert_yaxis()
    axes.set_xlabel("accuracy, %")
    add_legend(figure)
    found = "; ".join(f"{member.name} {_accuracy(member.accuracy.get('test'))}" for member in members)
    return [
        Picture(
            name=PictureName.ACCURACY,
            figure=figure,
            caption="Accuracy with its 95 % interval.",
            text=f"Accuracy of each member. On test: {found}.",
        )
    ]


def _draw_over_cost(contents: RunContents) -> list[Picture]:
    """Draw test accuracy over cost, where there is more than one cost to compare."""
    evaluated = [member for member in contents.members if PARTS[0] in member.accuracy]
    flops = [member.card.cost.flops for member in evaluated if member.card is not None]
    params = [member.num_params for member in evaluated if member.num_params]
    costs, unit = (
        (flops, "FLOPs an image (two a multiply-add)") if len(flops) == len(evaluated) else (params, "parameters")
    )
    if len(costs) != len(evaluated) or len(set(costs)) < 2:
        return []
    figure, axes = new_axes()
    for (name, look), member, cost in zip(
        styles([member.name for member in evaluated]).items(), evaluated, costs, strict=True
    ):
        found = member.accuracy[PARTS[0]]
        low, high = found.interval
        axes.errorbar(
            [cost], [100 * found.top1], yerr=[[100 * (found.top1 - low)], [100 * (high - found.top1)]], fmt="o",
            color=look["color"], capsize=3, linewidth=1.4, markersize=5,
        )  # fmt: skip
        axes.annotate(shorten(name), (cost, 100 * found.top1), xytext=(7, -3), textcoords="offset points", fontsize=9)
    axes.set_xscale("log")
    axes.set_xlim(*nice_limits(costs))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_flops(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(unit)
    axes.set_ylabel("test accuracy, %")
    found_text = "; ".join(
        f"{member.name} {format_flops(cost)}, {percent(member.accuracy[PARTS[0]].top1, 2)}"
        for member, cost in zip(evaluated, costs, strict=True)
    )
    return [
        Picture(
            name=PictureName.ACCURACY_OVER_COST,
            figure=figure,
            caption=f"Test accuracy over {unit}, with its 95 % interval.",
            text=f"Test accuracy over {unit}: {found_text}.",
        )
    ]
