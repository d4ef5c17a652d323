"""The engine's promises, on a committee of lookup tables."""

import gc
import itertools
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from table_committee import FLOPS, POISON, Bench, MakeBench, make_plan, make_table_bench, random_table

from cascade_serve.core.arrays import ImageArray
from cascade_serve.core.combine import Combine, combine_stages, include, is_usable, member_score, probabilities
from cascade_serve.core.confidence import Confidence, confidence
from cascade_serve.core.request import ExitReason, Mode, OnDeadline, Reply, Request, Terms
from cascade_serve.core.route import make_route
from cascade_serve.engine import committee
from cascade_serve.engine.committee import CommitteeEngine
from cascade_serve.engine.protocol import Ticket
from cascade_serve.engine.scheduler import Batch
from cascade_serve.errors import (
    AbandonedError,
    CascadeError,
    InvalidRequestError,
    LateError,
    MemberError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)

Answer = tuple[int, int, str, int]


def images(*values: int) -> ImageArray:
    return np.array(values, dtype=np.uint8).reshape(-1, 1, 1, 1)


def ask(bench: Bench, *values: int, deadline_s: float | None = None, **terms: object) -> Reply:
    request = Request(images_BHWC=images(*values), terms=Terms(**terms), deadline_s=deadline_s)  # type: ignore[arg-type]
    return bench.engine.admit(request).result()


def answers(reply: Reply) -> list[Answer]:
    reasons = [ExitReason(reason).name for reason in reply.exit_reason_B.tolist()]
    return list(zip(reply.label_B.tolist(), reply.exit_stage_B.tolist(), reasons, reply.flops_B.tolist(), strict=True))


def by_hand(bench: Bench, value: int, terms: Terms) -> Answer:
    """One row, alone, by the core's rules, without any engine."""
    route, plan = make_route(bench.plan, terms), bench.plan
    sum_BK = np.zeros((1, 3), dtype=np.float32)
    count_B = np.zeros(1, dtype=np.int64)
    spent = 0
    for stage, member in enumerate(route.members):
        logits_BK = bench.logits_MVK[member, value][None]
        usable_B = is_usable(logits_BK)
        score_BK = member_score(plan.combine, np.nan_to_num(logits_BK), 1.0)
        sum_BK, count_B = include(plan.combine, sum_BK, count_B, score_BK, usable_B)
        spent += route.flops[stage]
        mean_BK = probabilities(plan.combine, sum_BK, count_B)
        sure = usable_B[0] and confidence(plan.confidence, mean_BK)[0] >= np.float32(route.thresholds[stage])
        if sure or stage == len(route.members) - 1:
            reason = ExitReason.CONFIDENT if sure else route.last_reason
            return int(mean_BK.argmax()), stage, reason.name, spent
    raise AssertionError


TERMS = [
    Terms(),
    Terms(confidence_threshold=0.95),
    Terms(confidence_threshold=(0.5, 0.99)),
    Terms(max_flops=350),
    Terms(max_flops=100),
    Terms(policy="short"),
    Terms(policy="back", confidence_threshold=0.8),
    Terms(policy="alone"),
    Terms(mode=Mode.ENSEMBLE),
    Terms(mode=Mode.ENSEMBLE, max_flops=400, priority=3),
]


