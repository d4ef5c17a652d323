"""The average of weights: by hand, over buffers, written back, and resumed to the bit."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from training.ema import WeightAverage


def _set(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


def _single() -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    _set(model, 100)
    return model


def _value(model: nn.Module) -> float:
    return model.get_parameter("weight").item()


def test_averages_by_hand() -> None:
    model = _single()
    average = WeightAverage(model, 0.5)
    assert _value(average.averaged_model()) == 100
    # Nothing of the first 100 stays: 1; (1 x 1/4 + 4 x 1/2) / (3/4) = 3; (1/8 + 4/4 + 10/2) / (7/8) = 7.
    for value, expected in ((1, 1), (4, 3), (10, 7)):
        _set(model, value)
        average.update()
        assert _value(average.averaged_model()) == pytest.approx(expected)
        assert _value(model) == value


def test_every_so_many_steps_with_the_decay_of_all_of_them() -> None:
    model = _single()
    average = WeightAverage(model, 0.5, every=2)
    for value in (7, 1, 7, 6):
        _set(model, value)
        average.update()
    # d = 0.25: (1 x 3/16 + 6 x 3/4) / (15/16).
    assert _value(average.averaged_model()) == pytest.approx((3 / 16 + 18 / 4) / (15 / 16))


def test_before_the_first_update_the_weights_are_the_models_own() -> None:
    model = _single()
    average = WeightAverage(model, 0.5, every=3)
    _set(model, 7)
    average.update()
    assert _value(average.averaged_model()) == 7


@settings(max_examples=30, deadline=None)
@given(decay=st.floats(0, 0.999), values=st.lists(st.floats(-10, 10), min_size=1, max_size=20))
def test_shares_sum_to_one(decay: float, values: list[float]) -> None:
    model = _single()
    average = WeightAverage(model, decay)
    for value in values:
        _set(model, value)
        average.update()
    shares = [decay ** (len(values) - number) for number in range(1, len(values) + 1)]
    expected = sum(share * value for share, value in zip(shares, values, strict=True)) / sum(shares)
    assert _value(average.averaged_model()) == pytest.approx(expected, abs=1e-4)


def test_running_statistics_are_averaged_and_counters_are_the_models() -> None:
    model = nn.BatchNorm1d(1).train()
    average = WeightAverage(model, 0.5)
    for mean in (1.0, 4.0):
        model.get_buffer("running_mean").fill_(mean)
        model.get_buffer("num_batches_tracked").add_(5)
        average.update()
    averaged = average.averaged_model()
    assert averaged.get_buffer("running_mean").item() == pytest.approx(3)
    assert averaged.get_buffer("num_batches_tracked").item() == 10
    assert not averaged.training
    assert model.training


def test_a_lookahead_writes_back_with_a_decay_that_grows() -> None:
    model = _single()
    average = WeightAverage(model, 0.8, is_lookahead=True)
    _set(model, 2)
    average.update(0.25)
    assert _value(model) == 2
    _set(model, 10)
    average.update(0.5)
    # d = 0.8 / 8 = 0.1.
    assert _value(model) == pytest.approx(0.1 * 2 + 0.9 * 10)
    _set(model, 0)
    average.update(1.0)
    assert _value(model) == pytest.approx(0.8 * 9.2)
    assert _value(average.averaged_model()) == _value(model)


def test_resumed_averages_go_on_to_the_bit() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    average = WeightAverage(model, 0.9, every=2)

    def train(part: nn.Module, target: WeightAverage, seeds: range) -> None:
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for parameter in part.parameters():
                    parameter.add_(torch.randn(parameter.shape, generator=generator))
            target.update()

    train(model, average, range(5))
    other = copy.deepcopy(model)
    resumed = WeightAverage(other, 0.9, every=2)
    resumed.load_state_dict(copy.deepcopy(average.state_dict()))
    train(model, average, range(5, 10))
    train(other, resumed, range(5, 10))
    states = [item.averaged_model().state_dict() for item in (average, resumed)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_states_of_other_models_and_odd_numbers_are_refused() -> None:
    state = WeightAverage(nn.Linear(2, 1), 0.9).state_dict()
    with pytest.raises(ValueError, match="average: got tensors of other names or shapes; must be the model's"):
        WeightAverage(nn.Linear(1, 2), 0.9).load_state_dict(state)
    with pytest.raises(ValueError, match=r"decay: got 1\.0; must be at least 0 and below 1"):
        WeightAverage(nn.Linear(1, 1), 1.0)
    with pytest.raises(ValueError, match="every: got 0; must be at least 1"):
        WeightAverage(nn.Linear(1, 1), 0.9, every=0)
