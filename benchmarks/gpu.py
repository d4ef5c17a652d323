"""The torch engine on one GPU, against back-to-back graph replays of the same rows in the same buckets.

Networks have random weights, so no threshold means anything: one is taken that lets a fixed share of the rows out
after the first stage, as only time is asked. Client threads call the engine within the process; no wire is measured.

    python -m benchmarks.gpu [--seconds 1.5] [--pairs resnet,efficientnet,vit] [--precisions bf16,fp16,fp32]

Prints Markdown, each pair's as soon as it is measured. It begins nothing after ``--limit-s`` seconds, 420 by default.
``--device cpu`` tries the script where there is no GPU.

Run it from the root of the repository; the package need not be installed. It needs torch, numpy, pydantic, safetensors,
timm and torchvision; onnxruntime-gpu, onnx and onnxscript for the last table, which is left out without them; and
neither gRPC nor Ray. What a machine without a network lacks can be brought along, built for the Python there. Pydantic,
for instance, which has a compiled part:

    pip install --target DIR --python-version 3.12 --only-binary=:all: pydantic
    PYTHONPATH=DIR python -m benchmarks.gpu
"""
# Shapes: N images, B rows of one request, K classes, HWC image.

import argparse
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from cascade_serve.core.arrays import Float64Array, FloatArray, ImageArray, IntArray
from cascade_serve.core.combine import Combine
from cascade_serve.core.confidence import Confidence
from cascade_serve.core.plan import Fingerprint, Member, Plan, Policy, Stage, Task
from cascade_serve.core.request import Reply, Request, Terms
from cascade_serve.engine.cuda import step as device_step
from cascade_serve.engine.cuda.engine import DeviceEngine
from cascade_serve.engine.cuda.lane import Port, padding_load
from cascade_serve.engine.cuda.network import DTYPES, to_device
from cascade_serve.engine.cuda.opening import make_executor
from cascade_serve.engine.onnx import Device, OnnxSession
from cascade_serve.engine.protocol import EngineConfig
from cascade_serve.errors import CascadeError
from model_zoo.card import TaskCard
from model_zoo.errors import ZooError
from model_zoo.registry import BuiltModel, build_model
from model_zoo.served import ServedModule

