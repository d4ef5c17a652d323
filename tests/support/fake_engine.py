"""A plan, images for it, and a small deterministic engine that tests of the wire can hold, fail and watch."""
# Shapes: B rows, K classes, HWC image.

import math
import threading
import time
from dataclasses import dataclass

import numpy as np

from cascade_serve.bundle import Bundle
from cascade_serve.core.arrays import FloatArray, ImageArray
from cascade_serve.core.combine import Combine, include, member_score, probabilities
from cascade_serve.core.confidence import Confidence, confidence
from cascade_serve.core.plan import Certificate, Fingerprint, Member, Plan, Policy, Promise, Stage, Task
from cascade_serve.core.request import ExitReason, Reply, Request
from cascade_serve.core.route import Route, make_route
from cascade_serve.engine.committee import CommitteeEngine
from cascade_serve.engine.protocol import Caller, Engine, EngineConfig, MemberStatistics, Observer
from cascade_serve.errors import AbandonedError, LateError, OverloadedError, UnavailableError

CASCADE = "pets"
CLASSES = ("cat", "dog", "fjällräv")
MEMBERS = {"small": 1_000_000, "medium": 4_000_000, "large": 16_000_000}


def _policy(name: str, *stages: Stage, certificate: Certificate | None = None) -> Policy:
    worst = sum(MEMBERS[stage.member] for stage in stages)
    return Policy(name=name, stages=stages, worst_case_flops=worst, expected_flops=worst / 2, certificate=certificate)


def make_plan(files: dict[str, str]) -> Plan:
    certificate = Certificate(
        promise=Promise.MAX_REGRET,
        bound=0.005,
        level=0.95,
        lower_bound=-0.003,
        n=1000,
        reference="large",
        data_sha256="ab" * 32,
    )
    policies = (
        _policy(
            "default",
            Stage(member="small", threshold=0.9),
            Stage(member="medium", threshold=0.8),
            Stage(member="large"),
            certificate=certificate,
        ),
        _policy("fast", Stage(member="small", threshold=0.6), Stage(member="medium")),
        _policy("accurate", Stage(member="large")),
    )
    return Plan(
        task=Task(height=4, width=5, channels=3, classes=CLASSES),
        members=tuple(Member(name=name, flops=flops, files=files) for name, flops in MEMBERS.items()),
        combine=Combine.MEAN_PROBS,
        confidence=Confidence.MAX_PROB,
        policies={policy.name: policy for policy in policies},
        reference="large",
    )


def image_of(label: int, sureness: int) -> ImageArray:
    """Make an image that the fake members call ``label``, the surer the greater ``sureness`` (0 to 255) is."""
    image_HWC = np.zeros((4, 5, 3), dtype=np.uint8)
    image_HWC[..., 0] = label
    image_HWC[..., 1] = sureness
    return image_HWC


@dataclass(eq=False)
class FakeTicket:
    """Answers at once, or once released, unless it is cancelled or late before."""

    engine: "FakeEngine"
    request: Request
    route: Route
    caller: Caller | None
    is_closed: bool = False
    is_cancelled: bool = False
    is_late: bool = False

    @property
    def due_s(self) -> float:
        return math.inf if self.request.deadline_s is None else self.request.deadline_s

    def close(self) -> None:
        with self.engine.changed:
            if not self.is_closed:
                self.is_closed = True
                self.engine.changed.notify_all()
                if self.caller is not None:
                    self.caller.hear([self])

    def result(self) -> Reply:
        engine = self.engine
        with engine.changed:
            engine.changed.wait_for(lambda: self.is_closed)
            engine.tickets.remove(self)
            engine.changed.notify_all()
            if self.is_cancelled:
                raise AbandonedError("the caller has gone")
            if engine.is_closed:
                raise UnavailableError("the engine was closed")
            if self.is_late:
                raise LateError("the deadline passed")
        if engine.failure is not None:
            raise engine.failure
        return engine.answer(self.request, self.route)

    def expire(self) -> None:
        if not self.is_closed and time.monotonic() >= self.due_s:
            self.is_late = True
            self.close()

    def cancel(self) -> None:
        with self.engine.changed:
            self.is_cancelled = not self.is_closed
            self.engine.num_cancelled += 1
            self.engine.changed.notify_all()
        self.close()


def fake_logits(member: int, images_BHWC: ImageArray) -> FloatArray:
    """Give a member's logits: for the image's label ``sureness / 255 * 4 * (member + 1)``, else 0."""
    logits_BK = np.zeros((len(images_BHWC), len(CLASSES)), dtype=np.float32)
    labels_B = images_BHWC[:, 0, 0, 0] % len(CLASSES)
    logits_BK[np.arange(len(labels_B)), labels_B] = images_BHWC[:, 0, 0, 1] / np.float32(255) * 4 * (member + 1)
    return logits_BK


class FakeRunner:
    """Computes the fake members' logits for the real engine."""

    def run(self, member: int, images_BHWC: ImageArray) -> FloatArray:
        return fake_logits(member, images_BHWC)


def open_committee(bundle: Bundle, observer: Observer) -> CommitteeEngine:
    """Make the real engine over the fake members."""
    config = EngineConfig(workers=2, max_batch_size=8, max_queue_rows=64)
    fingerprint = Fingerprint(engine="fake", precision="fp32")
    runners = [FakeRunner() for _ in range(config.workers)]
    return CommitteeEngine(bundle.plan, runners, config=config, fingerprint=fingerprint, observer=observer)


