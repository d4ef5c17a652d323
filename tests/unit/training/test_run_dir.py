"""Stages of a run: done once, gone on with after a kill, re-done after a change, and never half there."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from training.errors import RunDirError
from training.run_dir import RunDir
from training.run_record import StageRecord, read_record, versions


class Killed(BaseException):
    """What a test kills a run with: nothing catches it."""


class Line:
    """A run of three stages: ``a`` reads a file from outside, ``b`` reads ``a``, ``c`` reads ``a`` and ``b``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.source = root / "source.txt"
        self.source.write_text("1")
        self.configs: dict[str, Any] = {"a": {"x": 1}, "b": {}, "c": {}}
        self.worked: list[str] = []

    def go(self) -> tuple[str, ...]:
        """Run, and tell which stages had something to do."""
        self.worked.clear()
        with RunDir(self.root / "run") as run:
            with run.stage("a", config=self.configs["a"], inputs={"source": self.source}) as a:
                self.work(a, f"a of {self.source.read_text()} with {self.configs['a']}")
            with run.stage("b", config=self.configs["b"], inputs={"a": a.path / "deep" / "out.txt"}) as b:
                # Its output has nothing of its configuration's noise: what depends on it needn't be made again.
                self.work(b, f"b of {(a.path / 'deep' / 'out.txt').read_text()}")
            with run.stage("c", config=self.configs["c"], inputs={"a": a.path / "deep" / "out.txt", "b": b.done}) as c:
                self.work(c, f"c of {(a.path / 'deep' / 'out.txt').read_text()}{(b.path / 'deep/out.txt').read_text()}")
        return tuple(self.worked)

    def work(self, stage: Any, text: str) -> None:
        if stage.is_done:
            return
        self.worked.append(stage.name)
        (stage.path / "deep").mkdir(exist_ok=True)
        (stage.path / "deep" / "out.txt").write_text(text)
        (stage.scratch / "checkpoint").write_text("half")
        stage.finish({"letters": len(text)})

    def outputs(self) -> Mapping[str, str]:
        return {path.parent.parent.name: path.read_text() for path in (self.root / "run").glob("?/deep/out.txt")}


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path)


def test_second_run_does_nothing(line: Line) -> None:
    assert line.go() == ("a", "b", "c")
    before = {path: path.stat().st_mtime_ns for path in (line.root / "run").rglob("*") if path.is_file()}
    assert line.go() == ()
    after = {path: path.stat().st_mtime_ns for path in (line.root / "run").rglob("*") if path.is_file()}
    assert {path for path in after if before.get(path) != after[path]} == {line.root / "run" / ".lock"}


def test_folder_holds_outputs_and_records_alone(line: Line) -> None:
    line.go()
    files = sorted(path.relative_to(line.root / "run").as_posix() for path in (line.root / "run").rglob("*.*"))
    assert files == sorted([".lock", *(f"{name}/{file}" for name in "abc" for file in ("done.json", "deep/out.txt"))])


def test_record_says_what_was_read_written_and_told(line: Line) -> None:
    line.go()
    record = read_record(line.root / "run" / "c")
    assert record.stage == "c"
    assert record.result == {"letters": len(line.outputs()["c"])}
    assert {name: (read.stage, read.path) for name, read in record.inputs.items()} == {
        "a": ("a", "deep/out.txt"),
        "b": ("b", None),
    }
    assert list(record.outputs) == ["deep/out.txt"]
    assert record.versions == versions()
    assert "python" in record.versions
    assert "numpy" in record.versions
    assert 0 < record.process_seconds < 60
    assert 0 < record.seconds < 60
    (source,) = read_record(line.root / "run" / "a").inputs.values()
    assert (source.stage, source.path) == (None, str(line.source))


@pytest.mark.parametrize(
    ("change", "worked"),
    [
        (lambda line: line.source.write_text("2"), ("a", "b", "c")),
        (lambda line: line.configs.update(a={"x": 2}), ("a", "b", "c")),
        # What b writes stays the same, so c needn't be made again.
        (lambda line: line.configs.update(b={"noise": 1}), ("b",)),
        (lambda line: line.configs.update(c={"noise": 1}), ("c",)),
        (lambda line: (line.root / "run" / "b" / "deep" / "out.txt").write_text("spoilt"), ("b",)),
        (lambda line: (line.root / "run" / "b" / "deep" / "out.txt").unlink(), ("b",)),
        (lambda line: (line.root / "run" / "b" / "new.txt").write_text(""), ("b",)),
        (lambda line: (line.root / "run" / "b" / "done.json").unlink(), ("b",)),
        (lambda line: (line.root / "run" / "b" / "done.json").write_text("{"), ("b",)),
        (lambda line: (line.root / "run" / "b" / "done.json").write_bytes(b"\xff"), ("b",)),
        (lambda line: shutil.rmtree(line.root / "run" / "b"), ("b",)),
    ],
)
def test_change_redoes_only_what_depends_on_it(
    line: Line, change: Callable[[Line], object], worked: tuple[str, ...]
) -> None:
    line.go()
    change(line)
    assert line.go() == worked
    assert line.go() == ()
    with_changes = line.outputs()
    shutil.rmtree(line.root / "run")
    assert line.go() == ("a", "b", "c")
    assert line.outputs() == with_changes


