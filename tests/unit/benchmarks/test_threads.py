"""What the benchmark of threads reads and says."""

import os
import sys

import pytest

from benchmarks.threads import Run, Use, kind_of, read_uses, table


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what each thread has had")
def test_a_busy_process_has_had_a_processor() -> None:
    kind, use = read_uses([os.getpid()])[os.getpid(), str(os.getpid())]
    assert kind
    assert use.cpu_s > 0
    assert use.turns > 0


@pytest.mark.parametrize(
    ("comm", "word"),
    [("worker", "members"), ("rpc", "loop"), ("python3.11", "poller"), ("event_engine", "core")],
)
def test_threads_are_told_apart_by_their_names(comm: str, word: str) -> None:
    assert word in kind_of(comm)


def test_the_table_has_medians_and_the_busiest_first() -> None:
    runs = [
        Run(images_per_s=100.0, uses={"few": Use(0.001, 0.002, 3.0), "many": Use(cpu_s, 0.0, 1.0)})
        for cpu_s in (0.004, 0.002, 0.009)
    ]
    assert table(runs).splitlines()[2:] == ["| many | 4.00 | 0.00 | 1.0 |", "| few | 1.00 | 2.00 | 3.0 |"]
