"""The page: head, key figures, and one section after the other, with its style inside."""

from collections.abc import Sequence
from importlib import resources

from training.report.contents import Member, RunContents
from training.report.markup import Markup, element
from training.report.quantities import UNKNOWN, duration, energy, percent, percent_interval
from training.report.savings import full_evaluations
from training.report.section import Section


def make_page(contents: RunContents, sections: Sequence[Section]) -> str:
    """Put a whole HTML document together; nothing in it points outside.

    Args:
        contents: of the run.
        sections: in order.
    """
    title = f"{contents.run.task}: training report"
    style = resources.files("training.report").joinpath("page.css").read_text(encoding="utf-8")
    head = [
        Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="color-scheme" content="light dark">'),
        element("title", title),
        Markup(f"<style>{style}</style>"),
    ]
    body = [_header(contents, sections), element("main", *(_section(section) for section in sections))]
    document = element("html", element("head", *head), element("body", *body), lang="en")
    return f"<!DOCTYPE html>\n{document}\n"


def _header(contents: RunContents, sections: Sequence[Section]) -> Markup:
    links = [element("a", section.title, href=f"#{section.anchor}") for section in sections]
    return element(
        "header",
        element("h1", contents.run.task, " ", element("small", "training report")),
        _status(contents),
        _tiles(contents),
        element("nav", *links),
    )


def _status(contents: RunContents) -> Markup:
    stages = contents.open_stages
    if not stages:
        return element("p", element("span", "finished", class_="state done"), " All that was asked for is done.")
    names = ", ".join(f"{stage.name} ({stage.state})" for stage in stages)
    return element(
        "p", element("span", "unfinished", class_="state unfinished"), f" This is what is there so far. Open: {names}."
    )


def _tiles(contents: RunContents) -> Markup:
    tiles = (
        [_tile("members trained", f"{len(contents.trained)} of {len(contents.members)}")] if contents.members else []
    )
    best = _best(contents.members)
    if best is not None:
        found = best.accuracy["test"]
        tiles.append(_tile(f"highest test accuracy, {best.name}", percent_interval(found.top1, found.interval)))
    tiles += _training_tiles(contents)
    return element("div", *tiles, class_="tiles")


def _training_tiles(contents: RunContents) -> list[Markup]:
    facts = [found for _, found in contents.trained]
    if not facts:
        return []
    fulls = [full_evaluations(contents, found) for found in facts]
    full = None if None in fulls else sum(count or 0 for count in fulls)
    used = sum(found.evaluations for found in facts)
    tiles = [_tile("evaluations saved", UNKNOWN if full is None else percent(1 - used / full))]
    tiles.append(_tile("training, in epochs", duration(sum(found.seconds for found in facts))))
    measured = [found.energy.joules for found in facts if found.energy.joules is not None]
    if measured:
        tiles.append(_tile("energy of training", energy(sum(measured))))
    return tiles


def _best(members: Sequence[Member]) -> Member | None:
    measured = [member for member in members if "test" in member.accuracy]
    return max(measured, key=lambda member: member.accuracy["test"].top1, default=None)


def _tile(label: str, value: str) -> Markup:
    return element("div", element("strong", value), element("span", label), class_="tile")


def _section(section: Section) -> Markup:
    return element("section", element("h2", section.title), section.body, id=section.anchor)
