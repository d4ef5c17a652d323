"""What the benchmark of a request's phases notes and says, on hand-worked lives and on a server."""

import argparse
from pathlib import Path

import numpy as np
import pytest
from onnx_bundle import IMAGE_SHAPE, write_linear_bundle

from benchmarks.own_process import serve_here
from benchmarks.phases import POINTS, TO_HANDLER, WOKEN, Life, Seen, Witness, join, measure, table
from cascade_serve.engine.protocol import EngineConfig

LIFE = Life(
    begun_s=1.0,
    admitted_s=2.0,
    batches=[(4.0, 8.0, 16.0, 3), (32.0, 64.0, 128.0, 1)],
    closed_s=256.0,
    woken_s=512.0,
    left_s=1024.0,
)


def test_a_life_is_divided_without_a_gap() -> None:
    phases = LIFE.phases(due_s=0.0, done_s=2048.0)
    assert list(phases.values()) == [1.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0]
    assert phases[TO_HANDLER] == 1.0
    assert phases["waits for stage 2"] == 16.0
    assert phases[WOKEN] == 256.0


def test_what_server_and_callers_noted_is_joined_by_id() -> None:
    lives = {"7": LIFE, "a warm-up": LIFE}
    seen = join(lives, {"7": (0.5, 2048.5)})
    assert [(one.latency_s, one.rows) for one in seen] == [(2048.0, [3, 1])]
    assert sum(seen[0].phases.values()) == 2048.0


def test_the_table_has_means_of_all_and_of_the_slow() -> None:
    quick = [Seen(0.001 * rank, {"a": 0.001 * rank}, [4]) for rank in range(1, 100)]
    slow = Seen(1.0, {"a": 0.4, "b": 0.6}, [2, 1])
    lines = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in table([slow, *quick]).splitlines()}
    assert lines["a"] == ["53.50", "50.50", "125.50", "400.00 |"]
    assert lines["b"] == ["6.00", "0.00", "60.00", "600.00 |"]
    assert lines["**latency**"] == ["59.50", "50.50", "185.50", "1000.00 |"]
    assert lines["rows of a batch"] == ["3.98", "4.00", "3.75", "1.50 |"]
    assert lines["went on, %"] == ["1.00", "0.00", "10.00", "100.00 |"]
    assert lines["requests"] == ["100", "10", "10", "1 |"]


@pytest.mark.parametrize("rate", [None, 200.0], ids=["closed loop", "open loop"])
def test_every_answered_request_has_a_life_and_its_phases_add_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float | None
) -> None:
    for place, name in POINTS:
        monkeypatch.setattr(place, name, getattr(place, name))
    write_linear_bundle(tmp_path / "repository/pets/1", tmp_path / "sources")
    images_NHWC = np.random.default_rng(0).integers(0, 256, (50, *IMAGE_SHAPE), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images_NHWC)
    witness = Witness()
    witness.watch()
    options = argparse.Namespace(
        model="pets", images=tmp_path / "images.npy", concurrency=4, rate=rate, seconds=0.5, seed=0
    )
    with serve_here(tmp_path / "repository", EngineConfig()) as server:
        seen = measure(witness, server, options)
    assert len(seen) > 5
    for one in seen:
        assert sum(one.phases.values()) == pytest.approx(one.latency_s, abs=1e-6)
        assert min(one.phases.values()) > -1e-3
        assert 1 <= len(one.rows) <= 3