EXIT_SHARE = 0.8
EXIT_SHARES = (1.0, 0.9, 0.8, 0.5, 0.0)
_CLASSES = 10
SUMMARY_HEAD = (
    "pair",
    "precision",
    "exits",
    "images/s",
    "of replays of whole steps",
    "of replays of networks alone",
    "images/s, 64 requests of 1",
    "1 image, ms, p50 / p99",
    "its graph alone, ms",
)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two stages.

    Attributes:
        networks: registry names, small and large.
        size: height and width of the images, pixels.
        batch_size: the largest bucket.
    """

    networks: tuple[str, str]
    size: int
    batch_size: int


PAIRS = {
    "resnet": Pair(networks=("resnet20", "resnet56"), size=32, batch_size=256),
    "efficientnet": Pair(networks=("timm/efficientnet_b0", "timm/efficientnet_b4"), size=224, batch_size=64),
    "vit": Pair(networks=("timm/vit_small_patch16_224", "timm/vit_large_patch16_224"), size=224, batch_size=64),
}


class Silent:
    """Watches nothing."""

    def batch_ran(self, member: str, queue_s_B: Sequence[float], compute_s: float) -> None:
        """Ignore it; see the protocol."""

    def rows_gated(self, stage_B: IntArray, confidence_B: FloatArray) -> None:
        """Ignore it; see the protocol."""

    def request_answered(self, reply: Reply, row_s_B: Float64Array) -> None:
        """Ignore it; see the protocol."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A warm engine, and what it was made of."""

    pair: Pair
    device: torch.device
    step: device_step.Step
    engine: DeviceEngine
    images_NHWC: ImageArray


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the clients do.

    Attributes:
        threads: requests in flight.
        rows: images of one request.
        threshold: of the first stage.
        wants_probabilities: of all classes.
    """

    threads: int
    rows: int
    threshold: float
    wants_probabilities: bool = True


def task_of(pair: Pair) -> TaskCard:
    classes = tuple(f"class {index}" for index in range(_CLASSES))
    return TaskCard(height=pair.size, width=pair.size, channels=3, classes=classes)


def plan_of(pair: Pair, precision: str) -> Plan:
    task = task_of(pair)
    members = tuple(Member(name=name, flops=1, precision=precision, files={}) for name in ("small", "large"))
    stages = (Stage(member="small", threshold=0.5), Stage(member="large"))
    return Plan(
        task=Task(height=task.height, width=task.width, channels=task.channels, classes=task.classes),
        members=members,
        combine=Combine.MEAN_PROBS,
        confidence=Confidence.MAX_PROB,
        policies={"default": Policy(name="default", stages=stages, worst_case_flops=2)},
    )


def build(pair: Pair) -> list[BuiltModel]:
    size = pair.size if pair.size != 32 else None
    return [build_model(name, classes=_CLASSES, image_size=size) for name in pair.networks]


@contextmanager
def opened(pair: Pair, precision: str, device: torch.device, lanes: int) -> Iterator[Bench]:
    """Open and warm an engine."""
    plan, task = plan_of(pair, precision), task_of(pair)
    config = EngineConfig(workers=lanes, max_batch_size=pair.batch_size, max_queue_rows=16 * pair.batch_size)
    members = tuple(
        device_step.Member(
            to_device(ServedModule(built.module, built.preset, task), DTYPES[precision], device), temperature=1.0
        )
        for built in build(pair)
    )
    slab = device_step.DeviceSlab(plan, config.max_queue_rows, device)
    step = device_step.Step(slab, members, plan.combine, plan.confidence)
    engine = DeviceEngine(
        plan,
        make_executor(step, config, device),
        config=config,
        fingerprint=Fingerprint(engine="torch", precision=precision),
        observer=Silent(),
    )
    try:
        engine.warm_up()
        yield Bench(pair=pair, device=device, step=step, engine=engine, images_NHWC=random_images(pair))
    finally:
        engine.close()


def random_images(pair: Pair) -> ImageArray:
    """Make noise of another brightness and contrast in each image, or networks would answer all of them alike."""
    rng, count = np.random.default_rng(0), 16 * pair.batch_size
    noise_NHWC = rng.integers(0, 256, size=(count, pair.size, pair.size, 3), dtype=np.uint8)
    ceiling_N = rng.integers(1, 256, size=(count, 1, 1, 3), dtype=np.uint8)
    return np.minimum(noise_NHWC, ceiling_N)


# The ceiling: graphs, one after the other, with nothing in between.


def replay_s(bench: Bench, member: int, rows: int, seconds: float, *, network_alone: bool = False) -> float:
    """Time one batch of back-to-back replays: the whole step, or its network without gather and gate."""
    port = Port(rows, _CLASSES, bench.device, bench.step.slab.padding_slot)
    # Rows apart, as the engine's are: one and the same would stay in the cache.
    port.fill(replace(padding_load(rows, bench.step.slab.padding_slot), slot_B=np.arange(rows)))
    port.inputs.data.copy_(port.host_inputs.data)
    images_BHWC = bench.step.slab.images_RHWC[:rows].clone()
    module = bench.step.members[member].module

    def run() -> None:
        if network_alone:
            port.probabilities_BK.copy_(module(images_BHWC))
        else:
            bench.step.run(member, port.inputs.columns, port.outputs.columns, port.probabilities_BK)

    with torch.inference_mode():
        return _time_eager(run, seconds) if bench.device.type == "cpu" else _time_graph(run, bench.device, seconds)


def _time_eager(run: Callable[[], None], seconds: float) -> float:
    run()
    started_s, count = time.perf_counter(), 0
    while time.perf_counter() - started_s < seconds:
        run()
        count += 1
    return (time.perf_counter() - started_s) / count


def _time_graph(run: Callable[[], None], device: torch.device, seconds: float) -> float:
    stream, graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
        stream.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            run()
        graph.replay()
        stream.synchronize()
        started_s, count = time.perf_counter(), 0
        while time.perf_counter() - started_s < seconds:
            # The queue to the device stays filled, and the clock is asked seldom.
            for _ in range(20):
                graph.replay()
            stream.synchronize()
            count += 20
        return (time.perf_counter() - started_s) / count


# The engine.


def threshold_for(bench: Bench, share: float) -> float:
    """Give a threshold that lets about a share of the rows out."""
    if share in (0.0, 1.0):
        # A threshold of 1 is reached by none but certain rows, and 0 by all.
        return 1.0 - share
    request = Request(images_BHWC=bench.images_NHWC, terms=Terms(confidence_threshold=0.0))
    return float(np.quantile(bench.engine.admit(request).result().confidence_B, 1 - share))


def throughput(bench: Bench, load: Load, seconds: float) -> tuple[float, float]:
    """Keep some requests in flight; give answered images a second, and the share of them that left after one stage."""
    counts_from_s = time.perf_counter() + seconds / 5
    ends_s = counts_from_s + seconds

    def client(index: int) -> tuple[int, int]:
        answered = left = 0
        start = index * load.rows % (len(bench.images_NHWC) - load.rows + 1)
        request = Request(
            images_BHWC=bench.images_NHWC[start : start + load.rows],
            terms=Terms(confidence_threshold=load.threshold),
            wants_probabilities=load.wants_probabilities,
        )
        while True:
            reply = bench.engine.admit(request).result()
            now_s = time.perf_counter()
            if now_s >= ends_s:
                return answered, left
            if now_s >= counts_from_s:
                answered += load.rows
                left += load.rows - int(np.count_nonzero(reply.exit_stage_B))

    with ThreadPoolExecutor(load.threads) as clients:
        answered, left = map(sum, zip(*clients.map(client, range(load.threads)), strict=True))
    if not answered:
        raise RuntimeError(f"nothing was answered within {seconds} s; give more --seconds")
    return answered / seconds, left / answered


def latencies_ms(bench: Bench, threshold: float, seconds: float) -> tuple[float, float]:
    """Give median and 99th percentile of single images, one after the other, in milliseconds."""
    taken: list[float] = []
    ends_s = time.perf_counter() + seconds
    while (started_s := time.perf_counter()) < ends_s:
        row = len(taken) % len(bench.images_NHWC)
        request = Request(images_BHWC=bench.images_NHWC[row : row + 1], terms=Terms(confidence_threshold=threshold))
        bench.engine.admit(request).result()
        taken.append(1e3 * (time.perf_counter() - started_s))
    return statistics.median(taken), float(np.quantile(taken, 0.99))


# ONNX Runtime beside it.


def onnx_images_per_s(pair: Pair, folder: Path, device: Device, seconds: float) -> list[float]:
    """Export both networks and time each on ONNX Runtime: full batches, one after the other, copies and all."""
    from model_zoo.export import export_graph
    from model_zoo.graph import serialize

    task, plan = task_of(pair), plan_of(pair, "fp32")
    images_BHWC = np.zeros((pair.batch_size, *plan.task.image_shape), dtype=np.uint8)
    rates = []
    for index, built in enumerate(build(pair)):
        file = folder / f"{index}.onnx"
        if not file.exists():
            file.write_bytes(serialize(export_graph(ServedModule(built.module, built.preset, task).eval(), task)))
        session = OnnxSession(file, plan.task, 1, device)
        run_s = _time_eager(lambda session=session: session.logits(images_BHWC), seconds)  # type: ignore[misc]
        rates.append(pair.batch_size / run_s)
    return rates


# Tables.


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print(f"\n### {title}\n", flush=True)
    print(f"| {' | '.join(head)} |")
    print(f"|{' --- |' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(f'{cell:,.1f}' if isinstance(cell, float) else str(cell) for cell in row)} |", flush=True)


def measure(name: str, precision: str, arguments: argparse.Namespace, device: torch.device) -> list[object]:
    """Measure one pair in one precision: prints its second stage's cost, gives its row of the summary."""
    pair, seconds = PAIRS[name], arguments.seconds
    pair = replace(pair, batch_size=arguments.batch_size or pair.batch_size)
    with opened(pair, precision, device, arguments.lanes) as bench:
        steps_s = [replay_s(bench, member, pair.batch_size, seconds / 2) for member in range(2)]
        alone_s = [replay_s(bench, member, pair.batch_size, seconds / 2, network_alone=True) for member in range(2)]
        single_ms = [1e3 * replay_s(bench, member, 1, seconds / 4) for member in range(2)]
        costs = []
        for share in EXIT_SHARES:
            load = Load(threads=arguments.threads, rows=pair.batch_size, threshold=threshold_for(bench, share))
            # Some rounds of all requests, however long they take.
            window_s = max(seconds, 4 * load.threads * (steps_s[0] + (1 - share) * steps_s[1]))
            rate, left = throughput(bench, load, window_s)
            ceiling = pair.batch_size / (steps_s[0] + (1 - left) * steps_s[1])
            costs.append([f"{left:.0%}", round(rate), 1e6 / rate, 1e6 / ceiling, f"{rate / ceiling:.2f}"])
        table(
            f"{name}, {precision}: what the second stage costs",
            ["exits", "images/s", "µs an image", "µs by replays", "share of the replays' throughput"],
            costs,
        )
        threshold = threshold_for(bench, EXIT_SHARE)
        load = Load(threads=arguments.threads, rows=pair.batch_size, threshold=threshold)
        rate, left = map(statistics.median, zip(*(throughput(bench, load, seconds) for _ in range(3)), strict=True))
        ceiling = pair.batch_size / (steps_s[0] + (1 - left) * steps_s[1])
        bare = pair.batch_size / (alone_s[0] + (1 - left) * alone_s[1])
        small = Load(threads=64, rows=1, threshold=threshold)
        median_ms, high_ms = latencies_ms(bench, 0.0, seconds)
        return [
            name,
            precision,
            f"{left:.0%}",
            round(rate),
            f"{rate / ceiling:.2f}",
            f"{rate / bare:.2f}",
            round(throughput(bench, small, seconds)[0]),
            f"{median_ms:.2f} / {high_ms:.2f}",
            f"{single_ms[0]:.2f}",
        ]