def test_order_of_keys_is_no_change(line: Line) -> None:
    line.configs["a"] = {"x": 1, "y": 2}
    line.go()
    line.configs["a"] = {"y": 2, "x": 1}
    assert line.go() == ()


def test_run_folder_may_be_moved(line: Line) -> None:
    line.go()
    (line.root / "elsewhere").mkdir()
    (line.root / "run").rename(line.root / "elsewhere" / "run")
    line.source.rename(line.root / "elsewhere" / "source.txt")
    line.root /= "elsewhere"
    line.source = line.root / "source.txt"
    assert line.go() == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (shutil.rmtree, r"^not done yet$"),
        (lambda folder: (folder / "out").write_text("x"), r"^output out is not what it was$"),
        (lambda folder: (folder / "out").unlink(), r"^output out is absent$"),
        (lambda folder: (folder / "more").write_text(""), r"^output more is not of the stage$"),
        (lambda folder: (folder / "done.json").write_text("[]"), r"done\.json: damaged"),
        (lambda folder: (folder / "done.json").write_text('{"sha256": 1}'), r"done\.json: damaged: \d+ validation"),
    ],
)
def test_reason_is_told(tmp_path: Path, change: Callable[[Path], object], reason: str) -> None:
    run = tmp_path / "run"
    finish_one(run)
    change(run / "only")
    with RunDir(run) as opened, opened.stage("only", config={}, inputs={}) as stage:
        assert not stage.is_done
        assert re.search(reason, stage.reason)
        stage.finish()


@pytest.mark.parametrize(
    ("config", "inputs", "reason"),
    [
        ({"x": 1}, {"n": "00"}, "settings changed"),
        ({}, {"n": "11"}, "input n changed"),
        ({}, {}, "input n is gone"),
        ({}, {"n": "00", "m": "11"}, "input m is new"),
    ],
)
def test_reason_names_setting_or_input(
    tmp_path: Path, config: dict[str, Any], inputs: dict[str, str], reason: str
) -> None:
    with RunDir(tmp_path) as run:
        with run.stage("one", config={}, inputs={"n": "00"}) as stage:
            stage.finish()
        with run.stage("one", config=config, inputs=inputs) as stage:
            assert stage.reason == reason
            stage.finish()


def finish_one(run: Path, text: str = "out", config: Any = None) -> None:
    with RunDir(run) as opened, opened.stage("only", config=config or {}, inputs={}) as stage:
        (stage.path / "out").write_text(text)
        stage.finish()


def test_hand_changed_record_is_damaged(tmp_path: Path) -> None:
    finish_one(tmp_path)
    path = tmp_path / "only" / "done.json"
    content = json.loads(path.read_text())
    content["seconds"] = 1e-9
    path.write_text(json.dumps(content))
    with pytest.raises(RunDirError, match=r"done\.json: damaged: its fingerprint is not what it says$"):
        RunDir(tmp_path).find("only")


# A killed run.


def kill_one(run: Path, config: Any, inputs: Mapping[str, str]) -> None:
    """Begin a stage, and be killed."""
    with (
        contextlib.suppress(Killed),
        RunDir(run) as opened,
        opened.stage("only", config=config, inputs=inputs) as stage,
    ):
        (stage.path / "part").write_text("first")
        (stage.scratch / "checkpoint").write_text("3")
        (stage.path / ".weights.0f.partial").write_text("ha")
        raise Killed


def test_killed_stage_goes_on_where_it_was(tmp_path: Path) -> None:
    kill_one(tmp_path, {"x": 1}, {})
    assert not (tmp_path / "only").exists()
    with RunDir(tmp_path) as run, run.stage("only", config={"x": 1}, inputs={}) as stage:
        assert not stage.is_done
        assert (stage.path / "part").read_text() == "first"
        assert (stage.scratch / "checkpoint").read_text() == "3"
        stage.finish()
    assert sorted(path.name for path in (tmp_path / "only").iterdir()) == ["done.json", "part"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "only"]


