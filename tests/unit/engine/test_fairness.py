"""Batches as the profile has them, and no stage left behind while the door is crowded; one worker, so that order is."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from table_committee import MakeBench, make_plan

from cascade_serve.core.arrays import ImageArray
from cascade_serve.core.plan import Plan
from cascade_serve.core.request import Request, Terms
from cascade_serve.engine.protocol import Engine, Ticket
from cascade_serve.engine.queue import MAX_PASSES

Profile = Mapping[int, float]

FLAT: Profile = {1: 0.01, 2: 0.01, 8: 0.01}
FALLING: Profile = {1: 0.08, 2: 0.04, 8: 0.01}
GOES_ON = Terms(confidence_threshold=1.0)
LEAVES = Terms(confidence_threshold=0.0)


def images(*values: int) -> ImageArray:
    return np.array(values, dtype=np.uint8).reshape(-1, 1, 1, 1)


def profiled(small: Profile | None, middle: Profile | None, large: Profile | None) -> Plan:
    plan = make_plan()
    pairs = zip(plan.members, (small, middle, large), strict=True)
    return replace(plan, members=tuple(replace(member, seconds=seconds) for member, seconds in pairs))


class Crowd:
    """Admits a batch of new rows whenever a member runs, so that the first stage never lacks any."""

    def __init__(self, rows: int, terms: Terms, runs: int) -> None:
        self._request = Request(images_BHWC=images(*range(rows)), terms=terms)
        self._runs = runs
        self.tickets: list[Ticket] = []
        self.engine: Engine | None = None

    def __call__(self, _member: int, _rows: int) -> None:
        assert self.engine is not None
        if len(self.tickets) < self._runs:
            self.tickets.append(self.engine.admit(self._request))


def test_batches_are_as_large_as_pays(make_bench: MakeBench) -> None:
    bench = make_bench(profiled(FLAT, FALLING, None), max_batch_size=16)
    reply = bench.engine.admit(Request(images_BHWC=images(*range(20)), terms=GOES_ON)).result()
    assert reply.exit_stage_B.tolist() == [2] * 20
    ran = [[rows for member, rows in bench.runners[0].batches if member == wanted] for wanted in range(3)]
    assert ran[0] == [1] * 20
    assert max(ran[1]) <= 8
    assert max(ran[2]) <= 16
    assert [sum(rows) for rows in ran] == [20] * 3


def test_nobody_waits_for_company_that_does_not_pay(make_bench: MakeBench) -> None:
    delay_s = 0.5
    bench = make_bench(profiled(FLAT, FALLING, None), max_batch_size=16, max_queue_delay_s=delay_s)
    bench.engine.admit(Request(images_BHWC=images(1), terms=GOES_ON)).result()
    small_s, middle_s, large_s = bench.watcher.queue_s
    assert small_s < delay_s
    assert middle_s >= delay_s
    assert large_s >= delay_s


def test_a_lone_row_passes_all_stages_while_full_batches_crowd_the_door(make_bench: MakeBench) -> None:
    crowd = Crowd(4, LEAVES, runs=30)
    bench = make_bench(max_batch_size=4, before_run=crowd)
    crowd.engine = bench.engine
    lone = bench.engine.admit(Request(images_BHWC=images(77), terms=GOES_ON))
    crowd(0, 0)
    assert lone.result().exit_stage_B.tolist() == [2]
    order = [member for member, _ in bench.runners[0].batches]
    assert order[: order.index(2) + 1] == [0, *[0] * MAX_PASSES, 1, *[0] * MAX_PASSES, 2]
    for ticket in crowd.tickets:
        assert ticket.result().exit_stage_B.tolist() == [0] * 4


def test_what_was_begun_is_finished_where_nothing_exits_early(make_bench: MakeBench) -> None:
    crowd = Crowd(8, GOES_ON, runs=60)
    bench = make_bench(profiled(FALLING, FLAT, FLAT), max_batch_size=8, before_run=crowd)
    crowd.engine = bench.engine
    bench.engine.admit(Request(images_BHWC=images(77), terms=GOES_ON)).result()
    for ticket in crowd.tickets:
        ticket.result()
    begun = finished = most_between = 0
    for member, rows in bench.runners[0].batches:
        begun += rows * (member == 0)
        finished += rows * (member == 2)
        most_between = max(most_between, begun - finished)
    assert begun == finished == 1 + 8 * 60
    # A batch of the first stage and what is left of the one before; the others run these rows one by one.
    assert most_between <= 2 * 8
    later_batches = "".join(str(member) for member, _ in bench.runners[0].batches).split("0")
    assert max(map(len, later_batches)) <= 2 * 2 * 8