def measured(name: str, precision: str, arguments: argparse.Namespace, device: torch.device) -> list[object]:
    """Give one row of the summary, or say in it why there is none: what was measured before is not lost."""
    try:
        return measure(name, precision, arguments, device)
    except (CascadeError, ZooError, ImportError, RuntimeError) as error:
        traceback.print_exc()
        return [name, precision, first_line(error), *["-"] * (len(SUMMARY_HEAD) - 3)]


def measure_onnx(name: str, seconds: float) -> list[object]:
    """Give one pair's row of ONNX Runtime's table, or say why there is none."""
    with TemporaryDirectory() as folder:
        try:
            small, large = onnx_images_per_s(PAIRS[name], Path(folder), Device.CUDA, seconds)
        except (CascadeError, ZooError, ImportError, RuntimeError) as error:
            return [name, "-", "-", first_line(error)]
    both = 1 / (1 / small + (1 - EXIT_SHARE) / large)
    return [name, round(small), round(large), f"{both:,.0f} at {EXIT_SHARE:.0%} exits"]


def first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _names_in(known: Iterable[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"got {', '.join(unknown)}; must be some of {', '.join(known)}")
        return names

    return parse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement")
    parser.add_argument("--pairs", type=_names_in(PAIRS), default="resnet,efficientnet,vit")
    parser.add_argument("--precisions", type=_names_in(DTYPES), default="bf16,fp16,fp32")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--lanes", type=int, default=2, help="streams")
    parser.add_argument("--threads", type=int, default=8, help="requests of a full batch each in flight")
    parser.add_argument("--limit-s", type=float, default=420, help="begin nothing after so many seconds")
    parser.add_argument("--tune", action="store_true", help="let cuDNN time its algorithms in warm-up")
    parser.add_argument("--batch-size", type=int, help="largest bucket, in place of each pair's own")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.backends.cudnn.benchmark = arguments.tune
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}; torch {torch.__version__}; {arguments.lanes} lanes; cuDNN tuned: {arguments.tune}")
    ends_s = time.perf_counter() + arguments.limit_s
    summary: list[list[object]] = []
    for pair in arguments.pairs:
        for precision in arguments.precisions:
            if time.perf_counter() > ends_s:
                summary.append([pair, precision, *["out of time"] * (len(SUMMARY_HEAD) - 2)])
                continue
            summary.append(measured(pair, precision, arguments, device))
            if device.type == "cuda":
                with suppress(RuntimeError):
                    torch.cuda.empty_cache()
    table(
        f"Throughput and latency, {arguments.threads} requests of a full batch in flight unless said",
        SUMMARY_HEAD,
        summary,
    )
    rows = [measure_onnx(pair, arguments.seconds) for pair in onnx_pairs(arguments) if time.perf_counter() < ends_s]
    if rows:
        head = ["pair", "small, images/s", "large, images/s", "cascade by these"]
        table("ONNX Runtime on CUDA, fp32, full batches, one after the other", head, rows)


def onnx_pairs(arguments: argparse.Namespace) -> list[str]:
    """Tell which pairs ONNX Runtime can run here: all or none, as exporting takes a while."""
    with suppress(ImportError):
        import onnxruntime

        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            return list(arguments.pairs)
    print("\nONNX Runtime is not here, or without its CUDA provider: install onnxruntime-gpu to compare.")
    return []


if __name__ == "__main__":
    main()
