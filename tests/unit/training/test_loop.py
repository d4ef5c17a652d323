"""Training from start to end: it learns, repeats itself by seed, tells what it did, and goes on after a kill."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import CONFIG, NORMALISATION, are_equal, copy_weights, small_digits, small_model
from torch import Tensor, nn

from training.augment.config import AugmentConfig, Flip, PolicyKind
from training.checkpoint import read_checkpoint
from training.data.images import LabelledImages
from training.data_schedule.config import DataStep, InfoBatch, parse_data_schedule
from training.energy import Energy
from training.errors import CheckpointError, DataError, DivergedError, EnergyError, LogError
from training.evaluation import Tta, evaluate
from training.inputs import Normalisation
from training.loop import EpochReport, LoopConfig, TrainingResult, train
from training.loop_config import Precision
from training.lr import OneCycle
from training.optim import OptimConfig, OptimizerName


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def run_digits(model: nn.Module, config: LoopConfig = CONFIG, **options: object) -> TrainingResult:
    return train(model, small_digits(), config, NORMALISATION, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        replace(CONFIG, optim=OptimConfig(name=OptimizerName.ADAMW), lr=OneCycle(peak_lr=0.01)),
        replace(CONFIG, precision=Precision.BF16, channels_last=True),
        replace(CONFIG, ema_decay=0.95, ema_every=2, gradient_clip=1.0),
        replace(CONFIG, ema_decay=0.95, ema_every=5, ema_lookahead=True),
        replace(CONFIG, data_schedule=InfoBatch()),
        replace(CONFIG, data_schedule=DataStep()),
    ],
    ids=["plain", "adamw", "bf16", "average", "lookahead", "infobatch", "step"],
)
def test_it_learns_digits(config: LoopConfig) -> None:
    model = small_model()
    held_out = small_digits(300, 1000)
    before = evaluate(model, held_out, NORMALISATION).top1
    result = run_digits(model, replace(config, epochs=16))
    assert before < 0.4
    assert evaluate(model, held_out, NORMALISATION).top1 > 0.82
    assert result.reports[-1].loss < 0.6 * result.reports[0].loss
    assert not model.training


def test_the_same_seed_gives_the_same_bits() -> None:
    models = [small_model() for _ in range(3)]
    for model, seed in zip(models, (5, 5, 6), strict=True):
        run_digits(model, replace(CONFIG, seed=seed))
    first, again, other = (copy_weights(model) for model in models)
    assert are_equal(first, again)
    assert not are_equal(first, other)


def test_reports_logs_and_progress_tell_the_same(tmp_path: Path) -> None:
    told: list[EpochReport] = []
    held_out = small_digits(300, 1000)
    result = run_digits(small_model(), folder=tmp_path, validation=held_out, progress=told.append)
    assert list(result.reports) == told
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [asdict(report) for report in told]
    table = [line.split("\t") for line in (tmp_path / "dawnbench.tsv").read_text().splitlines()]
    assert table == [
        ["epoch", "hours", "top1Accuracy"],
        *(
            [str(report.epoch), f"{report.seconds / 3600:.8f}", f"{100 * (report.validation_accuracy or 0):.2f}"]
            for report in told
        ),
    ]
    assert [(report.epoch, report.epochs, report.evaluations) for report in told] == [
        (1, 3, 500),
        (2, 3, 1000),
        (3, 3, 1500),
    ]
    assert 0 < told[0].seconds < told[1].seconds < told[2].seconds == result.seconds <= result.wall_seconds
    assert 0 < told[0].input_seconds < told[2].input_seconds < result.seconds
    assert 0 < told[0].process_seconds < told[2].process_seconds == result.process_seconds
    assert all(0 <= report.accuracy <= 1 for report in told)
    assert told[0].peak_memory_bytes <= told[2].peak_memory_bytes == result.peak_memory_bytes
    # Above 10 MiB and under 1 TiB: bytes, neither pages nor kibibytes.
    assert 10 << 20 < result.peak_memory_bytes < 1 << 40
    assert (result.evaluations, result.energy) == (1500, Energy())


def test_validation_and_checkpoints_every_so_often_and_at_the_end(tmp_path: Path) -> None:
    kept: list[int] = []

    def look(_: EpochReport) -> None:
        checkpoint = read_checkpoint(tmp_path / "checkpoint.pt")
        kept.append(0 if checkpoint is None else len(checkpoint.reports))

    result = run_digits(
        small_model(),
        replace(CONFIG, epochs=5),
        folder=tmp_path,
        validation=small_digits(100, 1000),
        progress=look,
        checkpoint_every=2,
        validate_every=3,
    )
    assert kept == [0, 2, 2, 4, 5]
    assert [report.validation_accuracy is not None for report in result.reports] == [False, False, True, False, True]


def test_validation_is_that_of_the_averaged_weights_with_mirror_images() -> None:
    model = small_model()
    held_out = small_digits(300, 1000)
    config = replace(CONFIG, ema_decay=0.9, tta=Tta.FLIP)
    result = run_digits(model, config, validation=held_out)
    mirrored = evaluate(model, held_out, NORMALISATION, tta=Tta.FLIP).top1
    assert result.reports[-1].validation_accuracy == mirrored
    assert mirrored != evaluate(model, held_out, NORMALISATION).top1


class KilledError(Exception):
    pass


def kill_after(epoch: int) -> Callable[[EpochReport], None]:
    def look(report: EpochReport) -> None:
        if report.epoch == epoch:
            raise KilledError

    return look


class Counting:
    """Hears batches and counts each image."""

    def __init__(self) -> None:
        self.seen_N = torch.zeros(2000, dtype=torch.int64)

    def observe(self, ids_B: Tensor, losses_B: Tensor, correct_B: Tensor) -> None:
        assert losses_B.shape == correct_B.shape == ids_B.shape
        assert (losses_B.dtype, correct_B.dtype) == (torch.float32, torch.bool)
        self.seen_N[ids_B] += 1

    def state_dict(self) -> dict[str, Tensor]:
        return {"seen_N": self.seen_N}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.seen_N = state["seen_N"]


EVERYTHING = replace(
    CONFIG,
    epochs=6,
    augment=AugmentConfig(
        pad_px=1, flip=Flip.ALTERNATING, cutout_px=3, policy=PolicyKind.RANDAUGMENT, pad_mode="constant"
    ),
    ema_decay=0.9,
    ema_every=3,
    data_schedule=InfoBatch(),
    gradient_clip=2.0,
    channels_last=True,
)


@pytest.mark.parametrize(
    "config",
    [
        EVERYTHING,
        replace(EVERYTHING, precision=Precision.FP16),
        replace(CONFIG, epochs=6, data_schedule=parse_data_schedule("cut:3:rotate")),
        replace(CONFIG, epochs=6, optim=OptimConfig(name=OptimizerName.ADAMW), lr=OneCycle(peak_lr=0.01)),
        replace(CONFIG, epochs=6, optim=OptimConfig(name=OptimizerName.MUON), lr=OneCycle(peak_lr=0.05)),
    ],
    ids=["everything", "fp16", "cut", "adamw", "muon"],
)
def test_a_killed_run_goes_on_to_the_same_bits(config: LoopConfig, tmp_path: Path) -> None:
    straight, resumed, counts, resumed_counts = small_model(), small_model(), Counting(), Counting()
    held_out = small_digits(100, 1000)
    expected = run_digits(straight, config, validation=held_out, observers=[counts])
    with pytest.raises(KilledError):
        # KilledError after its fifth epoch, with a checkpoint of its third.
        run_digits(
            resumed,
            config,
            validation=held_out,
            observers=[Counting()],
            folder=tmp_path,
            checkpoint_every=3,
            progress=kill_after(5),
        )
    # A new process has new weights: all that counts is in the checkpoint.
    resumed = small_model(seed=9)
    told: list[int] = []
    found = run_digits(
        resumed,
        config,
        validation=held_out,
        observers=[resumed_counts],
        folder=tmp_path,
        progress=lambda report: told.append(report.epoch),
    )
    assert told == [4, 5, 6]
    assert are_equal(copy_weights(straight), copy_weights(resumed))
    assert [without_times(report) for report in found.reports] == [without_times(report) for report in expected.reports]
    assert torch.equal(counts.seen_N, resumed_counts.seen_N)
    assert int(counts.seen_N.sum()) == expected.evaluations
    epochs = [json.loads(line)["epoch"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert epochs == [1, 2, 3, 4, 5, 6]
    assert len((tmp_path / "dawnbench.tsv").read_text().splitlines()) == 7


def without_times(report: EpochReport) -> EpochReport:
    return replace(report, seconds=0, process_seconds=0, input_seconds=0, peak_memory_bytes=0)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    model, again = small_model(), small_model(seed=3)
    first = run_digits(model, folder=tmp_path)
    told: list[EpochReport] = []
    second = run_digits(again, folder=tmp_path, progress=told.append)
    assert not told
    assert second.reports == first.reports
    assert are_equal(copy_weights(model), copy_weights(again))


@pytest.mark.parametrize(
    ("config", "rows", "message"),
    [
        (replace(CONFIG, batch_size=25), 500, r"batch_size: got 50 in the checkpoint; must be 25, as in this run; "),
        (replace(CONFIG, epochs=4), 500, r"epochs: got 3 in the checkpoint; must be 4, as in this run; "),
        (CONFIG, 499, r"data_sha256: got [0-9a-f]{64} in the checkpoint; must be [0-9a-f]{64}, as in this run; "),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, config: LoopConfig, rows: int, message: str) -> None:
    run_digits(small_model(), folder=tmp_path)
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(tmp_path / 'checkpoint.pt'))}: {message}"):
        train(small_model(), small_digits(rows), config, NORMALISATION, folder=tmp_path)


class Breaking(nn.Module):
    """Gives NaN at its n-th step."""

    def __init__(self, breaks_at: int) -> None:
        super().__init__()
        self.inner = small_model()
        self.breaks_at = breaks_at
        self.step = 0

    def forward(self, images_BCHW: Tensor) -> Tensor:
        self.step += 1
        logits_BK: Tensor = self.inner(images_BCHW)
        return logits_BK * float("nan") if self.step == self.breaks_at else logits_BK


@pytest.mark.parametrize(("breaks_at", "epoch"), [(1, 1), (7, 1), (10, 1), (11, 2), (29, 3)])
def test_nan_stops_and_names_the_step(breaks_at: int, epoch: int) -> None:
    message = f"step {breaks_at} \\(epoch {epoch}\\): loss: got nan; must be finite; try a peak_lr below 0.2"
    with pytest.raises(DivergedError, match=f"^{message}$") as caught:
        run_digits(Breaking(breaks_at))
    assert caught.value.step == breaks_at


def test_nan_names_the_last_good_checkpoint_and_leaves_it(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(DivergedError, match=rf"peak_lr below 0\.2; the last good checkpoint is {path}$") as caught:
        run_digits(Breaking(25), folder=tmp_path)
    assert caught.value.checkpoint == path
    checkpoint = read_checkpoint(path)
    assert checkpoint is not None
    assert [report.epoch for report in checkpoint.reports] == [1, 2]
    with pytest.raises(DivergedError, match=r"below 0\.2$"):
        run_digits(Breaking(1), folder=tmp_path / "other")


class BreakingBackwards(Breaking):
    """Has gradients of NaN at its n-th step, whose loss is finite."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        self.step += 1
        logits_BK: Tensor = self.inner(images_BCHW)
        nothing = 0 * next(self.inner.parameters()).sum()
        return logits_BK + nothing.sqrt() if self.step == self.breaks_at else logits_BK


