"""Pieces of HTML whose text is escaped unless it is markup already."""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class Markup(str):
    """HTML that may stand in a page as it is."""

    __slots__ = ()


def escape(value: object) -> Markup:
    """Make HTML of any value; markup stays as it is."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """Make an element.

    Args:
        tag: its name.
        children: markup, or values whose text is escaped.
        attributes: ``_`` stands for ``-``, and falls away at the end (``class_``); None leaves one out.
    """
    shown = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{tag}{shown}>{join(children)}</{tag}>")


def join(children: Iterable[object]) -> Markup:
    """Put pieces one after the other."""
    return Markup("".join(escape(child) for child in children))


def paragraph(*children: object, class_: str | None = None) -> Markup:
    """Make a paragraph."""
    return element("p", *children, class_=class_)


def code(value: object) -> Markup:
    """Set a value as code."""
    return element("code", value)


def fingerprint(sha256: str) -> Markup:
    """Show the beginning of a sha256; all of it where the mouse rests on it."""
    return element("code", sha256[:10], title=sha256)


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        title: its head.
        is_number: aligned to the right.
    """

    title: str
    is_number: bool = False


def words(*titles: str) -> list[Column]:
    """Make columns of words."""
    return [Column(title=title) for title in titles]


def numbers(*titles: str) -> list[Column]:
    """Make columns of numbers."""
    return [Column(title=title, is_number=True) for title in titles]


def table(caption: object, columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> Markup:
    """Make a table that scrolls by itself where the page is narrow.

    Args:
        caption: says what it shows.
        columns: their heads.
        rows: a cell a column; the first names the row.
    """
    classes = ["number" if column.is_number else None for column in columns]
    heads = [
        element("th", column.title, scope="col", class_=name) for column, name in zip(columns, classes, strict=True)
    ]
    body = [element("tr", *_cells(row, classes)) for row in rows]
    content = (element("caption", caption), element("thead", element("tr", *heads)), element("tbody", *body))
    return element("div", element("table", *content), class_="scroll", tabindex=0)


def _cells(row: Sequence[object], classes: Sequence[str | None]) -> list[Markup]:
    first, *others = zip(row, classes, strict=True)
    return [
        element("th", first[0], scope="row", class_=first[1]),
        *(element("td", value, class_=name) for value, name in others),
    ]


def facts(rows: Iterable[tuple[str, object]]) -> Markup:
    """Make a list of names and values; a value of None leaves its row out."""
    pairs = [(name, value) for name, value in rows if value is not None]
    return element(
        "dl", *(element("div", element("dt", name), element("dd", value)) for name, value in pairs), class_="facts"
    )


def details(summary: object, *children: object) -> Markup:
    """Make a part that is folded away until it is asked for."""
    return element("details", element("summary", summary), *children)


def bullets(items: Iterable[object]) -> Markup:
    """Make a list."""
    return element("ul", *(element("li", item) for item in items))
