"""Counts of requests, by cascade and version, and the statistics call's answer made of them and of the engine's own."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from cascade_serve.counts import Notes
from cascade_serve.engine.protocol import MemberStatistics
from cascade_serve.errors import NotFoundError, UnavailableError
from cascade_serve.rpc.directory import Subject, find, member_name
from cascade_serve.rpc.ports import Repository, Served
from cascade_serve.rpc.stubs import grpc_service_pb2 as pb2


@dataclass(slots=True)
class _Counts:
    """Requests of one version: [number, seconds] answered and failed; rows in a request → the same."""

    rows: int = 0
    last_s: float = 0.0
    answered: list[float] = field(default_factory=lambda: [0, 0.0])
    failed: list[float] = field(default_factory=lambda: [0, 0.0])
    sizes: dict[int, list[float]] = field(default_factory=dict)


class Traffic:
    """Counts requests. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._notes = Notes()
        self._counts: defaultdict[tuple[str, int], _Counts] = defaultdict(_Counts)

    def answered(self, served: Served, rows: int, seconds: float) -> None:
        """Count a request that was answered: its images, and seconds from arrival to answer."""
        self._tell(self._count_answered, (served.name, served.version), rows, seconds, time.time())

    def failed(self, served: Served, seconds: float) -> None:
        """Count a request that failed."""
        self._tell(self._count_failed, (served.name, served.version), seconds)

    def _tell(self, count: Callable[..., None], *what: object) -> None:
        if self._notes.tell(count, *what):
            with self._lock:
                self._notes.count()

    def _count_answered(self, key: tuple[str, int], rows: int, seconds: float, now_s: float) -> None:
        counts = self._counts[key]
        counts.rows += rows
        counts.last_s = now_s
        _tally(counts.answered, seconds)
        _tally(counts.sizes.setdefault(rows, [0, 0.0]), seconds)

    def _count_failed(self, key: tuple[str, int], seconds: float) -> None:
        _tally(self._counts[key].failed, seconds)

    def statistics(self, subject: Subject) -> pb2.ModelStatistics:
        """Give the statistics of a cascade or a member since its version was loaded."""
        members = subject.served.engine.statistics()
        if subject.member is not None:
            return _member_statistics(subject.served, subject.member.name, members[subject.member.name])
        served = subject.served
        with self._lock:
            self._notes.count()
            return _cascade_statistics(served, self._counts[served.name, served.version], list(members.values()))

    def all_statistics(self, repository: Repository) -> list[pb2.ModelStatistics]:
        """Give the statistics of every cascade that answers, each followed by its members'."""
        statistics: list[pb2.ModelStatistics] = []
        for cascade in sorted({entry.name for entry in repository.index() if entry.state == "READY"}):
            # It may leave at this moment.
            with suppress(NotFoundError, UnavailableError), find(repository, cascade, "") as subject:
                members = subject.served.bundle.plan.members
                subjects = [subject, *(Subject(subject.served, member) for member in members)]
                statistics += [self.statistics(one) for one in subjects]
        return statistics


def _cascade_statistics(served: Served, counts: _Counts, members: list[MemberStatistics]) -> pb2.ModelStatistics:
    message = pb2.ModelStatistics(
        name=served.name,
        version=str(served.version),
        last_inference=round(counts.last_s * 1e3),
        inference_count=counts.rows,
        execution_count=int(counts.answered[0]),
    )
    _set(message.inference_stats.success, *counts.answered)
    _set(message.inference_stats.fail, *counts.failed)
    _set(message.inference_stats.queue, counts.answered[0], sum(member.queue_s for member in members))
    _set(message.inference_stats.compute_infer, counts.answered[0], sum(member.compute_s for member in members))
    for size, tally in sorted(counts.sizes.items()):
        _set(message.batch_stats.add(batch_size=size).compute_infer, *tally)
    return message


def _member_statistics(served: Served, name: str, counts: MemberStatistics) -> pb2.ModelStatistics:
    message = pb2.ModelStatistics(
        name=member_name(served, name),
        version=str(served.version),
        last_inference=round(counts.last_run_s * 1e3),
        inference_count=counts.rows,
        execution_count=counts.batches,
    )
    _set(message.inference_stats.success, counts.rows, counts.queue_s + counts.compute_s)
    _set(message.inference_stats.fail, counts.failures, 0)
    _set(message.inference_stats.queue, counts.rows, counts.queue_s)
    _set(message.inference_stats.compute_infer, counts.batches, counts.compute_s)
    for size, (runs, seconds) in sorted(counts.batch_sizes.items()):
        _set(message.batch_stats.add(batch_size=size).compute_infer, runs, seconds)
    return message


def _tally(tally: list[float], seconds: float) -> None:
    tally[0] += 1
    tally[1] += seconds


def _set(duration: pb2.StatisticDuration, count: float, seconds: float) -> None:
    duration.count = int(count)
    duration.ns = round(seconds * 1e9)
