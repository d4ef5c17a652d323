from pathlib import Path

import pytest

from training.errors import SelectionError
from training.report import write_study
from training.report.sections.study import STUDY_FILE, study_parts
from training.selection.study import CurveArm, CurvePoint, SelectionStudy


def _arm(name: str, accuracies: tuple[float, ...], seconds: float, *, is_control: bool = False) -> CurveArm:
    selection_s = (seconds,) * len(accuracies) if seconds else ()
    point = CurvePoint(subset_size=50, accuracies=accuracies, selection_s=selection_s)
    return CurveArm(name=name, points=(point,), is_control=is_control)


STUDY = SelectionStudy(
    title="<digits>",
    num_images=100,
    arms=(
        _arm("target", (0.90, 0.92), 40.0),
        _arm("good proxy", (0.90, 0.91), 10.0),
        _arm("bad proxy", (0.80, 0.82), 5.0),
        _arm("random", (0.85, 0.85), 0.0, is_control=True),
    ),
    full=CurvePoint(subset_size=100, accuracies=(0.95, 0.95)),
)


def test_without_a_study_there_is_nothing(tmp_path: Path) -> None:
    assert study_parts(tmp_path) == ([], [])


def test_the_curve_is_drawn_and_every_point_told(tmp_path: Path) -> None:
    write_study(STUDY, tmp_path)
    parts, pictures = study_parts(tmp_path)
    assert [picture.name for picture in pictures] == ["selection_study"]
    html = "".join(parts)
    assert "&lt;digits&gt;" in html
    assert "<digits>" not in html
    assert '<th scope="row">target</th><td class="number">50</td><td class="number">91.00 % ± 1.41</td>' in html
    assert '<th scope="row">everything</th><td class="number">100</td><td class="number">95.00 % ± 0.00</td>' in html
    assert "speed-up" not in html


def test_a_speed_up_counts_only_within_one_standard_deviation(tmp_path: Path) -> None:
    write_study(STUDY, tmp_path, target="target")
    html = "".join(study_parts(tmp_path)[0])
    good, bad = (html.partition(f'<th scope="row">{name} proxy</th><td class="number">50</td><td class="number">')[2]
                 for name in ("good", "bad"))  # fmt: skip
    # The last tables are the speed-ups: the first rows of these names are the points' own.
    good = good.partition('<th scope="row">good proxy</th>')[2]
    bad = bad.partition('<th scope="row">bad proxy</th>')[2]
    assert '4.0x</td><td class="number">+0.50 points</td><td class="number">1.41 points</td><td>yes' in good
    assert '(8.0x)</td><td class="number">+10.00 points</td><td class="number">1.41 points</td><td>no' in bad


def test_the_target_must_be_an_arm(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="target: arm: got 'nobody'"):
        write_study(STUDY, tmp_path, target="nobody")


def test_a_damaged_study_is_named(tmp_path: Path) -> None:
    (tmp_path / STUDY_FILE).write_text('{"study": 3}')
    with pytest.raises(SelectionError, match=r"study\.json: study"):
        study_parts(tmp_path)
