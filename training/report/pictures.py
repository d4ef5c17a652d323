"""Pictures of the report: matplotlib figures of their own, as PNG files and as SVG that follows the page's colours."""

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

from training.report.markup import Markup, element

# Okabe and Ito's palette, which stays apart for the colour-blind.
BLUE, ORANGE, GREEN, PURPLE, RED, SKY, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#888888",
)  # fmt: skip
_COLORS = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY)
_LINES = ("-", "--", ":", "-.")
"""A run with more members than colours goes on with these in the same colours."""
_MARKERS = ("o", "s", "^", "D", "v", "P")
_STAND_INS = {"#000000": "currentColor", "#ffffff": "var(--page)", BLUE.lower(): "var(--blue)"}
"""Colours that the page sets, because they would not show on dark."""
_SIZE = (5.2, 3.5)
"""Inches: small enough that its letters can be read on a telephone."""
_MAX_NAME = 24
_DPI = 160


class PictureName(StrEnum):
    """All pictures that a report may have; each is a PNG of that name."""

    ACCURACY = "accuracy"
    ACCURACY_OVER_COST = "accuracy_over_cost"
    LOSS = "loss"
    LEARNING_RATE = "learning_rate"
    LEARNING_OVER_EPOCHS = "learning_over_epochs"
    LEARNING_OVER_EVALUATIONS = "learning_over_evaluations"
    SELECTION_SCORES = "selection_scores"
    SELECTION_CLASSES = "selection_classes"
    SELECTION_ROUNDS = "selection_rounds"
    SELECTION_STUDY = "selection_study"
    POLICY_SCHEDULE = "policy_schedule"
    POLICY_TRIALS = "policy_trials"
    IMAGES_AN_EPOCH = "images_an_epoch"
    EVALUATIONS = "evaluations"
    RANKS_LEAST_CONFIDENCE = "ranks_least_confidence"
    RANKS_MARGIN = "ranks_margin"
    RANKS_ENTROPY = "ranks_entropy"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Picture:
    """A figure and what is said of it.

    Attributes:
        name: of its file.
        figure: not drawn on any display.
        caption: below it.
        text: what it shows, for those who can't see it.
        is_on_paper: it has colours of its own and stays on white where the page is dark.
    """

    name: PictureName
    figure: Figure
    caption: str
    text: str
    is_on_paper: bool = False

    def png(self) -> bytes:
        """Draw it as a PNG file, on white."""
        return _draw(self.figure, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})

    def html(self) -> Markup:
        """Draw it as SVG inside a page, with its caption."""
        svg = _draw(self.figure, format="svg", transparent=True, metadata={"Date": None}).decode()
        width = round(self.figure.get_figwidth() * 96)
        drawing = _embed(svg, self.name, self.text, width, is_on_paper=self.is_on_paper)
        classes = "picture wide" if self.figure.get_figwidth() > 1.3 * _SIZE[0] else "picture"
        frame = element("div", drawing, class_="paper" if self.is_on_paper else "drawing")
        return element("figure", frame, element("figcaption", self.caption), class_=classes)


def gallery(pictures: Sequence[Picture]) -> Markup:
    """Put pictures side by side, as many as there is room for."""
    return element("div", *(picture.html() for picture in pictures), class_="gallery")


def new_axes(size: tuple[float, float] = _SIZE) -> tuple[Figure, Axes]:
    """Make a figure with one panel; its size in inches."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.grid(visible=True, alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    return figure, axes


def add_legend(figure: Figure, columns: int = 3) -> None:
    """Put the legend above the panel."""
    figure.legend(loc="outside upper center", ncols=columns, fontsize=9, frameon=False)


def styles(names: Sequence[str]) -> Mapping[str, dict[str, Any]]:
    """Give each of a run's members its colour and line, the same in all pictures."""
    colors = len(_COLORS)
    return {
        name: {"color": _COLORS[place % colors], "linestyle": _LINES[place // colors % len(_LINES)], "linewidth": 1.5}
        for place, name in enumerate(names)
    }


def marker(place: int) -> str:
    """Give the marker that tells the lines of a picture apart in grey as well."""
    return _MARKERS[place % len(_MARKERS)]


def shorten(name: str) -> str:
    """Cut a user's name to what fits beside a panel."""
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…"


def nice_limits(values: Sequence[float]) -> tuple[float, float]:
    """Give limits for an axis of positive values on a logarithmic scale."""
    low, high = min(values), max(values)
    room = max(1.25, math.sqrt(high / low) ** 0.25)
    return low / room, high * room


def _draw(figure: Figure, **options: Any) -> bytes:
    buffer = io.BytesIO()
    # Names come from users: a dollar is no formula, and a letter that the font lacks is no reason to speak up.
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
            # Laid out once: both files then show the same, and the second is drawn in half of the time.
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
        figure.savefig(buffer, **options)
    return buffer.getvalue()


def _embed(svg: str, name: str, text: str, width: int, *, is_on_paper: bool) -> Markup:
    """Take what matplotlib wrote into a page: with ids of its own, without anything that points outside."""
    svg = svg[svg.index("<svg") :]
    for unwanted in (r"<metadata>.*?</metadata>", r"<!--.*?-->", r"<defs>\s*<style.*?</style>\s*</defs>"):
        svg = re.sub(unwanted, "", svg, flags=re.DOTALL)
    svg = svg.replace("xlink:href", "href")
    ids = {old: f"{name}-{number}" for number, old in enumerate(dict.fromkeys(re.findall(r'\bid="([^"]+)"', svg)))}
    svg = re.sub(r'\bid="([^"]+)"', lambda match: f'id="{ids[match[1]]}"', svg)
    svg = re.sub(r'href="#([^"]+)"', lambda match: f'href="#{ids[match[1]]}"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", lambda match: f"url(#{ids[match[1]]})", svg)
    if not is_on_paper:
        for color, stand_in in _STAND_INS.items():
            svg = svg.replace(color, stand_in)
    view_box = re.search(r'viewBox="[^"]+"', svg)
    assert view_box is not None, "matplotlib writes it"
    inside = svg[svg.index(">") + 1 : svg.rindex("</svg>")]
    drawing = re.sub(r"\n\s*", "", inside)
    label = element("title", text)
    head = f'<svg role="img" {view_box[0]} style="max-width:{width}px" fill="currentColor">'
    return Markup(f"{head}{label}{drawing}</svg>")
