"""Zoos and rows with known members: logits are drawn, graphs are a few bytes that nobody runs."""
# Shapes: N rows, K classes.

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cascade_serve.core.arrays import FloatArray, IntArray
from cascade_serve.planner.zoo_rows import ZooRows
from model_zoo.card import Card, CostCard, DeviceKind, EngineName, InputCard, ProvenanceCard, TaskCard
from model_zoo.store import CalibrationData, bind_task, new_member, write_calibration, write_card

NAMES = ("small", "middle", "large")
FLOPS = (1_000_000, 2_500_000, 6_000_000)
CLASSES = ("cat", "dog", "frog", "owl")


def draw_logits(
    rng: np.random.Generator, rows: int, strengths: Sequence[float], classes: int = len(CLASSES)
) -> tuple[tuple[FloatArray, ...], IntArray]:
    """Draw members that find the same rows hard; a strength is a member's mean margin for the true class."""
    labels_N = rng.integers(0, classes, rows)
    ease_N = rng.normal(0, 2, rows)
    logits = []
    for strength in strengths:
        logits_NK = rng.normal(0, 1, (rows, classes))
        logits_NK[np.arange(rows), labels_N] += strength + ease_N
        logits.append(logits_NK.astype(np.float32))
    return tuple(logits), labels_N


def draw_rows(seed: int, rows: int, strengths: Sequence[float] = (3.2, 3.6, 4.0)) -> ZooRows:
    logits, labels_N = draw_logits(np.random.default_rng(seed), rows, strengths)
    return ZooRows(logits=logits, labels_N=labels_N, sample_ids_N=np.arange(rows), num_repeated=0)


def write_zoo(
    task_path: Path,
    rows: ZooRows,
    names: Sequence[str] = NAMES,
    flops: Sequence[int] = FLOPS,
    seconds: Mapping[str, Mapping[int, float]] | None = None,
) -> Path:
    """Write a zoo; ``seconds`` are the profiles of those members that have one, measured on one machine."""
    task = TaskCard(height=4, width=4, channels=3, classes=CLASSES)
    bind_task(task_path, task)
    for name, cost, logits_NK in zip(names, flops, rows.logits, strict=True):
        data = CalibrationData(logits_NK=logits_NK, labels_N=rows.labels_N, sample_ids_N=rows.sample_ids_N)
        write_member(task_path, name, cost, task, data, seconds=(seconds or {}).get(name))
    return task_path


def write_member(
    task_path: Path,
    name: str,
    flops: int,
    task: TaskCard,
    data: CalibrationData | None,
    *,
    seconds: Mapping[int, float] | None = None,
    profiled_on: str = "one machine",
    profiled_device: DeviceKind | None = None,
    engine: EngineName = "onnxruntime",
) -> None:
    with new_member(task_path, name, overwrite=True) as folder:
        (folder / "model.onnx").write_bytes(f"graph of {name}".encode())
        if data is not None:
            write_calibration(folder, data)
        card = Card(
            name=name,
            architecture="onnx",
            task=task,
            input=InputCard(height=4, width=4, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)),
            engine=engine,
            cost=CostCard(
                flops=flops,
                macs=flops // 2,
                params=10,
                tool="by hand",
                seconds=None if seconds is None else dict(seconds),
                profiled_on=None if seconds is None else profiled_on,
                profiled_device=profiled_device,
            ),
            provenance=ProvenanceCard(weights="random"),
        )
        write_card(folder, card)
