"""Real bundles of tiny linear ONNX members, written in milliseconds and without torch."""
# Shapes: K classes, D pixels of an image.

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cascade_serve.bundle import GRAPH_FILE, Bundle, sha256_file, write_bundle
from cascade_serve.core.combine import Combine
from cascade_serve.core.confidence import Confidence
from cascade_serve.core.plan import Calibration, Fingerprint, Member, Plan, Policy, Stage, Task

MEMBERS = ("small", "middle", "large")
FLOPS = (1_000, 4_000, 20_000)
IMAGE_SHAPE = (4, 4, 3)
CLASSES = ("cat", "dog", "frog")


NAN_PIXEL = 0
"""A trapped graph answers NaN where the first pixel is this."""
FAILING_PIXEL = 255
"""A trapped graph fails as a whole where one row's first pixel is this."""


def write_linear_graph(
    path: Path, seed: int, image_shape: tuple[int, int, int], num_classes: int, *, is_trapped: bool = False
) -> None:
    """Write ``logits = flatten(images) @ weights``, opset 18, uint8 in and float32 out."""
    pixels = int(np.prod(image_shape))
    weights_DK = np.random.default_rng(seed).normal(scale=0.02, size=(pixels, num_classes)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weights"], ["product"]),
        *(_trap() if is_trapped else [helper.make_node("Identity", ["product"], ["logits"])]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", *image_shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", num_classes])],
        [numpy_helper.from_array(weights_DK, "weights"), *(_trap_constants() if is_trapped else [])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def _trap() -> list[onnx.NodeProto]:
    """Multiply by a factor that is looked up by the first pixel: out of range for the last, 0/0 for the first."""
    return [
        helper.make_node("Slice", ["flat", "first", "second", "axis"], ["pixel"]),
        helper.make_node("Cast", ["pixel"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["factors", "index"], ["factor"]),
        helper.make_node("Mul", ["product", "factor"], ["logits"]),
    ]


def _trap_constants() -> list[TensorProto]:
    factors = np.ones(FAILING_PIXEL, dtype=np.float32)
    factors[NAN_PIXEL] = np.nan
    bounds = {"first": [0], "second": [1], "axis": [1]}
    return [
        numpy_helper.from_array(factors, "factors"),
        *(numpy_helper.from_array(np.array(value, dtype=np.int64), name) for name, value in bounds.items()),
    ]


def write_linear_bundle(
    target: Path,
    sources: Path,
    *,
    seed: int = 0,
    thresholds: Sequence[float] = (0.6, 0.7),
    measured_on: Fingerprint | None = None,
    trapped: Sequence[str] = (),
) -> Bundle:
    """Write a bundle of three linear members, whose policies are ``default`` (all), ``short`` and ``large``.

    Args:
        target: ``<cascade>/<version>``.
        sources: an empty folder for the members' own files.
        seed: of the weights.
        thresholds: of the first two stages.
        measured_on: gives the plan a calibration with this fingerprint.
        trapped: members that answer NaN, or fail, for some images.
    """
    for index, name in enumerate(MEMBERS):
        path = sources / name / GRAPH_FILE
        write_linear_graph(path, 10 * seed + index, IMAGE_SHAPE, len(CLASSES), is_trapped=name in trapped)
    members = tuple(
        Member(name=name, flops=flops, files={GRAPH_FILE: sha256_file(sources / name / GRAPH_FILE)})
        for name, flops in zip(MEMBERS, FLOPS, strict=True)
    )
    height, width, channels = IMAGE_SHAPE
    plan = Plan(
        task=Task(height=height, width=width, channels=channels, classes=CLASSES),
        members=members,
        combine=Combine.MEAN_PROBS,
        confidence=Confidence.MAX_PROB,
        policies={
            "default": _policy("default", (0, 1, 2), thresholds),
            "short": _policy("short", (0, 2), thresholds),
            "large": _policy("large", (2,), ()),
        },
        calibration=None
        if measured_on is None
        else Calibration(n=10, n_search=5, n_test=5, data_sha256="0", seed=0, fingerprint=measured_on),
    )
    return write_bundle(target, plan, {name: sources / name for name in MEMBERS})


def _policy(name: str, stages: Sequence[int], thresholds: Sequence[float]) -> Policy:
    gates = [*thresholds[: len(stages) - 1], None]
    return Policy(
        name=name,
        stages=tuple(Stage(member=MEMBERS[member], threshold=gate) for member, gate in zip(stages, gates, strict=True)),
        worst_case_flops=sum(FLOPS[member] for member in stages),
    )
