"""The pipeline from end to end on a few digits: what it writes, what it does again, and how it goes on after a kill."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pipeline_watch import Killed, Killer, Memory
from safetensors.numpy import load_file
from tiny_recipe import tiny, tiny_plain

from training.augment.config import PolicyKind
from training.augment.schedule_files import read_policy_schedule, read_schedule_file
from training.config import RunConfig
from training.data.data_set import DataSet, number_images
from training.data.digits import load_digits
from training.data.folder import FolderSource
from training.data.images import write_image_folder
from training.data_schedule.config import AllData, DataStep
from training.errors import DataError, RunDirError, SelectionError, SettingsError
from training.files import file_sha256
from training.pipeline.data_stage import in_name_order
from training.pipeline.evaluation_stage import read_accuracy
from training.pipeline.member_stage import read_facts
from training.pipeline.order import Order
from training.pipeline.parts import read_images, read_parts
from training.pipeline.running import read_run_file, run_all, search_only, select_only, train_only
from training.report.contents import read_contents
from training.report.sections.data_schedule import data_schedule_section
from training.run_dir import RunDir
from training.selection.active_learning import ActiveLearningConfig
from training.selection.subset import read_subset
from training.settings import apply_settings

STAGES = ("data", "evaluation", "member-s", "member-xs", "policy", "selection")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def order(out: Path, config: RunConfig | None = None, data: Path | None = None) -> Order:
    return Order(recipe="tiny", config=config or tiny(), out=out, data=data)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    run_all(order(out), Memory())
    return out


def outputs(out: Path) -> dict[str, str]:
    """Fingerprint what the members are made of; what a selection and a search also tell are seconds."""
    names = ("data/train.safetensors", "policy/policy_schedule.json", "evaluation/logits.safetensors")
    files = [*(out / name for name in names), *sorted(out.glob("member-*/weights.safetensors"))]
    return {
        **{str(file.relative_to(out)): file_sha256(file) for file in files},
        "subset": str(read_subset(out / "selection" / "subset.json").ids),
    }


def test_every_hand_over_is_a_file_with_the_sha256_of_its_inputs(finished: Path) -> None:
    run = RunDir(finished)
    assert run.finished() == STAGES
    member = run.find("member-s").record
    for label, stage, path in (
        ("train", "data", "train.safetensors"),
        ("subset", "selection", "subset.json"),
        ("policy_schedule", "policy", "schedule.json"),
    ):
        read = member.inputs[label]
        assert (read.stage, read.path) == (stage, path)
        assert read.sha256 == file_sha256(finished / stage / path)
    assert [stage.name for stage in run.descent("evaluation")][-1] == "evaluation"
    assert {stage.name for stage in run.descent("evaluation")} == set(STAGES)


def test_splits_are_disjoint_and_of_the_sizes_asked_for(finished: Path) -> None:
    parts = read_parts(finished / "data").by_name
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 200,
        "policy_validation": 40,
        "calibration": 200,
        "test": 1357,
    }
    ids = np.concatenate([part.ids_B for part in parts.values()])
    assert len(np.unique(ids)) == 1797


def test_members_are_trained_on_the_subset_under_the_schedule(finished: Path) -> None:
    facts = read_facts(RunDir(finished).find("member-xs"))
    subset = read_subset(finished / "selection" / "subset.json")
    assert len(subset) == facts.num_images == 180
    assert facts.evaluations == 120 + 150 + 180
    assert facts.config.loop.augment.policy_schedule == read_policy_schedule(finished / "policy" / "schedule.json")
    assert isinstance(facts.selection, dict)
    assert facts.selection["subset_size"] == 180
    assert facts.selection["score"] == "forgetting_events"
    proxy = facts.selection["proxy"]
    assert isinstance(proxy, dict)
    assert (proxy["architecture"], proxy["epochs"]) == ("digits_cnn_xs", 2)
    assert isinstance(facts.policy_schedule, dict)
    assert (facts.policy_schedule["strategy"], facts.policy_schedule["population"]) == ("pba", 2)


def test_accuracy_is_that_of_the_logits(finished: Path) -> None:
    accuracy = read_accuracy(RunDir(finished).find("evaluation"))
    logits = load_file(finished / "evaluation" / "logits.safetensors")
    parts = read_parts(finished / "data").by_name
    assert list(accuracy) == ["s", "xs"]
    for name, by_part in accuracy.items():
        for part, found in by_part.items():
            right = (logits[f"{name}/{part}"].argmax(axis=1) == parts[part].labels_B).mean()
            assert found.top1 == right
            assert (found.n, found.data_sha256) == (len(parts[part]), parts[part].sha256)


def test_the_run_file_says_what_was_asked_for(finished: Path) -> None:
    content = read_run_file(finished)
    assert (content.command, content.recipe, content.task) == ("run", "tiny", "digits")
    assert content.members == {"xs": "member-xs", "s": "member-s"}


def test_nothing_is_done_twice(finished: Path) -> None:
    memory = Memory()
    run_all(order(finished), memory)
    assert memory.begun == []
    assert [name for name in memory.new() if name not in ("xs", "s")] == []


@pytest.mark.parametrize(
    ("what", "after"),
    [
        ("reading digits", 0),
        ("training the proxy", 0),
        ("searching", 1),
        ("training xs", 1),
        ("training s", 0),
        ("evaluating", 2),
    ],
)
def test_a_run_killed_at_any_stage_goes_on_to_the_same_bits(
    finished: Path, tmp_path: Path, what: str, after: int
) -> None:
    with pytest.raises(Killed):
        run_all(order(tmp_path / "run"), Killer(what, after))
    memory = Memory()
    run_all(order(tmp_path / "run"), memory)
    assert outputs(tmp_path / "run") == outputs(finished)
    assert not list((tmp_path / "run").glob("*.partial"))
    expected = ["reading", "training the proxy", "searching", "training xs", "training s", "evaluating"]
    place = next(number for number, name in enumerate(expected) if what.startswith(name))
    for number, name in enumerate(expected):
        assert any(begun.startswith(name) for begun in memory.begun) == (number >= place)


@pytest.mark.parametrize(
    ("setting", "again"),
    [
        ("members.1.loop.epochs=2", {"s", "evaluation"}),
        ("members.0.name=tiniest", {"tiniest", "evaluation"}),
        ("policy_search.seed=5", {"policy search", "xs", "s", "evaluation"}),
        ("selection.core_set.fraction=0.8", {"selection", "policy search", "xs", "s", "evaluation"}),
        ("splits.seed=1", {"data", "selection", "policy search", "xs", "s", "evaluation"}),
        ("policy_search.checkpoint_interval_s=99", set()),
    ],
)
def test_a_change_re_does_only_what_depends_on_it(
    tmp_path_factory: pytest.TempPathFactory, finished: Path, setting: str, again: set[str]
) -> None:
    out = tmp_path_factory.mktemp("changed") / "run"
    copy(finished, out)
    memory = Memory()
    run_all(order(out, apply_settings(tiny(), [setting])), memory)
    begun = {"evaluation"} if "evaluating" in memory.begun else set()
    told = {line.partition(":")[0] for line in memory.told if not line.endswith("(as before)")}
    trained = {line.removeprefix("training ") for line in memory.begun if line.startswith("training ")}
    names = {"data", "selection", "policy search"}
    assert (told & names) | (trained - {"the proxy"}) | begun == again


def copy(source: Path, target: Path) -> None:
    for file in source.rglob("*"):
        if file.is_file() and file.name != ".lock":
            (target / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / file.relative_to(source)).write_bytes(file.read_bytes())


def test_damage_is_seen_and_mended(tmp_path: Path, finished: Path) -> None:
    copy(finished, tmp_path / "run")
    weights = tmp_path / "run" / "member-xs" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    memory = Memory()
    run_all(order(tmp_path / "run"), memory)
    assert memory.begun == ["training xs"]
    assert outputs(tmp_path / "run") == outputs(finished)


def test_files_of_one_command_go_into_another(tmp_path: Path, finished: Path) -> None:
    subset = select_only(order(tmp_path / "a"), Memory())
    assert read_run_file(tmp_path / "a").members == {}
    schedule = search_only(order(tmp_path / "b"), Memory())
    out = tmp_path / "c"
    members = train_only(order(out), Memory(), subset=subset, policy_schedule=schedule)
    assert RunDir(out).finished() == ("data", "evaluation", "member-s", "member-xs")
    facts = read_facts(members[0])
    assert facts.num_images == 180
    assert isinstance(facts.policy_schedule, dict)
    assert facts.policy_schedule["strategy"] == "pba"
    record = members[0].record.inputs["subset"]
    assert (record.stage, record.sha256) == (None, file_sha256(subset))
    # The subset is the one that the whole run chose.
    assert read_subset(subset).ids == read_subset(finished / "selection" / "subset.json").ids


def test_select_and_train_may_share_a_folder(tmp_path: Path) -> None:
    subset = select_only(order(tmp_path), Memory())
    members = train_only(order(tmp_path), Memory(), subset=subset)
    assert members[0].record.inputs["subset"].stage == "selection"
    assert "selection" in [stage.name for stage in RunDir(tmp_path).descent("member-xs")]


def test_training_alone_uses_all_data_and_the_members_own_policy(tmp_path: Path) -> None:
    facts = [read_facts(member) for member in train_only(order(tmp_path), Memory())]
    assert {fact.num_images for fact in facts} == {200}
    assert {fact.selection for fact in facts} == {fact.policy_schedule for fact in facts} == {None}


def test_a_given_schedule_may_be_flattened(tmp_path: Path, finished: Path) -> None:
    schedule = finished / "policy" / "schedule.json"
    members = train_only(order(tmp_path, tiny_plain()), Memory(), policy_schedule=schedule, is_flattened=True)
    facts = read_facts(members[0])
    assert facts.config.loop.augment.policy is PolicyKind.FLATTENED
    assert facts.config.loop.augment.policy_schedule == read_policy_schedule(schedule)
    assert isinstance(facts.policy_schedule, dict)
    assert facts.policy_schedule["policy"] == "flattened"
    with pytest.raises(SettingsError, match=r"^--flatten: got no --policy-schedule; must have one$"):
        train_only(order(tmp_path, tiny_plain()), Memory(), is_flattened=True)


def test_a_search_tells_of_no_more_images_than_there_are(tmp_path: Path) -> None:
    config = tiny()
    assert config.policy_search is not None
    search = replace(config.policy_search, train_images=10**6)
    file = search_only(order(tmp_path, replace(config, policy_search=search)), Memory())
    assert read_schedule_file(file).metadata["train_images"] == 200


def test_the_published_text_is_a_policy_schedule_too(tmp_path: Path) -> None:
    text = tmp_path / "rsvhn_16_wrn.txt"
    numbers = [2, 3] * 30
    text.write_text(f'["0", "1", 80, 80, {numbers}, {numbers}]\n')
    facts = read_facts(train_only(order(tmp_path / "run", tiny_plain()), Memory(), policy_schedule=text)[0])
    assert isinstance(facts.policy_schedule, dict)
    assert facts.policy_schedule["epochs"] == 160
    assert facts.policy_schedule["source"] == text.name


def test_a_subset_of_other_data_is_refused(tmp_path: Path, finished: Path) -> None:
    config = apply_settings(tiny_plain(), ["splits.seed=8"])
    with pytest.raises(
        SelectionError, match=r"subset: data_sha256: got data .*; must be .*the data that it was chosen"
    ):
        train_only(order(tmp_path, config), Memory(), subset=finished / "selection" / "subset.json")


def test_active_learning_gives_a_subset(tmp_path: Path) -> None:
    config = tiny()
    assert config.selection is not None
    active = ActiveLearningConfig(score="margin", shares=(0.2, 0.5))
    config = replace(config, selection=replace(config.selection, active_learning=active))
    with pytest.raises(Killed):
        select_only(order(tmp_path, config), Killer("training the proxy", 1))
    subset = read_subset(select_only(order(tmp_path, config), Memory()))
    assert (len(subset), subset.score) == (100, "margin")
    assert sorted(path.name for path in (tmp_path / "selection").glob("round-*")) == ["round-00.json", "round-01.json"]


def test_a_data_schedule_by_score_is_ranked_by_the_proxy(tmp_path: Path) -> None:
    config = tiny_plain()
    ordered, plain = config.members
    ordered = replace(
        ordered, loop=replace(ordered.loop, data_schedule=DataStep(fraction=0.5, share=0.5, score="entropy"))
    )
    members = (ordered, replace(plain, loop=replace(plain.loop, data_schedule=AllData())))
    config = replace(config, members=members)
    trained = run_all(order(tmp_path, config), Memory())
    assert trained[0].record.inputs["ranking"].stage == "ranking-entropy"
    assert "ranking" not in trained[1].record.inputs
    scores = load_file(tmp_path / "ranking-entropy" / "scores.safetensors")
    assert np.array_equal(scores["ids"], read_images(tmp_path / "data" / "train.safetensors").ids_B)
    # 200 images, as often as the proxy has epochs, which the report names beside what the schedule saved.
    evaluations = 200 * config.selection.proxy.loop.epochs if config.selection is not None else 0
    ranked = RunDir(tmp_path).find("ranking-entropy").record.result
    assert isinstance(ranked, dict)
    assert ranked["evaluations"] == evaluations
    section = data_schedule_section(read_contents(tmp_path))
    assert section is not None
    assert f"{evaluations:,} by the proxy of the ranking by entropy" in str(section.body)
    memory = Memory()
    run_all(order(tmp_path, config), memory)
    assert memory.begun == []
    with pytest.raises(SettingsError, match="data schedule: score 'entropy' needs a proxy; selection must not be null"):
        run_all(order(tmp_path / "other", replace(config, selection=None)), Memory())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    digits = load_digits()
    write_image_folder(digits.take(np.flatnonzero(digits.labels_B < 3)[:150]), tmp_path / "images")
    # One that is in no class of the first three.
    for empty in (tmp_path / "images").iterdir():
        assert any(empty.iterdir())
    return tmp_path / "images"


def of_folder() -> RunConfig:
    config = tiny_plain()
    return replace(config, source=FolderSource(), splits=replace(config.splits, policy_validation=0, test=30))


def test_files_that_were_only_touched_change_no_member(tmp_path: Path, folder: Path) -> None:
    config = replace(of_folder(), splits=replace(of_folder().splits, calibration=30))
    run_all(order(tmp_path / "run", config, folder), Memory())
    touched = next(folder.rglob("*.png"))
    os.utime(touched, (0, 0))
    memory = Memory()
    run_all(order(tmp_path / "run", config, folder), memory)
    assert all(begun.startswith("reading") for begun in memory.begun)
    assert memory.begun
    touched.unlink()
    memory = Memory()
    run_all(order(tmp_path / "run", config, folder), memory)
    assert "training xs" in memory.begun


def test_files_left_out_are_listed(tmp_path: Path, folder: Path) -> None:
    config = replace(of_folder(), splits=replace(of_folder().splits, calibration=30))
    config = apply_settings(config, ["source.corrupt=skip"])
    broken = next(folder.rglob("*.png"))
    broken.write_bytes(b"no image")
    memory = Memory()
    run_all(order(tmp_path / "run", config, folder), memory)
    assert any(line.startswith("data: 1 files left out, such as") for line in memory.told)
    facts = json.loads((tmp_path / "run" / "data" / "data.json").read_text())
    assert [file["path"] for file in facts["skipped"]] == [str(broken.relative_to(folder))]


def test_images_of_a_single_class_are_refused(tmp_path: Path, folder: Path) -> None:
    for name in ("1", "2"):
        shutil.rmtree(folder / name)
    with pytest.raises(DataError, match="classes: got 1, 0; must be at least 2"):
        run_all(order(tmp_path / "run", of_folder(), folder), Memory())


def test_classes_come_in_the_order_of_their_names() -> None:
    images_BHWC = np.zeros((3, 2, 2, 1), dtype=np.uint8)
    data = DataSet(
        train=number_images(images_BHWC, np.array([0, 1, 2]), classes=("dog", "ant", "cat")),
        test=number_images(images_BHWC, np.array([2, 2, 0]), classes=("dog", "ant", "cat"), first_id=3),
    )
    ordered = in_name_order(data)
    assert ordered.train.classes == ("ant", "cat", "dog")
    assert ordered.train.labels_B.tolist() == [2, 0, 1]
    assert ordered.test is not None
    assert ordered.test.labels_B.tolist() == [1, 1, 2]
    assert in_name_order(ordered).train is ordered.train


def test_a_folder_that_is_no_runs(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match=r"run\.json: No such file or directory; must be the folder of a run"):
        read_run_file(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(RunDirError, match=r"run\.json: damaged: Field required"):
        read_run_file(tmp_path)


def test_a_damaged_part(tmp_path: Path) -> None:
    (tmp_path / "train.safetensors").write_bytes(b"oops")
    with pytest.raises(DataError, match=r"train\.safetensors: is damaged"):
        read_images(tmp_path / "train.safetensors")
    with pytest.raises(DataError, match=r"test\.safetensors: No such file"):
        read_images(tmp_path / "test.safetensors")
    with pytest.raises(DataError, match=r"data\.json: No such file"):
        read_parts(tmp_path)
