"""``zoo profile``: who is timed, in which turns, and what the cards say afterwards."""

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import onnxruntime
import openvino
import pytest
import stand_in_cuda
import torch
import torch_bundle
import typer
from linear_zoo import TASK, write_linear_member
from onnx_bundle import write_linear_graph
from torch_bundle import write_torch_member
from typer.testing import CliRunner

from cascade_serve import profiling
from cascade_serve.cli import profile as profile_command
from cascade_serve.cli import zoo as zoo_commands
from cascade_serve.core.arrays import FloatArray, ImageArray
from cascade_serve.core.plan import Task
from cascade_serve.engine import onnx
from cascade_serve.engine.onnx import CPU_PROVIDER, Device, OnnxSession, Placement, cuda_provider
from cascade_serve.errors import BundleError, ConfigError, MemberError, MissingExtraError
from cascade_serve.profiling import Profile, ProfileConfig, profile_members
from model_zoo.errors import CardError, ConflictError
from model_zoo.store import WEIGHTS_FILE, ZooMember, new_member, read_member, replace_card, write_card

ENGINES = {"small": "onnxruntime", "swift": "openvino"}


@pytest.fixture
def task_path(tmp_path: Path) -> Path:
    path = tmp_path / "zoo" / "pets"
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
        assert cost.profiled_device == "cpu"
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


