import copy
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from fake_trials import IMAGES, AnalyticTrials, zero_policy

from model_zoo.errors import ExportError
from model_zoo.registry import build_model
from training.augment import ops
from training.augment.config import AugmentConfig
from training.augment.ops import Op, get_op, op_names
from training.augment.policy import PolicyEntry
from training.augment.schedule_files import read_policy_schedule, read_schedule_file
from training.data.device import DeviceImages, hold_on_device
from training.data.digits import load_digits
from training.data.images import LabelledImages
from training.errors import DataError, PolicySearchError
from training.evaluation import Tta, evaluate
from training.inputs import Normalisation
from training.loop_config import LoopConfig, Precision
from training.lr import OneCycle
from training.policy_search import search
from training.policy_search.config import Backend, PolicySearchConfig, RayConfig
from training.policy_search.history import IntervalRecord
from training.policy_search.image_trial import ImageTrials, Judge, weights_seed
from training.policy_search.lineage import last_records
from training.policy_search.local import PARTIAL_FILE
from training.policy_search.search import SearchResult, search_policy, search_population

EPOCHS = 20
CONFIG = PolicySearchConfig(population=8, perturbation_interval=3, loop=LoopConfig(epochs=EPOCHS))
DIGITS = PolicySearchConfig(
    population=4,
    perturbation_interval=1,
    train_images=200,
    architecture="digits_cnn_s",
    loop=LoopConfig(epochs=4, batch_size=32, lr=OneCycle(peak_lr=0.1), augment=AugmentConfig(pad_px=1)),
    checkpoint_interval_s=0,
)
NORMALISATION = Normalisation(mean=(0.3053,), std=(0.376,))


class _Killed(BaseException):
    """Stands for the signal that ends a process."""


def _search(folder: Path, config: PolicySearchConfig = CONFIG) -> SearchResult:
    return search_population(config, AnalyticTrials(EPOCHS), zero_policy(), folder, identity={"data": "some"})


def _digits() -> tuple[LabelledImages, LabelledImages]:
    data = load_digits()
    rows = np.random.default_rng(0).permutation(len(data))
    return data.take(rows[:600]), data.take(rows[600:800])


def _search_digits(folder: Path, config: PolicySearchConfig = DIGITS, killed_at: int | None = None) -> SearchResult:
    seen: list[IntervalRecord] = []

    def hear(record: IntervalRecord) -> None:
        seen.append(record)
        if len(seen) == killed_at:
            raise _Killed

    return search_policy(config, *_digits(), NORMALISATION, folder, progress=hear)


def _untimed(result: SearchResult) -> SearchResult:
    records = tuple(replace(record, seconds=0.0) for record in result.records)
    return replace(result, records=records, seconds=0.0, trial_seconds=0.0)


def test_the_best_trial_is_the_most_accurate_at_the_end(tmp_path: Path) -> None:
    result = _search(tmp_path)
    last = last_records(result.records)
    assert (
        result.best_accuracy == max(record.accuracy for record in last.values()) == result.accuracies[result.best_trial]
    )
    assert result.schedule == result.schedules[result.best_trial]
    assert [schedule.epochs for schedule in result.schedules] == [EPOCHS] * 8
    assert result.evaluations == 8 * EPOCHS * IMAGES
    assert result.trial_seconds == sum(record.seconds for record in result.records)
    assert result.seconds >= result.trial_seconds
    assert len(result.trial_records(3)) == CONFIG.num_intervals


def test_a_finished_search_is_read_and_not_run_again(tmp_path: Path) -> None:
    first = _search(tmp_path)
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert names == [
        "fingerprint.txt",
        "policy_schedule.json",
        "result.json",
        *(f"schedules/trial_{trial:04d}.json" for trial in range(8)),
        "trials.jsonl",
    ]
    lines = (tmp_path / "trials.jsonl").read_text().splitlines()
    assert [json.loads(line)["cloned_from"] for line in lines] == [record.cloned_from for record in first.records]

    def refuse(record: IntervalRecord) -> None:
        raise AssertionError(record)

    again = search_population(
        CONFIG, AnalyticTrials(EPOCHS), zero_policy(), tmp_path, identity={"data": "some"}, progress=refuse
    )
    assert again == first


