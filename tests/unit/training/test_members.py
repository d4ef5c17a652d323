"""From recipe to weights: the digits' three members, and what is written of them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from model_zoo.errors import UnknownArchitectureError
from model_zoo.registry import build_model
from training.data.digits import load_digits
from training.data.splits import split
from training.errors import DataError, DivergedError
from training.evaluation import evaluate, predict
from training.members import MemberConfig, TrainedMember, train_member
from training.optim import OptimConfig
from training.recipes.digits import digits_members, digits_splits


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedMember, ...]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("members")
    train_rows = split(load_digits(), digits_splits())["train"]
    return tuple(train_member(config, train_rows, folder) for config in digits_members())


def test_accuracy_grows_with_size_enough_for_a_cascade(members: tuple[TrainedMember, ...]) -> None:
    calibration = split(load_digits(), digits_splits())["calibration"]
    top1 = [evaluate(member.model, calibration, member.normalisation).top1 for member in members]
    assert 0.90 < top1[0] < top1[1] - 0.01
    assert top1[1] < top1[2]
    assert top1[2] > 0.98


def test_weights_load_by_name_into_a_new_model(members: tuple[TrainedMember, ...]) -> None:
    digits = load_digits().take(np.arange(100))
    for member in members:
        model = build_model(member.config.architecture, classes=10, channels=1, seed=99).module
        model.load_state_dict(load_file(member.weights))
        again_BK = predict(model, digits, member.normalisation)
        assert np.array_equal(again_BK, predict(member.model, digits, member.normalisation))


def test_the_log_holds_a_line_an_epoch(members: tuple[TrainedMember, ...]) -> None:
    for member in members:
        lines = [json.loads(line) for line in member.weights.with_suffix(".jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines] == list(range(1, member.config.loop.epochs + 1))
        assert lines[-1]["loss"] == member.reports[-1].loss


def test_normalisation_is_the_architectures(members: tuple[TrainedMember, ...]) -> None:
    preset = build_model("digits_cnn_s", classes=10, channels=1).preset
    assert (members[0].normalisation.mean, members[0].normalisation.std) == (preset.mean, preset.std)


def _quick() -> MemberConfig:
    config = digits_members()[0]
    return replace(config, name="größe", loop=replace(config.loop, epochs=1))


def test_a_second_run_replaces_the_first_bit_for_bit(tmp_path: Path) -> None:
    digits = load_digits().take(np.arange(200))
    first = train_member(_quick(), digits, tmp_path).weights.read_bytes()
    assert train_member(_quick(), digits, tmp_path).weights.read_bytes() == first
    assert len((tmp_path / "größe.jsonl").read_text().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["größe.jsonl", "größe.safetensors"]


def test_a_run_that_diverges_writes_no_weights(tmp_path: Path) -> None:
    config = _quick()
    wild = replace(config, loop=replace(config.loop, epochs=5, optim=OptimConfig(peak_lr=1e30)))
    with pytest.raises(DivergedError, match=r"^step \d+ \(epoch \d\): loss: got nan"):
        train_member(wild, load_digits().take(np.arange(200)), tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_an_unknown_architecture(tmp_path: Path) -> None:
    with pytest.raises(UnknownArchitectureError, match="digits_cnn_xxl"):
        train_member(replace(_quick(), architecture="digits_cnn_xxl"), load_digits(), tmp_path)


def test_a_folder_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(DataError, match=r"taken.*: (Not a directory|File exists)$"):
        train_member(_quick(), load_digits(), tmp_path / "taken")
