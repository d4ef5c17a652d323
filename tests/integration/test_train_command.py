"""``cascade-train`` as a shell sees it: from images to a planned and inspected zoo, and every way to go wrong."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_recipe
import torch
from typer.testing import CliRunner

from cascade_serve.cli.app import app as serve_app
from training.cli.app import main
from training.data.digits import load_digits
from training.data.images import write_image_folder
from training.files import file_sha256
from training.run_dir import RunDir
from training.selection.subset import read_subset

TINY = f"{tiny_recipe.__file__}:tiny"
PLAIN = f"{tiny_recipe.__file__}:tiny_plain"

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """The whole command line, run in an empty folder: exit code, standard output, standard error on one line."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["cascade-train", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            main()
        printed = capfd.readouterr()
        return int(exit_info.value.code or 0), printed.out, " ".join(printed.err.split())

    return run


def test_from_images_to_an_inspected_plan(command: Command, tmp_path: Path) -> None:
    code, printed, complaints = command("run", TINY, "--out", "run", "--zoo", "zoo")
    assert (code, complaints) == (0, "")
    lines = printed.splitlines()
    assert lines[0] == "data: 200 train, 40 policy validation, 200 calibration, 1,357 test"
    assert lines[-3:] == [
        "zoo:    zoo/digits",
        "next:   cascade-serve plan zoo/digits --out repository/digits/1",
        "        cascade-serve serve repository",
    ]
    invoke = CliRunner().invoke
    bundle = "repository/digits/1"
    planned = invoke(serve_app, ["plan", "zoo/digits", "--out", bundle, "--stages", "xs:0.9,s"], catch_exceptions=False)
    assert planned.exit_code == 0
    inspected = invoke(serve_app, ["inspect", bundle], env={"COLUMNS": "200"}, catch_exceptions=False).output
    for words in ("forgetting_events", "subset size 180", "strategy pba", "schedule increment:0.5", "450 evaluations"):
        assert words in inspected
    assert inspected.count("proxy") == 2
    shown = invoke(serve_app, ["zoo", "show", "zoo/digits/xs"], env={"COLUMNS": "200"}, catch_exceptions=False).output
    assert "architecture digits_cnn_xs, arguments (), batch size 64, data schedule none, epochs 2" in shown
    cards = json.loads(invoke(serve_app, ["inspect", bundle, "--json"], catch_exceptions=False).output)["cards"]
    assert cards["s"]["provenance"]["selection"]["proxy"]["epochs"] == 2
    # All again: nothing is.
    code, printed, _ = command("run", TINY, "--out", "run", "--zoo", "zoo")
    assert code == 0
    assert printed.count("(as before)") == 7
    assert (tmp_path / "zoo" / "digits" / "xs" / "card.json").is_file()


def test_the_commands_take_each_others_files(command: Command) -> None:
    code, printed, _ = command("select", TINY, "--score", "margin", "--fraction", "0.5", "--out", "my choice")
    assert code == 0
    subset = Path("my choice/selection/subset.json")
    assert printed.splitlines()[-2:] == [f"subset: {subset}", f"next:   cascade-train train {TINY} --subset '{subset}'"]
    assert len(read_subset(subset)) == 100
    code, printed, _ = command("search-policy", TINY, "--population", "3", "--train-images", "50", "--out", "my search")
    assert code == 0
    schedule = Path("my search/policy/schedule.json")
    assert printed.splitlines()[-1] == f"next:            cascade-train train {TINY} --policy-schedule '{schedule}'"
    assert json.loads(Path("my search/policy/result.json").read_text())["config"]["population"] == 3
    arguments = ("--subset", subset, "--policy-schedule", schedule, "--data-schedule", "step:0.5:0.34", "--seed", "0")
    code, printed, complaints = command("train", TINY, *arguments, "--out", "trained", "--set", "members.1.name=other")
    assert (code, complaints) == (0, "")
    assert printed.splitlines()[-2:] == ["run:    trained", "next:   cascade-train export trained --zoo zoo"]
    facts = RunDir(Path("trained")).find("member-other").record.result
    assert isinstance(facts, dict)
    assert facts["evaluations"] == 50 + 100 + 100
    assert facts["data_schedule"] == {"schedule": "step:0.5:0.34", "epochs": 3}
    code, printed, _ = command("export", "trained", "--zoo", "zoo")
    assert code == 0
    assert Path("zoo/digits/other/model.onnx").is_file()


def test_active_learning(command: Command) -> None:
    code, printed, _ = command("select", TINY, "--active-learning", "--fraction", "0.3", "--score", "entropy")
    assert code == 0
    # The recipe's function names the folder.
    assert "subset: runs/tiny/selection/subset.json" in printed
    subset = read_subset(Path("runs/tiny/selection/subset.json"))
    assert (len(subset), subset.score) == (60, "entropy")
    assert len(list(Path("runs/tiny/selection").glob("round-*.json"))) == 4


