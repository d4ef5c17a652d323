import re

import pytest

from training.report.pictures import Picture, PictureName, new_axes, nice_limits, shorten, styles


def _picture(*, label: str = "a", name: PictureName = PictureName.LOSS, is_on_paper: bool = False) -> Picture:
    figure, axes = new_axes()
    axes.plot([1, 2], [3, 4], label=label, color="#0072B2")
    axes.set_title(label)
    axes.bar([1], [2], edgecolor="white", color="#000000")
    return Picture(name=name, figure=figure, caption="what & why", text="so <it> is", is_on_paper=is_on_paper)


def test_svg_points_nowhere_outside_and_is_told_in_words() -> None:
    found = _picture().html()
    assert "http" not in found
    assert "<!--" not in found
    assert "<metadata" not in found
    assert '<svg role="img" viewBox=' in found
    assert "<title>so &lt;it&gt; is</title>" in found
    assert "<figcaption>what &amp; why</figcaption>" in found


def test_ids_are_the_pictures_own_and_all_references_are_met() -> None:
    found = _picture().html() + _picture(name=PictureName.ACCURACY).html()
    ids = re.findall(r'\bid="([^"]+)"', found)
    assert len(ids) == len(set(ids))
    assert all(name.startswith(("loss-", "accuracy-")) for name in ids)
    references = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', found)
    assert references
    assert {first or second for first, second in references} <= set(ids)


def test_black_white_and_blue_follow_the_page_unless_on_paper() -> None:
    themed, paper = _picture().html(), _picture(is_on_paper=True).html()
    for color, stand_in in (("#000000", "currentColor"), ("#ffffff", "var(--page)"), ("#0072b2", "var(--blue)")):
        assert color not in themed
        assert stand_in in themed
        assert color in paper
        assert stand_in not in paper.partition(">")[2].replace('fill="currentColor"', "")
    assert 'class="paper"' in paper


def test_the_same_picture_gives_the_same_bytes() -> None:
    assert _picture().html() == _picture().html()
    assert _picture().png() == _picture().png()
    assert _picture().png().startswith(b"\x89PNG")


@pytest.mark.parametrize("label", ["$x_", r"\frac{$1$}", "$\\nonsense{$", "\u6570\u5b57"])
def test_names_are_no_formulas_and_may_have_letters_that_the_font_lacks(label: str) -> None:
    picture = _picture(label=label)
    assert picture.html()
    assert picture.png()


def test_many_members_differ_in_colour_or_line() -> None:
    looks = styles([str(number) for number in range(20)])
    assert len({(look["color"], look["linestyle"]) for look in looks.values()}) == 20


def test_long_names_are_cut() -> None:
    assert shorten("a" * 24) == "a" * 24
    assert shorten("a" * 25) == "a" * 23 + "\u2026"


def test_limits_leave_room_around_a_single_cost_too() -> None:
    assert nice_limits([100.0]) == (80.0, 125.0)
    low, high = nice_limits([10.0, 1e6])
    assert low < 10
    assert high > 1e6
