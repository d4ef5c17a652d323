"""``zoo profile``: who is timed, in which turns, and what the cards say afterwards."""

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest
import typer
from onnx_bundle import write_linear_graph
from typer.testing import CliRunner

from cascade_serve import profiling
from cascade_serve.cli import zoo as zoo_commands
from cascade_serve.core.arrays import FloatArray, ImageArray
from cascade_serve.errors import BundleError, ConfigError
from cascade_serve.profiling import Profile, ProfileConfig, profile_members
from model_zoo.card import Card, CostCard, InputCard, ProvenanceCard, TaskCard
from model_zoo.errors import ConflictError
from model_zoo.store import bind_task, new_member, read_member, replace_card, write_card

TASK = TaskCard(height=4, width=4, channels=3, classes=("cat", "dog", "frog"))
ENGINES = {"small": "onnxruntime", "swift": "openvino"}


def write_linear_member(task_path: Path, name: str, flops: int, **facts: str) -> None:
    with new_member(task_path, name, overwrite=True) as folder:
        write_linear_graph(folder / "model.onnx", 0, (4, 4, 3), len(TASK.classes))
        card = Card.model_validate(
            {
                "name": name,
                "architecture": "onnx",
                "task": TASK,
                "input": InputCard(height=4, width=4, mean=(0.5,) * 3, std=(0.5,) * 3),
                "cost": CostCard(flops=flops, macs=flops, params=1, tool="by hand"),
                "provenance": ProvenanceCard(weights="random"),
                **facts,
            }
        )
        write_card(folder, card)


@pytest.fixture
def task_path(tmp_path: Path) -> Path:
    path = tmp_path / "zoo" / "pets"
    bind_task(path, TASK)
    for flops, (name, engine) in enumerate(ENGINES.items(), start=1):
        write_linear_member(path, name, flops, engine=engine)
    return path


def ignore_progress(_total: int) -> Callable[[], None]:
    return lambda: None


def ticking(step_s: Iterator[float]) -> Callable[[], float]:
    """Make a clock on which every look takes as long as the next step says."""
    times = itertools.accumulate(step_s)
    return lambda: next(times)


def run_profile(task_path: Path, config: ProfileConfig, *names: str, step_s: Iterator[float]) -> tuple[Profile, ...]:
    return profile_members(task_path, names, config, ignore_progress, clock=ticking(step_s))


def test_each_member_runs_on_its_own_engine_and_its_card_says_so(task_path: Path) -> None:
    graphs = {name: (task_path / name / "model.onnx").read_bytes() for name in ENGINES}
    config = ProfileConfig(batch_sizes=(1, 4), threads=2)
    run_profile(task_path, config, step_s=itertools.repeat(1.0))
    for name, version in {"small": onnxruntime.__version__, "swift": openvino.__version__.split("-")[0]}.items():
        # Read with every file's checksum.
        cost = read_member(task_path / name).card.cost
        assert cost.seconds == {1: 1.0, 4: 0.25}
        assert cost.profiled_on is not None
        assert cost.profiled_on.endswith(f", 2 threads, {ENGINES[name]} {version}")
        assert (task_path / name / "model.onnx").read_bytes() == graphs[name]
        assert sorted(path.name for path in (task_path / name).iterdir()) == ["card.json", "model.onnx"]


def test_the_median_round_counts(task_path: Path) -> None:
    # Two looks a stretch; the second of each is what a run takes.
    took = itertools.cycle([0.0, 9.0, 0.0, 1.0, 0.0, 2.0])
    (profile,) = run_profile(task_path, ProfileConfig(batch_sizes=(2,), rounds=3), "small", step_s=took)
    assert profile.seconds == {2: 1.0}
    assert profile.spread == {2: 4.0}


def test_a_stretch_is_filled_with_runs(task_path: Path) -> None:
    config = ProfileConfig(batch_sizes=(1,), rounds=1, seconds_per_size=1.0)
    (profile,) = run_profile(task_path, config, "small", step_s=itertools.repeat(0.3))
    # Four runs of 0.3 s are the fewest that last a second.
    assert profile.seconds == {1: pytest.approx(0.3)}


class NotedSession:
    def __init__(self, name: str, notes: list[tuple[str, int]]) -> None:
        self.name = name
        self.notes = notes

    def logits(self, images_BHWC: ImageArray) -> FloatArray:
        self.notes.append((self.name, len(images_BHWC)))
        return np.zeros((len(images_BHWC), 3), dtype=np.float32)


