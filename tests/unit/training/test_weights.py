"""Weights on disk come back as they were, or are not there at all."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from training.errors import WeightsError
from training.weights import write_weights


def _model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def test_parameters_buffers_and_metadata_come_back(tmp_path: Path) -> None:
    model = _model()
    path = tmp_path / "new" / "größe.safetensors"
    write_weights(model, path, {"seed": 7, "data": "größe"})
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in load_file(path).items())
    assert set(load_file(path)) == set(model.state_dict())
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["training"]) == {"seed": 7, "data": "größe"}
    assert list(path.parent.iterdir()) == [path]


def test_tied_and_transposed_weights_are_written_too(tmp_path: Path) -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    first.weight = second.weight = nn.Parameter(first.weight.detach().transpose(0, 1))
    model = nn.Sequential(first, second)
    path = tmp_path / "tied.safetensors"
    write_weights(model, path)
    assert torch.equal(load_file(path)["1.weight"], first.weight)


def test_an_existing_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"old")
    write_weights(_model(), path)
    assert "0.weight" in load_file(path)


@pytest.mark.parametrize("name", ["weights.pt", "weights"])
def test_another_suffix_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    message = f"{path}: suffix: got {path.suffix!r}; must be .safetensors"
    with pytest.raises(WeightsError, match=f"^{re.escape(message)}$"):
        write_weights(_model(), path)


def test_a_path_that_can_not_be_written_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "taken.safetensors"
    path.mkdir()
    with pytest.raises(WeightsError, match=r"taken\.safetensors"):
        write_weights(_model(), path)
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"file.*: (Not a directory|File exists)$"):
        write_weights(_model(), tmp_path / "file" / "weights.safetensors")
