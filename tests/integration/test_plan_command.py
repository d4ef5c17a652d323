"""``cascade-serve plan`` and ``inspect`` from a zoo on disk to a bundle that loads, with their refusals."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from planned_zoo import NAMES, draw_rows, write_zoo
from typer.testing import CliRunner

from cascade_serve.bundle import load_bundle
from cascade_serve.cli.app import app, main
from cascade_serve.core.cost import format_seconds

Plan = Callable[..., str]
Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="session")
def task_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("zoo") / "animals", draw_rows(1, 3000))


@pytest.fixture
def plan(task_path: Path, tmp_path: Path) -> Plan:
    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["plan", str(task_path), "--out", str(tmp_path / "pets" / "1"), *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    return run


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The whole command line, with its exit code and standard error."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["cascade-serve", *arguments])
        with pytest.raises(SystemExit) as exit_info:
            main()
        return int(exit_info.value.code or 0), " ".join(capsys.readouterr().err.split())

    return run


def test_plan_writes_a_bundle_and_says_what_comes_next(plan: Plan, tmp_path: Path) -> None:
    output = plan("--combine", "mean_probs", "--confidence", "max_prob")
    bundle = load_bundle(tmp_path / "pets" / "1")
    assert bundle.plan.reference == "large"
    assert bundle.plan.calibration is not None
    assert (bundle.plan.calibration.n, bundle.plan.calibration.n_test) == (3000, 1500)
    assert bundle.plan.calibration.fingerprint.precision == "fp32"
    assert sorted(path.name for path in bundle.member_path("small").iterdir()) == ["card.json", "model.onnx"]
    assert f"cascade-serve serve {tmp_path}" in output
    assert "points less accurate than large" in " ".join(output.replace("│", " ").replace("┃", " ").split())
    assert all(word in output for word in ("default", "fast", "accurate", "reference", "front-00"))


def test_report_is_written(plan: Plan, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "report"
    plan("--combine", "mean_logits", "--report", str(folder))
    for picture in ("pareto.png", "reliability.png", "exits.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    report = json.loads((folder / "report.json").read_text())
    assert [member["name"] for member in report["members"]] == list(NAMES)
    large = report["members"][2]
    assert large["is_front_better_at_equal_cost"]
    assert large["is_front_cheaper_at_equal_accuracy"]
    assert large["at_equal_accuracy"]["flops_ratio"] < 1
    assert len(report["rules_tried_on_half_A"]) == 3
    assert sum(trial["is_chosen"] for trial in report["rules_tried_on_half_A"]) == 1
    assert {policy["name"] for policy in report["policies"]} >= {"default", "fast", "accurate", "reference"}


def test_by_hand_with_and_without_calibration(plan: Plan, tmp_path: Path, task_path: Path) -> None:
    plan("--stages", " small : 0.9, large")
    by_hand = load_bundle(tmp_path / "pets" / "1").plan
    default = by_hand.policies["default"]
    assert [(stage.member, stage.threshold) for stage in default.stages] == [("small", 0.9), ("large", None)]
    assert default.accuracy is not None
    assert default.certificate is None
    assert by_hand.members[0].temperature != 1
    for calibration in task_path.glob("*/calibration.safetensors"):
        assert calibration.is_file()
    output = (
        CliRunner()
        .invoke(
            app,
            ["plan", str(task_path), "--out", str(tmp_path / "pets" / "2"), "--stages", "large", "--no-calibration"],
        )
        .output
    )
    bare = load_bundle(tmp_path / "pets" / "2").plan
    assert bare.calibration is None
    assert bare.members[0].temperature == 1
    assert bare.policies["default"].accuracy is None
    assert "nothing was measured" in output


def test_a_plan_in_seconds_shows_them_everywhere(tmp_path: Path, command: Command) -> None:
    profiles = {name: {1: 2 * seconds, 8: seconds} for name, seconds in zip(NAMES, (0.0005, 0.001, 0.002), strict=True)}
    task_path = write_zoo(tmp_path / "zoo" / "animals", draw_rows(1, 1000), seconds=profiles)
    out, report = tmp_path / "pets" / "1", tmp_path / "report"
    demands = ["--cost", "seconds", "--combine", "last", "--confidence", "max_prob"]
    planned = CliRunner().invoke(app, ["plan", str(task_path), "--out", str(out), "--report", str(report), *demands])
    assert planned.exit_code == 0, planned.output
    assert "time per image by the members' profiles, each at its best batch size" in " ".join(planned.output.split())
    plan = load_bundle(out).plan
    default = plan.policies["default"]
    assert default.expected_seconds is not None
    assert format_seconds(default.expected_seconds) in planned.output
    shown = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["inspect", str(out)]).output
    assert "2ms" in shown
    assert "ratio: mean time to that of large" in " ".join(shown.split())
    assert "…" not in shown
    found = json.loads((report / "report.json").read_text())
    assert (found["cost"], found["members"][0]["seconds"]) == ("seconds", pytest.approx(0.0005, rel=1e-5))
    assert found["policies"][0]["expected_seconds"] == default.expected_seconds
    assert all(trial["default_mean_seconds"] > 0 for trial in found["rules_tried_on_half_A"])
    code, error = command(
        "plan", str(task_path), "--out", str(tmp_path / "pets" / "2"), *demands[:2], "--cost-batch-size", "3"
    )
    assert code == 2
    assert "--cost-batch-size: got 3; must be among 1, 8" in error


def test_inspect_tells_all(plan: Plan, tmp_path: Path) -> None:
    plan("--combine", "mean_probs", "--confidence", "margin", "--max-flops", "8M")
    text = CliRunner().invoke(app, ["inspect", str(tmp_path / "pets" / "1")])
    assert text.exit_code == 0
    assert all(word in text.output for word in ("pets version 1", "4 classes: cat, dog, frog, owl", "random", "margin"))
    found = json.loads(CliRunner().invoke(app, ["inspect", str(tmp_path / "pets" / "1"), "--json"]).output)
    assert found["plan"]["confidence"] == "margin"
    assert set(found["cards"]) == {member["name"] for member in found["plan"]["members"]}
    assert max(policy["worst_case_flops"] for policy in found["plan"]["policies"].values()) <= 8_000_000


def test_inspect_shows_names_as_they_are(plan: Plan, tmp_path: Path) -> None:
    plan("--stages", "small", "--no-calibration")
    file = tmp_path / "pets" / "1" / "plan.json"
    file.write_text(file.read_text().replace('"cat"', '"[/cat]"').replace('"dog"', '":dog:"'))
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "pets" / "1")], catch_exceptions=False).output
    assert "4 classes: [/cat], :dog:, frog, owl" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-flops", "10K"], r"max_flops: got 10K \(10000\); must be at least 1M"),
        (
            ["--min-accuracy", "0.9999"],
            r"min_accuracy: got 0\.9999; the nearest that can be promised at level 0\.95 on",
        ),
        (["--min-accuracy", "0.9", "--max-regret", "0.01"], "got both; must be one of them"),
        (["--members", "small,huge"], r"members: got 'huge'; must be among large, middle, small"),
        (["--members", "small,,large"], r"--members: got 'small,,large'"),
        (["--cost", "seconds"], r"--cost seconds: got no profile of 'small', 'middle', 'large'; measure with"),
        (["--cost-batch-size", "8"], r"cost_batch_size: got 8 with cost 'flops'"),
        (["--stages", "small:0.5,large", "--cost", "seconds"], r"--cost: got seconds with --stages"),
        (["--level", "95"], r"level: got 95\.0; must be above 0 and under 1"),
        (["--no-calibration"], r"--no-calibration: a search needs calibration"),
        (["--stages", "small:0.9"], r"the last stage always answers"),
        (["--stages", "small,large"], r"got '' as the threshold of 'small'"),
        (["--stages", "small:1.5,large"], r"threshold: got 1\.5; must be between 0 and 1"),
        (["--stages", "small:nan,large"], r"threshold: got nan; must be between 0 and 1"),
        (["--stages", "small:0.5,small"], r"members: got 'small' 2 times; must be once"),
        (["--stages", "small:0.5,large", "--max-regret", "0.1"], r"--max-regret: got 0\.1 with --stages"),
        (["--stages", "small:0.5,large", "--level", "0.95"], r"--level: got 0\.95 with --stages"),
        (["--stages", "small:0.5,large", "--max-members", "2"], r"--max-members: got 2 with --stages"),
        (["--stages", "small:0.5,large", "--seed", "0"], r"--seed: got 0 with --stages"),
    ],
)
def test_bad_demands_exit_with_2_and_write_nothing(
    task_path: Path, tmp_path: Path, arguments: list[str], message: str, command: Command
) -> None:
    out = tmp_path / "pets" / "1"
    fast = [] if "--stages" in arguments else ["--combine", "last", "--confidence", "max_prob"]
    code, error = command("plan", str(task_path), "--out", str(out), *fast, *arguments)
    assert code == 2
    assert re.search(message, error), error
    assert not out.exists()


@pytest.mark.parametrize("version", ["latest", "0", "01", "1.0", "9" * 30])
def test_version_is_checked_before_the_work(task_path: Path, tmp_path: Path, version: str) -> None:
    result = CliRunner().invoke(app, ["plan", str(task_path), "--out", str(tmp_path / "pets" / version)])
    assert f"version: got {version!r}; must be a positive integer" in str(result.exception)


def test_the_promise_is_told_as_what_it_is(plan: Plan, tmp_path: Path) -> None:
    output = " ".join(plan("--combine", "last", "--confidence", "max_prob", "--min-accuracy", "0.8").split())
    assert "promise: accuracy, %" in output
    assert "against large" not in output
    assert "default: at least 80 % accurate (95 % sure" in output


def test_a_level_is_never_rounded_up(plan: Plan) -> None:
    output = " ".join(plan("--combine", "last", "--max-regret", "0.3", "--level", "0.9999999").split())
    assert "99.99999 % sure" in output
    assert "(100 % sure" not in output


def test_bundles_are_never_overwritten(plan: Plan, tmp_path: Path, task_path: Path) -> None:
    plan("--stages", "small")
    result = CliRunner().invoke(app, ["plan", str(task_path), "--out", str(tmp_path / "pets" / "1")])
    assert "exists already; bundles are immutable" in str(result.exception)
