"""The loop: it learns, repeats itself by seed, tells what it did, and stops at the step that broke."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.data.digits import load_digits
from training.data.images import LabelledImages
from training.errors import DataError, DivergedError
from training.evaluation import evaluate, predict
from training.inputs import Normalisation, normalise
from training.loop import EpochReport, LoopConfig, train
from training.optim import OptimConfig, OptimizerName

CONFIG = LoopConfig(epochs=3, batch_size=50, max_shift_px=1, label_smoothing=0.1)


@pytest.fixture(scope="module")
def digits() -> LabelledImages:
    return load_digits().take(np.arange(500))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_model(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(72, 10)
        )


def weights(model: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


@pytest.mark.parametrize(
    "optim", [OptimConfig(), OptimConfig(name=OptimizerName.ADAMW, peak_lr=0.01)], ids=lambda optim: optim.name
)
def test_it_learns_digits(digits: LabelledImages, optim: OptimConfig) -> None:
    model = make_model()
    held_out = load_digits().take(np.arange(1000, 1300))
    before = evaluate(model, held_out, CONFIG.normalisation).top1
    reports = train(model, digits, replace(CONFIG, epochs=20, optim=optim))
    after = evaluate(model, held_out, CONFIG.normalisation)
    assert before < 0.4
    assert after.top1 > 0.85
    assert (after.n, after.data_sha256) == (300, held_out.sha256)
    assert after.interval[0] < after.top1 < after.interval[1]
    assert reports[-1].loss < 0.6 * reports[0].loss
    assert not model.training


def test_the_same_seed_gives_the_same_bits(digits: LabelledImages) -> None:
    models = [make_model() for _ in range(3)]
    for model, seed in zip(models, (5, 5, 6), strict=True):
        train(model, digits, replace(CONFIG, seed=seed))
    first, again, other = (weights(model) for model in models)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_the_global_generator_is_given_back_as_it_was(digits: LabelledImages) -> None:
    before = torch.random.get_rng_state()
    train(make_model(), digits, replace(CONFIG, epochs=1))
    assert torch.equal(before, torch.random.get_rng_state())


def test_reports_log_and_progress_tell_the_same(digits: LabelledImages, tmp_path: Path) -> None:
    told: list[EpochReport] = []
    log = tmp_path / "log.jsonl"
    reports = train(make_model(), digits, CONFIG, log=log, progress=told.append)
    assert list(reports) == told
    assert [json.loads(line) for line in log.read_text().splitlines()] == [asdict(report) for report in reports]
    assert [(report.epoch, report.epochs, report.evaluations) for report in reports] == [
        (1, 3, 500),
        (2, 3, 1000),
        (3, 3, 1500),
    ]
    assert 0 < reports[0].seconds < reports[2].seconds
    assert all(0 <= report.accuracy <= 1 for report in reports)
    assert reports[2].lr == pytest.approx(0, abs=1e-6)


class Breaking(nn.Module):
    """Gives NaN at its n-th step."""

    def __init__(self, breaks_at: int) -> None:
        super().__init__()
        self.inner = make_model()
        self.breaks_at = breaks_at
        self.step = 0

    def forward(self, images_BCHW: Tensor) -> Tensor:
        self.step += 1
        logits_BK: Tensor = self.inner(images_BCHW)
        return logits_BK * float("nan") if self.step == self.breaks_at else logits_BK


@pytest.mark.parametrize(("breaks_at", "epoch"), [(1, 1), (7, 1), (10, 1), (11, 2), (29, 3)])
def test_nan_stops_and_names_the_step(digits: LabelledImages, breaks_at: int, epoch: int) -> None:
    message = f"step {breaks_at} \\(epoch {epoch}\\): loss: got nan; must be finite; try a peak_lr below 0.2"
    with pytest.raises(DivergedError, match=f"^{message}$") as caught:
        train(Breaking(breaks_at), digits, CONFIG)
    assert caught.value.step == breaks_at


def test_no_images_or_other_channels(digits: LabelledImages) -> None:
    with pytest.raises(DataError, match=r"^images: got \[0, 8, 8, 1\]; must be at least one, with 1 channels$"):
        train(make_model(), digits.take(np.array([], dtype=np.int64)), CONFIG)
    rgb = replace(CONFIG, normalisation=Normalisation(mean=(0.5,) * 3, std=(0.5,) * 3))
    with pytest.raises(DataError, match=r"^images: got \[500, 8, 8, 1\]; must be at least one, with 3 channels$"):
        train(make_model(), digits, rgb)


def test_no_batch_is_left_with_a_single_image(digits: LabelledImages) -> None:
    # 101 images in batches of 50 would leave one over, on which batch normalisation of a 1x1 map fails.
    model = nn.Sequential(nn.Conv2d(1, 4, 8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 10))
    train(model, digits.take(np.arange(101)), replace(CONFIG, epochs=1))


def test_a_batch_may_be_larger_than_the_data(digits: LabelledImages) -> None:
    reports = train(make_model(), digits.take(np.arange(20)), replace(CONFIG, epochs=1, batch_size=10_000))
    assert reports[0].evaluations == 20


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [
        ("epochs", 0, "must be at least 1"),
        ("batch_size", 0, "must be at least 1"),
        ("max_shift_px", -1, "must be at least 0"),
        ("seed", -1, "must be at least 0"),
        ("label_smoothing", 1.0, "must be at least 0 and under 1"),
        ("label_smoothing", float("nan"), "must be at least 0 and under 1"),
    ],
)
def test_ranges(field: str, value: float, limit: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: got {value}; {limit}$"):
        LoopConfig(**{field: value})  # type: ignore[arg-type]


def test_normalisation_by_hand() -> None:
    pixels_BCHW = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 2, 1, 1)
    normalised_BCHW = normalise(pixels_BCHW, Normalisation(mean=(0.5, 0.2), std=(0.25, 0.4)))
    torch.testing.assert_close(normalised_BCHW.flatten(), torch.tensor([-2.0, 2.0]))


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.5,), (0.5, 0.5), r"^mean, std: got 1 and 2 channels; must be equally many$"),
        ((), (), r"^mean, std: got 0 and 0 channels; must be equally many$"),
        ((0.5,), (0.0,), r"^std: got \(0\.0,\); must be above 0 and finite$"),
    ],
)
def test_normalisations_ranges(mean: tuple[float, ...], std: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Normalisation(mean=mean, std=std)


def test_prediction_does_not_depend_on_batches_and_leaves_the_mode(digits: LabelledImages) -> None:
    model = make_model().train()
    at_once_BK = predict(model, digits, CONFIG.normalisation, batch_size=500)
    in_parts_BK = predict(model, digits, CONFIG.normalisation, batch_size=33)
    np.testing.assert_allclose(in_parts_BK, at_once_BK, atol=1e-5)
    assert at_once_BK.shape == (500, 10)
    assert at_once_BK.dtype == np.float32
    assert model.training