@pytest.mark.parametrize(("breaks_at", "epoch"), [(10, 1), (20, 2), (30, 3)])
def test_weights_that_an_epochs_last_step_breaks_are_kept_nowhere(breaks_at: int, epoch: int, tmp_path: Path) -> None:
    message = rf"^step {breaks_at} \(epoch {epoch}\): weights: got nan or inf behind it; must be finite; try a peak_lr"
    with pytest.raises(DivergedError, match=message):
        run_digits(BreakingBackwards(breaks_at), folder=tmp_path)
    checkpoint = read_checkpoint(tmp_path / "checkpoint.pt")
    assert (0 if checkpoint is None else len(checkpoint.reports)) == epoch - 1


def test_a_checkpoint_of_other_layers_with_the_same_weights_is_refused(tmp_path: Path) -> None:
    run_digits(small_model(), folder=tmp_path)
    other = small_model()
    other.register_module("2", nn.CELU(0.3))
    with pytest.raises(CheckpointError, match=r"model: got Sequential of \d+ parameters, layers \w+ in the checkpoint"):
        run_digits(other, folder=tmp_path)


def test_a_checkpoint_whose_content_is_damaged_is_named(tmp_path: Path) -> None:
    run_digits(small_model(), folder=tmp_path)
    path = tmp_path / "checkpoint.pt"
    content = torch.load(path)
    content["run"]["randomness"]["order"] = torch.zeros(3, dtype=torch.uint8)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=rf"^{path}: is damaged \(.+\); remove it to start anew$"):
        run_digits(small_model(), folder=tmp_path)


