"""Data schedules as text and as JSON, and the limits of their values."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from training.data_schedule.config import (
    AllData,
    CutMode,
    DataCut,
    DataIncrement,
    DataScheduleConfig,
    DataStep,
    InfoBatch,
    data_step_grid,
    format_data_schedule,
    parse_data_schedule,
)

ADAPTER: TypeAdapter[DataScheduleConfig] = TypeAdapter(DataScheduleConfig)

_inside = st.floats(0, 1, exclude_min=True, exclude_max=True)
_options = {"fixed": st.booleans(), "score": st.none() | st.sampled_from(["margin", "forgetting_events"])}
CONFIGS: st.SearchStrategy[DataScheduleConfig] = st.one_of(
    st.just(AllData()),
    st.builds(DataStep, kind=st.just("step"), fraction=_inside, share=_inside, **_options),
    st.builds(DataIncrement, kind=st.just("increment"), fraction=_inside, **_options),
    st.builds(DataCut, kind=st.just("cut"), cuts=st.integers(2, 99), mode=st.sampled_from(CutMode), **_options),
    st.builds(InfoBatch, kind=st.just("infobatch"), prune=_inside, anneal=st.floats(0, 1, exclude_max=True)),
)


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("none", AllData()),
        ("step:0.5:0.25", DataStep(fraction=0.5, share=0.25)),
        ("step:0.5:0.25:fixed", DataStep(fraction=0.5, share=0.25, fixed=True)),
        ("increment:0.25", DataIncrement(fraction=0.25)),
        ("increment:0.25:score=margin", DataIncrement(fraction=0.25, score="margin")),
        ("cut:9", DataCut(cuts=9)),
        ("cut:9:leave_one_out", DataCut(cuts=9, mode=CutMode.LEAVE_ONE_OUT)),
        ("cut:4:rotate:fixed:score=margin", DataCut(cuts=4, mode=CutMode.ROTATE, fixed=True, score="margin")),
        ("infobatch", InfoBatch()),
        ("infobatch:0.3:0.2", InfoBatch(prune=0.3, anneal=0.2)),
    ],
)
def test_text_both_ways(text: str, config: DataScheduleConfig) -> None:
    assert parse_data_schedule(text) == config
    assert format_data_schedule(config) == text


def test_some_text_has_a_shorter_form() -> None:
    assert parse_data_schedule("cut:9:cumulative") == DataCut(cuts=9)
    assert parse_data_schedule("infobatch:0.3") == InfoBatch(prune=0.3)
    assert parse_data_schedule("step:0.5:0.5:score=margin:fixed") == DataStep(fixed=True, score="margin")


@given(CONFIGS)
def test_every_schedule_comes_back_from_text_and_from_json(config: DataScheduleConfig) -> None:
    assert parse_data_schedule(format_data_schedule(config)) == config
    assert ADAPTER.validate_json(ADAPTER.dump_json(config)) == config


def test_json_is_told_apart_by_kind_and_checked() -> None:
    assert ADAPTER.validate_python({"kind": "cut", "cuts": 3, "mode": "rotate"}) == DataCut(cuts=3, mode=CutMode.ROTATE)
    with pytest.raises(ValidationError, match=r"cuts: got 1; must be at least 2"):
        ADAPTER.validate_python({"kind": "cut", "cuts": 1})
    with pytest.raises(ValidationError, match="'none', 'step', 'increment', 'cut', 'infobatch'"):
        ADAPTER.validate_python({"kind": "half"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("half", "data schedule: got 'half'; must be one of none, step:FRACTION:SHARE, increment:FRACTION"),
        ("", "data schedule: got ''; must be one of none,"),
        ("none:1", "data schedule 'none:1': values: got 1; must be 0;"),
        ("step:0.5", "data schedule 'step:0.5': values: got 1; must be 2; the forms are none, step:FRACTION:SHARE"),
        ("step:0.5:half", "data schedule 'step:0.5:half': share: got 'half'; must be a number"),
        ("step:1:0.5", "fraction: got 1.0; must be between 0 and 1, both excluded"),
        ("step:0.5:nan", "share: got nan; must be between 0 and 1, both excluded"),
        ("increment:0", "fraction: got 0.0; must be between 0 and 1, both excluded"),
        ("increment:0.5:score=", "score: got ''; must be a name without colons"),
        ("increment:0.5:score=a:score=b", "score: got 2 of them; must be at most one"),
        ("cut:1", "cuts: got 1; must be at least 2"),
        ("cut:2.5", "cuts: got '2.5'; must be a whole number of at least 2"),
        ("cut:9:half", "mode: got 'half'; must be one of cumulative, rotate, leave_one_out"),
        ("cut:9:rotate:1", "values: got 3; must be 1 to 2"),
        ("infobatch:1", "prune: got 1.0; must be between 0 and 1, both excluded"),
        ("infobatch:0.5:1", "anneal: got 1.0; must be at least 0 and under 1"),
        ("infobatch:0.5:0.1:fixed", "values: got 3; must be 0 to 2"),
    ],
)
def test_bad_text_names_field_value_and_limit(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_data_schedule(text)


def test_the_grid_is_the_sources() -> None:
    grid = data_step_grid()
    assert list(grid) == ["E1", "E2", "E3", "E4", "E5", "E6", "E7", "E8", "E9"]
    assert grid["E3"] == DataStep(fraction=0.25, share=0.75)
    assert grid["E7"] == DataStep(fraction=0.75, share=0.25)
