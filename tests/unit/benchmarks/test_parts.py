"""What the benchmark of the server's parts times and says."""

import asyncio

import pytest

from benchmarks.parts import PARTS, Timers, table


class Clock:
    """Goes on by a second where work is done, and nowhere else."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def work(self) -> None:
        self.now_s += 1.0


def test_a_part_is_charged_for_itself_and_not_for_the_parts_inside_it() -> None:
    clock = Clock()
    timers = Timers(clock=clock)
    inner = timers.around(clock.work, "inner")

    def outer() -> str:
        inner()
        clock.work()
        inner()
        return "done"

    assert timers.around(outer, "outer")() == "done"
    assert timers.calls == {"inner": 2, "outer": 1}
    assert timers.own_s == {"inner": 2.0, "outer": 1.0}


def test_a_part_that_raises_is_charged_too() -> None:
    clock = Clock()
    timers = Timers(clock=clock)

    def fail() -> None:
        clock.work()
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        timers.around(fail, "part")()
    timers.around(clock.work, "other")()
    assert timers.own_s == {"part": 1.0, "other": 1.0}
    timers.clear()
    assert not timers.calls


def test_a_coroutine_is_charged_for_its_steps_and_not_for_what_runs_between_them() -> None:
    clock = Clock()
    timers = Timers(clock=clock)

    async def steps() -> str:
        clock.work()
        await asyncio.sleep(0)
        clock.work()
        return "done"

    async def story() -> None:
        coroutine = asyncio.ensure_future(timers.around(steps, "part")())
        await asyncio.sleep(0)
        clock.now_s += 50.0
        assert await coroutine == "done"

    asyncio.run(story())
    assert timers.calls == {"part": 1}
    assert timers.own_s == {"part": 2.0}


def test_every_part_is_there() -> None:
    for place, name, _part in PARTS:
        assert callable(getattr(place, name))


def test_the_table_has_medians_the_dearest_first_and_the_sum_without_the_members() -> None:
    runs = [{"members": (1.25, members_ms), "gate": (1.0, 0.125)} for members_ms in (3.0, 2.0, 9.0)]
    assert table(runs).splitlines()[2:] == [
        "| members | 1.25 | 3.000 |",
        "| gate | 1.00 | 0.125 |",
        "| **all but members** | | 0.125 |",
    ]
