"""The stages as boxes from left to right, each after what it read: an SVG in the page's own colours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from training.report.markup import Markup, element, join

_BOX = (158.0, 46.0)
_GAP = (48.0, 18.0)
_EDGE = 6.0
_MAX_NAME = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """One stage in the graph.

    Attributes:
        name: of the stage.
        state: sets its colour.
        line: below its name.
        reads: stages that it read; those that have no box are left out.
        is_ahead: it has not begun.
    """

    name: str
    state: str
    line: str
    reads: tuple[str, ...]
    is_ahead: bool = False


def draw_graph(boxes: Sequence[Box]) -> Markup:
    """Draw the graph; where a line leads around over other boxes, the straight one is left out.

    Args:
        boxes: each after what it read.
    """
    places = _places(boxes)
    width = max(x for x, _ in places.values()) + _BOX[0] + _EDGE
    height = max(y for _, y in places.values()) + _BOX[1] + _EDGE
    edges = [_edge(places[start], places[end]) for start, end in _direct_edges(boxes)]
    drawn = [_box(box, *places[box.name]) for box in boxes]
    told = "; ".join(f"{box.name} from {' and '.join(box.reads)}" for box in boxes if box.reads)
    svg = element(
        "svg",
        element("title", f"Stages of the run. {told}."),
        *edges,
        *drawn,
        role="img",
        viewBox=f"0 0 {width:g} {height:g}",
        style=f"width:{width:g}px",
    )
    return element("div", svg, class_="scroll graph", tabindex=0)


def _direct_edges(boxes: Sequence[Box]) -> list[tuple[str, str]]:
    """Pair each box with those that it read, but for what one of these has read already, itself or by others."""
    behind: dict[str, set[str]] = {}
    for box in boxes:
        reads = [read for read in box.reads if read in behind]
        behind[box.name] = set(reads).union(*(behind[read] for read in reads))
    return [
        (read, box.name)
        for box in boxes
        for read in box.reads
        if read in behind and not any(read in behind[other] for other in box.reads if other in behind)
    ]


def _places(boxes: Sequence[Box]) -> Mapping[str, tuple[float, float]]:
    """Put each box in the column after the last of those that it read, and columns in the middle of the height.

    Boxes that have not begun, of which nobody knows what they will read, come last.
    """
    depths: dict[str, int] = {}
    for box in boxes:
        if not box.is_ahead:
            depths[box.name] = max((depths[read] + 1 for read in box.reads if read in depths), default=0)
    last = max(depths.values(), default=-1)
    depths |= {box.name: last + 1 for box in boxes if box.is_ahead}
    columns: dict[int, list[str]] = {}
    for name, depth in depths.items():
        columns.setdefault(depth, []).append(name)
    rows = max(len(names) for names in columns.values())
    step_x, step_y = _BOX[0] + _GAP[0], _BOX[1] + _GAP[1]
    return {
        name: (_EDGE + depth * step_x, _EDGE + (row + (rows - len(names)) / 2) * step_y)
        for depth, names in columns.items()
        for row, name in enumerate(names)
    }


def _edge(start: tuple[float, float], end: tuple[float, float]) -> Markup:
    x1, y1 = start[0] + _BOX[0], start[1] + _BOX[1] / 2
    x2, y2 = end[0], end[1] + _BOX[1] / 2
    bend = (x2 - x1) / 2
    path = f"M{x1:g} {y1:g} C{x1 + bend:g} {y1:g} {x2 - bend:g} {y2:g} {x2:g} {y2:g}"
    return element("path", d=path, class_="edge")


def _box(box: Box, x: float, y: float) -> Markup:
    name = box.name if len(box.name) <= _MAX_NAME else f"{box.name[: _MAX_NAME - 1]}…"
    frame = element("rect", x=f"{x:g}", y=f"{y:g}", width=f"{_BOX[0]:g}", height=f"{_BOX[1]:g}", rx=7)
    texts = [
        element("text", name, x=f"{x + 10:g}", y=f"{y + 19:g}", class_="name"),
        element("text", box.line, x=f"{x + 10:g}", y=f"{y + 36:g}", class_="line"),
    ]
    return element("g", element("title", box.name), join([frame, *texts]), class_=box.state.replace(" ", "-"))