def test_members_take_turns(task_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[tuple[str, int]] = []

    def noting(member: ZooMember, *_: object) -> Callable[[ImageArray], Callable[[], None]]:
        return lambda images_BHWC: lambda: notes.append((member.name, len(images_BHWC)))

    monkeypatch.setattr(profiling, "_open", noting)
    run_profile(task_path, ProfileConfig(batch_sizes=(1, 8), rounds=2), step_s=itertools.repeat(1.0))
    one_round = [("small", 1), ("small", 8), ("swift", 1), ("swift", 8)]
    # First, to warm up, the large batches, whose memory the small ones then use.
    assert notes == [("small", 8), ("swift", 8), ("small", 1), ("swift", 1), *one_round, *one_round]


def test_a_member_that_fails_is_named_with_its_batch(task_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_session: OnnxSession, images_BHWC: ImageArray) -> FloatArray:
        raise MemberError(f"no memory for {len(images_BHWC)}")

    monkeypatch.setattr(OnnxSession, "logits", fail)
    with pytest.raises(MemberError, match=r"^member 'small', 8 in a run: no memory for 8$"):
        run_profile(task_path, ProfileConfig(batch_sizes=(1, 8)), step_s=itertools.repeat(1.0))
    assert read_member(task_path / "swift").card.cost.seconds is None


# On torch, and on CUDA.


@pytest.fixture
def torch_task_path(tmp_path: Path) -> Iterator[Path]:
    """A zoo of one member for torch, and one for ONNX Runtime."""
    path = tmp_path / "zoo" / "digits"
    write_linear_member(path, "linear", 1, task=torch_bundle.TASK)
    write_torch_member(path / "net", "digits_cnn_s", precision="bf16")
    threads = torch.get_num_threads()
    yield path
    torch.set_num_threads(threads)


def test_members_for_torch_are_timed_beside_others(torch_task_path: Path) -> None:
    config = ProfileConfig(batch_sizes=(1, 4), threads=2)
    run_profile(torch_task_path, config, step_s=itertools.repeat(1.0))
    for name, engine in {"linear": "onnxruntime", "net": f"torch {torch.__version__}"}.items():
        cost = read_member(torch_task_path / name).card.cost
        assert (cost.seconds, cost.profiled_device) == ({1: 1.0, 4: 0.25}, "cpu")
        assert f", 2 threads, {engine}" in str(cost.profiled_on)
    assert torch.get_num_threads() == 2


def test_on_cuda_the_card_names_the_gpu(torch_task_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    house = stand_in_cuda.install(monkeypatch)
    config = ProfileConfig(batch_sizes=(1, 4), rounds=2, seconds_per_size=1.0, device=Device.CUDA, device_id=1)
    (profile,) = run_profile(torch_task_path, config, "net", step_s=itertools.repeat(0.5))
    cost = read_member(torch_task_path / "net").card.cost
    assert (cost.seconds, cost.profiled_device) == ({1: 0.5, 4: 0.125}, "cuda")
    assert str(cost.profiled_on).startswith("Stand-In 1 beside ")
    assert str(cost.profiled_on).endswith(f", 1 thread, torch {torch.__version__}")
    assert profile.member.card.cost == cost
    # One for each capture and warm-up, and one for each of two rounds.
    assert [entry[0] for entry in house.log].count("capture") == 2
    assert [entry[0] for entry in house.log].count("replay") == 2 * (1 + 1 + 2)


class PlacedSession(OnnxSession):
    """Notes where it was placed, and runs on the CPU."""

    placements: ClassVar[list[Placement]] = []

    def __init__(self, path: Path, task: Task, threads: int, placement: Placement) -> None:
        self.placements.append(placement)
        super().__init__(path, task, threads, onnx.place(Device.CPU))


@pytest.mark.parametrize(
    ("models", "gpu"),
    [
        ([], "cuda:1"),
        (["NVIDIA H200"], "NVIDIA H200"),
        (["NVIDIA H200", "NVIDIA H200"], "NVIDIA H200"),
        # Which of them CUDA calls 1 depends on its environment.
        (["NVIDIA H200", "NVIDIA T4"], "cuda:1"),
        ([""], "cuda:1"),
    ],
)
def test_onnx_runtime_is_timed_on_cuda_without_torch(
    task_path: Path, tmp_path: Path, models: list[str], gpu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index, model in enumerate(models):
        facts = tmp_path / "gpus" / f"0000:{index}" / "information"
        facts.parent.mkdir(parents=True)
        facts.write_text(f"Model: \t\t {model}\nIRQ:   \t\t 16\n")
    monkeypatch.setattr(profiling, "_GPUS", tmp_path / "gpus")
    monkeypatch.setattr(profiling, "find_spec", lambda _name: None)
    monkeypatch.setattr(onnx, "check_available", lambda *_: None)
    monkeypatch.setattr(onnx, "OnnxSession", PlacedSession)
    PlacedSession.placements.clear()
    config = ProfileConfig(batch_sizes=(1, 4), device=Device.CUDA, device_id=1)
    run_profile(task_path, config, "small", step_s=itertools.repeat(1.0))
    assert PlacedSession.placements == [Placement(providers=(cuda_provider(1), CPU_PROVIDER), device_id=1)]
    cost = read_member(task_path / "small").card.cost
    assert cost.profiled_device == "cuda"
    assert str(cost.profiled_on).startswith(f"{gpu} beside ")
    assert str(cost.profiled_on).endswith(f", 1 thread, onnxruntime {onnxruntime.__version__}")


def test_what_a_device_can_not_run_is_refused_by_name(
    task_path: Path, torch_task_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = ProfileConfig(device=Device.CUDA)
    message = "member 'swift': device: got 'cuda'; the openvino engine runs on 'cpu' alone"
    with pytest.raises(ConfigError, match=message):
        run_profile(task_path, cuda, "swift", step_s=itertools.repeat(1.0))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ConfigError, match="device: got 'cuda'; this onnxruntime has only CPUExecutionProvider"):
        run_profile(task_path, cuda, "small", step_s=itertools.repeat(1.0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"device: got 'cuda:0'; torch \S+ finds no CUDA device here"):
        run_profile(torch_task_path, cuda, "net", step_s=itertools.repeat(1.0))
    stand_in_cuda.install(monkeypatch)
    far = ProfileConfig(device=Device.CUDA, device_id=2)
    with pytest.raises(ConfigError, match="device id: got 2; must be under 2"):
        run_profile(torch_task_path, far, "net", step_s=itertools.repeat(1.0))


def test_members_for_torch_need_it_and_their_weights(torch_task_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(profiling, "find_spec", lambda _name: None)
        with pytest.raises(MissingExtraError, match=r"torch is not installed; .*cascade-serve\[torch\]"):
            run_profile(torch_task_path, ProfileConfig(), step_s=itertools.repeat(1.0))
        run_profile(torch_task_path, ProfileConfig(batch_sizes=(1,)), "linear", step_s=itertools.repeat(1.0))
    (torch_task_path / "net" / WEIGHTS_FILE).unlink()
    with pytest.raises((BundleError, CardError), match=WEIGHTS_FILE):
        run_profile(torch_task_path, ProfileConfig(), step_s=itertools.repeat(1.0))


@pytest.mark.gpu
def test_a_gpu_is_timed(torch_task_path: Path) -> None:
    """On the device itself; what the graphs compute is shown in ``engine/cuda/test_solo.py``."""
    config = ProfileConfig(batch_sizes=(1, 256), seconds_per_size=0.2, rounds=2, device=Device.CUDA)
    (profile,) = profile_members(torch_task_path, ["net"], config, ignore_progress)
    assert 0 < profile.seconds[256] < profile.seconds[1] < 0.1
    cost = profile.member.card.cost
    assert cost.profiled_device == "cuda"
    assert str(cost.profiled_on).startswith(torch.cuda.get_device_name(0))


@pytest.mark.gpu(library="onnxruntime")
def test_onnx_runtime_is_timed_on_a_gpu(task_path: Path) -> None:
    config = ProfileConfig(batch_sizes=(1, 64), seconds_per_size=0.2, rounds=2, device=Device.CUDA)
    (profile,) = profile_members(task_path, ["small"], config, ignore_progress)
    assert 0 < profile.seconds[64] < profile.seconds[1] < 0.1
    assert profile.member.card.cost.profiled_device == "cuda"


# What is refused.


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"engine": "torch"}, "odd: was made from an ONNX file and has no torch network"),
        ({"engine": "torch", "precision": "int8"}, "member 'odd': precision: got 'int8'; the torch engine runs fp32"),
        ({"precision": "bf16"}, "member 'odd': precision: got bf16; must be fp32 or fp16 or int8"),
    ],
)
def test_what_no_engine_here_runs_is_refused_before_anything_is_timed(
    task_path: Path, facts: dict[str, str], message: str
) -> None:
    write_linear_member(task_path, "odd", 9, task=TASK, **facts)
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
        ({"device_id": -1, "device": Device.CUDA}, "device_id: got -1; must be at least 0"),
        ({"device_id": 1}, "device_id: got 1 on cpu; only CUDA devices have one"),
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
    assert re.search(r"swift +openvino +fp32 +[\d,.]+ +[\d,.]+", shown)
    # The processor's name decides where lines break.
    assert re.search(r"Medians of 2 rounds, .*1 thread, openvino \d", " ".join(shown.split()))
    assert set(read_member(task_path / "swift").card.cost.seconds or {}) == {1, 2}
    member = CliRunner().invoke(app, ["zoo", "show", str(task_path / "swift")], catch_exceptions=False).stdout
    assert re.search(
        r"time per image +\S+s at 1, \S+s at 2 in a run; measured on .*1 thread, openvino \d", " ".join(member.split())
    )
    assert read_member(task_path / "small").card.cost.seconds is None


def test_the_command_goes_to_larger_batches_on_cuda(
    app: typer.Typer, torch_task_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in_cuda.install(monkeypatch)
    options = ["--device", "cuda", "--device-id", "1", "--seconds-per-size", "0.001", "--rounds", "1"]
    arguments = ["zoo", "profile", str(torch_task_path), "net", *options]
    shown = CliRunner().invoke(app, arguments, catch_exceptions=False).stdout
    assert "measured on Stand-In 1 beside " in " ".join(shown.split())
    assert sorted(read_member(torch_task_path / "net").card.cost.seconds or {}) == [1, 2, 4, 8, 16, 32, 64, 128, 256]


@pytest.mark.parametrize(("seconds", "text"), [(8.44e-7, "0.844"), (1.23e-5, "12.3"), (0.0123456, "12,346")])
def test_few_microseconds_have_digits_after_the_point(seconds: float, text: str) -> None:
    assert profile_command._micros(seconds) == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-sizes", "1,many"], r"--batch-sizes: got '1,many'; must be numbers such as 1,8,32"),
        (["--threads", "0"], "threads: got 0"),
        (["--device-id", "3"], "device_id: got 3 on cpu"),
        (["swift", "--device", "cuda"], "member 'swift': device: got 'cuda'"),
        (["nobody"], "members: got 'nobody'; must be among small, swift"),
    ],
)
def test_the_command_refuses_what_can_not_be(
    app: typer.Typer, task_path: Path, arguments: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        CliRunner().invoke(app, ["zoo", "profile", str(task_path), *arguments], catch_exceptions=False)