def test_no_images_or_other_channels() -> None:
    nothing = small_digits().take(np.array([], dtype=np.int64))
    with pytest.raises(DataError, match=r"^images: got \[0, 8, 8, 1\]; must be at least one, with 1 channels$"):
        train(small_model(), nothing, CONFIG, NORMALISATION)
    rgb = Normalisation(mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(DataError, match=r"^images: got \[500, 8, 8, 1\]; must be at least one, with 3 channels$"):
        train(small_model(), small_digits(), CONFIG, rgb)


def test_a_folder_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises((LogError, CheckpointError), match=r"taken.*: (Not a directory|File exists)$"):
        run_digits(small_model(), folder=tmp_path / "taken")


class FakeMeter:
    """Ten joules a reading."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def start(self) -> None:
        self.told.append("start")

    def read(self) -> Energy:
        self.told.append("read")
        return Energy(joules=10.0 * self.told.count("read"), co2_kg=0.5, tool="fake")

    def stop(self) -> None:
        self.told.append("stop")


def test_energy_sums_over_the_processes_of_a_run(tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=2)
    first = FakeMeter()
    with pytest.raises(KilledError):
        run_digits(small_model(), config, folder=tmp_path, energy_meter=first, progress=kill_after(1))
    assert first.told == ["start", "read", "stop"]
    result = run_digits(small_model(), config, folder=tmp_path, energy_meter=FakeMeter())
    # Ten up to the checkpoint; then a reading for the second checkpoint, and the last one.
    assert result.energy == Energy(joules=10.0 + 20.0, co2_kg=1.0, tool="fake")


def test_tensorboard_is_written_beside(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run_digits(small_model(), replace(CONFIG, epochs=1), folder=tmp_path, tensorboard=True)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


@pytest.mark.parametrize("name", ["checkpoint_every", "validate_every"])
def test_every_so_often_is_at_least_every_epoch(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: got 0; must be at least 1$"):
        run_digits(small_model(), CONFIG, **{name: 0})


class BrokenMeter(FakeMeter):
    def start(self) -> None:
        super().start()
        raise EnergyError("no measurement")


def test_a_meter_that_can_not_start_is_stopped(tmp_path: Path) -> None:
    meter = BrokenMeter()
    with pytest.raises(EnergyError, match="no measurement"):
        run_digits(small_model(), folder=tmp_path, energy_meter=meter)
    assert meter.told == ["start", "stop"]


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [
        ("epochs", 0, "must be at least 1"),
        ("batch_size", 0, "must be at least 1"),
        ("ema_every", 0, "must be at least 1"),
        ("seed", -1, "must be at least 0"),
        ("label_smoothing", 1.0, "must be at least 0 and under 1"),
        ("label_smoothing", float("nan"), "must be at least 0 and under 1"),
        ("gradient_clip", 0.0, "must be above 0 and finite"),
        ("ema_decay", 1.0, "must be at least 0 and under 1"),
    ],
)
def test_ranges(field: str, value: float, limit: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: got {value}; {limit}$"):
        LoopConfig(**{field: value})  # type: ignore[arg-type]


def test_a_lookahead_needs_an_average() -> None:
    with pytest.raises(ValueError, match=r"^ema_decay: got none; ema_lookahead must have one$"):
        LoopConfig(ema_lookahead=True)


def test_a_data_set_of_one_image() -> None:
    one: LabelledImages = small_digits(1)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert train(plain, one, CONFIG, NORMALISATION).evaluations == 3
