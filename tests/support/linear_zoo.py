"""Zoos of members that are a few bytes of graph, which runs: flatten, one matrix, logits."""

from pathlib import Path

from onnx_bundle import write_linear_graph

from model_zoo.card import Card, CostCard, InputCard, ProvenanceCard, TaskCard
from model_zoo.store import bind_task, new_member, write_card

TASK = TaskCard(height=4, width=4, channels=3, classes=("cat", "dog", "frog"))


def write_linear_member(task_path: Path, name: str, flops: int, *, task: TaskCard = TASK, **facts: str) -> None:
    bind_task(task_path, task)
    with new_member(task_path, name, overwrite=True) as folder:
        write_linear_graph(folder / "model.onnx", 0, (task.height, task.width, task.channels), len(task.classes))
        norm = (0.5,) * task.channels
        card = Card.model_validate(
            {
                "name": name,
                "architecture": "onnx",
                "task": task,
                "input": InputCard(height=task.height, width=task.width, mean=norm, std=norm),
                "cost": CostCard(flops=flops, macs=flops, params=1, tool="by hand"),
                "provenance": ProvenanceCard(weights="random"),
                **facts,
            }
        )
        write_card(folder, card)