def test_how_often_states_are_written_may_change(tmp_path: Path) -> None:
    first = _search(tmp_path)
    assert _search(tmp_path, replace(CONFIG, checkpoint_interval_s=0, ray=RayConfig(max_failures=1))) == first


@pytest.mark.parametrize("other", [replace(CONFIG, seed=1), replace(CONFIG, population=4)])
def test_the_folder_of_another_search_is_refused(tmp_path: Path, other: PolicySearchConfig) -> None:
    _search(tmp_path)
    with pytest.raises(PolicySearchError, match="holds a search of other data or settings"):
        _search(tmp_path, other)


def test_other_images_are_another_search(tmp_path: Path) -> None:
    train, validation = _digits()
    config = replace(DIGITS, population=1, loop=replace(DIGITS.loop, epochs=1))
    search_policy(config, train, validation, NORMALISATION, tmp_path)
    darker = replace(validation, images_BHWC=validation.images_BHWC // 2)
    for pair, normalisation in (
        ((train.take(np.arange(599)), validation), NORMALISATION),
        ((train, darker), NORMALISATION),
        ((train, validation), Normalisation(mean=(0.5,))),
    ):
        with pytest.raises(PolicySearchError, match="holds a search of other data or settings"):
            search_policy(config, *pair, normalisation, tmp_path)


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    _search(tmp_path)
    (tmp_path / "trials.jsonl").write_text("{}\n")
    with pytest.raises(PolicySearchError, match=r"trials\.jsonl: can't be read"):
        _search(tmp_path)
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(PolicySearchError, match=r"result\.json: got keys .*must hold fingerprint and seconds"):
        _search(tmp_path)


def test_a_folder_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PolicySearchError, match=str(tmp_path / "file")):
        _search(tmp_path / "file")


def test_what_a_killed_process_left_is_swept_up_in_the_end(tmp_path: Path) -> None:
    (tmp_path / PARTIAL_FILE).write_bytes(b"half a state")
    _search(tmp_path)
    assert not (tmp_path / PARTIAL_FILE).exists()


def test_the_time_is_never_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(*_: object) -> None:
        raise _Killed

    def hear(record: IntervalRecord) -> None:
        if record.trial == 3:
            monkeypatch.setattr("os.fsync", kill)

    with pytest.raises(_Killed):
        search_population(
            CONFIG, AnalyticTrials(EPOCHS), zero_policy(), tmp_path, identity={"data": "some"}, progress=hear
        )
    monkeypatch.undo()
    before = float((tmp_path / "elapsed.json").read_text())
    assert _search(tmp_path).seconds > before > 0


@pytest.mark.parametrize("absent", ["ray", "ray.tune"])
def test_ray_that_is_not_installed_is_named_with_its_extra(
    absent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None if absent == "ray" else ModuleType("ray"))
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(PolicySearchError, match=r"backend: got 'ray', which is not .*; install cascade-serve\[ray\]"):
        _search(tmp_path, replace(CONFIG, backend=Backend.RAY))


class _ReachedError(Exception):
    pass