@pytest.mark.parametrize(("config", "inputs"), [({"x": 2}, {"n": "00"}), ({"x": 1}, {"n": "11"}), ({"x": 1}, {})])
def test_killed_stage_starts_anew_after_a_change(
    tmp_path: Path, config: dict[str, Any], inputs: dict[str, str]
) -> None:
    kill_one(tmp_path, {"x": 1}, {"n": "00"})
    with RunDir(tmp_path) as run, run.stage("only", config=config, inputs=inputs) as stage:
        assert not (stage.path / "part").exists()
        stage.finish()


def test_times_of_attempts_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 13.0, 100.0, 105.0])
    monkeypatch.setattr("training.run_stage.time.perf_counter", lambda: next(clock))
    with pytest.raises(Killed), RunDir(tmp_path) as run, run.stage("only", config={}, inputs={}):
        raise Killed
    with RunDir(tmp_path) as run, run.stage("only", config={}, inputs={}) as stage:
        assert stage.finish().record.seconds == 8.0


def test_finished_version_stays_until_the_new_one_is_finished(tmp_path: Path) -> None:
    finish_one(tmp_path, "old", {"x": 1})
    kill_one(tmp_path, {"x": 2}, {})
    assert (RunDir(tmp_path).find("only").folder / "out").read_text() == "old"
    with RunDir(tmp_path) as run, run.stage("only", config={"x": 1}, inputs={}) as stage:
        assert stage.is_done


_STEPS = ("mkdir", "rename", "replace", "unlink", "write_text", "open")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kills=st.lists(st.integers(0, 70), min_size=1, max_size=3))
def test_run_that_is_killed_anywhere_ends_as_if_it_had_not_been(
    tmp_path_factory: pytest.TempPathFactory, kills: list[int]
) -> None:
    line = Line(tmp_path_factory.mktemp("line"))
    line.go()
    line.source.write_text("2")
    for kill in kills:
        with pytest.MonkeyPatch.context() as patch:
            steps = iter(range(1000))
            for step in _STEPS:
                patch.setattr(Path, step, _killed_at(getattr(Path, step), steps, kill))
            patch.setattr(shutil, "rmtree", _killed_at(shutil.rmtree, steps, kill))
            with contextlib.suppress(Killed):
                line.go()
        for name in "abc":
            # Whatever stands under a stage's name is whole.
            if (line.root / "run" / name).exists():
                assert RunDir(line.root / "run").find(name).record.stage == name
    line.go()
    assert line.go() == ()
    assert line.outputs()["a"] == "a of 2 with {'x': 1}"
    assert line.outputs()["c"] == f"c of {line.outputs()['a']}{line.outputs()['b']}"
    assert sorted(path.name for path in (line.root / "run").iterdir()) == [".lock", "a", "b", "c"]


def _killed_at(step: Callable[..., Any], steps: Any, kill: int) -> Callable[..., Any]:
    def run(*arguments: Any, **keywords: Any) -> Any:
        # A dead process does nothing more, not even its clean-up.
        if next(steps) >= kill:
            raise Killed
        return step(*arguments, **keywords)

    return run


# Two processes.


def test_folder_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    with RunDir(tmp_path), pytest.raises(RunDirError, match=rf"in use by process {os.getpid()} on .+; wait for it, or"):
        RunDir(tmp_path).__enter__()
    with RunDir(tmp_path):
        pass


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from training.run_dir import RunDir\n"
        "run = RunDir(Path(sys.argv[1])); run.__enter__(); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunDirError, match=rf"in use by process {holder.pid} on "):
            RunDir(tmp_path).__enter__()
        holder.kill()
        holder.wait()
        with RunDir(tmp_path):
            pass


# Where a result comes from.


def test_descent_gives_each_stage_after_what_it_read(line: Line) -> None:
    line.go()
    descent = RunDir(line.root / "run").descent("c")
    assert [stage.name for stage in descent] == ["a", "b", "c"]
    assert [stage.record.config for stage in descent] == [{"x": 1}, {}, {}]
    assert [stage.name for stage in RunDir(line.root / "run").descent("a")] == ["a"]
    assert RunDir(line.root / "run").finished() == ("a", "b", "c")


