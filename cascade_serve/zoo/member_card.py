"""Writes down what ``zoo add`` has learnt about a member: its card."""
# Shapes: N rows, K classes.

import platform
from importlib import import_module

import numpy as np

from cascade_serve import __version__
from cascade_serve.core.arrays import IntArray
from cascade_serve.core.combine import Combine, is_usable, member_score
from cascade_serve.core.interval import wilson_interval
from cascade_serve.zoo.addition import Addition
from cascade_serve.zoo.calibration import CalibrationRows
from cascade_serve.zoo.conversion import Converted
from cascade_serve.zoo.source import Source
from model_zoo import store
from model_zoo.card import AccuracyCard, CalibrationCard, Card, CostCard, ProvenanceCard, TaskCard

_SPLIT = "calibration"


def make_card(addition: Addition, task: TaskCard, source: Source, converted: Converted, rows: CalibrationRows) -> Card:
    """Gather a member's card; files are not in it yet."""
    from model_zoo.flops import TOOL

    exported, descent = converted.exported, addition.descent
    cost, seeds = exported.cost, descent.seeds or source.seeds
    engines = ("onnxruntime",) if addition.engine == "onnxruntime" else ("onnxruntime", addition.engine)
    return Card(
        name=addition.name,
        architecture=source.architecture,
        arguments=source.arguments,
        task=task,
        input=exported.input,
        precision=exported.precision,
        engine=addition.engine,
        cost=CostCard(flops=cost.flops, macs=cost.macs, params=cost.params, tool=TOOL),
        training=descent.training,
        accuracy=_accuracy(rows.data, seeds),
        calibration=_calibration(rows),
        agreement=exported.agreement,
        conversion=converted.card,
        provenance=ProvenanceCard(
            data_sha256=rows.sha256,
            weights=source.weights if descent.training is None else "trained",
            train_sha256=descent.train_sha256,
            selection=descent.selection,
            policy_schedule=descent.policy_schedule,
            data_schedule=descent.data_schedule,
            seeds=seeds,
            versions=_versions(("numpy", "onnx", *engines, *source.packages)),
        ),
    )


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    # Asked of the modules: ONNX Runtime's distributions have several names.
    modules = {package: str(import_module(package).__version__) for package in packages}
    return {"cascade-serve": __version__, "python": platform.python_version()} | modules


def _accuracy(data: store.CalibrationData, seeds: tuple[int, ...]) -> AccuracyCard:
    correct = int(np.count_nonzero(is_usable(data.logits_NK) & (data.logits_NK.argmax(axis=1) == data.labels_N)))
    n = len(data.labels_N)
    return AccuracyCard(split=_SPLIT, n=n, top1=correct / n, interval=wilson_interval(correct, n), seeds=seeds)


def _calibration(rows: CalibrationRows) -> CalibrationCard:
    from cascade_serve.planner.calibration import expected_calibration_error, fit_temperature

    def error(temperature: float) -> float:
        labels_N: IntArray = rows.data.labels_N
        # Rows with infinite logits count as wrong; see _accuracy.
        with np.errstate(over="ignore", invalid="ignore"):
            score_NK = member_score(Combine.MEAN_PROBS, rows.data.logits_NK, temperature)
        return expected_calibration_error(score_NK, labels_N)

    temperature = fit_temperature(rows.data.logits_NK, rows.data.labels_N)
    return CalibrationCard(
        temperature=temperature, ece_before=error(1.0), ece_after=error(temperature), split_sha256=rows.sha256
    )
