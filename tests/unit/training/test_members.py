"""Members: built, trained, written; and as proxies."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_recipe import tiny

from model_zoo.errors import ExportError, UnknownArchitectureError
from model_zoo.weights import load_weights
from training.augment.config import AugmentConfig, PolicyKind
from training.augment.policy import PolicyEntry, PolicySchedule, Segment
from training.data.digits import load_digits
from training.data.images import LabelledImages
from training.data.splits import split
from training.data.statistics import channel_statistics
from training.data_schedule.config import DataStep
from training.errors import DataError, DivergedError
from training.evaluation import evaluate
from training.inputs import Normalisation
from training.lr import Constant
from training.member_job import LOG_FILES, WEIGHTS_FILE, MemberFacts, MemberJob, cpu_threads, train_into
from training.members import MemberConfig, MemberTrainer, build_member, train_member
from training.recipes.digits import digits
from training.selection.forgetting import ForgettingMeter
from training.settings import from_json, to_json

NORMALISATION = Normalisation(mean=(0.3,), std=(0.4,))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def few() -> LabelledImages:
    return load_digits().take(np.arange(120))


def small() -> MemberConfig:
    return tiny().members[0]


def job(**changes: object) -> MemberJob:
    return replace(MemberJob(config=small(), normalisation=NORMALISATION), **changes)  # type: ignore[arg-type]


@pytest.mark.slow
def test_accuracy_grows_with_size_enough_for_a_cascade() -> None:
    config = digits()
    parts = split(config.source.load(), config.splits)
    normalisation = channel_statistics(parts["train"].images_BHWC).normalisation
    top1 = []
    for member in config.members:
        trained = train_member(member, parts["train"], normalisation)
        top1.append(evaluate(trained.model, parts["calibration"], normalisation).top1)
    assert 0.90 < top1[0] < top1[1] - 0.01
    assert top1[1] < top1[2] + 0.005
    assert top1[2] > 0.98


def test_the_same_seed_gives_the_same_weights_and_another_one_does_not(few: LabelledImages) -> None:
    first, again, other = (
        train_member(replace(small(), loop=replace(small().loop, seed=seed)), few, NORMALISATION).model.state_dict()
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["linear.weight"], other["linear.weight"])


def test_a_job_leaves_weights_and_logs_and_facts(few: LabelledImages, tmp_path: Path) -> None:
    folder = tmp_path / "outputs"
    folder.mkdir()
    seen: list[int] = []
    facts = train_into(
        job(selection={"score": "margin"}),
        few,
        folder,
        tmp_path / "scratch",
        progress=lambda report: seen.append(report.epoch),
    )
    assert sorted(path.name for path in folder.iterdir()) == sorted((WEIGHTS_FILE, *LOG_FILES))
    assert seen == [1, 2, 3]
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    # A half of the images at first, growing by the same amount each epoch: (2/3 + 5/6 + 1) x 120.
    assert facts.evaluations == lines[-1]["evaluations"] == 300
    assert facts.seconds == lines[-1]["seconds"]
    assert (facts.num_images, facts.image_size, facts.device) == (120, 8, "cpu")
    assert facts.train_sha256 == few.sha256
    assert facts.selection == {"score": "margin"}
    assert facts.policy_schedule is None
    assert facts.data_schedule == {"schedule": "increment:0.5", "epochs": 3}
    assert from_json(MemberFacts, to_json(facts)) == facts


def test_curves_on_unseen_images(few: LabelledImages, tmp_path: Path) -> None:
    unseen = load_digits().take(np.arange(200, 260))
    for every, epochs in ((None, []), (2, [2, 3]), (1, [1, 2, 3])):
        folder = tmp_path / str(every)
        folder.mkdir()
        train_into(job(validate_every=every), few, folder, folder / "scratch", validation=unseen)
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines if line["validation_accuracy"] is not None] == epochs
        table = (folder / "dawnbench.tsv").read_text().splitlines()
        assert [int(line.split("\t")[0]) for line in table[1:]] == epochs
    # Looking changes nothing.
    files = [tmp_path / str(every) / WEIGHTS_FILE for every in (None, 2, 1)]
    assert len({file.read_bytes() for file in files}) == 1


def test_weights_load_by_name_into_a_new_model(few: LabelledImages, tmp_path: Path) -> None:
    train_into(job(), few, tmp_path, tmp_path / "scratch")
    module = build_member(small(), few).module
    load_weights(module, tmp_path / WEIGHTS_FILE)
    written = load_file(tmp_path / WEIGHTS_FILE)
    assert all(torch.equal(tensor, written[name]) for name, tensor in module.state_dict().items())


def test_a_killed_job_goes_on_to_the_same_bits(few: LabelledImages, tmp_path: Path) -> None:
    def stop(report: object) -> None:
        raise KeyboardInterrupt

    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    for folder in (whole, resumed):
        folder.mkdir()
    train_into(job(), few, whole, tmp_path / "scratch1")
    with pytest.raises(KeyboardInterrupt):
        train_into(job(), few, resumed, tmp_path / "scratch2", progress=stop)
    assert not list(resumed.iterdir())
    seen: list[int] = []
    train_into(job(), few, resumed, tmp_path / "scratch2", progress=lambda report: seen.append(report.epoch))
    assert seen == [2, 3]
    assert (resumed / WEIGHTS_FILE).read_bytes() == (whole / WEIGHTS_FILE).read_bytes()


def test_policies_are_told(few: LabelledImages, tmp_path: Path) -> None:
    policy = (PolicyEntry(op="Rotate", probability=3, magnitude=2),)
    schedule = PolicySchedule(segments=(Segment(epochs=2, policy=policy),))
    for augment, told in (
        (AugmentConfig(policy=PolicyKind.TRIVIALAUGMENT), {"policy": "trivialaugment"}),
        (
            AugmentConfig(policy=PolicyKind.FLATTENED, policy_schedule=schedule),
            {"policy": "flattened", "epochs": 2, "segments": 1},
        ),
    ):
        config = replace(small(), loop=replace(small().loop, epochs=1, augment=augment))
        folder = tmp_path / str(told["policy"])
        folder.mkdir()
        assert train_into(job(config=config), few, folder, folder / "scratch").policy_schedule == told


def test_scores_order_the_data(few: LabelledImages, tmp_path: Path) -> None:
    schedule = DataStep(fraction=0.5, share=0.5, score="margin")
    config = replace(small(), loop=replace(small().loop, epochs=2, data_schedule=schedule))
    with pytest.raises(DataError, match="score"):
        train_into(job(config=config), few, tmp_path, tmp_path / "scratch")
    facts = train_into(job(config=config, scores_N=np.arange(120, dtype=np.float32)), few, tmp_path, tmp_path / "other")
    assert facts.evaluations == 60 + 120
    assert facts.data_schedule == {"schedule": "step:0.5:0.5:score=margin", "epochs": 2}


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with cpu_threads(None):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


def test_a_run_that_diverges_writes_no_weights(few: LabelledImages, tmp_path: Path) -> None:
    config = replace(small(), loop=replace(small().loop, epochs=5, lr=Constant(lr=1e30)))
    with pytest.raises(DivergedError, match=r"^step \d+ \(epoch \d\): (loss|weights): got nan"):
        train_into(job(config=config), few, tmp_path, tmp_path / "scratch")
    assert not (tmp_path / WEIGHTS_FILE).exists()


def test_an_unknown_architecture(few: LabelledImages) -> None:
    with pytest.raises(UnknownArchitectureError, match="digits_cnn_xxl"):
        train_member(replace(small(), architecture="digits_cnn_xxl"), few, NORMALISATION)


def test_arguments_that_the_builder_refuses(few: LabelledImages) -> None:
    with pytest.raises(ExportError, match="depht"):
        train_member(replace(small(), arguments={"depht": 3}), few, NORMALISATION)


def test_images_that_are_not_square(few: LabelledImages) -> None:
    with pytest.raises(DataError, match="images: got 8x6 pixels; must be square"):
        build_member(small(), replace(few, images_BHWC=few.images_BHWC[:, :, :6]))


def test_images_of_other_channels(few: LabelledImages) -> None:
    config = replace(small(), architecture="timm/resnet18")
    with pytest.raises(DataError, match="images: got 1 channels; must be 3, which timm/resnet18 takes"):
        build_member(config, few)


def test_images_that_are_too_small_for_the_architecture(few: LabelledImages) -> None:
    config = replace(small(), architecture="airbench94", arguments={"widths": [4, 4, 4]})
    message = "images: got 8x8 pixels of 1 channels, which architecture 'airbench94' can't run on: "
    with pytest.raises(ExportError, match=f"^{message}"):
        build_member(config, few)


def test_a_proxy_describes_itself_and_takes_the_selections_seed(few: LabelledImages) -> None:
    trainer = MemberTrainer(config=small(), normalisation=NORMALISATION)
    settings_sha256 = trainer.description["settings_sha256"]
    assert trainer.description == {
        "architecture": "digits_cnn_xs",
        "arguments": {},
        "epochs": 3,
        "batch_size": 64,
        "data_schedule": "increment:0.5",
        "settings_sha256": settings_sha256,
    }
    loop = small().loop
    for other, is_same in ((replace(loop, seed=9), True), (replace(loop, label_smoothing=0.1), False)):
        config = replace(small(), loop=other)
        assert (replace(trainer, config=config).description == trainer.description) is is_same
    first, second = (trainer.train(few, seed=seed) for seed in (1, 2))
    assert first.evaluations == second.evaluations == 300
    assert not torch.equal(first.model.state_dict()["linear.weight"], second.model.state_dict()["linear.weight"])


def test_a_killed_proxy_goes_on_with_what_its_meter_saw(few: LabelledImages, tmp_path: Path) -> None:
    def stop(report: object) -> None:
        raise KeyboardInterrupt

    whole, killed, resumed = (ForgettingMeter(few.ids_B) for _ in range(3))
    trainer = MemberTrainer(config=small(), normalisation=NORMALISATION)
    trainer.train(few, seed=1, observers=(whole,))
    with pytest.raises(KeyboardInterrupt):
        replace(trainer, folder=tmp_path, progress=stop).train(few, seed=1, observers=(killed,))
    proxy = replace(trainer, folder=tmp_path).train(few, seed=1, observers=(resumed,))
    assert np.array_equal(resumed.scores(), whole.scores())
    # A training that is found finished took as long as it took.
    again = replace(trainer, folder=tmp_path).train(few, seed=1, observers=(ForgettingMeter(few.ids_B),))
    assert again.seconds == proxy.seconds
    assert proxy.seconds.wall_s > 0
