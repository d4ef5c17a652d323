"""The comparison with other servers: its loads, wires, load generator, processes and tables, without any peer."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest

from benchmarks.peers import overhead
from benchmarks.peers.catalogue import PEERS, choose
from benchmarks.peers.flops import LOADS, print_row
from benchmarks.peers.load import Arrivals, Job, Seen, run
from benchmarks.peers.loads import ALL, Kind, Load, parse_loads
from benchmarks.peers.peer import Compute, Engine, Precision
from benchmarks.peers.processes import MARK, Processes, cpu_s, marked_pids
from benchmarks.peers.setup import NAMES
from benchmarks.peers.tables import Run, best_of, group, print_tables, ratio
from benchmarks.peers.wire import CascadeInClient, OpenInference, OpenInferenceBytes, PlainBytes, WrappedBytes
from benchmarks.peers.work import CASCADE, SINGLE
from cascade_serve.core.arrays import ImageArray
from cascade_serve.rpc.stubs import grpc_service_pb2 as pb

_SHAPE = (2, 2, 1)
_PIXELS = 4


def test_loads_are_read_with_closed_ones_first() -> None:
    loads = parse_loads("o80x16,r250x1,c32x16")
    assert loads == (
        Load(kind=Kind.CLOSED, level=32, images_per_request=16),
        Load(kind=Kind.SHARE, level=80, images_per_request=16),
        Load(kind=Kind.RATE, level=250, images_per_request=1),
    )
    assert [str(load) for load in loads] == ["c32x16", "o80x16", "r250x1"]
    assert len(parse_loads(ALL)) == ALL.count(",") + 1


@pytest.mark.parametrize(("text", "message"), [("x8x1", "x8x1"), ("c0x1", "c0x1"), ("c8x1,o50x16", "o50x16")])
def test_loads_that_make_no_sense_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"loads: .*{message}"):
        parse_loads(text)


def test_variants_are_chosen_by_peer_and_compute() -> None:
    (variant,) = choose("plain", "openvino-int8")
    assert variant.name == "plain-openvino-int8"
    assert len(choose(None, "onnxruntime-fp32")) == len(PEERS)
    with pytest.raises(ValueError, match="nobody"):
        choose("nobody", None)
    with pytest.raises(ValueError, match="onnxruntime-fp16"):
        choose("plain", "onnxruntime-fp16")


def test_each_environment_is_pinned_and_names_no_index() -> None:
    assert NAMES == ("mlserver", "plain", "ray", "triton")
    folder = Path(sys.modules[choose.__module__].__file__ or "").parent / "requirements"
    for file in folder.iterdir():
        assert "://" not in file.read_text(), file


def test_open_inference_carries_pixels_and_reads_raw_and_typed_labels() -> None:
    images_BHWC = _images(3)
    request = pb.ModelInferRequest.FromString(OpenInference("cascade").encode(images_BHWC))
    assert request.raw_input_contents[0] == images_BHWC.tobytes()
    assert list(request.inputs[0].shape) == [3, *_SHAPE]
    raw = pb.ModelInferResponse(raw_output_contents=[b"", np.array([5, 7]).tobytes()])
    typed = pb.ModelInferResponse()
    for answer in (raw, typed):
        answer.outputs.add(name="confidence")
        answer.outputs.add(name="label")
    typed.outputs[1].contents.int64_contents.extend([5, 7])
    for answer in (raw, typed):
        assert OpenInference("cascade").labels(answer.SerializeToString()).tolist() == [5, 7]


def test_an_image_is_one_element_of_bytes() -> None:
    images_BHWC = _images(2)
    request = pb.ModelInferRequest.FromString(OpenInferenceBytes("cascade").encode(images_BHWC))
    head = _PIXELS.to_bytes(4, "little")
    assert request.raw_input_contents[0] == head + images_BHWC[0].tobytes() + head + images_BHWC[1].tobytes()


def test_labels_of_schemaless_answers() -> None:
    answer = np.array([3, 1]).tobytes() + np.array([0.5, 0.9], np.float32).tobytes()
    assert PlainBytes().labels(answer).tolist() == [3, 1]
    wrapped = b"\x0a" + bytes([len(answer)]) + answer
    assert WrappedBytes().labels(wrapped).tolist() == [3, 1]
    assert WrappedBytes().encode(_images(1)) == b"\x0a\x04" + _images(1).tobytes()


def test_a_client_asks_the_second_member_about_unsure_rows_alone() -> None:
    wire = CascadeInClient(threshold=0.9)
    asked: list[tuple[str, bytes]] = []

    def call(request: bytes) -> bytes:
        message = pb.ModelInferRequest.FromString(request)
        asked.append((message.model_name, message.raw_input_contents[0]))
        small_BK = np.array([[0.95, 0.05], [0.6, 0.4], [0.9, 0.1]], np.float32)
        answers_BK = small_BK if message.model_name == "member0" else np.array([[0.1, 0.9]], np.float32)
        answer = pb.ModelInferResponse(raw_output_contents=[answers_BK.tobytes()])
        answer.outputs.add(name="probabilities", shape=answers_BK.shape)
        return answer.SerializeToString()

    images_BHWC = _images(3)
    labels_B = wire.labels(wire.ask(call, wire.encode(images_BHWC)))
    # Row 1: (0.6 + 0.1) / 2 against (0.4 + 0.9) / 2. A tie with the threshold leaves.
    assert labels_B.tolist() == [0, 1, 0]
    assert asked == [("member0", images_BHWC.tobytes()), ("member1", images_BHWC[1].tobytes())]


@pytest.fixture
def server() -> Iterator[str]:
    """Answer each image with its first pixel as the label, over the plain wire; refuse pixel 3."""

    def classify(request: bytes, context: grpc.ServicerContext) -> bytes:
        labels_B = np.frombuffer(request, np.uint8).reshape(-1, _PIXELS)[:, 0].astype(np.int64)
        if 3 in labels_B:
            context.abort(grpc.StatusCode.INTERNAL, "pixel 3")
        return labels_B.tobytes() + bytes(4 * len(labels_B))

    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(classify)
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_registered_method_handlers("peers.Plain", {"Classify": handler})
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture
def job(server: str, tmp_path: Path) -> Job:
    first_N = np.arange(4)
    images_NHWC = np.zeros((4, *_SHAPE), np.uint8)
    images_NHWC[:, 0, 0, 0] = first_N
    np.save(tmp_path / "images.npy", images_NHWC)
    np.save(tmp_path / "expected.npy", first_N)
    np.save(tmp_path / "truth.npy", first_N % 2)
    return Job(
        address=server,
        mark="none",
        wire="bytes",
        model="",
        threshold=0.9,
        images=str(tmp_path / "images.npy"),
        expected=str(tmp_path / "expected.npy"),
        truth=str(tmp_path / "truth.npy"),
        reference=str(tmp_path / "truth.npy"),
        images_per_request=1,
        seconds=0.4,
        warm_up_s=0.1,
        connections=3,
    )


def test_a_closed_loop_counts_answers_judges_labels_and_reports_errors(job: Job) -> None:
    seen = run(replace(job, concurrency=2))
    assert seen.agreement == 1.0
    # Labels 0, 1, 2 come back in turn, and 3 fails; 0 and 1 are right.
    assert seen.accuracy == pytest.approx(2 / 3, abs=0.2)
    assert seen.reference_accuracy == 1.0
    assert set(seen.errors) == {"INTERNAL"}
    assert seen.images_per_s == pytest.approx(seen.requests / seen.seconds)
    assert 0 < seen.p50_ms <= seen.p99_ms
    assert seen.client_cpu_s > 0


def test_an_open_loop_sends_what_is_due(job: Job) -> None:
    seen = run(replace(job, rate=100.0, objective_s=0.0))
    assert seen.requests > 0
    assert seen.agreement == 1.0
    assert seen.good_per_s == 0.0


def test_what_no_caller_took_is_unsent(job: Job) -> None:
    arrivals = Arrivals(replace(job, rate=1_000.0))
    arrivals.start()
    taken = next(iter(arrivals), None)
    num_unsent = arrivals.count_unsent()
    # 500 are due on average, one of which was taken, if its caller was there before the end.
    assert 400 < num_unsent < 600
    assert taken is None or taken[0] == 0


def test_processes_are_found_by_their_mark_paused_and_ended(tmp_path: Path) -> None:
    # The grandchildren have sessions of their own, as daemons do; one has lost its environment, as by setting a title.
    program = (
        "import subprocess, sys, time\n"
        "spin = [sys.executable, '-c', 'while True: pass']\n"
        "subprocess.Popen(spin, start_new_session=True)\n"
        "subprocess.Popen(spin, start_new_session=True, env={})\n"
        "print('up', flush=True)\n"
        "time.sleep(600)\n"
    )
    log = tmp_path / "log"
    processes = Processes([sys.executable, "-c", program], {"OWN": "1"}, log, tmp_path)
    try:
        _wait_until(lambda: "up" in log.read_text() and cpu_s(marked_pids(processes.mark)) > 0.2)
        pids = marked_pids(processes.mark)
        assert len(pids) == 3
        assert os.getpid() not in pids
        processes.pause()
        _wait_until(lambda: all(_state(pid) == "T" for pid in pids))
        processes.resume()
        _wait_until(lambda: all(_state(pid) != "T" for pid in pids))
        assert processes.log_tail() == "up"
    finally:
        processes.end()
    _wait_until(lambda: all(_state(pid) in {"Z", "gone"} for pid in pids))
    assert not processes.is_alive


def test_a_mark_is_not_found_where_it_is_only_similar() -> None:
    with subprocess.Popen(["sleep", "600"], env={MARK: "abcd"}) as process:
        try:
            _wait_until(lambda: marked_pids("abcd") == [process.pid])
            assert marked_pids("abc") == []
        finally:
            process.send_signal(signal.SIGKILL)


def test_ratios_are_taken_within_a_repeat() -> None:
    ours = [_run("ours", repeat, rate) for repeat, rate in enumerate((200.0, 100.0, 300.0))]
    theirs = [_run("plain", repeat, rate) for repeat, rate in enumerate((100.0, 100.0, 100.0))]
    assert ratio(ours, theirs, lambda seen: seen.images_per_s) == "2.00 (1.00 to 3.00)"
    assert ratio(ours[:0], theirs, lambda seen: seen.images_per_s) == "-"


def test_the_best_is_the_fastest_by_median() -> None:
    slow = [_run("ours", repeat, rate) for repeat, rate in enumerate((900.0, 100.0, 100.0))]
    fast = [_run("ours-processes", repeat, 200.0) for repeat in range(3)]
    groups = group([*slow, *fast])
    assert best_of(groups, ("ours", "ours-processes"), None) == fast
    assert best_of(groups, ("plain",), None) is None


def test_servers_are_compared_by_latency_where_all_answer_the_same_rate(capsys: pytest.CaptureFixture[str]) -> None:
    load = Load(kind=Kind.RATE, level=250, images_per_request=1)
    print_tables(
        [_run("ours", 0, 250.0, p50_ms=6.0, load=load), _run("plain", 0, 250.0, p50_ms=4.0, load=load)], [load]
    )
    ours, plain = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| ours", "| plain"))][:2]
    assert "| 250 |  | 6.00 |" in ours
    assert "| 250 | 1.50 (1.50 to 1.50) | 4.00 |" in plain


def test_what_a_server_adds_is_taken_within_a_repeat() -> None:
    means_ms = {
        overhead.RAW: [2.0, 4.0, 3.0],
        "echo": [1.0, 1.0, 1.0],
        "busy echo": [1.5, 1.5, 2.0],
        "ours": [4.0, 8.0, 5.5],
    }
    assert overhead.table(means_ms).splitlines()[2:] == [
        "| raw engine | 3.00 |  |  |",
        "| echo | 1.00 |  |  |",
        "| busy echo | 1.50 |  |  |",
        "| ours | 5.50 | 1.50 (1.00 to 3.00) | 0.50 (0.50 to 2.50) |",
    ]


def test_gains_are_taken_within_a_pair_and_set_beside_the_flops(capsys: pytest.CaptureFixture[str]) -> None:
    cascade = [_run("ours", repeat, rate).seen for repeat, rate in enumerate((400.0, 300.0, 900.0))]
    single = [_run("ours", repeat, rate).seen for repeat, rate in enumerate((200.0, 200.0, 300.0))]
    print_row(LOADS[0], {CASCADE: cascade, SINGLE: single}, flops=4.0)
    cells = capsys.readouterr().out.strip("| \n").split(" | ")
    assert cells[1:] == ["400", "200", "2.00 (1.50 to 3.00)", "4.00", "0.50", "100.00", "100.00"]
    # Twice as long is half as good.
    slower = [replace(run, mean_ms=2.0) for run in cascade]
    print_row(LOADS[2], {CASCADE: slower, SINGLE: single}, flops=1.0)
    assert capsys.readouterr().out.split(" | ")[3] == "0.50 (0.50 to 0.50)"


_CLOSED = Load(kind=Kind.CLOSED, level=32, images_per_request=1)


def _run(peer: str, repeat: int, rate: float, p50_ms: float = 1.0, load: Load = _CLOSED) -> Run:
    seen = Seen(
        requests=1,
        images_per_s=rate,
        p50_ms=p50_ms,
        p99_ms=2.0,
        mean_ms=1.0,
        errors={},
        unsent=0,
        agreement=1.0,
        accuracy=1.0,
        reference_accuracy=1.0,
        good_per_s=rate,
        server_cpu_s=1.0,
        client_cpu_s=1.0,
        other_cpu_s=0.0,
        stolen_cpu_s=0.0,
        seconds=1.0,
    )
    compute = str(Compute(engine=Engine.ONNX_RUNTIME, precision=Precision.FP32))
    return Run(peer=peer, compute=compute, load=load, repeat=repeat, seen=seen)


def _images(count: int) -> ImageArray:
    return np.arange(count * _PIXELS, dtype=np.uint8).reshape(count, *_SHAPE)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


def _wait_until(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.01)