@pytest.mark.parametrize(
    ("gpus", "device", "there"), [(0.5, "cuda:3", "cuda"), (0.5, "cpu", "cpu"), (0, "cuda:3", "cuda:3")]
)
def test_a_trial_of_rays_finds_its_gpu_where_ray_shows_it(
    gpus: float, device: str, there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray hides all GPUs from a process but those that it holds: with one of eight, there is none of number 3."""
    seen: list[str] = []

    def run_ray(_config: PolicySearchConfig, trials: ImageTrials, *_: object, **__: object) -> None:
        seen.append(trials._device)
        raise _ReachedError

    monkeypatch.setattr(search, "run_ray", run_ray)
    config = replace(DIGITS, backend=Backend.RAY, ray=RayConfig(gpus_per_trial=gpus))
    train, validation = _digits()
    with pytest.raises(_ReachedError):
        search_policy(config, train, validation, NORMALISATION, tmp_path, device=device)
    assert seen == [there]


def test_common_images_are_refused(tmp_path: Path) -> None:
    train, validation = _digits()
    mixed = validation.take(np.arange(3))
    with pytest.raises(DataError, match=f"train and validation share 3 images, such as {mixed.ids_B.min()}"):
        search_policy(DIGITS, load_digits(), mixed, NORMALISATION, tmp_path)
    with pytest.raises(DataError, match=r"got 600 and 0 images .* must be at least one each, alike"):
        search_policy(DIGITS, train, validation.take(np.arange(0)), NORMALISATION, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_search_on_digits_resumes_to_the_bit(tmp_path: Path) -> None:
    whole = _search_digits(tmp_path / "whole")
    with pytest.raises(_Killed):
        _search_digits(tmp_path / "killed", killed_at=10)
    resumed = _search_digits(tmp_path / "killed")
    assert _untimed(resumed) == _untimed(whole)
    assert whole.evaluations == 4 * 4 * 200
    assert whole.best_accuracy > 0.5
    assert {entry.op for segment in whole.schedule.segments for entry in segment.policy} == set(op_names())
    stored = read_schedule_file(tmp_path / "whole" / "policy_schedule.json")
    assert stored.schedule == whole.schedule
    assert stored.metadata == {"trial": whole.best_trial, "validation_accuracy": whole.best_accuracy}
    for trial, schedule in enumerate(whole.schedules):
        assert read_policy_schedule(tmp_path / "whole" / "schedules" / f"trial_{trial:04d}.json") == schedule
    clones = [record for record in whole.records if record.cloned_from is not None]
    assert len(clones) == DIGITS.num_intervals - 1


def test_trials_begin_with_weights_of_their_own() -> None:
    train, validation = _digits()
    trials = ImageTrials(DIGITS, train, validation, NORMALISATION, device="cpu", ops=())
    first, again, second = (trials(number).state_dict()["run"]["model"]["linear.weight"] for number in (0, 0, 1))
    assert (first == again).all()
    assert (first != second).any()
    seeds = {weights_seed(seed, trial) for seed in range(4) for trial in range(16)}
    assert len(seeds) == 64


def test_a_clone_goes_on_like_its_parent() -> None:
    train, validation = _digits()
    trials = ImageTrials(DIGITS, train.take(np.arange(100)), validation, NORMALISATION, device="cpu", ops=())
    parent, child = trials(0), trials(1)
    policy = zero_policy(0)
    before = parent.advance(1, policy)
    child.advance(1, policy)
    child.load_state_dict(parent.state_dict())
    reports = [trial.advance(2, policy) for trial in (child, parent)]
    assert reports[0] == reports[1]
    assert (before.evaluations, reports[0].evaluations) == (100, 200)
    weights = [trial.state_dict()["run"]["model"]["linear.weight"] for trial in (child, parent)]
    assert (weights[0] == weights[1]).all()


def test_trials_share_the_images_on_the_device_and_leave_them_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[int] = []

    def count(data: LabelledImages, device: str) -> DeviceImages:
        copies.append(len(data))
        return hold_on_device(data, device)

    monkeypatch.setattr("training.policy_search.image_trial.hold_on_device", count)
    train, validation = _digits()
    trials = ImageTrials(DIGITS, train, validation, NORMALISATION, device="cpu", ops=())
    policy = tuple(PolicyEntry(op=name, probability=10, magnitude=9) for name in op_names())
    for number in range(3):
        trials(number).advance(1, policy)
    assert sorted(copies) == [len(validation), len(train)]
    held = trials._held.images_NCHW.permute(0, 2, 3, 1).numpy()
    assert (held == train.images_BHWC).all()


def test_images_that_are_too_small_are_refused_before_the_search() -> None:
    train, validation = _digits()
    config = replace(DIGITS, architecture="airbench94", arguments={"widths": [4, 4, 4]})
    with pytest.raises(ExportError, match=r"^images: got 8x8 pixels of 1 channels, which architecture 'airbench94'"):
        ImageTrials(config, train, validation, NORMALISATION, device="cpu", ops=())(0)


def test_images_that_are_not_square_are_refused() -> None:
    train, validation = _digits()
    cut = replace(train, images_BHWC=train.images_BHWC[:, :6])
    with pytest.raises(DataError, match="got 6x8 pixels; must be square"):
        ImageTrials(DIGITS, cut, validation, NORMALISATION, device="cpu", ops=())(0)


def test_ops_travel_with_the_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that unpickles them may not have registered an op that its caller has."""
    monkeypatch.setattr(ops, "_OPS", {name: get_op(name) for name in op_names()})
    train, validation = _digits()
    own = Op(name="Own", value_at=float, kernel=lambda images_BCHW, value, context: images_BCHW)
    trials = ImageTrials(DIGITS, train, validation, NORMALISATION, device="cpu", ops=(get_op("Rotate"), own))
    trials(0).advance(1, zero_policy(0))
    assert "Own" not in op_names()
    copied = copy.copy(trials)
    assert op_names()[-1] == "Own"
    assert copied.__getstate__().keys() == trials.__getstate__().keys()
    policy = (PolicyEntry(op="Own", probability=10),)
    assert copied(1).advance(1, policy) == trials(1).advance(1, policy)


def test_a_trial_is_judged_as_evaluation_does() -> None:
    train, validation = _digits()
    model = build_model("digits_cnn_s", classes=10, channels=1).module
    for loop in (DIGITS.loop, replace(DIGITS.loop, channels_last=True)):
        judge = Judge(validation, NORMALISATION, loop, "cpu")
        assert judge(model) == evaluate(model, validation, NORMALISATION).top1
    flipped = Judge(train, NORMALISATION, replace(DIGITS.loop, tta=Tta.FLIP), "cpu")
    assert flipped(model) == evaluate(model, train, NORMALISATION, tta=Tta.FLIP).top1


def test_a_trial_is_judged_by_the_average_of_its_weights_where_one_is_kept() -> None:
    train, validation = _digits()
    # An average of all steps, far behind the weights themselves.
    config = replace(DIGITS, loop=replace(DIGITS.loop, ema_decay=0.999999))
    trials = ImageTrials(config, train, validation, NORMALISATION, device="cpu", ops=())
    trial = trials(0)
    report = trial.advance(2, zero_policy(0))
    assert report.accuracy == trials._judge(trial._run.averaged_model())
    assert report.accuracy != trials._judge(trial._run.model.eval())


@pytest.mark.gpu
def test_a_search_on_a_gpu_is_resumed(tmp_path: Path) -> None:
    seen: list[IntervalRecord] = []

    def hear(record: IntervalRecord) -> None:
        seen.append(record)
        if len(seen) == 10:
            raise _Killed

    config = replace(DIGITS, loop=replace(DIGITS.loop, precision=Precision.BF16, channels_last=True))
    train, validation = _digits()
    with pytest.raises(_Killed):
        search_policy(config, train, validation, NORMALISATION, tmp_path, device="cuda", progress=hear)
    result = search_policy(config, train, validation, NORMALISATION, tmp_path, device="cuda", progress=seen.append)
    assert len(result.records) == 16
    assert len(seen) == 10 + 8
    assert result.best_accuracy > 0.5
