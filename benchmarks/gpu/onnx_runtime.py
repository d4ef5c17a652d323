"""ONNX Runtime beside the torch engine, by each of its providers for a GPU."""
# Shapes: B rows of a batch, HWC image.

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.gpu.pairs import Pair, build, plan_of, task_of
from benchmarks.gpu.replays import time_eager
from benchmarks.gpu.tables import first_line
from cascade_serve.engine import onnx, tensorrt
from cascade_serve.engine.onnx import OnnxSession, Placement
from cascade_serve.errors import CascadeError
from model_zoo.errors import ZooError
from model_zoo.served import ServedModule

PRECISIONS = ("fp32", "fp16")
CASCADE_EXITS = 0.8
HEAD = ("pair", "runtime", "precision", "small, images/s", "large, images/s", "cascade by these")
Place = Callable[[Path, str, int], Placement]
"""Says what runs a graph, by a folder for what it builds, the precision, and the rows of every run."""


def runtimes(device_id: int) -> dict[str, Place]:
    """Name the providers that the installed onnxruntime was built with; none without it."""

    def on_cuda(_folder: Path, _precision: str, _rows: int) -> Placement:
        return onnx.place(onnx.Device.CUDA, device_id)

    def on_tensorrt(folder: Path, precision: str, rows: int) -> Placement:
        from model_zoo.graph import BATCH_NAME

        return tensorrt.place(folder, device_id=device_id, is_half=precision == "fp16", fixed_batch=(BATCH_NAME, rows))

    places = {"CUDAExecutionProvider": ("CUDA", on_cuda), tensorrt.PROVIDER: ("TensorRT", on_tensorrt)}
    with suppress(ImportError):
        import onnxruntime

        available = onnxruntime.get_available_providers()
        return {f"ONNX Runtime, {name}": place for provider, (name, place) in places.items() if provider in available}
    return {}


def rows_of(name: str, pair: Pair, places: Mapping[str, Place], seconds: float) -> Iterator[list[object]]:
    """Give one pair's rows of the table of runtimes; one that can't run says why."""
    with TemporaryDirectory() as folder:
        for precision in PRECISIONS:
            for runtime, place in places.items():
                try:
                    small, large = images_per_s(pair, Path(folder), precision, place, seconds)
                except (CascadeError, ZooError, ImportError, RuntimeError) as error:
                    yield [name, runtime, precision, "-", "-", first_line(error)]
                else:
                    yield row_of(name, runtime, precision, (small, large))


def row_of(name: str, runtime: str, precision: str, rates: Sequence[float]) -> list[object]:
    """Give a row of the table of runtimes, from images a second by each network alone."""
    small, large = rates
    both = 1 / (1 / small + (1 - CASCADE_EXITS) / large)
    return [name, runtime, precision, round(small), round(large), f"{both:,.0f} at {CASCADE_EXITS:.0%} exits"]


def images_per_s(pair: Pair, folder: Path, precision: str, place: Place, seconds: float) -> list[float]:
    """Time both networks: full batches, one after the other, copies and all."""
    plan = plan_of(pair, precision)
    images_BHWC = np.zeros((pair.batch_size, *plan.task.image_shape), dtype=np.uint8)
    rates = []
    for index in range(len(pair.networks)):
        file = folder / f"{index}-{precision}.onnx"
        if not file.exists():
            file.write_bytes(exported(pair, index, precision))
        engines = folder / f"{index}-{precision}-engines"
        engines.mkdir(exist_ok=True)
        session = OnnxSession(file, plan.task, 1, place(engines, precision, pair.batch_size))
        run_s = time_eager(lambda session=session: session.logits(images_BHWC), seconds)  # type: ignore[misc]
        rates.append(pair.batch_size / run_s)
    return rates


def exported(pair: Pair, index: int, precision: str) -> bytes:
    """Export one network of a pair."""
    from model_zoo.export import export_graph
    from model_zoo.graph import serialize
    from model_zoo.half import to_half

    built, task = build(pair)[index], task_of(pair)
    graph = export_graph(ServedModule(built.module, built.preset, task).eval(), task)
    return serialize(to_half(graph) if precision == "fp16" else graph)