def test_active_learning_starts_as_the_settings_say(command: Command) -> None:
    active = 'selection.active_learning={"score": "margin", "shares": [0.05, 0.2, 0.9]}'
    code, _, _ = command("select", TINY, "--active-learning", "--fraction", "0.3", "--set", active, "--out", "run")
    assert code == 0
    rounds = [read_subset(path) for path in sorted(Path("run/selection").glob("round-*.json"))]
    assert [subset.fraction for subset in rounds] == [0.05, 0.2, 0.3]


def test_an_image_folder_of_ones_own(command: Command, tmp_path: Path) -> None:
    write_image_folder(load_digits().take(load_digits().ids_B[:400]), tmp_path / "images")
    settings = ("members.*.loop.epochs=1", 'members.*.arguments={"width": 2}', "splits.policy_validation=0")
    options = [word for setting in settings for word in ("--set", setting)]
    code, printed, complaints = command("train", "folder", "--data", "images", *options)
    assert (code, complaints) == (0, "")
    assert printed.startswith("data: 280 train, 60 calibration, 60 test\n")
    data = json.loads(Path("runs/folder/data/data.json").read_text())
    assert data["classes"] == [str(digit) for digit in range(10)]
    assert data["size"] == [8, 8, 1]


def test_a_report_of_a_run(command: Command) -> None:
    pytest.importorskip("training.report")
    assert command("train", PLAIN, "--out", "run")[0] == 0
    code, printed, _ = command("report", "run")
    assert code == 0
    assert printed.startswith("report: run/")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "digitz"], r"recipe: got 'digitz', which is unknown; close: digits; or give path/to/file.py:function"),
        (["run", "nowhere.py:f"], "recipe: nowhere.py: no such file"),
        (["run", "digits", "--set", "epochs"], "'epochs': got no key=value; must be such as members.0.loop.epochs=3"),
        (["run", "digits", "--set", "members.0.loop.epoch=3"], "got unknown 'epoch'; did you mean epochs"),
        (["run", "digits", "--set", "members.0.loop.epochs=0"], "epochs: got 0; must be at least 1"),
        (["run", "digits", "--set", "members.7.loop.epochs=2"], "has entries 0..2, or * for all"),
        (["run", "digits", "--set", "energy_country=France"], "country: got 'France'; must be three capitals"),
        (
            [
                "run",
                "digits",
                "--set",
                "members.*.loop.augment.fill=[1,2,3]",
                "--set",
                "should_select=false",
                "--set",
                "should_search=false",
            ],
            "fill: got 3 values; must be one for each of the images' 1 channels",
        ),
        (["run", "digits", "--set", "task=../up"], "task name: got '../up'"),
        (["run", "digits", "--device", "gpu"], "device: got 'gpu'; must be cpu, cuda or cuda:N"),
        (["run", "digits", "--data", "."], "data: got .; digits lie inside scikit-learn and take no folder"),
        (["run", "cifar10"], "data: got no folder; must be one that holds cifar10"),
        (["run", "cifar10", "--data", "absent"], "absent"),
        (["run", "folder"], "data: got no folder; must be one that holds <class>/<file>"),
        (
            ["run", "folder", "--data", "."],
            "--out: got runs/folder; must be outside --data ., whose folders are the classes",
        ),
        (
            ["run", "folder", "--data", "birds", "--out", "birds/../birds/run"],
            "--out: got birds/../birds/run; must be outside --data birds",
        ),
        (["run", "digits", "--set", "splits.test=1700"], "must sum to under 1797, all rows"),
        (["select", "digits", "--score", "guess"], "score: got 'guess'; must be one of least_confidence"),
        (["select", "digits", "--fraction", "1.5"], "--fraction: fraction: got 1.5; must be above 0 and at most 1"),
        (
            ["select", "digits", "--active-learning", "--score", "forgetting_events"],
            "score: got 'forgetting_events', which uses labels; active learning takes least_confidence",
        ),
        (
            ["select", "digits", "--active-learning", "--fraction", "0.02"],
            "--fraction: got 0.02; must be above 0.02, which is labelled at random at first",
        ),
        (["select", "digits", "--set", "selection.core_set.seed=18446744073709551616"], "core_set: seed: got 184"),
        (
            ["select", "digits", "--set", "should_select=false", "--set", "selection=null"],
            "recipe 'digits': its selection is null; must name a proxy to select by",
        ),
        (
            ["search-policy", "digits", "--set", "should_search=false", "--set", "policy_search=null"],
            "recipe 'digits': its policy_search is null; must say how to search",
        ),
        (
            ["search-policy", "digits", "--set", "should_search=false", "--set", "splits.policy_validation=0"],
            "splits.policy_validation: got 0; must be above 0 where a policy is searched",
        ),
        (
            ["search-policy", "digits", "--backend", "local", "--address", "auto"],
            "--address: got 'auto' with --backend local; must be left out, or --backend ray",
        ),
        (
            ["train", "digits", "--data-schedule", "step:2:1"],
            "--data-schedule: data schedule 'step:2:1': fraction:",
        ),
        (["train", "digits", "--data-schedule", "steps"], "must be one of none, step:FRACTION:SHARE"),
        (
            ["train", "digits", "--data-schedule", "cut:2:score=../up"],
            "score: got '../up'; must be one of least_confid",
        ),
        (["train", "digits", "--subset", "absent.json"], "absent.json: No such file or directory"),
        (["train", "digits", "--policy-schedule", "absent.txt"], "absent.txt: can't be read"),
        (["train", "digits", "--flatten"], "--flatten: got no --policy-schedule; must have one"),
        (
            ["train", "digits", "--set", "members.*.architecture=airbench94"],
            "images: got 8x8 pixels of 1 channels, which architecture 'airbench94' can't run on",
        ),
        (
            ["export", "absent", "--zoo", "zoo"],
            "run.json: No such file or directory; must be the folder of a run",
        ),
    ],
)
def test_what_is_refused(command: Command, arguments: list[str], message: str) -> None:
    code, _, complaints = command(*arguments)
    assert code == 2
    assert message in complaints
    assert complaints.startswith("error: ")
    assert "Traceback" not in complaints