def test_descent_of_what_was_made_from_something_else_by_now(line: Line) -> None:
    line.go()
    with RunDir(line.root / "run") as run, run.stage("a", config={"x": 9}, inputs={}) as stage:
        (stage.path / "deep").mkdir()
        (stage.path / "deep" / "out.txt").write_text("other")
        stage.finish()
    with pytest.raises(RunDirError, match=r"run/c: input a has changed, because stage 'a' was made again: run"):
        RunDir(line.root / "run").descent("c")


def test_damaged_stage_is_not_found(line: Line) -> None:
    line.go()
    (line.root / "run" / "b" / "deep" / "out.txt").write_text("spoilt")
    with pytest.raises(RunDirError, match=r"run/b: output deep/out\.txt is not what it was: run the stage again$"):
        RunDir(line.root / "run").descent("c")
    with pytest.raises(RunDirError, match=r"z/done\.json: absent: the stage is not finished$"):
        RunDir(line.root / "run").find("z")


# Use against the rules.


def test_stage_that_is_not_finished(tmp_path: Path) -> None:
    with (
        RunDir(tmp_path) as run,
        pytest.raises(RunDirError, match=r"only: stage 'only' ended without finish\(\)$"),
        run.stage("only", config={}, inputs={}) as stage,
        pytest.raises(RunDirError, match=r"stage 'only' is not finished$"),
    ):
        _ = stage.done


def test_stage_that_is_finished_twice(tmp_path: Path) -> None:
    with RunDir(tmp_path) as run, run.stage("only", config={}, inputs={}) as stage:
        stage.finish()
        with pytest.raises(RunDirError, match=r"stage 'only' is finished already$"):
            stage.finish()
        with pytest.raises(RunDirError, match=r"stage 'only' is finished and has no scratch folder$"):
            _ = stage.scratch


def test_stage_that_is_opened_twice(tmp_path: Path) -> None:
    with RunDir(tmp_path) as run:
        with run.stage("only", config={}, inputs={}) as stage:
            with pytest.raises(RunDirError, match=r"stage 'only' is open already$"):
                run.stage("only", config={}, inputs={}).__enter__()
            stage.finish()
        with run.stage("only", config={}, inputs={}) as stage:
            assert stage.is_done


def test_folder_that_is_not_held(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match=r"not held; must be opened by `with`$"):
        RunDir(tmp_path).stage("only", config={}, inputs={}).__enter__()


@pytest.mark.parametrize("name", ["", "a/b", "..", "A", ".a", "a.partial"])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    with RunDir(tmp_path) as run, pytest.raises(RunDirError, match=r"must be lower-case letters, digits, - and _$"):
        run.stage(name, config={}, inputs={}).__enter__()


def test_input_that_is_absent(tmp_path: Path) -> None:
    with RunDir(tmp_path) as run, pytest.raises(RunDirError, match=r"absent\.txt: No such file or directory$"):
        run.stage("only", config={}, inputs={"n": tmp_path / "absent.txt"}).__enter__()


def test_links_are_no_outputs(tmp_path: Path) -> None:
    with RunDir(tmp_path / "run") as run, run.stage("only", config={}, inputs={}) as stage:
        (stage.path / "link").symlink_to(tmp_path)
        with pytest.raises(RunDirError, match=r"link: got a link or a special file; outputs must be plain files$"):
            stage.finish()
        (stage.path / "link").unlink()
        stage.finish()


def test_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirError, match=r"file: (File exists|Not a directory)$"):
        RunDir(tmp_path / "file").__enter__()


def test_results_may_hold_what_json_holds(tmp_path: Path) -> None:
    result: JsonValue = {"a": [1, 2.5, None, True], "b": {"ä": "ö"}}
    with RunDir(tmp_path) as run, run.stage("only", config={}, inputs={}) as stage:
        stage.finish(result)
    record: StageRecord = RunDir(tmp_path).find("only").record
    assert record.result == result


def test_cause_is_heard_of_where_the_time_can_not_be_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_the_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def fail() -> None:
        with RunDir(tmp_path) as run, run.stage("a", config={}, inputs={}):
            monkeypatch.setattr("training.run_stage.write_whole", fill_the_disk)
            raise Killed

    with pytest.raises(Killed):
        fail()


def test_input_may_have_a_name_of_another_encoding(tmp_path: Path) -> None:
    source = tmp_path / os.fsdecode(b"\xff.json")
    source.write_text("1")
    for _ in range(2):
        with RunDir(tmp_path / "run") as run, run.stage("a", config={}, inputs={"source": source}) as stage:
            if not stage.is_done:
                stage.finish()
    path = read_record(tmp_path / "run" / "a").inputs["source"].path
    assert path is not None
    assert path.endswith("/\\xff.json")
