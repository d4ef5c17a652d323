"""Graphs, streams and pinned buffers, with a stand-in for CUDA; and, where there is a device, with itself."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import stand_in_cuda
import torch
from table_committee import Watcher, make_plan, random_table
from torch_committee import make_table_step, make_torch_bench

from cascade_serve.core.arrays import FloatArray
from cascade_serve.core.plan import Fingerprint, Plan
from cascade_serve.core.request import Reply, Request, Terms
from cascade_serve.engine.cuda.engine import DeviceEngine
from cascade_serve.engine.cuda.graphs import CudaExecutor, runs_of
from cascade_serve.engine.protocol import EngineConfig
from cascade_serve.errors import ConfigError, MemberError

CONFIG = EngineConfig(workers=2, max_batch_size=8, max_queue_rows=64)


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> stand_in_cuda.StandIn:
    return stand_in_cuda.install(monkeypatch)


@pytest.fixture
def engine(house: stand_in_cuda.StandIn) -> Iterator[DeviceEngine]:
    plan = make_plan()
    step = make_table_step(plan, random_table(), torch.device("cpu"), CONFIG.max_queue_rows)
    executor = CudaExecutor(step, CONFIG.workers, CONFIG.batch_buckets, torch.device("cuda", 0))
    made = make_engine(plan, executor)
    yield made
    made.close()


def make_engine(plan: Plan, executor: CudaExecutor) -> DeviceEngine:
    fingerprint = Fingerprint(engine="torch", precision="fp32")
    return DeviceEngine(plan, executor, config=CONFIG, fingerprint=fingerprint, observer=Watcher())


def rows(*values: int, **terms: float) -> Request:
    images_BHWC = np.array(values, dtype=np.uint8).reshape(-1, 1, 1, 1)
    return Request(images_BHWC=images_BHWC, terms=Terms(**terms))  # type: ignore[arg-type]


def check_same(got: Reply, wanted: Reply) -> None:
    np.testing.assert_array_equal(got.exit_stage_B, wanted.exit_stage_B)
    np.testing.assert_array_equal(got.exit_reason_B, wanted.exit_reason_B)
    np.testing.assert_array_equal(got.label_B, wanted.label_B)
    np.testing.assert_array_equal(got.flops_B, wanted.flops_B)
    np.testing.assert_allclose(got.probabilities_BK, wanted.probabilities_BK, atol=1e-6)


def test_every_member_and_bucket_is_captured_on_every_lane_from_large_to_small(
    house: stand_in_cuda.StandIn, engine: DeviceEngine
) -> None:
    engine.warm_up()
    captures = [entry for entry in house.log if entry[0] == "capture"]
    assert len(captures) == CONFIG.workers * 3 * len(CONFIG.batch_buckets)
    # A lane's graphs share its stream and its pool, and no other lane's.
    assert len({entry[1] for entry in captures}) == len({entry[2] for entry in captures}) == CONFIG.workers


def test_nothing_is_captured_at_sizes_that_no_batch_will_have(house: stand_in_cuda.StandIn) -> None:
    plan = make_plan()
    small = replace(plan.members[0], seconds={1: 1.0, 2: 0.6, 4: 0.6, 8: 0.6})
    plan = replace(plan, members=(small, *plan.members[1:]))
    step = make_table_step(plan, random_table(), torch.device("cpu"), CONFIG.max_queue_rows)
    made = make_engine(plan, CudaExecutor(step, CONFIG.workers, CONFIG.batch_buckets, torch.device("cuda", 0)))
    made.warm_up()
    captures = [entry for entry in house.log if entry[0] == "capture"]
    assert len(captures) == CONFIG.workers * (2 + 2 * len(CONFIG.batch_buckets))
    assert made.admit(rows(*range(30), confidence_threshold=0.9)).result().label_B.shape == (30,)
    made.close()


@pytest.mark.usefixtures("house")
def test_engines_never_share_a_stream_however_often_one_is_loaded_anew() -> None:
    """A capture on a stream that another engine launches on would record its batches."""
    step = make_table_step(make_plan(), random_table(), torch.device("cpu"), CONFIG.max_queue_rows)

    def load() -> CudaExecutor:
        return CudaExecutor(step, CONFIG.workers, CONFIG.batch_buckets, torch.device("cuda", 0))

    serving = load()
    own = {serving._uploads, *(lane._stream for lane in serving.lanes)}
    assert len(own) == 3
    for _ in range(40):
        fresh = load()
        assert own.isdisjoint({fresh._uploads, *(lane._stream for lane in fresh.lanes)})
        fresh.close()
    crowd = [load() for _ in range(9)]
    with pytest.raises(ConfigError, match=r"workers: no stream is left on cuda:0: .* have 32 together"):
        load()
    crowd.pop().close()
    for executor in (load(), *crowd, serving):
        executor.close()


def test_a_member_that_can_not_be_captured_fails_the_warm_up_by_name_with_what_broke_it(
    house: stand_in_cuda.StandIn,
) -> None:
    """CUDA ends a broken capture with an error of its own, which stands before the one that tells why."""
    can_capture = False

    def wait_for_the_device(member: int, _rows: int) -> None:
        if member == 1 and house.capturing is not None and not can_capture:
            raise RuntimeError("operation not permitted when stream is capturing")

    plan = make_plan()
    step = make_table_step(
        plan, random_table(), torch.device("cpu"), CONFIG.max_queue_rows, before_run=wait_for_the_device
    )
    made = make_engine(plan, CudaExecutor(step, CONFIG.workers, CONFIG.batch_buckets, torch.device("cuda", 0)))
    message = "^member 'middle', a batch of 8: operation not permitted when stream is capturing$"
    with pytest.raises(MemberError, match=message):
        made.warm_up()
    can_capture = True
    made.warm_up()
    made.close()


@pytest.mark.parametrize("is_warm", [True, False])
def test_replays_answer_as_plain_calls_do(engine: DeviceEngine, *, is_warm: bool) -> None:
    if is_warm:
        engine.warm_up()
    eager = make_torch_bench("cpu", max_batch_size=8, max_queue_rows=64).engine
    requests = [rows(*range(start, start + 1 + start % 11), confidence_threshold=0.8) for start in range(40)]
    with ThreadPoolExecutor(4) as threads:
        got = list(threads.map(lambda request: engine.admit(request).result(), requests))
    for reply, request in zip(got, requests, strict=True):
        check_same(reply, eager.admit(request).result())
    eager.close()


def test_a_launch_waits_for_uploads_and_is_waited_for_behind_its_copies(
    house: stand_in_cuda.StandIn, engine: DeviceEngine
) -> None:
    engine.warm_up()
    house.log.clear()
    engine.admit(rows(1, confidence_threshold=0.0)).result()
    assert [entry[0] for entry in house.log] == ["wait", "replay", "record", "wait for event"]
    (_, lane, uploads), _, (_, recorded_on), _ = house.log
    assert lane == recorded_on != uploads


def test_a_launch_that_fails_leaves_the_lane_usable(
    house: stand_in_cuda.StandIn, engine: DeviceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.warm_up()
    warm = len(house.log)
    failing = threading.Event()
    failing.set()
    replay = stand_in_cuda.Graph.replay

    def fail(graph: stand_in_cuda.Graph) -> None:
        if failing.is_set():
            raise RuntimeError("CUDA error: an illegal instruction was encountered")
        replay(graph)

    monkeypatch.setattr(stand_in_cuda.Graph, "replay", fail)
    with pytest.raises(MemberError, match="row 0: member 'small' failed"):
        engine.admit(rows(1, 2)).result()
    lanes = {entry[1] for entry in house.log if entry[0] == "wait"}
    assert any(("synchronize", lane) in house.log[warm:] for lane in lanes)
    failing.clear()
    assert len(engine.admit(rows(1, 2)).result().label_B) == 2


def test_slots_cross_the_bus_run_by_run() -> None:
    slots = [4, 5, 6, 9, 2, 3]
    assert list(runs_of(slots)) == [slice(4, 7), slice(9, 10), slice(2, 4)]
    assert list(runs_of([7])) == [slice(7, 8)]
    assert [slot for run in runs_of(slots) for slot in range(run.start, run.stop)] == slots


@pytest.mark.gpu
def test_rows_of_many_threads_and_lanes_are_never_mixed_up() -> None:
    """On the device itself, thousands of rows whose answers differ, through two streams, in batches of all sizes."""
    table: FloatArray = random_table(4)
    eager = make_torch_bench("cpu", table=table, max_batch_size=64, max_queue_rows=512).engine
    graphs = make_torch_bench("cuda:0", table=table, workers=2, max_batch_size=64, max_queue_rows=512).engine
    rng = np.random.default_rng(2)
    requests = [
        rows(*rng.integers(0, 255, size=1 + index % 50).tolist(), confidence_threshold=float(rng.random()))
        for index in range(400)
    ]
    with ThreadPoolExecutor(8) as threads:
        got = list(threads.map(lambda request: graphs.admit(request).result(), requests))
    for reply, request in zip(got, requests, strict=True):
        check_same(reply, eager.admit(request).result())
    eager.close()
    graphs.close()
