"""A run epoch by epoch: what it asks of augmentation, data schedule and learning rate, and its snapshots."""

import os
import subprocess
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from small_runs import CONFIG, NORMALISATION, are_equal, copy_weights, small_digits, small_model
from torch import Tensor, nn

from model_zoo.registry import build_model
from training.augment.augmentation import Moment
from training.augment.config import AugmentConfig
from training.data.device import hold_on_device
from training.data.images import LabelledImages
from training.data_schedule.config import DataStep, InfoBatch
from training.errors import CheckpointError, DataError, DivergedError
from training.inputs import Normalisation
from training.loop_config import LoopConfig
from training.lr import Constant, OneCycle
from training.proxy_filter import ProxyFilterConfig
from training.run import TrainingRun
from training.whitening import apply_whitening


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_run(config: LoopConfig = CONFIG, model: nn.Module | None = None, **options: Any) -> TrainingRun:
    return TrainingRun(model or small_model(), small_digits(), config, NORMALISATION, **options)


class _ReachedError(Exception):
    pass


def test_cuda_is_up_before_a_gpu_is_asked_for_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then torch's allocator has no devices, and says "Invalid device argument" of any."""
    log: list[object] = []

    def reset(device: torch.device) -> None:
        log.append(device)
        raise _ReachedError

    monkeypatch.setattr(torch.cuda, "init", lambda: log.append("up"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    with pytest.raises(_ReachedError):
        make_run(device="cuda:1")
    assert log == ["up", torch.device("cuda:1")]


@pytest.mark.gpu
def test_the_first_that_a_process_does_on_a_gpu_may_be_to_train() -> None:
    train = "from small_runs import *; from training.run import TrainingRun\n"
    train += "TrainingRun(small_model(), small_digits(), CONFIG, NORMALISATION, device='cuda:0').run_epoch()"
    subprocess.run(
        [sys.executable, "-c", train], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=True
    )


class Recorder:
    """Notes what it is asked for, and changes nothing."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []
        self.ids: list[int] = []

    def __call__(self, images_BCHW: Tensor, ids_B: Tensor, moment: Moment, generator: torch.Generator) -> Tensor:
        assert images_BCHW.dtype == torch.uint8
        assert generator.device.type == "cpu"
        self.moments.append(moment)
        self.ids += ids_B.tolist()
        return images_BCHW


class Listener:
    """Keeps the ids and losses of each batch."""

    def __init__(self) -> None:
        self.ids: list[list[int]] = []
        self.losses: list[Tensor] = []

    def observe(self, ids_B: Tensor, losses_B: Tensor, correct_B: Tensor) -> None:
        self.ids.append(ids_B.tolist())
        self.losses.append(losses_B)


def test_an_epochs_own_augmentation_takes_the_place_of_the_configurations() -> None:
    recorder, listener = Recorder(), Listener()
    run = make_run(observers=[listener])
    run.run_epoch(recorder)
    run.run_epoch()
    run.run_epoch(recorder)
    assert {(moment.epoch, moment.epochs) for moment in recorder.moments} == {(0, 3), (2, 3)}
    # The batches are the augmented images, in their order.
    assert recorder.ids == list(chain.from_iterable(listener.ids[:10] + listener.ids[20:]))
    assert sorted(recorder.ids[:500]) == list(range(500))


def test_observers_hear_ids_of_the_whole_data_set() -> None:
    listener = Listener()
    part = small_digits(500).take(np.arange(100, 130))
    run = TrainingRun(small_model(), part, replace(CONFIG, batch_size=8), NORMALISATION, observers=[listener])
    run.run_epoch()
    assert sorted(chain.from_iterable(listener.ids)) == list(range(100, 130))
    # 30 images in batches of 8: the last two share 14.
    assert list(map(len, listener.ids)) == [8, 8, 7, 7]


def test_no_more_epochs_than_planned() -> None:
    run = make_run(replace(CONFIG, epochs=1))
    assert run.epoch == 0
    run.run_epoch()
    assert run.epoch == 1
    with pytest.raises(ValueError, match=r"^epoch: got 2; must be at most 1, those planned$"):
        run.run_epoch()


def test_the_global_generators_are_given_back_as_they_were() -> None:
    before = torch.random.get_rng_state()
    run = make_run()
    run.run_epoch()
    run.load_state_dict(run.state_dict())
    assert torch.equal(before, torch.random.get_rng_state())


def test_what_others_draw_between_epochs_changes_nothing() -> None:
    alone, beside = make_run(), make_run()
    for _ in range(3):
        alone.run_epoch()
        beside.run_epoch()
        torch.rand(17)
    assert are_equal(copy_weights(alone.model), copy_weights(beside.model))


def test_augmenting_differently_leaves_the_order_of_the_images() -> None:
    plain, shifted = Listener(), Listener()
    make_run(observers=[plain]).run_epoch()
    make_run(replace(CONFIG, augment=AugmentConfig()), observers=[shifted]).run_epoch()
    assert plain.ids == shifted.ids


def test_learning_rates_are_those_of_the_planned_examples() -> None:
    # 250, 500 and 500 images in batches of 50: the last batch of the first epoch has its middle at 225 of 1250.
    run = make_run(replace(CONFIG, lr=OneCycle(peak_lr=1.0, warmup_share=0.5), data_schedule=DataStep(share=0.3)))
    reports = [run.run_epoch() for _ in range(3)]
    assert [report.evaluations for report in reports] == [250, 750, 1250]
    expected = [225 / 625, (1250 - 725) / 625, (1250 - 1225) / 625]
    assert [report.lr for report in reports] == pytest.approx(expected)


def test_a_schedule_that_trains_on_less_than_planned_still_ends_where_it_should() -> None:
    run = make_run(replace(CONFIG, epochs=10, lr=OneCycle(peak_lr=1.0), data_schedule=InfoBatch(prune=0.9)))
    reports = [run.run_epoch() for _ in range(10)]
    # 500 + 8 x 275 + 500 planned (an eighth of 10 epochs, rounded, is 1).
    assert reports[-1].evaluations != 3200
    # The last epoch has ten batches over 500 of them; its last one has its middle 25 before the end.
    assert reports[-1].lr == pytest.approx(25 / 3200 / 0.75)
    counts = np.diff([0, *(report.evaluations for report in reports)])
    assert counts[0] == counts[-1] == 500
    assert all(count < 500 for count in counts[2:-1])


class FirstPixel(nn.Module):
    """Ranks by weight alone: its logits are the weight times the first pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(10))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return images_BCHW[:, 0, 0, 0, None] * self.weight


def test_the_loss_reported_is_the_mean_over_images() -> None:
    data = LabelledImages(
        images_BHWC=np.full((3, 8, 8, 1), 255, dtype=np.uint8),
        labels_B=np.array([0, 0, 1]),
        ids_B=np.arange(3),
        classes=tuple("abcdefghij"),
    )
    config = LoopConfig(epochs=1, batch_size=2)
    listener = Listener()
    report = TrainingRun(FirstPixel(), data, config, NORMALISATION, observers=[listener]).run_epoch()
    losses_B = torch.cat(listener.losses)
    assert len(losses_B) == 3
    assert report.loss == pytest.approx(float(losses_B.mean()))
    # The first batch meets equal logits: log 10.
    assert listener.losses[0].tolist() == pytest.approx([float(np.log(10))] * len(listener.losses[0]))


def test_a_snapshot_is_not_changed_by_what_follows() -> None:
    run = make_run(replace(CONFIG, ema_decay=0.9, data_schedule=InfoBatch()))
    run.run_epoch()
    state = run.state_dict()
    run.run_epoch()
    expected = copy_weights(run.model)
    # Twice from one snapshot, in two runs that train side by side.
    twins = [make_run(run.config, small_model(seed=4)) for _ in range(2)]
    for twin in twins:
        twin.load_state_dict(state)
    for twin in twins:
        twin.run_epoch()
        assert are_equal(copy_weights(twin.model), expected)
        assert are_equal(copy_weights(twin.averaged_model()), copy_weights(run.averaged_model()))
        assert twin.epoch == 2


def test_a_snapshot_holds_tensors_and_plain_values_only() -> None:
    run = make_run(replace(CONFIG, ema_decay=0.9))
    run.run_epoch()

    def look(value: object) -> None:
        match value:
            case dict():
                for key, item in value.items():
                    assert isinstance(key, str | int)
                    look(item)
            case list() | tuple():
                for item in value:
                    look(item)
            case _:
                assert value is None or type(value) in (Tensor, int, float, str, bool), type(value)

    look(run.state_dict())


def test_states_of_other_runs_are_refused() -> None:
    run = make_run()
    state = run.state_dict()
    with pytest.raises(CheckpointError, match=r"^seed: got 0 in .* must be 1, as in this run; .* had other fields"):
        make_run(replace(CONFIG, seed=1)).load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"^observers: got \[\] in the checkpoint; must be \['Listener'\], as in"):
        make_run(observers=[Listener()]).load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"^model: got Sequential of \d+ .* must be FirstPixel of 10 "):
        make_run(model=FirstPixel()).load_state_dict(state)
    darker = TrainingRun(small_model(), small_digits(), CONFIG, Normalisation(mean=(0.4,)))
    with pytest.raises(CheckpointError, match=r"^normalisation: got Normalisation\(mean=\(0\.5,\), std=\(0\.5,\)\)"):
        darker.load_state_dict(state)


