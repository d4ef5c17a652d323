"""Exporting a run: the zoo's members, their cards, and what is left alone or refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pipeline_watch import Memory
from safetensors.numpy import load_file
from tiny_recipe import tiny, tiny_plain

from model_zoo.errors import ConflictError
from model_zoo.image_folder import scan_image_folder
from model_zoo.store import read_calibration, read_member
from training.config import RunConfig
from training.errors import MemberExportError, RunDirError
from training.export import check_zoo, export_run
from training.pipeline.member_stage import read_facts
from training.pipeline.order import Order
from training.pipeline.running import run_all, select_only, train_only
from training.run_dir import RunDir
from training.settings import apply_settings


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def order(out: Path, config: RunConfig) -> Order:
    return Order(recipe="tiny", config=config, out=out)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "run"
    run_all(order(out, tiny()), Memory())
    return out


@pytest.fixture(scope="module")
def task_path(run_dir: Path) -> Path:
    return export_run(run_dir, run_dir.parent / "zoo", Memory())


def test_the_cards_tell_the_whole_descent(run_dir: Path, task_path: Path) -> None:
    assert task_path == run_dir.parent / "zoo" / "digits"
    for name in ("xs", "s"):
        card = read_member(task_path / name).card
        facts = read_facts(RunDir(run_dir).find(f"member-{name}"))
        assert card.training is not None
        assert card.training.evaluations == facts.evaluations
        assert card.training.seconds == facts.process_seconds
        assert card.training.device == "cpu"
        provenance = card.provenance
        assert (provenance.weights, provenance.seeds) == ("trained", (0,))
        assert provenance.train_sha256 == facts.train_sha256
        assert provenance.selection == facts.selection
        assert provenance.policy_schedule == facts.policy_schedule
        assert provenance.data_schedule == {"schedule": "increment:0.5", "epochs": 3}
        assert (card.input.mean, card.input.std) == (facts.normalisation.mean, facts.normalisation.std)


def test_the_graph_says_what_the_trained_model_says(run_dir: Path, task_path: Path) -> None:
    logits = load_file(run_dir / "evaluation" / "logits.safetensors")
    folder = scan_image_folder(run_dir / "images" / "calibration")
    calibration_ids = [int(file.stem) for file in folder.files]
    part = load_file(run_dir / "data" / "calibration.safetensors")
    rows = np.argsort(part["ids"])[np.searchsorted(np.sort(part["ids"]), calibration_ids)]
    for name in ("xs", "s"):
        calibration = read_calibration(read_member(task_path / name))
        assert np.array_equal(calibration.labels_N, part["labels"][rows])
        np.testing.assert_allclose(calibration.logits_NK, logits[f"{name}/calibration"][rows], atol=1e-3)


def test_test_images_are_written_too(run_dir: Path, task_path: Path) -> None:
    del task_path
    assert len(scan_image_folder(run_dir / "images" / "test")) == 1357


def test_what_is_there_already_is_left_alone(run_dir: Path, task_path: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in task_path.rglob("*")}
    memory = Memory()
    export_run(run_dir, task_path.parent, memory)
    assert memory.begun == []
    assert memory.told == [f"{task_path / name} (as before)" for name in ("xs", "s")]
    assert {file: file.stat().st_mtime_ns for file in task_path.rglob("*")} == before


def test_a_run_replaces_its_own_member_but_nobody_elses(tmp_path: Path) -> None:
    config = replace(tiny_plain(), members=tiny_plain().members[:1])
    zoo = tmp_path / "zoo"
    train_only(order(tmp_path / "run", config), Memory())
    export_run(tmp_path / "run", zoo, Memory())
    first = read_member(zoo / "digits" / "xs").card
    train_only(order(tmp_path / "run", apply_settings(config, ["members.0.loop.epochs=2"])), Memory())
    export_run(tmp_path / "run", zoo, Memory())
    second = read_member(zoo / "digits" / "xs").card
    assert first.training is not None
    assert second.training is not None
    assert first.training.evaluations != second.training.evaluations
    train_only(order(tmp_path / "other", config), Memory())
    with pytest.raises(ConflictError, match="xs: exists already; choose another name"):
        export_run(tmp_path / "other", zoo, Memory())
    assert read_member(zoo / "digits" / "xs").card == second


def test_a_selection_alone_has_nothing_to_export(tmp_path: Path) -> None:
    select_only(order(tmp_path / "run", tiny()), Memory())
    with pytest.raises(RunDirError, match="cascade-train select trained no members; use cascade-train train"):
        export_run(tmp_path / "run", tmp_path / "zoo", Memory())


def test_members_that_are_not_trained_yet(run_dir: Path, tmp_path: Path) -> None:
    content = json.loads((run_dir / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(RunDirError, match=r"member-xs.*done\.json: absent: the stage is not finished"):
        export_run(tmp_path, tmp_path / "zoo", Memory())


@pytest.mark.parametrize("content", ["{", "[1]", "3"])
def test_a_damaged_list_of_exports_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "exports.json").write_text(content)
    taken = tmp_path / "zoo" / "digits" / "xs"
    taken.mkdir(parents=True)
    (taken / "card.json").write_text("{}")
    with pytest.raises(RunDirError, match=r"exports\.json: can't be read: "):
        check_zoo(tmp_path, tmp_path / "zoo", "digits", ["xs"])


def test_a_class_without_calibration_images(tmp_path: Path) -> None:
    config = apply_settings(tiny_plain(), ["splits.calibration=5"])
    train_only(order(tmp_path / "run", config), Memory())
    with pytest.raises(MemberExportError, match=r"calibration: got no image of \d classes, such as '\d'; must be at"):
        export_run(tmp_path / "run", tmp_path / "zoo", Memory())


def test_what_the_serving_side_refuses(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(package: str) -> None:
        return None

    monkeypatch.setattr("cascade_serve.zoo.source.find_spec", refuse)
    with pytest.raises(MemberExportError, match=r"member 'xs': .* is not installed; install it with: pip install"):
        export_run(run_dir, tmp_path / "zoo", Memory())
