"""Schedule files: what is written comes back, and the original repository's text is read."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from training.augment.ops import op_names
from training.augment.policy import Policy, PolicyEntry, PolicySchedule, Segment
from training.augment.schedule_files import (
    MAX_BYTES,
    TEXT_OPS,
    read_policy_schedule,
    read_schedule_file,
    write_policy_schedule,
)
from training.errors import AugmentError

_ENTRIES = st.builds(
    PolicyEntry, op=st.sampled_from(op_names()), probability=st.integers(0, 10), magnitude=st.integers(0, 9)
)
_SEGMENTS = st.builds(
    Segment, epochs=st.integers(1, 300), policy=st.lists(_ENTRIES, max_size=5).map(tuple[PolicyEntry, ...])
)
_SCHEDULES = st.builds(PolicySchedule, segments=st.lists(_SEGMENTS, min_size=1, max_size=4).map(tuple[Segment, ...]))
_ONE = PolicySchedule(segments=(Segment(epochs=3, policy=(PolicyEntry(op="Rotate", probability=2, magnitude=5),)),))


@given(schedule=_SCHEDULES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_comes_back(schedule: PolicySchedule, tmp_path: Path) -> None:
    path = tmp_path / "schedule.json"
    write_policy_schedule(schedule, path, {"accuracy": 0.75, "seeds": [1, 2]})
    read = read_schedule_file(path)
    assert read.schedule == schedule
    assert read.metadata == {"accuracy": 0.75, "seeds": [1, 2]}
    assert [file.name for file in tmp_path.iterdir()] == ["schedule.json"]


def test_the_file_is_json_with_a_version_and_an_entry_a_line(tmp_path: Path) -> None:
    path = tmp_path / "schedule.json"
    write_policy_schedule(_ONE, path)
    text = path.read_text()
    assert '    {"op": "Rotate", "probability": 2, "magnitude": 5}\n' in text
    assert json.loads(text) == {
        "format": "policy-schedule",
        "version": 1,
        "epochs": 3,
        "metadata": {},
        "segments": [{"epochs": 3, "policy": [{"op": "Rotate", "probability": 2, "magnitude": 5}]}],
    }


def test_metadata_that_are_no_json_are_refused_and_leave_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "schedule.json"
    write_policy_schedule(_ONE, path)
    for metadata in ({"path": tmp_path}, {"accuracy": float("nan")}):
        with pytest.raises(AugmentError, match=r"metadata: .*; must be JSON values"):
            write_policy_schedule(_ONE, path, metadata)
    assert read_policy_schedule(path) == _ONE


def _with(**changes: Any) -> str:
    content = {"format": "policy-schedule", "version": 1, "segments": [{"epochs": 1, "policy": []}]} | changes
    return json.dumps(content)


def _with_entry(entry: object) -> str:
    return _with(segments=[{"epochs": 1, "policy": []}, {"epochs": 1, "policy": [entry]}])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": ', r"schedule: Expecting value: line 1 .*; must be JSON"),
        ("{" * 100_000, r"schedule: .*; must be JSON"),
        (_with(format="zoo"), "format: got 'zoo'; must be 'policy-schedule'"),
        (_with(version=2), "version: got 2; must be 1"),
        (_with(segments={}), "segments, metadata: must be a list and an object"),
        (_with(segments=[]), "segments: got none; must be at least one"),
        (_with(segments=[{"epochs": 1}]), r"segments\[0\]: must be an object of epochs .* and policy"),
        (_with(segments=[{"epochs": 0, "policy": []}]), r"segments\[0\]: epochs: got 0; must be at least 1"),
        (_with_entry(["Rotate", 1, 2]), r"segments\[1\]\.policy\[0\]: got \['Rotate', 1, 2\]; must be an object of op"),
        (
            _with_entry({"op": "Swirl", "probability": 1, "magnitude": 1}),
            r"segments\[1\]\.policy\[0\]: op: got 'Swirl'; must be registered",
        ),
        (
            _with_entry({"op": "Rotate", "probability": 11, "magnitude": 1}),
            r"segments\[1\]\.policy\[0\]: probability of 'Rotate': got 11; must lie in 0\.\.10",
        ),
        (
            _with_entry({"op": "Rotate", "probability": 0.5, "magnitude": 1}),
            r"segments\[1\]\.policy\[0\]: got .*; must be an object of op, probability and magnitude",
        ),
        (
            _with_entry({"op": "Rotate", "probability": True, "magnitude": 1}),
            r"segments\[1\]\.policy\[0\]: got .*; must be an object of op, probability and magnitude",
        ),
        (_with(segments=[{"epochs": True, "policy": []}]), r"segments\[0\]: must be an object of epochs"),
    ],
)
def test_a_damaged_file_is_refused_with_the_place(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "schedule").write_text(text)
    with pytest.raises(AugmentError, match=message):
        read_policy_schedule(tmp_path / "schedule")


def test_a_mark_that_editors_put_before_the_text_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "schedule.json"
    write_policy_schedule(_ONE, path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_policy_schedule(path) == _ONE


def test_epochs_are_asked_for_only_where_the_file_lacks_them(tmp_path: Path) -> None:
    write_policy_schedule(_ONE, tmp_path / "schedule.json")
    with pytest.raises(AugmentError, match="epochs: got 5; must be left out, as this file holds them"):
        read_policy_schedule(tmp_path / "schedule.json", epochs=5)


def test_a_file_that_is_absent_or_no_text_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AugmentError, match=r"absent: can't be read: .*No such file"):
        read_policy_schedule(tmp_path / "absent")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AugmentError, match=r"binary: can't be read: .*utf-8"):
        read_policy_schedule(tmp_path / "binary")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(AugmentError, match="large: got 16777217 bytes; must be at most 16777216"):
        read_policy_schedule(tmp_path / "large")


def _numbers(level: int) -> list[int]:
    """Give a configuration whose numbers tell their places: probability and magnitude of place p are about p."""
    return [(number + level) % 10 for number in range(60)]


def _policy(level: int) -> Policy:
    numbers = _numbers(level)
    return tuple(
        PolicyEntry(op=name, probability=numbers[2 * place], magnitude=numbers[2 * place + 1])
        for place, name in enumerate(TEXT_OPS * 2)
    )


def _line(trials: str, own: int, cloned: int, before: int, after: int) -> str:
    return repr([*trials, own, cloned, _numbers(before), _numbers(after)])


def _read(tmp_path: Path, *lines: str, epochs: int | None = 20, name: str = "log.txt") -> list[tuple[int, Policy]]:
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    schedule = read_policy_schedule(tmp_path / name, epochs=epochs)
    return [(segment.epochs, segment.policy) for segment in schedule.segments]


def test_a_published_log_is_read_by_hand(tmp_path: Path) -> None:
    # Trial 9 took over from 8 when 8 had 6 epochs behind it, 7 from 9 at 10, and 3 from 7 at 13.
    lines = [_line("98", 5, 6, 0, 1), _line("79", 11, 10, 1, 2), _line("37", 12, 13, 2, 3)]
    expected = [(6, _policy(0)), (4, _policy(1)), (3, _policy(2)), (7, _policy(3))]
    assert _read(tmp_path, *lines) == expected
    assert read_schedule_file(tmp_path / "log.txt", epochs=20).metadata == {"source": "log.txt"}


def test_a_configuration_may_have_its_numbers_under_a_name(tmp_path: Path) -> None:
    line = repr(["9", "8", 5, 6, {"hp_policy": _numbers(0), "lr": 0.1}, {"hp_policy": _numbers(1)}])
    assert _read(tmp_path, line) == [(6, _policy(0)), (14, _policy(1))]


def test_leading_lines_of_another_trial_are_left_out(tmp_path: Path) -> None:
    lines = [_line("24", 3, 3, 7, 8), _line("98", 5, 6, 0, 1), _line("79", 11, 10, 1, 2)]
    assert _read(tmp_path, *lines) == [(6, _policy(0)), (4, _policy(1)), (10, _policy(2))]


def test_a_clone_that_was_replaced_at_once_leaves_no_segment(tmp_path: Path) -> None:
    lines = [_line("98", 5, 6, 0, 1), _line("79", 11, 6, 1, 2)]
    assert _read(tmp_path, *lines) == [(6, _policy(0)), (14, _policy(2))]


def test_the_published_files_are_known_by_their_names(tmp_path: Path) -> None:
    line = _line("98", 5, 6, 0, 1)
    assert _read(tmp_path, line, epochs=None, name="rcifar10_16_wrn.txt")[-1][0] == 194
    assert _read(tmp_path, line, epochs=None, name="rsvhn_16_wrn.txt")[-1][0] == 154
    with pytest.raises(AugmentError, match=r"log\.txt: epochs: got none; must be those that the search ran for"):
        _read(tmp_path, line, epochs=None)


def test_the_order_of_the_text_names_the_papers_ops() -> None:
    assert sorted(TEXT_OPS) == sorted(op_names()[:15])
    assert TEXT_OPS[:3] == ("Rotate", "TranslateX", "TranslateY")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("['9', '8', 5", r"log\.txt:2: got no literal"),
        ("__import__('os').system('true')", r"log\.txt:2: got no literal"),
        ("[" * 5000, r"log\.txt:2: got no literal"),
        ("['9', '8', 5]", r"log\.txt:2: must be a list of 6"),
        (_line("79", 5, 6, 0, 1).replace("'7'", "7"), r"log\.txt:2: must be a list of 6"),
        ("['7', '9', 5, 6, [1, 2], [1, 2]]", r"log\.txt:2: configuration: must be 60 whole numbers"),
        (repr(["7", "9", 5, 6, [0.5] * 60, [0] * 60]), r"log\.txt:2: configuration: must be 60 whole numbers"),
        (repr(["7", "9", 5, 6, [True] * 60, [0] * 60]), r"log\.txt:2: configuration: must be 60 whole numbers"),
        (repr(["7", "9", 5, 6, [12] * 60, [0] * 60]), r"log\.txt:2: probability of 'Rotate': got 12"),
        (_line("79", 5, 4, 0, 1), r"log\.txt:2: epochs: got 4; must be at least 6"),
        (_line("79", 5, 21, 0, 1), r"log\.txt:2: epochs: got 20; must be at least 21"),
    ],
)
def test_a_damaged_log_is_refused_with_its_line(line: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(AugmentError, match=message):
        _read(tmp_path, _line("98", 5, 6, 0, 1), line)


def test_an_empty_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AugmentError, match=r"log\.txt: got no lines; must be a policy schedule"):
        _read(tmp_path, "", "")


_FIRST_LISTED = (
    "AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "Color", "Contrast", "Brightness",
    "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY", "Cutout",
)  # fmt: skip
"""As the repository's first version, which the published searches ran, puts them into a dict."""