def test_averaged_weights_leave_the_trained_ones_alone() -> None:
    run = make_run(replace(CONFIG, ema_decay=0.9))
    run.run_epoch()
    averaged = run.averaged_model()
    assert averaged is not run.model
    assert not averaged.training
    assert not are_equal(copy_weights(averaged), copy_weights(run.model))
    plain = make_run()
    assert plain.averaged_model() is plain.model
    assert not plain.model.training


def test_scores_order_the_data() -> None:
    listener = Listener()
    scores_N = np.arange(500, dtype=np.float32)
    config = replace(CONFIG, data_schedule=DataStep(fraction=0.1, score="margin"))
    make_run(config, scores_N=scores_N, observers=[listener]).run_epoch()
    assert sorted(chain.from_iterable(listener.ids)) == list(range(450, 500))
    with pytest.raises(DataError, match=r"^scores: got none; must be one an image, of 'margin'$"):
        make_run(config)


def test_a_whitening_layer_is_set_from_the_data_and_stays() -> None:
    rgb = LabelledImages(
        images_BHWC=small_digits(64).images_BHWC.repeat(3, axis=3).repeat(4, axis=1).repeat(4, axis=2),
        labels_B=small_digits(64).labels_B,
        ids_B=small_digits(64).ids_B,
        classes=small_digits(64).classes,
    )
    normalisation = Normalisation(mean=(0.4, 0.5, 0.6), std=(0.5,) * 3)
    expected = build_model("resnet9", classes=10, channels=3, seed=0, arguments={"width": 8, "whitening": True}).module
    assert apply_whitening(expected, rgb, normalisation)
    model = build_model("resnet9", classes=10, channels=3, seed=1, arguments={"width": 8, "whitening": True}).module
    TrainingRun(model, rgb, LoopConfig(epochs=1), normalisation).run_epoch()
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen
    for name in frozen:
        assert torch.equal(model.state_dict()[name], expected.state_dict()[name])


