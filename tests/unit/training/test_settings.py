"""Configurations to JSON and back, and settings by dotted keys."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, JsonValue

from training.augment.policy import PolicyEntry, PolicySchedule, Segment
from training.errors import SettingsError
from training.settings import apply_settings, from_json, to_json


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, kw_only=True, slots=True)
class Everything:
    kind: Literal["none"] = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    kind: Literal["step"] = "step"
    fraction: float
    fixed: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction: got {self.fraction}; must be above 0 and at most 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    kind: Literal["cut"] = "cut"
    cuts: int = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class Loop:
    epochs: int = 10
    peak_lr: float = 0.1
    clip: float | None = None
    schedule: Everything | Step | Cut = field(default_factory=Everything)
    colour: Colour = Colour.RED
    policy: PolicySchedule | None = None
    tagged: Annotated[Everything | Cut, Field(discriminator="kind")] = field(default_factory=Everything)

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs: got {self.epochs}; must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    name: str
    arguments: Mapping[str, JsonValue] = field(default_factory=dict)
    loop: Loop = field(default_factory=Loop)


@dataclass(frozen=True, kw_only=True)
class Run:
    members: tuple[Member, ...]
    size: tuple[int, int] = (8, 8)
    out: Path = Path("runs")
    extra: Cut | None = None


RUN = Run(members=(Member(name="small"), Member(name="large", arguments={"width": 64})))


def entry(op: str, probability: int = 0) -> PolicyEntry:
    return PolicyEntry(op=op, probability=probability)


def test_json_holds_all_fields() -> None:
    loop = {
        "epochs": 10,
        "peak_lr": 0.1,
        "clip": None,
        "schedule": {"kind": "none"},
        "colour": "red",
        "policy": None,
        "tagged": {"kind": "none"},
    }
    assert to_json(RUN) == {
        "members": [
            {"name": "small", "arguments": {}, "loop": loop},
            {"name": "large", "arguments": {"width": 64}, "loop": loop},
        ],
        "size": [8, 8],
        "out": "runs",
        "extra": None,
    }


def test_what_comes_back_is_equal_and_of_the_same_classes() -> None:
    schedule = PolicySchedule(segments=(Segment(epochs=2, policy=(entry("Rotate", 3), entry("Invert"))),))
    loop = Loop(schedule=Step(fraction=0.5), colour=Colour.BLUE, policy=schedule, clip=5.0)
    run = Run(members=(Member(name="a", loop=loop),), size=(2, 3), out=Path("a/b"), extra=Cut(cuts=3))
    again = from_json(Run, to_json(run))
    assert again == run
    assert type(again.members[0].loop.schedule) is Step
    assert again.members[0].loop.colour is Colour.BLUE
    assert isinstance(again.out, Path)


def test_whole_numbers_in_fields_of_fractions_are_the_same_as_fractions() -> None:
    assert repr(to_json(Loop(peak_lr=1))) == repr(to_json(Loop(peak_lr=1.0)))


@given(
    epochs=st.integers(1, 1000),
    peak_lr=st.floats(1e-9, 1e9),
    clip=st.none() | st.floats(0, 10),
    schedule=st.builds(Step, fraction=st.floats(0.01, 1), fixed=st.booleans()) | st.builds(Cut, cuts=st.integers()),
)
def test_any_configuration_comes_back(epochs: int, peak_lr: float, clip: float | None, schedule: Step | Cut) -> None:
    loop = Loop(epochs=epochs, peak_lr=peak_lr, clip=clip, schedule=schedule)
    assert from_json(Loop, to_json(loop)) == loop


@pytest.mark.parametrize(
    ("settings", "look", "expected"),
    [
        (["members.1.loop.epochs=3"], lambda run: [member.loop.epochs for member in run.members], [10, 3]),
        (["members.*.loop.epochs=3"], lambda run: [member.loop.epochs for member in run.members], [3, 3]),
        (["members.*.loop.epochs=3", "members.0.loop.epochs=4"], lambda run: run.members[0].loop.epochs, 4),
        ([" size = [3, 4] "], lambda run: run.size, (3, 4)),
        (["size.1=5"], lambda run: run.size, (8, 5)),
        (["out=/a=b"], lambda run: run.out, Path("/a=b")),
        (["members.0.loop.colour=blue"], lambda run: run.members[0].loop.colour, Colour.BLUE),
        (['members.0.loop.colour="blue"'], lambda run: run.members[0].loop.colour, Colour.BLUE),
        (["members.0.loop.peak_lr=1"], lambda run: run.members[0].loop.peak_lr, 1.0),
        (["members.0.loop.clip=2.5"], lambda run: run.members[0].loop.clip, 2.5),
        (["members.0.loop.clip=2.5", "members.0.loop.clip=null"], lambda run: run.members[0].loop.clip, None),
        (["members.0.name=123"], lambda run: run.members[0].name, "123"),
        (["members.*.name=true"], lambda run: [member.name for member in run.members], ["true", "true"]),
        (["members.0.arguments.width=16"], lambda run: run.members[0].arguments, {"width": 16}),
        (["members.1.arguments.width=16"], lambda run: run.members[1].arguments, {"width": 16}),
        (['members=[{"name": "b"}]'], lambda run: run.members, (Member(name="b"),)),
        (["extra.cuts=3"], lambda run: run.extra, Cut(cuts=3)),
        (
            ["members.0.loop.schedule.kind=step", "members.0.loop.schedule.fraction=0.25"],
            lambda run: run.members[0].loop.schedule,
            Step(fraction=0.25),
        ),
        (
            ['members.0.loop.schedule={"kind": "step", "fraction": 1, "fixed": true}'],
            lambda run: run.members[0].loop.schedule,
            Step(fraction=1.0, fixed=True),
        ),
        (
            # The first kind's fields are gone with it.
            [
                'members.0.loop.schedule={"kind": "step", "fraction": 1, "fixed": true}',
                "members.0.loop.schedule.kind=cut",
            ],
            lambda run: run.members[0].loop.schedule,
            Cut(),
        ),
        (
            ["members.0.loop.tagged.kind=cut", "members.0.loop.tagged.cuts=4"],
            lambda run: run.members[0].loop.tagged,
            Cut(cuts=4),
        ),
        (
            ["members.*.loop.schedule.kind=cut", "members.1.loop.schedule.cuts=2"],
            lambda run: [member.loop.schedule for member in run.members],
            [Cut(), Cut(cuts=2)],
        ),
    ],
)
def test_settings(settings: list[str], look: Callable[[Run], Any], expected: object) -> None:
    before = to_json(RUN)
    changed = apply_settings(RUN, settings)
    assert look(changed) == expected
    assert type(changed) is Run
    assert to_json(RUN) == before


def test_no_settings_change_nothing() -> None:
    assert apply_settings(RUN, []) == RUN


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["epochs"], r"^'epochs': got no key=value; must be such as members\.0\.loop\.epochs=3$"),
        (["=3"], r"^'=3': got no key=value"),
        (
            ["members.0.loop.epoch=3"],
            r"^members\.0\.loop\.epoch: got unknown 'epoch'; did you mean epochs\? must be one of epochs",
        ),
        (
            ["member.0.name=a"],
            r"^member\.0\.name: got unknown 'member'; did you mean members\? must be one of members,",
        ),
        (["zzz=1"], r"^zzz: got unknown 'zzz'; must be one of members, size, out, extra$"),
        (["members.2.name=a"], r"^members\.2\.name: got '2'; members has entries 0\.\.1, or \* for all$"),
        (["members.x.name=a"], r"^members\.x\.name: got 'x'; members has entries 0\.\.1, or \* for all$"),
        (["out.a=1"], r'^out\.a: got \'a\'; out is "runs" and has no fields$'),
        (["members.0.loop.epochs=three"], r'^members\.0\.loop\.epochs: got "three"; must be a valid integer$'),
        (['members.0.loop.epochs="3"'], r'^members\.0\.loop\.epochs: got "3"; must be a valid integer$'),
        (["members.0.loop.epochs=2.5"], r"^members\.0\.loop\.epochs: got 2\.5; must be a valid integer"),
        (["members.0.loop.epochs=true"], r"^members\.0\.loop\.epochs: got true; must be a valid integer$"),
        (["members.0.loop.epochs=0"], r"^members\.0\.loop: epochs: got 0; must be at least 1$"),
        (["members.0.loop.colour=green"], r'^members\.0\.loop\.colour: got "green"; must be \'red\' or \'blue\'$'),
        (
            ["members.0.loop.schedule.kind=stp"],
            r"^members\.0\.loop\.schedule\.kind: got \"stp\"; must be 'none' or 'step' or 'cut'$",
        ),
        (
            ["members.0.loop.tagged.kind=x"],
            r"^members\.0\.loop\.tagged\.kind: got \"x\"; must be one of 'none', 'cut'$",
        ),
        (["members.0.loop.tagged={}"], r"^members\.0\.loop\.tagged\.kind: got nothing; must be given$"),
        (
            ["members.0.loop.tagged.cuts=3"],
            r"^members\.0\.loop\.tagged\.cuts: got unknown 'cuts'; must be one of kind$",
        ),
        (["members.0.loop.schedule.kind=step"], r"^members\.0\.loop\.schedule\.fraction: got nothing; must be given$"),
        (
            ['members.0.loop.schedule={"kind": "step", "fraction": 2}'],
            r"^members\.0\.loop\.schedule: fraction: got 2\.0; must be above 0 and at most 1$",
        ),
        (
            ["members.0.loop.schedule.kind=cut", "members.0.loop.schedule.cut=2"],
            r"^members\.0\.loop\.schedule\.cut: got unknown 'cut'; did you mean cuts\? must be one of kind, cuts$",
        ),
        (
            ['members.0.loop.schedule={"kind": "cut", "cut": 2}'],
            r"^members\.0\.loop\.schedule\.cut: got unknown 'cut'; did you mean cuts\? must be one of kind, cuts$",
        ),
        (["members.0.loop.schedule.fraction=0.5"], r"\.fraction: got unknown 'fraction'; must be one of kind$"),
        (["members.0.loop.clip=NaN"], r'^members\.0\.loop\.clip: got "NaN"; must be a valid number$'),
        (["members.0.loop.clip=1e999"], r'^members\.0\.loop\.clip: got "1e999"; must be a valid number$'),
        (["size=[1, -Infinity]"], r'^size: got "\[1, -Infinity\]"; must be a valid'),
        (['members.0.name="\\ud800"'], r"^members\.0\.name: got '\"\\\\ud800\"'; must be valid unicode$"),
        (["members.0.name=\udcff"], r"^members\.0\.name: got '\\udcff'; must be valid unicode$"),
        (["size=[1, 2, 3]"], r"^size: got \[1, 2, 3\]; Tuple should have at most 2 items"),
    ],
)
def test_settings_that_are_refused(settings: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        apply_settings(RUN, settings)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"members": [], "sise": [1, 2]},
            r"^sise: got unknown 'sise'; did you mean size\? must be one of members",
        ),
        ({}, r"^members: got nothing; must be given$"),
        ([], r"^Run: got \[\]; must be"),
        ({"members": [{"name": "a", "loop": {"epoch": 1}}]}, r"^members\.0\.loop\.epoch: got unknown 'epoch'; did"),
        ({"members": [{"name": "\ud800"}]}, r"^Run: got text that is no valid unicode: "),
        ({"members": [{"loop": {}}]}, r"^members\.0\.name: got nothing; must be given$"),
    ],
)
def test_json_that_is_refused(value: JsonValue, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        from_json(Run, value)


def test_configuration_that_breaks_its_own_types() -> None:
    broken: Any = Loop(clip="no")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="clip"):
        to_json(broken)
