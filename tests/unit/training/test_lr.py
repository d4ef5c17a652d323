"""Learning-rate schedules: rates by hand, shapes, text forms and limits."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from training.lr import (
    Constant,
    Cosine,
    Exponential,
    LrConfig,
    MultiStep,
    OneCycle,
    PiecewiseLinear,
    StepDecay,
    decay_every,
    exponential,
    lr_at,
    multi_step,
    triangular,
)

ALL: tuple[LrConfig, ...] = (
    Constant(),
    OneCycle(),
    PiecewiseLinear(),
    Cosine(warmup_share=0.1),
    StepDecay(),
    Exponential(),
    MultiStep(),
)


@pytest.mark.parametrize(
    ("config", "position", "expected"),
    [
        (Constant(lr=0.3), 0.0, 0.3),
        (Constant(lr=0.3), 1.0, 0.3),
        (OneCycle(peak_lr=0.4, warmup_share=0.25), 0.0, 0.0),
        (OneCycle(peak_lr=0.4, warmup_share=0.25), 0.125, 0.2),
        (OneCycle(peak_lr=0.4, warmup_share=0.25), 0.25, 0.4),
        (OneCycle(peak_lr=0.4, warmup_share=0.25), 0.625, 0.2),
        (OneCycle(peak_lr=0.4, warmup_share=0.25), 1.0, 0.0),
        # airbench: from 0.2 up to 1 in 23 % of the run, then down to 0.07.
        (OneCycle(peak_lr=10, warmup_share=0.23, start_factor=0.2, end_factor=0.07), 0.0, 2.0),
        (OneCycle(peak_lr=10, warmup_share=0.23, start_factor=0.2, end_factor=0.07), 0.115, 6.0),
        (OneCycle(peak_lr=10, warmup_share=0.23, start_factor=0.2, end_factor=0.07), 1.0, 0.7),
        (OneCycle(peak_lr=0.24, warmup_share=0.0), 0.0, 0.24),
        (OneCycle(peak_lr=0.24, warmup_share=0.0), 0.75, 0.06),
        # Page: epochs [0, 5, 24] → [0, 0.4, 0].
        (triangular(), 0.0, 0.0),
        (triangular(), 2.5 / 24, 0.2),
        (triangular(), 5 / 24, 0.4),
        (triangular(), 14.5 / 24, 0.2),
        (triangular(), 1.0, 0.0),
        (PiecewiseLinear(knots=((0, 0), (0.2, 1), (0.8, 0.1), (1, 0.1))), 0.5, 0.55),
        (PiecewiseLinear(knots=((0, 0), (0.2, 1), (0.8, 0.1), (1, 0.1))), 0.9, 0.1),
        (Cosine(peak_lr=0.1), 0.0, 0.1),
        (Cosine(peak_lr=0.1), 0.25, 0.05 * (1 + math.sqrt(0.5))),
        (Cosine(peak_lr=0.1), 0.5, 0.05),
        (Cosine(peak_lr=0.1), 1.0, 0.0),
        (Cosine(peak_lr=0.1, warmup_share=0.2, end_factor=0.1), 0.1, 0.05),
        (Cosine(peak_lr=0.1, warmup_share=0.2, end_factor=0.1), 0.6, 0.055),
        (Cosine(peak_lr=0.1, warmup_share=0.2, end_factor=0.1), 1.0, 0.01),
        # Halved every 30 of 90 epochs.
        (decay_every(0.8, 0.5, every_epochs=30, epochs=90), 29.9 / 90, 0.8),
        (decay_every(0.8, 0.5, every_epochs=30, epochs=90), 30 / 90, 0.4),
        (decay_every(0.8, 0.5, every_epochs=30, epochs=90), 60 / 90, 0.2),
        # x 0.98 an epoch, of 300.
        (exponential(1e-3, 0.98, epochs=300), 0.0, 1e-3),
        (exponential(1e-3, 0.98, epochs=300), 2 / 300, 1e-3 * 0.9604),
        (exponential(1e-3, 0.98, epochs=300), 1.0, 1e-3 * 0.98**300),
        # SVP: (1, 90, 45, 45) of 181 epochs at (0.01, 0.1, 0.01, 0.001).
        (multi_step((0.01, 0.1, 0.01, 0.001), (1, 90, 45, 45)), 0.99 / 181, 0.01),
        (multi_step((0.01, 0.1, 0.01, 0.001), (1, 90, 45, 45)), 1 / 181, 0.1),
        (multi_step((0.01, 0.1, 0.01, 0.001), (1, 90, 45, 45)), 90.9 / 181, 0.1),
        (multi_step((0.01, 0.1, 0.01, 0.001), (1, 90, 45, 45)), 91 / 181, 0.01),
        (multi_step((0.01, 0.1, 0.01, 0.001), (1, 90, 45, 45)), 136 / 181, 0.001),
        (multi_step((0.01, 0.1, 0.01, 0.001), (1, 90, 45, 45)), 1.0, 0.001),
    ],
)
def test_rates_by_hand(config: LrConfig, position: float, expected: float) -> None:
    assert lr_at(config, position) == pytest.approx(expected, abs=1e-12)


def test_steps_of_a_run_by_hand() -> None:
    # Five batches of 100 images, looked at in their middle.
    rates = [lr_at(OneCycle(peak_lr=1.0, warmup_share=0.5), (100 * step + 50) / 500) for step in range(5)]
    assert rates == pytest.approx([0.2, 0.6, 1.0, 0.6, 0.2])


@given(epochs=st.integers(1, 400), every=st.integers(1, 60))
def test_decay_happens_at_the_very_epoch(epochs: int, every: int) -> None:
    config = decay_every(1.0, 0.5, every_epochs=every, epochs=epochs)
    for epoch in range(0, epochs + 1, every):
        assert lr_at(config, epoch / epochs) == 0.5 ** (epoch // every)


@given(config=st.sampled_from(ALL), position=st.floats(0, 1))
def test_rates_stay_between_nothing_and_the_largest(config: LrConfig, position: float) -> None:
    assert 0 <= lr_at(config, position) <= config.largest_lr * (1 + 1e-12)
    assert max(lr_at(config, step / 1200) for step in range(1201)) == pytest.approx(config.largest_lr, rel=1e-9)


@pytest.mark.parametrize("config", ALL, ids=lambda config: config.kind)
def test_text_forms_come_back(config: LrConfig) -> None:
    adapter: TypeAdapter[LrConfig] = TypeAdapter(LrConfig)
    assert adapter.validate_json(adapter.dump_json(config)) == config
    assert adapter.dump_python(config)["kind"] == config.kind


def test_text_forms_are_checked() -> None:
    adapter: TypeAdapter[LrConfig] = TypeAdapter(LrConfig)
    with pytest.raises(ValidationError, match=r"peak_lr: got -1\.0; must be above 0 and finite"):
        adapter.validate_json('{"kind": "cosine", "peak_lr": -1}')
    with pytest.raises(ValidationError, match="'square' found using 'kind' does not match any of the expected tags"):
        adapter.validate_json('{"kind": "square"}')


@pytest.mark.parametrize("config", ALL, ids=lambda config: config.kind)
def test_past_the_plan_the_last_rate_stays(config: LrConfig) -> None:
    assert lr_at(config, 1.3) == lr_at(config, 1.0)


@pytest.mark.parametrize("position", [-0.01, float("nan")])
def test_positions_before_the_start_are_refused(position: float) -> None:
    with pytest.raises(ValueError, match=f"position: got {position}; must be at least 0"):
        lr_at(OneCycle(), position)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Constant(lr=0), "lr: got 0; must be above 0 and finite"),
        (lambda: OneCycle(peak_lr=math.inf), "peak_lr: got inf; must be above 0 and finite"),
        (lambda: OneCycle(warmup_share=1.0), r"warmup_share: got 1\.0; must be at least 0 and below 1"),
        (lambda: OneCycle(end_factor=2.0), r"end_factor: got 2\.0; must be between 0 and 1"),
        (lambda: Cosine(end_factor=-0.1), r"end_factor: got -0\.1; must be between 0 and 1"),
        (lambda: PiecewiseLinear(knots=()), r"knots: got positions \[\]; must grow from 0 to 1"),
        (lambda: PiecewiseLinear(knots=((0, 1), (0.5, 1))), r"knots: got positions \[0, 0\.5\]; must grow from 0 to 1"),
        (lambda: PiecewiseLinear(knots=((0, 0), (1, 0))), "knots: got rates .*; must be at least 0 and finite, one of"),
        (lambda: StepDecay(factor=1.5), r"factor: got 1\.5; must be above 0 and at most 1"),
        (lambda: Exponential(every_share=0), "every_share: got 0; must be above 0 and finite"),
        (lambda: MultiStep(lrs=(1.0,)), "lrs, starts: got 1 and 3; must be equally many, at least 1"),
        (
            lambda: MultiStep(lrs=(1.0, 0.1), starts=(0.0, 1.0)),
            r"starts: got \[0\.0, 1\.0\]; must grow from 0 and stay",
        ),
        (lambda: MultiStep(lrs=(1.0, 0.0), starts=(0.0, 0.5)), r"lrs: got 0\.0; must be above 0 and finite"),
    ],
)
def test_ranges(build: type[Constant], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
