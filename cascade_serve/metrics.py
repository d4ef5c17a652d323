"""Every metric of the server, declared in one table and kept in plain counts that a scrape turns into families.

What is told is noted down, and counted some hundred notes at a time or at a scrape: a loop over notes runs from warm
caches, while the same lines run once between two networks cost several times as much.
"""
# Shapes: B rows.

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from math import isfinite
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from cascade_serve.core.plan import Plan, Policy
from cascade_serve.core.request import ExitReason, Reply
from cascade_serve.counts import Histogram, Notes
from cascade_serve.errors import ConfigError

UNKNOWN = "(unknown)"
"""Label of a cascade or policy that a caller named and nobody serves: callers must not make label values."""

# From 100 µs, where a small member on one core begins, to a minute.
SECONDS_BUCKETS = (
    *(1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
ROWS_BUCKETS = tuple(float(1 << power) for power in range(11))
SHARE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)

_HISTOGRAMS = {
    "cascade_request_duration_seconds": (
        "Seconds from a request's arrival to its answer or error; outcome is the gRPC status.",
        ("cascade", "policy", "outcome"),
    ),
    "cascade_row_duration_seconds": ("Seconds from an image's admission to its exit.", ("cascade", "stage")),
    "cascade_queue_seconds": ("Seconds that an image waited for a member.", ("cascade", "member")),
    "cascade_compute_seconds": ("Seconds of one run of a member over a batch.", ("cascade", "member")),
    "cascade_batch_rows": ("Images in one run of a member.", ("cascade", "member")),
    "cascade_confidence": ("Confidence of images at the gate of a stage, exits and deferrals.", ("cascade", "stage")),
}
_COUNTERS = {
    "cascade_exits": ("Images answered, by the stage (0-based) and the reason.", ("cascade", "stage", "reason")),
    "cascade_flops": ("FLOPs spent on the images answered: the sum over all replies.", ("cascade", "policy")),
    "cascade_baseline_flops": (
        "FLOPs that the same images would have cost by the policy's last member alone, or by its full committee.",
        ("cascade", "policy", "baseline"),
    ),
    "cascade_rejections": ("Requests refused before any work, by reason.", ("cascade", "reason")),
}
_GAUGES = {
    "cascade_rows_in_flight": ("Images in the engine, waiting for a member or running.", ("cascade", "state")),
    "cascade_bundle_version": ("Version of the bundle being served.", ("cascade",)),
}

_Families = Mapping[str, Metric]


class _MemberSeries:
    """What is counted of one member."""

    def __init__(self) -> None:
        self.queue = Histogram(SECONDS_BUCKETS)
        self.compute = Histogram(SECONDS_BUCKETS)
        self.batch_rows = Histogram(ROWS_BUCKETS)


class _PolicySeries:
    """FLOPs under one policy: spent, and what the two baselines would have spent."""

    def __init__(self) -> None:
        self.spent = self.last_member = self.committee = 0


class _CascadeSeries:
    """All that is counted of one cascade, over all versions of it that were served."""

    def __init__(self, cascade: str) -> None:
        self.lock = threading.Lock()
        self.version: int | None = None
        self.rows: dict[str, Callable[[], int]] = {}
        self.members: dict[str, _MemberSeries] = {}
        self.policies: dict[str, _PolicySeries] = {}
        self.row_duration = Histogram(SECONDS_BUCKETS, groups=0)
        self.confidence = Histogram(SHARE_BUCKETS, groups=0)
        self.exits: list[list[int]] = []
        self._notes = Notes()
        self._cascade = cascade

    def tell(self, count: Callable[..., None], *what: object) -> None:
        """Have ``count`` called with ``what``, under the lock, before the next scrape."""
        if self._notes.tell(count, *what):
            with self.lock:
                self._notes.count()

    def adopt(self, plan: Plan) -> None:
        """Make room for a plan's members, policies and stages; counts so far are kept."""
        stages = max(len(policy.stages) for policy in plan.policies.values())
        with self.lock:
            for member in plan.members:
                self.members.setdefault(member.name, _MemberSeries())
            for policy in plan.policies:
                self.policies.setdefault(policy, _PolicySeries())
            self.row_duration.grow(stages)
            self.confidence.grow(stages)
            self.exits.extend([0] * len(ExitReason) for _ in range(len(self.exits), stages))

    def write(self, families: _Families) -> None:
        """Add all samples of this cascade."""
        with self.lock:
            self._notes.count()
            self._write_stages(families)
            self._write_members(families)
            self._write_policies(families)
        if self.version is not None:
            _add(families["cascade_bundle_version"], (self._cascade,), self.version)
        for state, count in self.rows.items():
            _add(families["cascade_rows_in_flight"], (self._cascade, state), count())

    def _write_stages(self, families: _Families) -> None:
        for stage, exits in enumerate(self.exits):
            self.row_duration.write(families["cascade_row_duration_seconds"], self._cascade, str(stage), group=stage)
            self.confidence.write(families["cascade_confidence"], self._cascade, str(stage), group=stage)
            for reason in ExitReason:
                _add(families["cascade_exits"], (self._cascade, str(stage), reason.name), exits[reason])

    def _write_members(self, families: _Families) -> None:
        for name, member in self.members.items():
            member.queue.write(families["cascade_queue_seconds"], self._cascade, name)
            member.compute.write(families["cascade_compute_seconds"], self._cascade, name)
            member.batch_rows.write(families["cascade_batch_rows"], self._cascade, name)

    def _write_policies(self, families: _Families) -> None:
        for name, policy in self.policies.items():
            _add(families["cascade_flops"], (self._cascade, name), policy.spent)
            baselines = families["cascade_baseline_flops"]
            _add(baselines, (self._cascade, name, "last_member"), policy.last_member)
            _add(baselines, (self._cascade, name, "committee"), policy.committee)


def _add(family: Metric, labels: Sequence[str], value: float) -> None:
    assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
    family.add_metric(labels, value)


class CascadeObserver:
    """Watches one engine; an :class:`~cascade_serve.engine.protocol.Observer`."""

    def __init__(self, series: _CascadeSeries, plan: Plan) -> None:
        self._series = series
        self._members = {member.name: series.members[member.name] for member in plan.members}
        costs = {member.name: member.flops for member in plan.members}
        self._policies = {
            name: (series.policies[name], *_baselines(plan.policies[name], costs)) for name in plan.policies
        }

    def batch_ran(self, member: str, queue_s_B: Sequence[float], compute_s: float) -> None:
        """Count a member's run over a batch."""
        self._series.tell(_count_batch, self._members[member], queue_s_B, compute_s)

    def rows_gated(self, stage_B: Sequence[int], confidence_B: Sequence[float]) -> None:
        """Count confidences at gates; a row without a finite one is left out."""
        self._series.tell(self._count_gated, stage_B, confidence_B)

    def request_answered(self, reply: Reply, row_s_B: Sequence[float]) -> None:
        """Count a reply's exits, durations and FLOPs."""
        self._series.tell(self._count_answered, reply, row_s_B)

    def _count_gated(self, stage_B: Sequence[int], confidence_B: Sequence[float]) -> None:
        if not all(map(isfinite, confidence_B)):
            stage_B = [stage for value, stage in zip(confidence_B, stage_B, strict=True) if isfinite(value)]
            confidence_B = [value for value in confidence_B if isfinite(value)]
        self._series.confidence.observe_rows(confidence_B, stage_B)

    def _count_answered(self, reply: Reply, row_s_B: Sequence[float]) -> None:
        policy, last_member, committee = self._policies[reply.policy]
        rows, series, stages = len(row_s_B), self._series, reply.exit_stage_B.tolist()
        for stage, reason in zip(stages, reply.exit_reason_B.tolist(), strict=True):
            series.exits[stage][reason] += 1
        series.row_duration.observe_rows(row_s_B, stages)
        policy.spent += sum(reply.flops_B.tolist())
        policy.last_member += rows * last_member
        policy.committee += rows * committee


def _count_batch(series: _MemberSeries, queue_s_B: Sequence[float], compute_s: float) -> None:
    series.queue.observe_rows(queue_s_B, repeat(0))
    series.compute.observe(compute_s)
    series.batch_rows.observe(len(queue_s_B))


def _baselines(policy: Policy, costs: Mapping[str, int]) -> tuple[int, int]:
    """Give what one image costs without a cascade: the last member alone, and all stages."""
    return costs[policy.stages[-1].member], policy.worst_case_flops


class Metrics(Collector):
    """The metrics of one process.

    Args:
        registry: where they are scraped from; several may live in one process.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._lock = threading.Lock()
        self._notes = Notes()
        self._cascades: dict[str, _CascadeSeries] = {}
        self._requests: dict[tuple[str, str, str], Histogram] = {}
        self._rejections: dict[tuple[str, str], int] = {}
        registry.register(self)

    def observer(self, cascade: str, plan: Plan) -> CascadeObserver:
        """Make the observer of an engine that serves this plan; versions of one cascade share their series."""
        series = self._series(cascade)
        series.adopt(plan)
        return CascadeObserver(series, plan)

    def set_version(self, cascade: str, version: int) -> None:
        """Say which version of a cascade is served from now on."""
        self._series(cascade).version = version

    def track_rows(self, cascade: str, counts: Mapping[str, Callable[[], int]]) -> None:
        """Say where rows in flight are counted.

        Args:
            cascade: its name.
            counts: ``waiting`` and ``running`` → a function that gives the rows at a scrape. It replaces what was
                tracked for the cascade before.
        """
        self._series(cascade).rows = dict(counts)

    def request_finished(self, cascade: str, policy: str, outcome: str, seconds: float) -> None:
        """Count a request.

        Args:
            cascade: its name, or :data:`UNKNOWN`.
            policy: one of the plan's, or :data:`UNKNOWN`.
            outcome: name of the gRPC status, such as ``OK``.
            seconds: from arrival to answer or error.
        """
        if self._notes.tell(self._count_request, (cascade, policy, outcome), seconds):
            with self._lock:
                self._notes.count()

    def _count_request(self, labels: tuple[str, str, str], seconds: float) -> None:
        histogram = self._requests.get(labels)
        if histogram is None:
            histogram = self._requests[labels] = Histogram(SECONDS_BUCKETS)
        histogram.observe(seconds)

    def request_refused(self, cascade: str, reason: str) -> None:
        """Count a request that was refused before any work; ``reason`` is from a closed set."""
        with self._lock:
            self._rejections[cascade, reason] = self._rejections.get((cascade, reason), 0) + 1

    def remove(self, cascade: str) -> None:
        """Forget an unloaded cascade: its series leave the next scrape."""
        with self._lock:
            self._notes.count()
            self._cascades.pop(cascade, None)
            self._requests = {key: value for key, value in self._requests.items() if key[0] != cascade}
            self._rejections = {key: value for key, value in self._rejections.items() if key[0] != cascade}

    def describe(self) -> Iterable[Metric]:
        """Name the families without reading a count."""
        return empty_families().values()

    def collect(self) -> Iterable[Metric]:
        """Give all families with their samples, for a scrape."""
        families = empty_families()
        with self._lock:
            self._notes.count()
            for labels, histogram in self._requests.items():
                histogram.write(families["cascade_request_duration_seconds"], *labels)
            for labels_, count in self._rejections.items():
                _add(families["cascade_rejections"], labels_, count)
            cascades = list(self._cascades.values())
        for series in cascades:
            series.write(families)
        return families.values()

    def _series(self, cascade: str) -> _CascadeSeries:
        with self._lock:
            return self._cascades.setdefault(cascade, _CascadeSeries(cascade))


def empty_families() -> dict[str, Metric]:
    """Give every family of one process by its name, without samples."""
    families: dict[str, Metric] = {}
    for kind, table in (
        (HistogramMetricFamily, _HISTOGRAMS),
        (CounterMetricFamily, _COUNTERS),
        (GaugeMetricFamily, _GAUGES),
    ):
        families.update({name: kind(name, text, labels=labels) for name, (text, labels) in table.items()})
    return families


def process_families(answering: int, restarts: int) -> list[Metric]:
    """Give the families that only the parent of several front-end processes has.

    Args:
        answering: processes that take requests.
        restarts: how often a process that had ended was started anew.
    """
    return [
        GaugeMetricFamily("cascade_processes", "Front-end processes that take requests.", value=answering),
        CounterMetricFamily("cascade_process_restarts", "Processes that ended and were started anew.", value=restarts),
    ]


class MetricsServer:
    """Answers scrapes over HTTP until closed.

    Args:
        registry: what is scraped.
        host: address to listen on.
        port: 0 takes a free one; see :attr:`port`.

    Raises:
        ConfigError: the address can't be listened on.
    """

    def __init__(self, registry: CollectorRegistry, *, host: str = "127.0.0.1", port: int = 0) -> None:
        try:
            self._server, self._thread = start_http_server(port, addr=host, registry=registry)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"metrics address {host}:{port}: {error}") from error

    @property
    def port(self) -> int:
        """The port being listened on."""
        return self._server.server_port

    def close(self) -> None:
        """Stop listening. May be called twice."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