def _python_2_hash(name: str) -> int:
    mixed = ord(name[0]) << 7
    for letter in name:
        mixed = (1000003 * mixed ^ ord(letter)) % 2**64
    return mixed ^ len(name)


def _python_2_keys(names: tuple[str, ...], size: int = 8) -> list[str]:
    """List a dict's keys as 64-bit Python 2 does, by open addressing; past two thirds, it grows to over four times."""
    slots: list[str | None] = [None] * size
    for count, name in enumerate(names, start=1):
        perturb = _python_2_hash(name)
        place = perturb % size
        while slots[place % size] is not None:
            place = 5 * place + perturb + 1
            perturb >>= 5
        slots[place % size] = name
        if 3 * count >= 2 * size:
            kept = tuple(key for key in slots if key is not None)
            return _python_2_keys((*kept, *names[count:]), 1 << (4 * count).bit_length())
    return [key for key in slots if key is not None]


def test_the_order_of_the_text_is_that_of_the_searches_dict() -> None:
    assert tuple(_python_2_keys(_FIRST_LISTED)) == TEXT_OPS


def test_lines_may_be_json_as_ray_tune_writes_them_now(tmp_path: Path) -> None:
    line = json.dumps(["9", "8", 5, 6, {"hp_policy": _numbers(0), "resume": None}, {"hp_policy": _numbers(1)}])
    assert "null" in line
    assert _read(tmp_path, line) == [(6, _policy(0)), (14, _policy(1))]
