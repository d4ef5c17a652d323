"""A run's generators are its own, and their states come back to the bit."""

import pytest
import torch

from training.randomness import Randomness

CPU = torch.device("cpu")


def draw(randomness: Randomness) -> list[float]:
    with randomness.in_force():
        model = torch.rand(1)
    return [
        float(torch.rand(1, generator=randomness.order)),
        float(torch.rand(1, generator=randomness.augmentation)),
        float(model),
    ]


def test_streams_differ_from_each_other_and_by_seed() -> None:
    first, again, other = draw(Randomness(0, CPU)), draw(Randomness(0, CPU)), draw(Randomness(1, CPU))
    assert first == again
    assert len({*first, *other}) == 6


def test_the_global_generator_is_lent_and_given_back() -> None:
    randomness = Randomness(3, CPU)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = draw(randomness)[2]
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    second = draw(randomness)[2]
    with Randomness(3, CPU).in_force():
        assert [first, second] == torch.rand(2).tolist()


def test_it_is_given_back_after_an_error_too() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="shape"), Randomness(3, CPU).in_force():
        torch.rand(1).view(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_state_continues_all_streams() -> None:
    randomness = Randomness(0, CPU)
    draw(randomness)
    state = randomness.state_dict()
    expected = draw(randomness)
    other = Randomness(9, CPU)
    other.load_state_dict(state)
    assert draw(other) == expected
    assert draw(other) == draw(randomness)


@pytest.mark.gpu
def test_a_gpus_generator_is_lent_too() -> None:
    device = torch.device("cuda")
    before = torch.cuda.get_rng_state(device)
    first, second = Randomness(0, device), Randomness(0, device)
    with first.in_force():
        one = torch.rand(4, device=device)
    second.load_state_dict(Randomness(0, device).state_dict())
    with second.in_force():
        assert torch.equal(one, torch.rand(4, device=device))
    assert torch.equal(torch.cuda.get_rng_state(device), before)
