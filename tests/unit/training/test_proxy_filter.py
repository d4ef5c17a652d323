"""The in-loop filter: what it keeps, when it learns and from what, rates, and resuming to the bit."""

import copy
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from pydantic import JsonValue
from torch import Tensor, nn
from torch.nn import functional

from training.data.images import LabelledImages
from training.inputs import Normalisation
from training.lr import Constant, LrConfig, lr_at
from training.optim import OptimConfig
from training.proxy_filter import ProxyFilter, ProxyFilterConfig

NORMALISATION = Normalisation(mean=(0.5,), std=(0.25,))
TINY: Mapping[str, JsonValue] = {"widths": [4, 4, 4]}
GENTLE: LrConfig = Constant(lr=0.05)


def _data(rows: int = 20) -> LabelledImages:
    rng = np.random.default_rng(0)
    numbers = np.arange(rows, dtype=np.int64)
    images_BHWC = rng.integers(0, 256, (rows, 12, 12, 1), dtype=np.uint8)
    return LabelledImages(images_BHWC=images_BHWC, labels_B=numbers % 3, ids_B=numbers, classes=("a", "b", "c"))


def _filter(
    keep_share: float = 0.5, train_every: int = 4, lr: LrConfig = GENTLE, label_smoothing: float = 0.2
) -> ProxyFilter:
    config = ProxyFilterConfig(
        arguments=TINY,
        keep_share=keep_share,
        train_every=train_every,
        optim=OptimConfig(momentum=0.85),
        lr=lr,
        label_smoothing=label_smoothing,
    )
    return ProxyFilter(config, _data(), NORMALISATION)


def _batch(seed: int, rows: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 1, 12, 12, generator=generator), torch.randint(3, (rows,), generator=generator)


def _weights(proxy: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in proxy.parameters()]


def _is_equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


def test_the_hardest_rows_are_kept_in_order() -> None:
    subject = _filter()
    images_BCHW, labels_B = _batch(1)
    with torch.no_grad():
        logits_BK = copy.deepcopy(subject.proxy)(images_BCHW)
    losses_B = functional.cross_entropy(logits_BK, labels_B, reduction="none", label_smoothing=0.2)
    rows_R = subject.keep(images_BCHW, labels_B, 0.1)
    assert rows_R.tolist() == sorted(losses_B.argsort(descending=True)[:4].tolist())


@pytest.mark.parametrize(("rows", "keep_share", "kept"), [(1024, 0.5, 512), (7, 0.5, 4), (8, 1.0, 8), (3, 0.1, 1)])
def test_numbers_kept(rows: int, keep_share: float, kept: int) -> None:
    subject = _filter(keep_share=keep_share)
    assert subject.config.num_kept(rows) == kept
    if rows < 10:
        assert len(subject.keep(*_batch(2, rows), 0.0)) == kept


def test_the_proxy_learns_from_the_kept_rows_of_every_so_many_batches() -> None:
    subject = _filter(train_every=3)
    moved = []
    for number in range(7):
        before = _weights(subject.proxy)
        subject.keep(*_batch(number), number / 7)
        moved.append(not _is_equal(_weights(subject.proxy), before))
    assert moved == [True, False, False, True, False, False, True]
    assert subject.evaluations == 3 * 4
    assert subject.scored == 7 * 8


def test_a_step_of_the_proxy_is_one_on_the_kept_rows_mean_loss() -> None:
    subject = _filter(label_smoothing=0.0, lr=Constant(lr=0.1))
    twin = copy.deepcopy(subject.proxy)
    images_BCHW, labels_B = _batch(3)
    rows_R = subject.keep(images_BCHW, labels_B, 0.0)
    functional.cross_entropy(twin(images_BCHW)[rows_R], labels_B[rows_R]).backward()
    head, gradient = twin.get_parameter("head.weight"), twin.get_parameter("head.weight").grad
    assert gradient is not None
    # Nesterov's first step is 1.85 times as long; decay 5e-4.
    expected = head - 0.1 * 1.85 * (gradient + 5e-4 * head)
    torch.testing.assert_close(subject.proxy.get_parameter("head.weight"), expected)


def test_the_proxy_whitens_and_keeps_its_whitening_bias() -> None:
    subject = _filter()
    weight = subject.proxy.get_parameter("whitening.weight")
    assert torch.equal(weight[:4], -weight[4:])
    for number in range(3):
        subject.keep(*_batch(number), 0.5)
    assert subject.proxy.get_parameter("whitening.bias").tolist() == [0] * 8


def test_default_rates_are_airbenchs() -> None:
    config = ProxyFilterConfig()
    # Summed over the 512 kept of 1,024 images: lr 9 / 7851 each; decay 0.012 x 1024 / 7851.
    scale = 1024 * (1 + 1 / (1 - 0.85))
    assert lr_at(config.lr, 0.1) == pytest.approx(9 / scale * 512)
    assert lr_at(config.lr, 0.1) * config.optim.weight_decay == pytest.approx(0.012 * 1024 / scale)
    assert [lr_at(config.lr, position) / lr_at(config.lr, 0.1) for position in (0, 0.55, 1)] == pytest.approx(
        [0.2, 0.5, 0]
    )


def test_resumed_filters_go_on_to_the_bit() -> None:
    subject = _filter(train_every=2)
    for number in range(3):
        subject.keep(*_batch(number), 0.2)
    resumed = _filter(train_every=2)
    resumed.load_state_dict(copy.deepcopy(subject.state_dict()))
    for number in range(3, 7):
        rows = [item.keep(*_batch(number), 0.6).tolist() for item in (subject, resumed)]
        assert rows[0] == rows[1]
    assert _is_equal(_weights(subject.proxy), _weights(resumed.proxy))
    assert (subject.evaluations, subject.scored) == (resumed.evaluations, resumed.scored) == (16, 56)


def test_choosing_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    _filter().keep(*_batch(0), 0.0)
    assert torch.equal(torch.rand(1), expected)


def test_half_precision_passes_keep_float_weights() -> None:
    config = ProxyFilterConfig(arguments=TINY, lr=GENTLE)
    subject = ProxyFilter(config, _data(), NORMALISATION, autocast_dtype=torch.bfloat16, channels_last=True)
    assert len(subject.keep(*_batch(0), 0.0)) == 4
    assert {parameter.dtype for parameter in subject.proxy.parameters()} == {torch.float32}


def test_a_diverged_proxy_is_told() -> None:
    subject = _filter()
    subject.keep(*_batch(0), 0.0)
    assert subject.find_broken() is None
    good = copy.deepcopy(subject.state_dict())
    images_BCHW, labels_B = _batch(1)
    for _ in range(2):
        subject.keep(images_BCHW * float("nan"), labels_B, 0.0)
    assert subject.find_broken() == 2
    subject.load_state_dict(good)
    subject.keep(images_BCHW, labels_B, 0.0)
    assert subject.find_broken() is None


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [
        ("keep_share", 0.0, "must be above 0 and at most 1"),
        ("keep_share", 1.5, "must be above 0 and at most 1"),
        ("train_every", 0, "must be at least 1"),
        ("label_smoothing", 1.0, "must be at least 0 and under 1"),
    ],
)
def test_ranges(field: str, value: float, limit: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: got {value}; {limit}$"):
        ProxyFilterConfig(**{field: value})  # type: ignore[arg-type]
