from pathlib import Path
from typing import Any

import pytest

from training.errors import RunDirError
from training.pipeline.running import RunFile
from training.report.stages import StageState, read_stages
from training.run_dir import Input, RunDir

MEMBER = {"name": "small", "architecture": "x", "loop": {"epochs": 3, "augment": {"policy": "none"}}}
CONFIG: dict[str, Any] = {
    "source": {"kind": "digits"},
    "splits": {"test": 5},
    "selection": {"fraction": 0.5},
    "should_select": True,
    "should_search": False,
    "members": [MEMBER],
}


def _run(command: str = "run", **changes: Any) -> RunFile:
    members = {"small": "member-small"} if command in ("run", "train") else {}
    return RunFile(command=command, recipe="r", task="t", members=members, config={**CONFIG, **changes})


def _make(folder: Path, name: str, config: Any, reads: dict[str, str], text: str = "x") -> None:
    """Finish a stage that has read files, ``label -> stage/file``, and made one."""
    with RunDir(folder) as run:
        inputs: dict[str, Input] = {label: folder / path for label, path in reads.items()}
        with run.stage(name, config=config, inputs=inputs) as stage:
            if not stage.is_done:
                (stage.path / "out.txt").write_text(text)
                stage.finish()


def _make_all(folder: Path, *, data: str = "x") -> None:
    _make(folder, "data", {"source": {"kind": "digits"}, "splits": {"test": 5}}, {}, data)
    _make(folder, "selection", {"selection": {"fraction": 0.5}}, {"train": "data/out.txt"})
    _make(folder, "member-small", {"member": MEMBER}, {"subset": "selection/out.txt"})
    _make(folder, "evaluation", {"members": ["small"]}, {"weights": "member-small/out.txt"})


def _states(folder: Path, run: RunFile | None = None) -> dict[str, str]:
    return {name: str(stage.state) for name, stage in read_stages(folder, run or _run()).items()}


def test_all_done_in_the_order_in_which_they_read(tmp_path: Path) -> None:
    _make_all(tmp_path)
    stages = read_stages(tmp_path, _run())
    assert list(stages) == ["data", "selection", "member-small", "evaluation"]
    assert {stage.state for stage in stages.values()} == {StageState.DONE}
    assert stages["evaluation"].reads == ("member-small",)


def test_an_empty_run_has_not_begun(tmp_path: Path) -> None:
    expected = ["data", "selection", "member-small", "evaluation"]
    assert _states(tmp_path) == dict.fromkeys(expected, "not begun")
    assert list(_states(tmp_path, _run("select"))) == ["data", "selection"]
    assert list(_states(tmp_path, _run("search-policy"))) == ["data", "policy"]


def test_a_stage_made_again_makes_its_readers_and_theirs_outdated(tmp_path: Path) -> None:
    _make_all(tmp_path)
    (tmp_path / "data" / "out.txt").write_text("damage, so that it is made again")
    _make(tmp_path, "data", {"source": {"kind": "digits"}, "splits": {"test": 5}}, {}, "other")
    outdated = dict.fromkeys(["selection", "member-small", "evaluation"], "outdated")
    assert _states(tmp_path) == {"data": "done", **outdated}


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"splits": {"test": 6}}, "data"),
        ({"selection": {"fraction": 0.6}}, "selection"),
        ({"members": [{**MEMBER, "architecture": "y"}]}, "member-small"),
    ],
)
def test_changed_settings_make_a_stage_outdated(tmp_path: Path, change: dict[str, Any], first: str) -> None:
    _make_all(tmp_path)
    states = _states(tmp_path, _run(**change))
    names = list(states)
    place = names.index(first)
    assert [states[name] for name in names] == ["done"] * place + ["outdated"] * (len(names) - place)


def test_a_policy_that_took_the_place_of_the_members_own_is_no_change(tmp_path: Path) -> None:
    _make_all(tmp_path)
    own: dict[str, Any] = {**MEMBER, "loop": {"epochs": 3, "augment": {"policy": "schedule", "policy_schedule": [1]}}}
    assert _states(tmp_path, _run(members=[own]))["member-small"] == "done"


def test_a_killed_stage_is_unfinished_and_knows_what_it_reads(tmp_path: Path) -> None:
    _make_all(tmp_path)
    changed: dict[str, Any] = {**MEMBER, "architecture": "y"}
    subset = tmp_path / "selection" / "out.txt"
    with (
        pytest.raises(RuntimeError, match="killed"),
        RunDir(tmp_path) as run,
        run.stage("member-small", config={"member": changed}, inputs={"subset": subset}),
    ):
        raise RuntimeError("killed")
    stage = read_stages(tmp_path, _run(members=[changed]))["member-small"]
    assert stage.state is StageState.UNFINISHED
    assert stage.partial == tmp_path / "member-small.partial"
    assert stage.reads == ("selection",)


def test_what_an_earlier_attempt_left_beside_a_finished_stage_is_passed_over(tmp_path: Path) -> None:
    _make_all(tmp_path)
    (tmp_path / "member-small.partial").mkdir()
    stage = read_stages(tmp_path, _run())["member-small"]
    assert stage.state is StageState.DONE
    assert stage.partial is None


def test_stages_of_an_earlier_command_are_not_asked_for(tmp_path: Path) -> None:
    _make_all(tmp_path)
    _make(tmp_path, "policy", {"policy_search": {}}, {"train": "data/out.txt"})
    stages = read_stages(tmp_path, _run())
    assert not stages["policy"].is_asked_for
    assert stages["policy"].state is StageState.DONE
    assert stages["selection"].is_asked_for


def test_where_a_search_ran_is_no_change_of_it(tmp_path: Path) -> None:
    _make(tmp_path, "data", {"source": {"kind": "digits"}, "splits": {"test": 5}}, {})
    _make(tmp_path, "policy", {"policy_search": {"seed": 1, "ray": {"address": None}}}, {"train": "data/out.txt"})
    search = {"seed": 1, "ray": {"address": "auto"}, "checkpoint_interval_s": 3.0}
    assert _states(tmp_path, _run("search-policy", policy_search=search))["policy"] == "done"
    assert _states(tmp_path, _run("search-policy", policy_search={**search, "seed": 2}))["policy"] == "outdated"


def test_settings_of_another_version_are_outdated(tmp_path: Path) -> None:
    _make(tmp_path, "data", {"source": {"kind": "digits"}, "splits": {"test": 5}}, {})
    _make(tmp_path, "selection", {"chosen": 3}, {"train": "data/out.txt"})
    assert _states(tmp_path)["selection"] == "outdated"


def test_a_damaged_output_is_named(tmp_path: Path) -> None:
    _make_all(tmp_path)
    (tmp_path / "selection" / "out.txt").write_text("changed")
    with pytest.raises(RunDirError, match=r"selection: output out\.txt is not what it was"):
        read_stages(tmp_path, _run())