def test_members_take_turns(task_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[tuple[str, int]] = []
    monkeypatch.setattr(profiling, "_open_session", lambda member, *_: NotedSession(member.name, notes))
    run_profile(task_path, ProfileConfig(batch_sizes=(1, 8), rounds=2), step_s=itertools.repeat(1.0))
    one_round = [("small", 1), ("small", 8), ("swift", 1), ("swift", 8)]
    # The first is to warm up.
    assert notes == 3 * one_round


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"engine": "torch"}, "member 'odd': engine: got torch; must be onnxruntime or openvino to be profiled"),
        ({"precision": "bf16"}, "member 'odd': precision: got bf16; must be fp32 or fp16 or int8"),
    ],
)
def test_what_no_engine_here_runs_is_refused_before_anything_is_timed(
    task_path: Path, facts: dict[str, str], message: str
) -> None:
    write_linear_member(task_path, "odd", 9, **facts)
    with pytest.raises(ConfigError, match=re.escape(message)):
        run_profile(task_path, ProfileConfig(), step_s=itertools.repeat(1.0))
    assert read_member(task_path / "small").card.cost.seconds is None


def test_a_graph_of_another_size_is_refused(task_path: Path) -> None:
    with new_member(task_path, "swift", overwrite=True) as folder:
        write_linear_graph(folder / "model.onnx", 0, (8, 8, 3), len(TASK.classes))
        write_card(folder, read_member(task_path / "swift").card)
    with pytest.raises(BundleError, match=r"swift/model\.onnx: inputs: got .*8, 8, 3"):
        run_profile(task_path, ProfileConfig(), "swift", step_s=itertools.repeat(1.0))


def test_a_member_that_changed_meanwhile_keeps_its_new_card(task_path: Path) -> None:
    before = read_member(task_path / "small")
    write_linear_member(task_path, "small", 77)
    with pytest.raises(ConflictError, match=r"card\.json: was changed by someone else meanwhile"):
        replace_card(before, before.card)
    assert read_member(task_path / "small").card.cost.flops == 77


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_sizes": ()}, "batch_sizes: got none; must be different, from 1 to 4096"),
        ({"batch_sizes": (1, 0)}, "batch_sizes: got 1, 0; must be"),
        ({"batch_sizes": (4, 4)}, "batch_sizes: got 4, 4; must be different"),
        ({"threads": 0}, "threads: got 0; must be at least 1"),
        ({"threads": 1025}, "threads: got 1025; must be at most 1024"),
        ({"rounds": 0}, "rounds: got 0; must be at least 1"),
        ({"seconds_per_size": 0.0}, "seconds_per_size: got 0.0; must be above 0"),
        ({"seconds_per_size": float("nan")}, "seconds_per_size: got nan; must be above 0"),
    ],
)
def test_settings_out_of_bounds_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProfileConfig(**options)  # type: ignore[arg-type]


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)
    zoo_commands.register(app)
    app.callback()(lambda: None)
    return app


def test_the_command_prints_what_it_wrote(app: typer.Typer, task_path: Path) -> None:
    options = ["--batch-sizes", "1,2", "--seconds-per-size", "0.001", "--rounds", "2"]
    shown = (
        CliRunner().invoke(app, ["zoo", "profile", str(task_path), "swift", *options], catch_exceptions=False).stdout
    )
    assert re.search(r"swift +openvino +fp32 +[\d,]+ +[\d,]+", shown)
    # The processor's name decides where lines break.
    assert re.search(r"Medians of 2 rounds, .*1 thread, openvino \d", " ".join(shown.split()))
    assert set(read_member(task_path / "swift").card.cost.seconds or {}) == {1, 2}
    member = CliRunner().invoke(app, ["zoo", "show", str(task_path / "swift")], catch_exceptions=False).stdout
    assert re.search(
        r"time per image +\S+s at 1, \S+s at 2 in a run; measured on .*1 thread, openvino \d", " ".join(member.split())
    )
    assert read_member(task_path / "small").card.cost.seconds is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-sizes", "1,many"], r"--batch-sizes: got '1,many'; must be numbers such as 1,8,32"),
        (["--threads", "0"], "threads: got 0"),
        (["nobody"], "members: got 'nobody'; must be among small, swift"),
    ],
)
def test_the_command_refuses_what_can_not_be(
    app: typer.Typer, task_path: Path, arguments: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        CliRunner().invoke(app, ["zoo", "profile", str(task_path), *arguments], catch_exceptions=False)
