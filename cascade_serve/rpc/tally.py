"""Statistics as flat counts, field by field, which several processes' can be added up in."""

from collections.abc import Mapping

from cascade_serve.rpc.stubs import grpc_service_pb2 as pb2

Tally = dict[str, int]
"""Field → count; nanoseconds and numbers add up, and of what begins with ``last_`` the latest counts."""

_PLAIN = ("last_inference", "inference_count", "execution_count")
_DURATIONS = ("success", "fail", "queue", "compute_infer")
_BATCH = "batch"


def tally_key(statistics: pb2.ModelStatistics) -> str:
    """Give under what a cascade's or member's counts are added up: name and version."""
    return f"{statistics.name}:{statistics.version}"


def write_tally(statistics: pb2.ModelStatistics) -> Tally:
    """Take the counts out of a message."""
    tally = {name: int(getattr(statistics, name)) for name in _PLAIN}
    durations = {name: getattr(statistics.inference_stats, name) for name in _DURATIONS}
    durations |= {f"{_BATCH}.{batch.batch_size}": batch.compute_infer for batch in statistics.batch_stats}
    for name, duration in durations.items():
        tally[f"{name}.count"] = int(duration.count)
        tally[f"{name}.ns"] = int(duration.ns)
    return tally


def read_tally(name: str, version: str, tally: Mapping[str, int]) -> pb2.ModelStatistics:
    """Make a message of counts."""
    statistics = pb2.ModelStatistics(name=name, version=version)
    for field in _PLAIN:
        setattr(statistics, field, tally[field])
    for duration in _DURATIONS:
        _fill(getattr(statistics.inference_stats, duration), duration, tally)
    sizes = sorted({int(field.split(".")[1]) for field in tally if field.startswith(f"{_BATCH}.")})
    for size in sizes:
        _fill(statistics.batch_stats.add(batch_size=size).compute_infer, f"{_BATCH}.{size}", tally)
    return statistics


def _fill(duration: pb2.StatisticDuration, field: str, tally: Mapping[str, int]) -> None:
    duration.count = tally[f"{field}.count"]
    duration.ns = tally[f"{field}.ns"]
