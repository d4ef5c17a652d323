"""The stage of evaluation: how good each member is on images that it has not seen."""
# Shapes: N images, K classes.

from collections.abc import Sequence
from pathlib import Path

from pydantic import JsonValue, TypeAdapter
from safetensors.numpy import save_file
from torch import nn

from cascade_serve.core.arrays import FloatArray
from cascade_serve.core.interval import wilson_interval
from model_zoo.weights import load_weights
from training.config import RunConfig
from training.data.images import LabelledImages
from training.evaluation import Evaluation, predict
from training.files import write_whole
from training.member_job import WEIGHTS_FILE, MemberFacts, cpu_threads
from training.members import build_member
from training.pipeline.data_stage import Material
from training.pipeline.listening import Listener
from training.pipeline.member_stage import read_facts
from training.run_dir import RunDir
from training.run_stage import FinishedStage

STAGE = "evaluation"
ACCURACY_FILE = "accuracy.json"
LOGITS_FILE = "logits.safetensors"
PARTS = ("calibration", "test")

Accuracy = dict[str, dict[str, Evaluation]]
"""By member, then by part."""
_ACCURACY = TypeAdapter(Accuracy)


def evaluate_members(
    run: RunDir, config: RunConfig, material: Material, members: tuple[FinishedStage, ...], listener: Listener
) -> FinishedStage:
    """Measure every member on calibration and test; nothing is chosen by it.

    Args:
        run: the run's folder.
        config: says where.
        material: the data.
        members: finished stages of the members.
        listener: hears of progress.

    Returns:
        the stage: ``accuracy.json``, and every member's logits on both parts in ``logits.safetensors``, as
        ``<member>/<part>``, float32 [N, K].

    Raises:
        ZooError: weights can't be loaded.
        RunDirError: the folder is at fault.
    """
    facts = [read_facts(member) for member in members]
    inputs = {
        **{member.name: member.folder / WEIGHTS_FILE for member in members},
        **{part: material.file(part) for part in PARTS},
    }
    settings: JsonValue = {"members": [fact.config.name for fact in facts], "device": config.device}
    with run.stage(STAGE, config=settings, inputs=inputs) as stage:
        is_new = not stage.is_done
        if is_new:
            advance = listener.begin("evaluating", len(members) * len(PARTS))
            logits: dict[str, FloatArray] = {}
            accuracy: Accuracy = {}
            for member, fact in zip(members, facts, strict=True):
                name = fact.config.name
                model = load_member(fact, member.folder / WEIGHTS_FILE, material.parts.train)
                accuracy[name] = {}
                for part in PARTS:
                    rows = material.parts.by_name[part]
                    with cpu_threads(config.threads):
                        logits_NK = predict(model, rows, fact.normalisation, device=config.device)
                    logits[f"{name}/{part}"] = logits_NK
                    accuracy[name][part] = _judge(logits_NK, rows)
                    advance(1)
            save_file(dict(logits), stage.path / LOGITS_FILE)
            write_whole(stage.path / ACCURACY_FILE, _ACCURACY.dump_json(accuracy, indent=1) + b"\n")
            stage.finish(_ACCURACY.dump_python(accuracy, mode="json"))
        _tell(read_accuracy(stage.done), [fact.config.name for fact in facts], listener)
        return stage.done


def read_accuracy(stage: FinishedStage) -> Accuracy:
    """Give what the stage found: by member, then by part."""
    return _ACCURACY.validate_python(stage.record.result)


def load_member(facts: MemberFacts, weights: Path, like: LabelledImages) -> nn.Module:
    """Build a trained member again.

    Args:
        facts: of the member.
        weights: its file.
        like: images of its size and classes.

    Raises:
        ZooError: the weights can't be loaded.
    """
    module = build_member(facts.config, like).module
    load_weights(module, weights)
    return module


def _judge(logits_NK: FloatArray, rows: LabelledImages) -> Evaluation:
    num_correct = int((logits_NK.argmax(axis=1) == rows.labels_B).sum())
    return Evaluation(
        n=len(rows),
        top1=num_correct / len(rows),
        interval=wilson_interval(num_correct, len(rows)),
        data_sha256=rows.sha256,
    )


def _tell(accuracy: Accuracy, names: Sequence[str], listener: Listener) -> None:
    for name in names:
        shown = ", ".join(
            f"{100 * found.top1:.2f} % of {found.n:,} {part} images"
            f" [{100 * found.interval[0]:.1f}, {100 * found.interval[1]:.1f}]"
            for part, found in accuracy[name].items()
        )
        listener.tell(f"{name}: right on {shown}")
