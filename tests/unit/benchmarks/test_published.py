"""The published program is run as it is, on our images; a stand-in with its outward shape takes its place here."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.training.published import published, write_images
from benchmarks.training.tasks import Task
from training.data.images import LabelledImages
from training.inputs import Normalisation

PROGRAM = """
import sys, torch
with open(sys.argv[0]) as file:
    code = file.read()

class CifarNet(torch.nn.Module):
    def cuda(self):
        return self

def main(run, model):
    if run == "broken":
        raise SystemExit(3)
    data = {name: torch.load(f"cifar10/{name}.pt") for name in ("train", "test")}
    assert data["train"]["images"].dtype == torch.uint8 and data["train"]["images"].shape == (6, 32, 32, 3)
    assert data["test"]["classes"] == ["cat", "dog"]
    print(f"|  {run}  |  eval  |  0.5000  |")
    print(f"|  {run}  |  eval  |  0.2500  |  {torch.rand(()).item():.4f}  |")
    return data["test"]["labels"].float().mean().item() if "READS" in code else 0.0
# READS its own text, and finds this.
"""


def images(count: int, seed: int) -> LabelledImages:
    rng = np.random.default_rng(seed)
    return LabelledImages(
        images_BHWC=rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8),
        labels_B=np.arange(count) % 2,
        ids_B=np.arange(count),
        classes=("cat", "dog"),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    normalisation = Normalisation(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    write_images(Task(train=images(6, 0), test=images(4, 1), normalisation=normalisation), tmp_path)
    return tmp_path


def test_the_program_trains_once_a_seed_on_the_images_written_for_it(folder: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with published(program, folder, should_compile=False) as running:
        figures = [running.run(seed) for seed in (3, 4, 3)]
    assert [one["accuracy %"] for one in figures] == [50.0] * 3
    torch.manual_seed(3)
    drawn = round(torch.rand(()).item(), 4)
    # The timer's number is the last of the last row.
    assert figures[0]["training and test s"] == figures[2]["training and test s"] == drawn
    assert figures[1]["training and test s"] != drawn


def test_a_program_that_ends_is_told_of(folder: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace('"broken"', "0"))
    with (
        published(program, folder, should_compile=False) as running,
        pytest.raises(RuntimeError, match="the published program ended with exit code 3"),
    ):
        running.run(0)
