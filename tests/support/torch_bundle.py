"""Real bundles of tiny torch members: weights, card, and a stand-in for the graph, which torch never reads."""
# Shapes: K classes.

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from unsettled_norms import unsettle

from cascade_serve.bundle import GRAPH_FILE, Bundle, sha256_file, write_bundle
from cascade_serve.core.combine import Combine
from cascade_serve.core.confidence import Confidence
from cascade_serve.core.plan import Calibration, Fingerprint, Member, Plan, Policy, Stage, Task
from model_zoo.card import Card, CostCard, InputCard, ProvenanceCard, TaskCard
from model_zoo.registry import BuiltModel, build_model
from model_zoo.served import ServedModule
from model_zoo.store import write_card
from model_zoo.weights import write_weights

TASK = TaskCard(height=8, width=8, channels=1, classes=("null", "one", "two", "three"))
ARCHITECTURES = ("digits_cnn_s", "digits_cnn_m")


def build(architecture: str, seed: int = 0) -> BuiltModel:
    """Build a random network whose batch norms do something."""
    built = build_model(architecture, classes=len(TASK.classes), channels=TASK.channels, seed=seed)
    unsettle(built.module)
    return replace(built, preset=replace(built.preset, mean=(0.3,), std=(0.4,)))


def write_torch_member(folder: Path, architecture: str, *, seed: int = 0, precision: str = "fp32") -> ServedModule:
    """Write what ``zoo add`` leaves of a network, and give the network."""
    folder.mkdir(parents=True)
    built = build(architecture, seed)
    write_weights(built, TASK, folder)
    (folder / GRAPH_FILE).write_bytes(b"stands for a graph")
    preset = built.preset
    card = Card(
        name=folder.name,
        architecture=built.architecture,
        arguments=built.arguments,
        task=TASK,
        input=InputCard(height=preset.height, width=preset.width, mean=preset.mean, std=preset.std),
        precision=precision,
        engine="torch",
        cost=CostCard(flops=1000 * (seed + 1), macs=500, params=1, tool="test"),
        provenance=ProvenanceCard(weights="random"),
    )
    write_card(folder, card)
    return ServedModule(built.module, preset, TASK).eval()


def write_torch_bundle(
    target: Path,
    sources: Path,
    *,
    precision: str = "fp32",
    thresholds: Sequence[float] = (0.3,),
    measured_on: Fingerprint | None = None,
    left_out: str | None = None,
) -> tuple[Bundle, list[ServedModule]]:
    """Write a bundle of two members, small and large, and give it with their networks.

    Args:
        target: ``<cascade>/<version>``.
        sources: an empty folder for the members' own files.
        precision: of both.
        thresholds: of the first stage.
        measured_on: gives the plan a calibration with this fingerprint.
        left_out: a file that the bundle lacks.
    """
    names = ("small", "large")
    networks = [
        write_torch_member(sources / name, architecture, seed=seed, precision=precision)
        for seed, (name, architecture) in enumerate(zip(names, ARCHITECTURES, strict=True))
    ]
    members = tuple(
        Member(name=name, flops=1000 * (seed + 1), precision=precision, files=_files(sources / name, left_out))
        for seed, name in enumerate(names)
    )
    plan = Plan(
        task=Task(height=TASK.height, width=TASK.width, channels=TASK.channels, classes=TASK.classes),
        members=members,
        combine=Combine.MEAN_PROBS,
        confidence=Confidence.MAX_PROB,
        policies={
            "default": Policy(
                name="default",
                stages=(Stage(member="small", threshold=thresholds[0]), Stage(member="large")),
                worst_case_flops=3000,
            )
        },
        calibration=None
        if measured_on is None
        else Calibration(n=10, n_search=5, n_test=5, data_sha256="0", seed=0, fingerprint=measured_on),
    )
    return write_bundle(target, plan, {name: sources / name for name in names}), networks


def _files(folder: Path, left_out: str | None) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in folder.iterdir() if path.name != left_out}
