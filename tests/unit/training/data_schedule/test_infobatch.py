"""InfoBatch by hand: who is low, who is dropped, what the kept ones weigh."""

import torch

from training.data_schedule.config import InfoBatch
from training.data_schedule.infobatch import InfoBatchSchedule
from training.data_schedule.protocol import EpochPlan


def make_schedule(num_images: int, epochs: int = 8, *, prune: float = 0.5, anneal: float = 0.125) -> InfoBatchSchedule:
    return InfoBatchSchedule(InfoBatch(prune=prune, anneal=anneal), num_images=num_images, epochs=epochs)


def weight_of_row(plan: EpochPlan) -> dict[int, float]:
    assert plan.weights_E is not None
    return dict(zip(plan.rows_E.tolist(), plan.weights_E.tolist(), strict=True))


def test_without_losses_everything_counts_as_high() -> None:
    plan = make_schedule(10).plan_epoch(0, torch.Generator().manual_seed(0))
    assert weight_of_row(plan) == dict.fromkeys(range(10), 1.0)


def test_low_ones_are_dropped_or_weigh_more_and_high_ones_stay() -> None:
    schedule = make_schedule(6, prune=0.75)
    # Mean 3: rows 0, 1 and 2 lie under it, row 3 on it.
    schedule.observe(torch.tensor([5, 4, 3, 2, 1, 0]), torch.tensor([6.0, 6.0, 3.0, 1.0, 1.0, 1.0]))
    generator = torch.Generator().manual_seed(0)
    plans = [weight_of_row(schedule.plan_epoch(1, generator)) for _ in range(2000)]
    for weights in plans:
        assert {row: weights[row] for row in (3, 4, 5)} == {3: 1.0, 4: 1.0, 5: 1.0}
        assert all(weights[row] == 4.0 for row in weights if row < 3)
    for row in range(3):
        kept = sum(row in weights for weights in plans)
        # Expected 500, with a standard deviation of 19.
        assert abs(kept - 500) < 100
        # So the expected weight of a low row is 1, that of a high one.
        assert abs(sum(weights.get(row, 0.0) for weights in plans) / 2000 - 1) < 0.2


def test_unknown_and_broken_losses_count_as_high_and_not_in_the_mean() -> None:
    schedule = make_schedule(5, prune=0.999)
    schedule.observe(torch.tensor([0, 1, 2]), torch.tensor([1.0, 3.0, torch.inf]))
    plan = schedule.plan_epoch(1, torch.Generator().manual_seed(0))
    assert {row: weight for row, weight in weight_of_row(plan).items() if row > 0} == {1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0}


def test_equal_losses_are_not_under_their_mean() -> None:
    schedule = make_schedule(3)
    schedule.observe(torch.arange(3), torch.full((3,), 0.1))
    assert weight_of_row(schedule.plan_epoch(1, torch.Generator().manual_seed(0))) == {0: 1.0, 1: 1.0, 2: 1.0}


def test_the_last_epochs_train_on_everything_unweighted() -> None:
    schedule = make_schedule(100, epochs=8)
    schedule.observe(torch.arange(100), torch.arange(100.0))
    generator = torch.Generator().manual_seed(0)
    assert len(schedule.plan_epoch(6, generator).rows_E) < 90
    plan = schedule.plan_epoch(7, generator)
    assert sorted(plan.rows_E.tolist()) == list(range(100))
    assert plan.weights_E is None


def test_only_the_last_loss_counts() -> None:
    schedule = make_schedule(2, prune=0.999)
    schedule.observe(torch.tensor([0, 1]), torch.tensor([1.0, 2.0]))
    schedule.observe(torch.tensor([0]), torch.tensor([9.0]))
    plan = schedule.plan_epoch(1, torch.Generator().manual_seed(0))
    assert weight_of_row(plan) == {0: 1.0}


def test_its_state_holds_the_losses_as_they_were() -> None:
    schedule = make_schedule(4)
    schedule.observe(torch.arange(4), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    state = schedule.state_dict()
    schedule.observe(torch.arange(4), torch.zeros(4))
    assert state["losses_N"].tolist() == [1.0, 2.0, 3.0, 4.0]
    other = make_schedule(4)
    other.load_state_dict(state)
    other.observe(torch.tensor([0]), torch.tensor([7.0]))
    assert state["losses_N"].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert other.state_dict()["losses_N"].tolist() == [7.0, 2.0, 3.0, 4.0]
