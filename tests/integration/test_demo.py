"""The demo from end to end, as a user runs it, and the facts that its figures must keep to."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from demo_server import Server, serving
from demo_shell import DemoError

from cascade_serve import Client

EXAMPLES = Path(__file__).parents[2] / "examples"
TIMEOUT_S = 280

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TIMEOUT_S + 20)]


@dataclass(frozen=True)
class Finished:
    """A demo that has ended."""

    out: Path
    printed: str
    summary: dict[str, Any]

    def run(self, title: str) -> dict[str, Any]:
        return next(run for run in self.summary["runs"] if run["title"].startswith(title))


def start_demo(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(EXAMPLES / "demo.py"), *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", timeout=TIMEOUT_S, check=False, env=environment
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    out = tmp_path_factory.mktemp("demo") / "out"
    done = start_demo("--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    return Finished(out, done.stdout, json.loads((out / "summary.json").read_text()))


def test_default_policy_loses_little_for_far_fewer_flops(demo: Finished) -> None:
    compared = demo.summary["default_against_largest"]
    assert compared["accuracy_difference"] >= -demo.summary["promise"]["bound"]
    assert compared["flops_ratio"] > 1.5
    default, largest = demo.run("default policy"), demo.run("largest member alone")
    assert default["accuracy"] - largest["accuracy"] == pytest.approx(compared["accuracy_difference"])
    assert default["certified"]
    assert largest["accuracy"] > 0.97
    assert largest["exits"] == [400]


def test_the_cap_is_never_exceeded(demo: Finished) -> None:
    capped = demo.run("at most")
    assert capped["max_flops"] <= capped["query"]["max_flops"]
    assert not capped["certified"]
    ensemble = demo.run("ensemble")
    assert capped["query"]["max_flops"] < ensemble["max_flops"]


def test_an_ensemble_costs_the_same_for_every_image(demo: Finished) -> None:
    ensemble = demo.run("ensemble")
    assert ensemble["mean_flops"] == ensemble["max_flops"]
    assert ensemble["exits"] == [0] * (len(ensemble["exits"]) - 1) + [400]


def test_higher_thresholds_cost_more(demo: Finished) -> None:
    means = [run["mean_flops"] for run in demo.summary["runs"] if run["title"].startswith("threshold")]
    assert len(means) >= 3
    assert means == sorted(means)
    assert means[0] < means[-1]


def test_every_image_of_every_run_was_answered(demo: Finished) -> None:
    for run in demo.summary["runs"]:
        assert run["n"] == sum(run["exits"]) == 400
        assert 0 < run["latency_ms"]["p50"] <= run["latency_ms"]["p99"]
        low, high = run["accuracy_interval"]
        assert low <= run["accuracy"] <= high


def test_metrics_count_what_the_replies_said(demo: Finished) -> None:
    metrics, runs = demo.summary["metrics"], demo.summary["runs"]
    for cascade in ("digits", "digits-large"):
        mine = [run for run in runs if run["model"] == cascade]
        assert metrics["flops"][cascade] == sum(run["total_flops"] for run in mine)
        assert metrics["requests"][f"{cascade} OK"] == sum(run["n"] for run in mine)
    assert sum(metrics["exits"].values()) == sum(run["n"] for run in runs if run["model"] == "digits")
    assert metrics["flops"]["digits"] < metrics["baseline_flops"]["committee"]


def test_output_reads_well_in_a_pipe(demo: Finished) -> None:
    assert "\x1b" not in demo.printed
    tables = [line for line in demo.printed.splitlines() if line.startswith(("│", "┃", "┏", "├", "└"))]
    assert tables
    assert max(map(len, tables)) <= 120
    for words in ("pareto.png", "cascade-serve serve", "cascade-serve infer", "drained and stopped, exit code 0"):
        assert words in demo.printed


def test_the_plot_and_the_bundles_are_there(demo: Finished) -> None:
    assert (demo.out / "report" / "pareto.png").read_bytes().startswith(b"\x89PNG")
    for cascade in ("digits", "digits-large"):
        assert (demo.out / "repository" / cascade / "1" / "plan.json").is_file()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_its_own_exit_code(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-u", str(EXAMPLES / "demo.py"), "--out", str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("1. Train")
        process.send_signal(number)
        _, complaints = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert complaints == ""


def test_a_strangers_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("two years of work")
    done = start_demo("--out", tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {tmp_path} exists and was not made by this demo; choose another folder with --out\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DemoError("a step failed")])
def test_the_server_is_stopped_whatever_happens(demo: Finished, tmp_path: Path, error: BaseException) -> None:
    servers: list[Server] = []

    def fail_while_serving() -> None:
        with serving(demo.out / "repository", tmp_path / "log") as server, Client(server.url) as client:
            servers.append(server)
            assert client.is_live()
            raise error

    with pytest.raises(type(error)):
        fail_while_serving()
    assert servers[0].process.returncode == 0


def test_a_server_that_dies_is_told_of(demo: Finished, tmp_path: Path) -> None:
    def kill_while_serving() -> None:
        with serving(demo.out / "repository", tmp_path / "log") as server:
            server.process.kill()
            server.process.wait()

    with pytest.raises(DemoError, match=r"^the server ended with exit code -9; its log: "):
        kill_while_serving()


def test_a_server_that_can_not_start_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    with (
        pytest.raises(DemoError, match=r"^the server did not start within 60 s: got ''; its log: "),
        serving(tmp_path / "repository", tmp_path / "log"),
    ):
        pass
    assert "error: " in (tmp_path / "log").read_text()


@pytest.mark.parametrize("example", ["client_numpy.py", "client_tritonclient.py"])
def test_client_examples_answer(demo: Finished, tmp_path: Path, example: str) -> None:
    images = sorted((demo.out / "run" / "images" / "test" / "7").glob("*.png"))[:3]
    with serving(demo.out / "repository", tmp_path / "log") as server:
        command = [sys.executable, str(EXAMPLES / example), server.url, "digits", *map(str, images)]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    for image in images:
        assert str(image) in done.stdout