@pytest.mark.parametrize("seed", ["-1", "9223372036854775808"])
def test_seeds_that_torch_does_not_take(command: Command, seed: str) -> None:
    code, _, complaints = command("select", "digits", "--seed", seed)
    assert code == 2
    assert "Invalid value for '--seed'" in complaints


def test_a_device_that_is_not_there(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, complaints = command("run", "digits", "--device", "cuda")
    assert code == 2
    assert "device: got 'cuda'; torch" in complaints
    assert "sees no CUDA device here; use cpu" in complaints


def test_a_zoo_that_is_taken_is_told_of_before_the_training(command: Command) -> None:
    taken = Path("zoo/digits/xs")
    taken.mkdir(parents=True)
    code, printed, complaints = command("run", TINY, "--zoo", "zoo")
    assert (code, printed) == (2, "")
    assert "xs: exists already; choose another name" in complaints


@pytest.mark.parametrize("name", ["run", "train"])
def test_a_class_without_calibration_images_is_told_of_before_the_training(command: Command, name: str) -> None:
    code, printed, complaints = command(name, PLAIN, "--zoo", "zoo", "--set", "splits.calibration=5")
    assert code == 2
    assert "calibration: got no image of" in complaints
    assert printed.count("\n") == 1
    assert printed.startswith("data: ")


def test_a_folder_in_use(command: Command) -> None:
    with RunDir(Path("run")):
        code, _, complaints = command("train", PLAIN, "--out", "run")
    assert code == 2
    assert "run: in use by process" in complaints


def test_a_loss_that_is_not_finite_is_a_failure_and_no_wrong_demand(command: Command) -> None:
    lr = 'members.*.loop.lr={"kind": "constant", "lr": 1e30}'
    code, _, complaints = command("train", PLAIN, "--set", lr)
    assert code == 1
    assert "error: step" in complaints
    assert "loss: got nan" in complaints


def test_a_searchs_help_speaks_of_trials_and_not_of_members(command: Command) -> None:
    code, out, _ = command("search-policy", "--help")
    assert code == 0
    assert "to run the trials on" in " ".join(out.replace("│", "").split())
    assert "a CPU thread a member" not in " ".join(out.replace("│", "").split())


def test_help_needs_no_torch() -> None:
    code = "import sys; from training.cli.app import app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


_DYING = """
import os, signal
from training import journal
from training.cli.app import main

write_checkpoint = journal.write_checkpoint

def write_and_die(checkpoint, path):
    write_checkpoint(checkpoint, path)
    if "member-s.partial" in path.parts and len(checkpoint.reports) == 20:
        os.kill(os.getpid(), signal.SIGKILL)

journal.write_checkpoint = write_and_die
main()
"""
"""The command, in a process that is killed half-way through the second member."""


@pytest.mark.slow
def test_a_run_that_is_killed_for_good_goes_on(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    words = [sys.executable, "-m", "training", "run", TINY, "--set", "members.*.loop.epochs=40", "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*words, str(whole)], check=True, env=environment, stdout=subprocess.DEVNULL)
    dying = subprocess.run([sys.executable, "-c", _DYING, *words[3:], str(killed)], check=False, env=environment)
    assert dying.returncode == -signal.SIGKILL
    assert (killed / "member-s.partial" / "scratch" / "checkpoint.pt").exists()
    assert not (killed / "member-s").exists()
    done = subprocess.run([*words, str(killed)], check=True, env=environment, capture_output=True, encoding="utf-8")
    assert "training" not in done.stderr
    for name in ("xs", "s"):
        path = Path(f"member-{name}") / "weights.safetensors"
        assert file_sha256(killed / path) == file_sha256(whole / path)
