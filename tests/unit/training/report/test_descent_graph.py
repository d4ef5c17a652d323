import re

import pytest

from training.report.sections.descent_graph import Box, draw_graph


def _box(name: str, *reads: str, is_ahead: bool = False, state: str = "done") -> Box:
    return Box(name=name, state=state, line="x", reads=reads, is_ahead=is_ahead)


def _places(svg: str) -> dict[str, tuple[float, float]]:
    found = re.findall(r'<title>([^<]*)</title><rect x="([\d.]+)" y="([\d.]+)"', svg)
    return {name: (float(x), float(y)) for name, x, y in found}


def test_boxes_stand_right_of_what_they_read() -> None:
    places = _places(
        draw_graph([_box("data"), _box("subset", "data"), _box("small", "data", "subset"), _box("large", "subset")])
    )
    assert places["data"][0] < places["subset"][0] < places["small"][0] == places["large"][0]
    assert places["small"][1] != places["large"][1]


def test_lines_that_others_lead_around_are_left_out() -> None:
    svg = draw_graph([_box("a"), _box("b", "a"), _box("c", "a", "b"), _box("d", "a", "c")])
    assert svg.count('class="edge"') == 3


def test_a_box_with_two_direct_sources_has_two_lines() -> None:
    svg = draw_graph([_box("a"), _box("b", "a"), _box("c", "a"), _box("d", "a", "b", "c")])
    assert svg.count('class="edge"') == 4


def test_what_has_not_begun_stands_last() -> None:
    places = _places(draw_graph([_box("a"), _box("later", is_ahead=True, state="not begun"), _box("b", "a")]))
    assert places["later"][0] > places["b"][0]


def test_sources_without_a_box_have_no_line() -> None:
    assert 'class="edge"' not in draw_graph([_box("b", "elsewhere")])


@pytest.mark.parametrize("name", ["<script>", "a-stage-with-a-very-long-name"])
def test_names_are_escaped_and_cut(name: str) -> None:
    svg = draw_graph([_box(name)])
    assert "<script>" not in svg
    assert len(re.findall(r'class="name">([^<]*)<', svg)[0]) <= 26