FILTERED = replace(
    CONFIG,
    proxy_filter=ProxyFilterConfig(architecture="digits_cnn_s", keep_share=0.3, train_every=2, lr=Constant(lr=0.05)),
)


def test_a_proxy_that_diverges_stops_the_run() -> None:
    assert FILTERED.proxy_filter is not None
    wild = replace(FILTERED.proxy_filter, lr=Constant(lr=1e30))
    with pytest.raises(DivergedError, match=r"^step 2 \(epoch 1\): proxy_filter's loss: got nan; .* 1e\+30$") as told:
        make_run(replace(FILTERED, proxy_filter=wild)).run_epoch()
    assert told.value.with_checkpoint(Path("kept")).is_proxys


def test_runs_share_images_that_lie_on_the_device() -> None:
    held = hold_on_device(small_digits(), "cpu")
    before = held.images_NCHW.clone()
    alone, shared = make_run(), make_run(held=held)
    alone.run_epoch()
    shared.run_epoch()
    assert are_equal(copy_weights(alone.model), copy_weights(shared.model))
    assert torch.equal(held.images_NCHW, before)
    with pytest.raises(DataError, match=r"^held: got 20 images on cpu; must be 500 on cpu$"):
        make_run(held=hold_on_device(small_digits(20), "cpu"))


def test_a_proxy_leaves_a_share_of_each_batch() -> None:
    listener = Listener()
    run = make_run(replace(FILTERED, lr=OneCycle(peak_lr=1.0, warmup_share=0.5)), observers=[listener])
    reports = [run.run_epoch() for _ in range(3)]
    # Of ten batches of 50 an epoch the model gets 15 each; the proxy learns from the 15 of every other one.
    assert list(map(len, listener.ids)) == [15] * 30
    assert [report.evaluations for report in reports] == [150, 300, 450]
    assert [report.proxy_evaluations for report in reports] == [75, 150, 225]
    # The plan counts what is presented: the run's last batch has its middle 25 of 1500 before the end.
    assert reports[-1].lr == pytest.approx(25 / 750)
    assert make_run().run_epoch().proxy_evaluations == 0


def test_a_filtered_run_goes_on_from_a_snapshot_to_the_same_bits() -> None:
    straight, resumed = make_run(FILTERED), make_run(FILTERED, small_model(seed=3))
    straight.run_epoch()
    resumed.load_state_dict(straight.state_dict())
    straight.run_epoch()
    resumed.run_epoch()
    assert are_equal(copy_weights(straight.model), copy_weights(resumed.model))


def test_a_configuration_is_json_both_ways() -> None:
    adapter = TypeAdapter(LoopConfig)
    config = replace(FILTERED, data_schedule=DataStep(fraction=0.1), lr=OneCycle(peak_lr=0.3), ema_decay=0.5)
    assert adapter.validate_json(adapter.dump_json(config)) == config