@pytest.mark.parametrize("combine", list(Combine))
@pytest.mark.parametrize("confidence_function", list(Confidence))
def test_every_row_is_answered_as_if_it_were_alone(
    make_pure_bench: MakeBench, combine: Combine, confidence_function: Confidence
) -> None:
    bench = make_pure_bench(make_plan(combine, confidence_function), max_batch_size=7)
    values = list(range(60))
    for terms in TERMS:
        if combine is Combine.LAST and terms.mode is Mode.ENSEMBLE:
            continue
        reply = bench.engine.admit(Request(images_BHWC=images(*values), terms=terms)).result()
        assert answers(reply) == [by_hand(bench, value, terms) for value in values]
        np.testing.assert_allclose(reply.probabilities_BK.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("workers", [1, 3])
def test_rows_of_many_requests_share_batches_and_keep_their_own_terms(make_pure_bench: MakeBench, workers: int) -> None:
    bench = make_pure_bench(workers=workers, max_batch_size=8)
    rng = np.random.default_rng(1)
    jobs = [(TERMS[i % len(TERMS)], rng.integers(0, 200, size=1 + i % 5).tolist()) for i in range(300)]

    def call(job: tuple[Terms, list[int]]) -> list[Answer]:
        return answers(bench.engine.admit(Request(images_BHWC=images(*job[1]), terms=job[0])).result())

    with ThreadPoolExecutor(16) as threads:
        got = list(threads.map(call, jobs))
    assert got == [[by_hand(bench, value, terms) for value in values] for terms, values in jobs]
    assert bench.engine.rows_in_flight == 0
    assert sum(len(reply.label_B) for reply in bench.watcher.replies) == sum(len(values) for _, values in jobs)
    ran = sum(statistics.rows for statistics in bench.engine.statistics().values())
    assert ran == len(bench.watcher.queue_s)
    if bench.runners:
        assert ran == sum(rows for runner in bench.runners for _, rows in runner.batches)


def test_a_batch_holds_rows_of_different_requests(make_bench: MakeBench) -> None:
    bench = make_bench(max_batch_size=8)
    first = bench.engine.admit(Request(images_BHWC=images(1, 2)))
    second = bench.engine.admit(Request(images_BHWC=images(3), terms=Terms(confidence_threshold=0.0)))
    assert len(first.result().label_B) == 2
    assert second.result().exit_stage_B.tolist() == [0]
    assert bench.runners[0].batches[0] == (0, 3)


def bits(reply: Reply) -> list[tuple[bytes, bytes]]:
    rows = zip(reply.probabilities_BK, reply.confidence_B, strict=True)
    return [(probabilities_K.tobytes(), sure.tobytes()) for probabilities_K, sure in rows]


@pytest.mark.parametrize("combine", list(Combine))
@pytest.mark.parametrize("confidence_function", list(Confidence))
def test_a_row_has_the_same_bits_in_any_company_and_by_the_core(
    make_bench: MakeBench, combine: Combine, confidence_function: Confidence
) -> None:
    table, values = random_table(3), range(24)
    # Rows with a member left out change how the others of their batch are computed.
    table[0, 1::5], table[1, 2::7, 1], table[2, 4::9] = np.nan, np.inf, 1e31
    plan = make_plan(combine, confidence_function)
    for terms in (Terms(policy="short", confidence_threshold=1.0), Terms(confidence_threshold=0.8), Terms()):
        ran = make_bench(plan, table=table, max_batch_size=9)
        others = ran.engine.admit(Request(images_BHWC=images(*range(80, 110)), terms=Terms(policy="back")))
        together = ask_on(ran, terms, *values)
        others.result()
        assert bits(together) == [bits(ask_on(ran, terms, value))[0] for value in values]
        stages = together.exit_stage_B.tolist()
        assert bits(together) == [bits_by_core(ran, terms, *row) for row in zip(values, stages, strict=True)]


def ask_on(bench: Bench, terms: Terms, *values: int) -> Reply:
    return bench.engine.admit(Request(images_BHWC=images(*values), terms=terms)).result()


def bits_by_core(bench: Bench, terms: Terms, value: int, exit_stage: int) -> tuple[bytes, bytes]:
    plan, members = bench.plan, list(make_route(bench.plan, terms).members[: exit_stage + 1])
    logits_SK = bench.logits_MVK[members, value]
    usable_1S = is_usable(logits_SK)[None]
    scores_SK = member_score(plan.combine, np.where(usable_1S.T, logits_SK, np.float32(0)), 1.0)
    answer_1K = combine_stages(plan.combine, scores_SK[None], usable_1S)
    return answer_1K[0].tobytes(), confidence(plan.confidence, answer_1K)[0].tobytes()


def test_a_tie_of_confidence_and_threshold_exits_and_one_step_more_defers(make_pure_bench: MakeBench) -> None:
    bench = make_pure_bench()
    sure = ask(bench, 5, max_flops=100).confidence_B[0]
    nextafter = [float(np.nextafter(sure, np.float32(side))) for side in (0, 1)]
    # Between two numbers of float32 a threshold is the nearer one.
    for threshold in (float(sure), nextafter[0], float(sure) + (nextafter[1] - float(sure)) / 4):
        assert ask(bench, 5, confidence_threshold=threshold).exit_stage_B.tolist() == [0]
    assert ask(bench, 5, confidence_threshold=nextafter[1]).exit_stage_B[0] > 0


def test_a_reply_has_the_types_and_shapes_that_it_says(make_pure_bench: MakeBench) -> None:
    bench = make_pure_bench(max_batch_size=4)
    for rows in (1, 3, 9):
        reply = ask(bench, *range(rows))
        assert reply.probabilities_BK.dtype == np.float32
        assert reply.probabilities_BK.shape == (rows, 3)
        for array_B, kind in (
            (reply.label_B, np.int64),
            (reply.confidence_B, np.float32),
            (reply.exit_stage_B, np.int64),
            (reply.exit_reason_B, np.uint8),
            (reply.flops_B, np.int64),
        ):
            assert array_B.dtype == kind
            assert array_B.shape == (rows,)


@pytest.mark.parametrize("seed", range(3))
def test_raising_the_threshold_never_lowers_the_exit_stage(make_pure_bench: MakeBench, seed: int) -> None:
    bench = make_pure_bench(table=random_table(seed))
    stages = [
        ask(bench, *range(200), confidence_threshold=threshold).exit_stage_B
        for threshold in np.linspace(0, 1, 9).tolist()
    ]
    assert all((high >= low).all() for low, high in itertools.pairwise(stages))
    assert stages[0].max() == 0
    assert stages[-1].max() == 2


@pytest.mark.parametrize("cap", [100, 101, 349, 350, 351, 1049, 1050, 10**9])
@pytest.mark.parametrize("mode", list(Mode))
def test_the_cap_is_never_exceeded_on_any_row(make_pure_bench: MakeBench, cap: int, mode: Mode) -> None:
    reply = ask(make_pure_bench(), *range(200), max_flops=cap, mode=mode)
    assert reply.flops_B.max() <= cap
    assert reply.certified == (cap >= sum(FLOPS) and mode is Mode.CASCADE)


def test_a_nan_member_is_left_out_of_the_mean_and_defers(make_pure_bench: MakeBench) -> None:
    table = random_table()
    table[0, 5] = np.nan
    table[0, 6, 1] = np.inf
    bench = make_pure_bench(table=table)
    reply = ask(bench, 5, 6, 7, confidence_threshold=0.0)
    assert reply.exit_stage_B.tolist() == [1, 1, 0]
    expected = member_score(Combine.MEAN_PROBS, table[1, [5, 6]], 1.0)
    np.testing.assert_allclose(reply.probabilities_BK[:2], expected, rtol=1e-6)
    assert reply.flops_B.tolist() == [350, 350, 100]
    gated = dict.fromkeys(stage for stage, rated in bench.watcher.gated if np.isnan(rated))
    assert list(gated) == [0]


def test_a_nan_between_two_answers_defers_however_sure_the_first_was(make_pure_bench: MakeBench) -> None:
    table = random_table()
    table[1, 5] = np.nan
    bench = make_pure_bench(table=table)
    terms = Terms(confidence_threshold=(1.0, 0.0))
    assert answers(ask_on(bench, terms, 5, 6)) == [by_hand(bench, 5, terms), by_hand(bench, 6, terms)]
    assert by_hand(bench, 5, terms)[1:] == (2, "LAST_STAGE", 1050)
    assert [stage for stage, rated in bench.watcher.gated if np.isnan(rated)] == [1]


def test_a_nan_at_the_last_stage_leaves_the_answer_of_the_others(make_pure_bench: MakeBench) -> None:
    table = random_table()
    table[2, 5] = np.nan
    reply = ask(make_pure_bench(table=table), 5, confidence_threshold=1.0)
    assert answers(reply)[0][1:] == (2, "LAST_STAGE", 1050)
    assert np.isfinite(reply.confidence_B).all()


@pytest.mark.parametrize("mode", list(Mode))
def test_nan_throughout_fails_and_never_becomes_a_label(make_pure_bench: MakeBench, mode: Mode) -> None:
    table = random_table()
    table[:, 5] = np.nan
    bench = make_pure_bench(table=table)
    with pytest.raises(MemberError, match="row 1: no member gave a finite prediction"):
        ask(bench, 4, 5, 6, mode=mode)
    assert len(ask(bench, 4, 6).label_B) == 2
    assert bench.engine.rows_in_flight == 0


@pytest.mark.parametrize("mode", list(Mode))
def test_a_poisoned_row_fails_alone(make_any_bench: MakeBench, mode: Mode) -> None:
    bench = make_any_bench(max_batch_size=16)
    requests = [Request(images_BHWC=images(value, value + 1), terms=Terms(mode=mode)) for value in (10, 20, 30)]
    bad = Request(images_BHWC=images(40, POISON), terms=Terms(mode=mode))
    tickets = [bench.engine.admit(request) for request in [*requests, bad]]
    for ticket, value in zip(tickets[:-1], (10, 20, 30), strict=True):
        terms = Terms(mode=mode)
        assert answers(ticket.result()) == [by_hand(bench, value, terms), by_hand(bench, value + 1, terms)]
    with pytest.raises(MemberError, match="row 1: member 'small' failed"):
        tickets[-1].result()
    assert bench.engine.statistics()["small"].failures == 1
    assert bench.engine.rows_in_flight == 0


class LostDeviceError(MemberError, RuntimeError):
    """What runners raise, and what torch raises, at once."""


def test_a_member_that_fails_on_every_image_is_the_engines_fault_until_it_answers(make_any_bench: MakeBench) -> None:
    lost = True

    def run_where_it_can(member: int, _rows: int) -> None:
        if lost and member == 1:
            raise LostDeviceError("the device is lost")

    bench = make_any_bench(before_run=run_where_it_can)
    assert bench.engine.fault == ""
    with pytest.raises(MemberError, match="row 0: member 'middle' failed"):
        ask(bench, 1, 2, confidence_threshold=1.0)
    assert bench.engine.fault == "member 'middle' fails on every image: the device is lost"
    # What the other members say doesn't mend it.
    ask(bench, 1, confidence_threshold=0.0)
    assert bench.engine.fault != ""
    lost = False
    ask(bench, 1, 2, confidence_threshold=1.0)
    assert bench.engine.fault == ""


def test_rows_that_no_member_takes_are_their_own_fault(make_any_bench: MakeBench) -> None:
    bench = make_any_bench()
    with pytest.raises(MemberError, match="row 0: member 'small' failed"):
        ask(bench, POISON, POISON)
    assert bench.engine.fault == ""


def test_a_nan_row_beside_a_poisoned_one_is_left_out_all_the_same(make_any_bench: MakeBench) -> None:
    table = random_table()
    table[0, 5] = np.nan
    bench = make_any_bench(table=table)
    terms = Terms(confidence_threshold=0.0)
    bad, good = (
        bench.engine.admit(Request(images_BHWC=images(*values), terms=terms)) for values in ((POISON,), (5, 6))
    )
    assert answers(good.result()) == [by_hand(bench, value, terms) for value in (5, 6)]
    with pytest.raises(MemberError, match="row 0: member 'small' failed"):
        bad.result()


def test_an_unforeseen_error_fails_the_rows_it_held_and_nothing_else(make_any_bench: MakeBench) -> None:
    armed = [True]

    def explode(member: int, _rows: int) -> None:
        if member == 1 and armed.pop():
            raise ZeroDivisionError

    bench = make_any_bench(before_run=explode)
    with pytest.raises(MemberError, match="member 'middle' failed"):
        ask(bench, 1, 2, confidence_threshold=1.0)
    armed.append(False)
    assert len(ask(bench, 1, 2, confidence_threshold=0.0).label_B) == 2
    assert bench.engine.rows_in_flight == 0


def test_an_unforeseen_error_fails_the_rows_beside_one_whose_request_has_gone(make_bench: MakeBench) -> None:
    gate = Gate(member=0)

    def explode(member: int, rows: int) -> None:
        gate(member, rows)
        raise ZeroDivisionError

    bench = make_bench(before_run=explode)
    gone, running, waiting = (bench.engine.admit(Request(images_BHWC=images(value))) for value in (1, 2, 3))
    going = in_thread(running.result)
    assert gate.entered.wait(30)
    staying = in_thread(waiting.result)
    gone.cancel()
    with pytest.raises(AbandonedError):
        gone.result()
    gate.opened.set()
    for thread, ends in (going, staying):
        thread.join(30)
        assert [type(end) for end in ends] == [MemberError]
    assert bench.runners[0].batches == [(0, 3)]
    assert bench.engine.rows_in_flight == 0


def test_a_batch_that_cannot_be_settled_fails_its_requests_and_nothing_else(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench()
    assert isinstance(bench.engine, CommitteeEngine)
    with monkeypatch.context() as patch:
        patch.setattr(bench.engine._scheduler, "settle", lambda *_arguments: 1 / 0)
        with pytest.raises(MemberError, match="member 'small' failed"):
            ask(bench, 1, 2, confidence_threshold=0.0)
    assert len(ask(bench, 1, 2).label_B) == 2
    assert bench.engine.rows_in_flight == 0


def test_a_batch_after_which_no_other_can_be_formed_gives_its_slots_back_once(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench()
    assert isinstance(bench.engine, CommitteeEngine)
    scheduler = bench.engine._scheduler
    take, finish, calls = scheduler.take, scheduler.finish, []

    def finish_and_say_so(batch: Batch) -> None:
        finish(batch)
        calls.append("finish")

    def take_badly_once(now_s: float) -> Batch | None:
        if calls == ["finish"]:
            calls.append("take")
            raise ZeroDivisionError
        return take(now_s)

    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "finish", finish_and_say_so)
        patch.setattr(scheduler, "take", take_badly_once)
        with pytest.raises(MemberError, match="member 'small' failed"):
            ask(bench, 1, 2, confidence_threshold=1.0)
    assert calls == ["finish", "take"]
    assert bench.engine.rows_in_flight == 0
    assert len(ask(bench, 1, 2).label_B) == 2


def test_a_runner_that_leaves_rows_out_fails_its_batch_and_nothing_else(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench()
    broken_BK = np.full((1, bench.logits_MVK.shape[2]), np.nan, dtype=np.float32)
    with monkeypatch.context() as patch:
        patch.setattr(bench.runners[0], "run", lambda _member, _images: broken_BK)
        with pytest.raises(MemberError, match="member 'small' failed"):
            ask(bench, 1, 2, confidence_threshold=0.0)
    assert len(ask(bench, 1, 2).label_B) == 2
    assert bench.engine.rows_in_flight == 0


BAD = [
    (np.zeros((1, 1, 1, 1), np.float32), "images: got datatype float32; must be UINT8"),
    (np.zeros((1, 2, 1, 1), np.uint8), r"images: got shape \[1, 2, 1, 1\]; must be \[n, 1, 1, 1\] with n at least 1"),
    (np.zeros((0, 1, 1, 1), np.uint8), r"images: got shape \[0, 1, 1, 1\]"),
    (np.zeros((1, 1, 1), np.uint8), r"images: got shape \[1, 1, 1\]"),
    (np.zeros((33, 1, 1, 1), np.uint8), "images: got 33 rows; must be at most 32 rows"),
]


@pytest.mark.parametrize(("bad_BHWC", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_images_are_refused(make_pure_bench: MakeBench, bad_BHWC: ImageArray, message: str) -> None:
    bench = make_pure_bench(max_queue_rows=32)
    with pytest.raises(InvalidRequestError, match=message):
        bench.engine.admit(Request(images_BHWC=bad_BHWC))
    assert bench.engine.rows_in_flight == 0


def test_an_unknown_policy_is_refused(make_pure_bench: MakeBench) -> None:
    with pytest.raises(NotFoundError, match="policy 'best' not found; known: alone, back, default, short"):
        ask(make_pure_bench(), 1, policy="best")


def test_a_full_engine_refuses_and_recovers(make_pure_bench: MakeBench) -> None:
    bench = make_pure_bench(max_queue_rows=32)
    held = bench.engine.admit(Request(images_BHWC=images(*range(30))))
    with pytest.raises(OverloadedError, match="3 rows: only 2 of 32 slots"):
        ask(bench, 1, 2, 3)
    assert len(ask(bench, 1, 2).label_B) == 2
    assert len(held.result().label_B) == 30
    assert len(ask(bench, 1, 2, 3).label_B) == 3


def test_a_cancelled_request_leaves_the_queue(make_bench: MakeBench) -> None:
    bench = make_bench()
    ticket = bench.engine.admit(Request(images_BHWC=images(1, 2)))
    other = bench.engine.admit(Request(images_BHWC=images(3), terms=Terms(confidence_threshold=0.0)))
    ticket.cancel()
    with pytest.raises(AbandonedError):
        ticket.result()
    assert len(other.result().label_B) == 1
    assert bench.runners[0].batches == [(0, 1)]
    assert bench.engine.rows_in_flight == 0
    ticket.cancel()


class Gate:
    """Holds a member's runs until opened."""

    def __init__(self, member: int) -> None:
        self.member = member
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, member: int, _rows: int) -> None:
        if member == self.member and not self.opened.is_set():
            self.entered.set()
            assert self.opened.wait(30)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


Ends = tuple[threading.Thread, list[object]]


def in_thread(call: Callable[[], object]) -> Ends:
    ends: list[object] = []

    def run() -> None:
        try:
            ends.append(call())
        except CascadeError as error:
            ends.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, ends


def test_a_request_cancelled_while_it_runs_keeps_its_slot_until_the_batch_ends(make_any_bench: MakeBench) -> None:
    gate = Gate(member=0)
    bench = make_any_bench(before_run=gate)
    ticket = bench.engine.admit(Request(images_BHWC=images(1, 2)))
    worker, ends = in_thread(ticket.result)
    assert gate.entered.wait(30)
    ticket.cancel()
    assert bench.engine.rows_in_flight == 2
    gate.opened.set()
    worker.join(30)
    bench.engine.close()
    assert isinstance(ends[0], AbandonedError)
    assert bench.engine.rows_in_flight == 0


def test_a_waiting_request_leaves_at_its_deadline_though_the_worker_is_busy(make_any_bench: MakeBench) -> None:
    gate = Gate(member=0)
    bench = make_any_bench(before_run=gate)
    busy, ends = in_thread(lambda: ask(bench, 1))
    assert gate.entered.wait(30)
    with pytest.raises(LateError, match="the deadline passed with 2 of 2 rows unanswered"):
        ask(bench, 2, 3, deadline_s=bench.engine._clock() + 0.05)
    assert bench.engine.rows_in_flight == 1
    gate.opened.set()
    busy.join(30)
    assert isinstance(ends[0], Reply)


def test_a_deadline_in_the_past_is_refused_at_admission(make_pure_bench: MakeBench) -> None:
    bench = make_pure_bench(clock=lambda: 100.0)
    with pytest.raises(LateError, match=r"the deadline passed 0\.500 s before admission"):
        ask(bench, 1, deadline_s=99.5)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize("on_deadline", list(OnDeadline))
def test_a_deadline_that_passes_between_stages(make_any_bench: MakeBench, on_deadline: OnDeadline) -> None:
    clock = Clock()

    def pass_time(_member: int, _rows: int) -> None:
        clock.now_s += 1.0

    bench = make_any_bench(before_run=pass_time, clock=clock)
    terms = {"confidence_threshold": 1.0, "on_deadline": on_deadline}
    if on_deadline is OnDeadline.FAIL:
        with pytest.raises(LateError, match="1 of 1 rows unanswered"):
            ask(bench, 1, deadline_s=101.5, **terms)
    else:
        bench.engine.warm_up()
        late = ask(bench, 1, deadline_s=clock.now_s + 1.5, **terms)
        assert answers(late)[0][1:] == (0, "DEADLINE", 100)
        assert not late.certified
        in_time = ask(bench, 1, deadline_s=clock.now_s + 3.5, **terms)
        assert answers(in_time)[0][1:] == (2, "LAST_STAGE", 1050)
    assert bench.engine.rows_in_flight == 0


def test_each_row_is_timed_to_its_own_exit(make_bench: MakeBench) -> None:
    clock, table = Clock(), random_table()
    table[0, 1], table[:, 2] = (9.0, 0.0, 0.0), 0.0

    def pass_time(_member: int, _rows: int) -> None:
        clock.now_s += 1.0

    bench = make_bench(table=table, before_run=pass_time, clock=clock)
    assert ask(bench, 2, 1).exit_stage_B.tolist() == [2, 0]
    assert bench.watcher.row_s == [3.0, 1.0]
    assert [stage for stage, _ in bench.watcher.gated] == [0, 0, 1, 2]


def test_an_early_answer_is_not_what_was_certified(make_any_bench: MakeBench) -> None:
    clock, table = Clock(), random_table()
    table[:, 2] = 0.0

    def pass_time(_member: int, _rows: int) -> None:
        clock.now_s += 1.0

    bench = make_any_bench(table=table, before_run=pass_time, clock=clock)
    bench.engine.warm_up()
    for seconds, reason in ((1.5, ExitReason.DEADLINE), (9.0, ExitReason.LAST_STAGE)):
        reply = ask(bench, 2, deadline_s=clock.now_s + seconds, on_deadline=OnDeadline.ANSWER)
        assert reply.exit_reason_B.tolist() == [reason]
        assert reply.certified == (reason is ExitReason.LAST_STAGE)


def test_an_early_answer_while_the_next_stage_is_stuck(make_bench: MakeBench) -> None:
    gate = Gate(member=1)
    bench = make_bench(before_run=gate)
    ticket = bench.engine.admit(
        Request(
            images_BHWC=images(9),
            terms=Terms(confidence_threshold=1.0, on_deadline=OnDeadline.ANSWER),
            deadline_s=bench.engine._clock() + 0.5,
        )
    )
    stuck, ends = in_thread(lambda: ask(bench, 1, confidence_threshold=1.0))
    assert gate.entered.wait(30)
    early = ticket.result()
    assert answers(early) == [(by_hand(bench, 9, Terms(max_flops=100))[0], 0, "DEADLINE", 100)]
    gate.opened.set()
    stuck.join(30)
    assert answers(ends[0]) == [by_hand(bench, 1, Terms(confidence_threshold=1.0))]  # type: ignore[arg-type]
    assert bench.engine.drain(30)
    assert bench.engine.rows_in_flight == 0


def test_without_any_stage_done_there_is_no_early_answer(make_bench: MakeBench) -> None:
    gate = Gate(member=1)
    bench = make_bench(before_run=gate)
    stuck, _ends = in_thread(lambda: ask(bench, 1, policy="alone"))
    assert gate.entered.wait(30)
    with pytest.raises(LateError, match="1 of 1 rows unanswered"):
        ask(bench, 9, on_deadline=OnDeadline.ANSWER, deadline_s=bench.engine._clock() + 0.05)
    gate.opened.set()
    stuck.join(30)


def test_an_ensemble_answers_early_with_the_members_that_have_spoken(make_bench: MakeBench) -> None:
    gate = Gate(member=2)

    def others_wait_for_the_stuck_one(member: int, rows: int) -> None:
        gate(member, rows)
        assert gate.entered.wait(30)

    bench = make_bench(before_run=others_wait_for_the_stuck_one, workers=3)
    late = ask(bench, 9, mode=Mode.ENSEMBLE, on_deadline=OnDeadline.ANSWER, deadline_s=bench.engine._clock() + 0.5)
    assert answers(late)[0][1:] == (1, "DEADLINE", 350)
    assert bench.engine.rows_in_flight == 1
    gate.opened.set()
    bench.engine.close()
    assert bench.engine.rows_in_flight == 0


def test_members_of_an_ensemble_run_side_by_side_where_workers_are_free(make_bench: MakeBench) -> None:
    meeting = threading.Barrier(3, timeout=30)

    def meet(_member: int, _rows: int) -> None:
        meeting.wait()

    bench = make_bench(before_run=meet, workers=3)
    assert ask(bench, 1, mode=Mode.ENSEMBLE).flops_B.tolist() == [1050]


def test_draining_finishes_what_was_admitted_and_refuses_the_rest(make_any_bench: MakeBench) -> None:
    gate = Gate(member=0)
    bench = make_any_bench(before_run=gate)
    busy, ends = in_thread(lambda: ask(bench, 1))
    assert gate.entered.wait(30)
    assert not bench.engine.drain(0.01)
    with pytest.raises(UnavailableError, match="stopping"):
        ask(bench, 2)
    gate.opened.set()
    assert bench.engine.drain(30)
    busy.join(30)
    assert isinstance(ends[0], Reply)


def test_closing_fails_what_waits(make_any_bench: MakeBench) -> None:
    gate = Gate(member=0)
    bench = make_any_bench(before_run=gate)
    busy, busy_ends = in_thread(lambda: ask(bench, 1))
    assert gate.entered.wait(30)
    waiting, waiting_ends = in_thread(bench.engine.admit(Request(images_BHWC=images(2))).result)
    closing, _ = in_thread(bench.engine.close)
    waiting.join(30)
    gate.opened.set()
    busy.join(30)
    closing.join(30)
    assert [type(ends[0]) for ends in (busy_ends, waiting_ends)] == [UnavailableError, UnavailableError]
    bench.engine.close()


def test_rows_wait_for_company_up_to_the_delay(make_bench: MakeBench) -> None:
    bench = make_bench(max_queue_delay_s=0.02, max_batch_size=4)
    with ThreadPoolExecutor(4) as threads:
        replies = list(threads.map(lambda value: ask(bench, value, confidence_threshold=0.0), range(4)))
    assert len(replies) == 4
    assert sum(rows for _, rows in bench.runners[0].batches) == 4
    alone = ask(bench, 9, confidence_threshold=0.0)
    assert alone.exit_stage_B.tolist() == [0]
    assert bench.watcher.queue_s[-1] >= 0.02


def two_wait_for_company(make_bench: MakeBench, delay_s: float) -> tuple[Bench, Ticket, Ends, Ends]:
    """A caller's last row waits for company, and another's, who came while the worker was busy, with it."""
    gate = Gate(member=0)
    bench = make_bench(before_run=gate, max_queue_delay_s=delay_s, max_batch_size=4)
    looks = bench.engine.admit(Request(images_BHWC=images(1, 2, 3, 4, 5), terms=Terms(confidence_threshold=0.0)))
    looking = in_thread(looks.result)
    assert gate.entered.wait(30)
    sleeping = in_thread(lambda: ask(bench, 9, confidence_threshold=0.0))
    wait_for(lambda: bench.engine.rows_in_flight == 6)
    gate.opened.set()
    wait_for(lambda: bench.engine.rows_running == 0)
    return bench, looks, looking, sleeping


def test_rows_wait_no_longer_because_the_first_of_them_has_gone(make_bench: MakeBench) -> None:
    _, looks, looking, sleeping = two_wait_for_company(make_bench, 0.3)
    looks.cancel()
    looking[0].join(30)
    sleeping[0].join(30)
    assert [type(ends[0]) for _, ends in (looking, sleeping)] == [AbandonedError, Reply]


def test_rows_wait_no_longer_because_the_first_of_them_is_late(make_bench: MakeBench) -> None:
    gate, clock = Gate(member=0), Clock()
    bench = make_bench(before_run=gate, clock=clock, max_queue_delay_s=0.2, max_batch_size=4)
    going = in_thread(lambda: ask(bench, 1, 2, 3, 4, confidence_threshold=1.0, deadline_s=clock.now_s + 0.2))
    assert gate.entered.wait(30)
    staying = in_thread(lambda: ask(bench, 9, confidence_threshold=0.0))
    wait_for(lambda: bench.engine.rows_in_flight == 5)
    clock.now_s += 1.0
    gate.opened.set()
    staying[0].join(30)
    assert [type(ends[0]) for _, ends in (going, staying)] == [LateError, Reply]


def test_closing_does_not_wait_out_the_delay(make_bench: MakeBench) -> None:
    bench, looks, looking, _ = two_wait_for_company(make_bench, 50.0)
    looks.cancel()
    looking[0].join(30)
    closing, _ends = in_thread(bench.engine.close)
    closing.join(30)
    assert not closing.is_alive()


class Hearer:
    """A caller that hears of tickets."""

    def __init__(self) -> None:
        self.heard: list[Ticket] = []
        self.all_heard: list[int] = []

    def hear(self, tickets: Sequence[Ticket]) -> None:
        self.all_heard.append(len(tickets))
        self.heard += tickets


def test_a_caller_hears_once_of_each_ticket_and_of_a_batch_at_once(make_any_bench: MakeBench) -> None:
    gate, caller = Gate(member=0), Hearer()
    bench = make_any_bench(before_run=gate, max_batch_size=4)
    leaves = Terms(confidence_threshold=0.0)
    first = bench.engine.admit(Request(images_BHWC=images(1), terms=leaves), caller)
    assert gate.entered.wait(30)
    others = [bench.engine.admit(Request(images_BHWC=images(value), terms=leaves), caller) for value in (2, 3, 4)]
    alone = bench.engine.admit(Request(images_BHWC=images(5), terms=leaves))
    assert not caller.heard
    gate.opened.set()
    assert len(alone.result().label_B) == 1
    wait_for(lambda: len(caller.heard) == 4)
    assert caller.heard == [first, *others]
    assert caller.all_heard == [1, 3]
    assert all(ticket.is_closed for ticket in others)
    assert [ticket.result().label_B.shape for ticket in (first, *others)] == [(1,)] * 4


@pytest.mark.parametrize("end", ["cancel", "expire", "close"])
def test_a_caller_hears_of_a_ticket_that_ends_badly(make_any_bench: MakeBench, end: str) -> None:
    clock, gate, caller = Clock(), Gate(member=0), Hearer()
    bench = make_any_bench(before_run=gate, clock=clock)
    busy, _ = in_thread(lambda: ask(bench, 1))
    assert gate.entered.wait(30)
    ticket = bench.engine.admit(Request(images_BHWC=images(2), deadline_s=clock.now_s + 5), caller)
    ticket.expire()
    assert not ticket.is_closed
    closing = None
    if end == "cancel":
        ticket.cancel()
    elif end == "expire":
        clock.now_s = ticket.due_s
        ticket.expire()
    else:
        closing, _ = in_thread(bench.engine.close)
    wait_for(lambda: caller.heard == [ticket])
    with pytest.raises((AbandonedError, LateError, UnavailableError)):
        ticket.result()
    gate.opened.set()
    busy.join(30)
    if closing is not None:
        closing.join(30)
    assert caller.heard == [ticket]


def test_a_caller_hears_of_rows_that_were_late_before_anybody_ran_them(make_any_bench: MakeBench) -> None:
    clock, gate, caller = Clock(), Gate(member=0), Hearer()
    bench = make_any_bench(before_run=gate, clock=clock)
    busy, _ = in_thread(lambda: ask(bench, 1))
    assert gate.entered.wait(30)
    ticket = bench.engine.admit(Request(images_BHWC=images(2), deadline_s=clock.now_s + 5), caller)
    clock.now_s += 6
    gate.opened.set()
    busy.join(30)
    # The worker finds it late as it looks for its next batch, and sleeps after it has told so.
    wait_for(lambda: caller.heard == [ticket])
    with pytest.raises(LateError):
        ticket.result()


class _Interrupting:
    def __setitem__(self, _rows: object, _images_BHWC: ImageArray) -> None:
        raise KeyboardInterrupt


def test_slots_are_not_lost_to_an_interrupt_while_images_are_copied(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench()
    # As large images are: copied without the lock.
    monkeypatch.setattr(committee, "_LIGHT_BYTES", 0)
    assert isinstance(bench.engine, CommitteeEngine)
    with monkeypatch.context() as patch:
        patch.setattr(bench.engine._slab, "images_RHWC", _Interrupting())
        with pytest.raises(KeyboardInterrupt):
            bench.engine.admit(Request(images_BHWC=images(1, 2)))
    assert bench.engine.rows_in_flight == 0
    assert answers(ask(bench, 1, 2)) == [by_hand(bench, value, Terms()) for value in (1, 2)]
    assert bench.engine.drain(30)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a priority is the whole process's")
@pytest.mark.parametrize("niceness", [0, 5])
def test_threads_that_run_members_stand_back(make_bench: MakeBench, niceness: int) -> None:
    seen: set[int] = set()
    meeting = threading.Barrier(3, timeout=30)

    def look(_member: int, _rows: int) -> None:
        # All three at the same time.
        meeting.wait()
        seen.add(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    bench = make_bench(before_run=look, workers=3, worker_niceness=niceness)
    ask(bench, 1, mode=Mode.ENSEMBLE)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert seen == {min(19, own + niceness)}
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own


def test_an_engine_goes_with_its_last_user() -> None:
    bench = make_table_bench()
    assert len(ask(bench, 1).label_B) == 1
    bench.engine.close()
    engine = weakref.ref(bench.engine)
    gc.disable()
    try:
        del bench
        assert engine() is None
    finally:
        gc.enable()


def test_nothing_of_a_batch_or_its_requests_outlives_their_replies(make_bench: MakeBench) -> None:
    bench = make_bench()
    gc.disable()
    try:
        tickets = [bench.engine.admit(Request(images_BHWC=images(value), terms=TERMS[0])) for value in range(6)]
        kept = weakref.WeakSet(tickets)
        replies = [ticket.result() for ticket in tickets]
        del tickets
        assert not kept
    finally:
        gc.enable()
    assert bench.runners[0].batches[0] == (0, 6)
    assert all(reply.probabilities_BK.base is None for reply in replies)


def test_warm_up_runs_every_bucket_of_every_member_on_every_worker(make_bench: MakeBench) -> None:
    bench = make_bench(workers=2, max_batch_size=6, max_queue_rows=6)
    bench.engine.warm_up()
    for runner in bench.runners:
        assert {(member, rows) for member, rows in runner.batches} == {
            (member, rows) for member in range(3) for rows in (1, 2, 4, 6)
        }


def test_a_storm_of_cancellations_and_deadlines_loses_no_row(make_pure_bench: MakeBench) -> None:
    bench = make_pure_bench(workers=2, max_batch_size=4, max_queue_rows=64)
    outcomes: list[str] = []

    def call(index: int) -> None:
        terms = TERMS[index % len(TERMS)]
        deadline_s = bench.engine._clock() + 0.0005 * (index % 7) if index % 3 == 0 else None
        try:
            ticket = bench.engine.admit(
                Request(images_BHWC=images(*range(1 + index % 4)), terms=terms, deadline_s=deadline_s)
            )
            if index % 5 == 0:
                threading.Thread(target=ticket.cancel).start()
            ticket.result()
            outcomes.append("answered")
        except (AbandonedError, LateError, OverloadedError) as error:
            outcomes.append(type(error).__name__)

    with ThreadPoolExecutor(24) as threads:
        list(threads.map(call, range(1500)))
    assert len(outcomes) == 1500
    assert {"answered", "AbandonedError", "LateError"} <= set(outcomes)
    assert bench.engine.drain(30)
    assert bench.engine.rows_in_flight == 0
    assert not bench.engine._scheduler.has_waiting