class FakeEngine:
    """A deterministic engine that answers row by row, and can be held, slowed and made to fail."""

    def __init__(self, bundle: Bundle, observer: Observer) -> None:
        self.plan = bundle.plan
        self.config = EngineConfig(max_batch_size=8, max_queue_rows=64)
        self.fingerprint = Fingerprint(engine="fake", precision="fp32")
        self.observer = observer
        self.changed = threading.Condition()
        self.is_released = True
        self.is_closed = False
        self.failure: Exception | None = None
        self.fault = ""
        self.pause_s = 0.0
        self.num_cancelled = 0
        self.tickets: list[FakeTicket] = []
        self.rows = dict.fromkeys(MEMBERS, 0)

    @property
    def rows_in_flight(self) -> int:
        return sum(len(ticket.request.images_BHWC) for ticket in self.tickets)

    @property
    def rows_running(self) -> int:
        return 0 if self.is_released else 1

    def admit(self, request: Request, caller: Caller | None = None) -> FakeTicket:
        route = make_route(self.plan, request.terms)
        if request.deadline_s is not None and request.deadline_s <= time.monotonic():
            raise LateError(f"the deadline passed {time.monotonic() - request.deadline_s:.3f} s before admission")
        ticket = FakeTicket(self, request, route, caller)
        with self.changed:
            if self.is_closed:
                raise UnavailableError("the engine is draining")
            if self.rows_in_flight + len(request.images_BHWC) > self.config.max_queue_rows:
                raise OverloadedError(f"{self.config.max_queue_rows} rows are in flight")
            self.tickets.append(ticket)
            self.changed.notify_all()
            if self.is_released:
                self._finish(ticket)
        return ticket

    def _finish(self, ticket: FakeTicket) -> None:
        if self.pause_s:
            # The time that this engine takes for a request.
            threading.Timer(self.pause_s, ticket.close).start()
        else:
            ticket.close()

    def answer(self, request: Request, route: Route) -> Reply:
        rows = [self._answer_row(image_HWC, route) for image_HWC in request.images_BHWC]
        probabilities_BK = np.stack([row[0] for row in rows])
        confidence_B = confidence(self.plan.confidence, probabilities_BK)
        stage_B = np.array([row[1] for row in rows])
        reply = Reply(
            probabilities_BK=probabilities_BK,
            label_B=probabilities_BK.argmax(axis=1),
            confidence_B=confidence_B,
            exit_stage_B=stage_B,
            exit_reason_B=np.array([row[2] for row in rows], dtype=np.uint8),
            flops_B=np.cumsum(route.flops)[stage_B],
            policy=route.policy,
            certified=route.is_certified,
        )
        self.observer.rows_gated(stage_B.tolist(), confidence_B.tolist())
        self.observer.request_answered(reply, [0.001] * len(rows))
        return reply

    def _answer_row(self, image_HWC: ImageArray, route: Route) -> tuple[FloatArray, int, ExitReason]:
        sum_BK, count_B = np.zeros((1, len(CLASSES)), dtype=np.float32), np.zeros(1, dtype=np.int64)
        for stage, member in enumerate(route.members):
            logits_BK = fake_logits(member, image_HWC[None])
            score_BK = member_score(self.plan.combine, logits_BK, 1.0)
            sum_BK, count_B = include(self.plan.combine, sum_BK, count_B, score_BK, np.ones(1, dtype=np.bool_))
            mean_BK = probabilities(self.plan.combine, sum_BK, count_B)
            self.rows[self.plan.members[member].name] += 1
            self.observer.batch_ran(self.plan.members[member].name, [0.0002], 0.0005)
            is_sure = confidence(self.plan.confidence, mean_BK)[0] >= route.thresholds[stage]
            if is_sure or stage == len(route.members) - 1:
                return mean_BK[0], stage, ExitReason.CONFIDENT if is_sure else route.last_reason
        raise AssertionError("the last stage answers")

    def warm_up(self) -> None:
        pass

    def statistics(self) -> dict[str, MemberStatistics]:
        return {
            name: MemberStatistics(
                rows=rows,
                batches=rows,
                queue_s=rows * 0.0002,
                compute_s=rows * 0.0005,
                batch_sizes={1: (rows, rows * 0.0005)} if rows else {},
                last_run_s=1e9 if rows else 0.0,
            )
            for name, rows in self.rows.items()
        }

    def drain(self, timeout_s: float) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: not self.tickets, timeout_s)

    def close(self) -> None:
        with self.changed:
            self.is_closed = True
            for ticket in tuple(self.tickets):
                ticket.close()

    def hold(self) -> None:
        """Answer nothing until :meth:`release`."""
        self.is_released = False

    def release(self) -> None:
        with self.changed:
            self.is_released = True
            for ticket in tuple(self.tickets):
                self._finish(ticket)

    def wait_for_tickets(self, count: int) -> None:
        """Wait until so many requests are in the engine."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.tickets) == count, 20)


def as_fake(engine: Engine) -> FakeEngine:
    """Give an engine that can be held; a test that asks is run on no other."""
    assert isinstance(engine, FakeEngine)
    return engine
