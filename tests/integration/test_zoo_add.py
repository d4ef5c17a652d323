"""``zoo add`` from end to end: files, cards, bindings, and real weights on real images."""

import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from image_folders import write_folder
from own_classifier import SIZE, own_classifier
from PIL import Image

from cascade_serve.errors import ConfigError
from cascade_serve.zoo import Added, Addition, Descent, OnnxModel, TorchModel, add_member
from model_zoo import store
from model_zoo.card import METADATA_KEY, Card, TrainingCard
from model_zoo.errors import CardError, ConflictError, ExportError, ImageError
from model_zoo.graph import GraphSession
from model_zoo.image_folder import read_images, scan_image_folder

DATA = os.environ.get("CASCADE_SERVE_DATA")


def quiet(_what: str, _total: int | None) -> Callable[[int], None]:
    return lambda _done: None


def add(data: Path, zoo: Path, name: str = "tiny", architecture: str = "digits_cnn_xs", **options: Any) -> Added:
    keys = ("weights", "pretrained", "seed", "arguments", "mean", "std")
    model = TorchModel(architecture=architecture, **{key: options.pop(key) for key in keys if key in options})
    return add_member(Addition(name=name, task_path=zoo / "shades", data=data, model=model, **options), quiet)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "shades")


@pytest.fixture(scope="module")
def zoo(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    zoo = tmp_path_factory.mktemp("zoo")
    add(data, zoo)
    return zoo


def test_the_member_holds_what_its_card_says(data: Path, zoo: Path) -> None:
    member = store.read_member(zoo / "shades" / "tiny")
    assert set(member.card.files) == {"model.onnx", "model.safetensors", "config.json", "calibration.safetensors"}
    assert member.card.task.classes == ("class_0", "class_1", "class_2")
    assert (member.card.task.height, member.card.task.channels) == (8, 1)
    graph = onnx.load(member.graph_path)
    inside = next(entry.value for entry in graph.metadata_props if entry.key == METADATA_KEY)
    assert Card.from_json(inside, "graph") == member.card.model_copy(update={"files": {}})

    images = read_images(scan_image_folder(data), height=8, width=8, channels=1)
    calibration = store.read_calibration(member)
    np.testing.assert_array_equal(calibration.labels_N, images.labels_N)
    np.testing.assert_array_equal(calibration.sample_ids_N, images.sample_ids_N)
    np.testing.assert_allclose(calibration.logits_NK, GraphSession(graph).logits(images.images_NHWC), atol=1e-5)
    assert member.card.provenance.data_sha256 == images.sha256

    accuracy = member.card.accuracy
    assert accuracy is not None
    assert accuracy.top1 == float((calibration.logits_NK.argmax(axis=1) == images.labels_N).mean())
    assert accuracy.interval[0] <= accuracy.top1 <= accuracy.interval[1]
    assert member.card.calibration is not None
    assert {"torch", "onnx", "onnxruntime", "numpy", "python", "cascade-serve"} <= set(member.card.provenance.versions)


def test_random_weights_are_said_loudly_and_repeat_by_seed(data: Path, zoo: Path) -> None:
    first, second = (add(data, zoo, name=f"seeded{number}", seed=4) for number in (1, 2))
    assert any("RANDOM weights (seed 4)" in warning for warning in first.warnings)
    assert first.member.card.provenance.weights == "random"
    logits_NK, again_NK = (store.read_calibration(added.member).logits_NK for added in (first, second))
    np.testing.assert_array_equal(logits_NK, again_NK)


def test_a_trained_members_descent_lies_in_its_card(data: Path, zoo: Path, tmp_path: Path) -> None:
    training = TrainingCard(seconds=3.5, evaluations=700, device="cpu")
    descent = Descent(
        training=training, train_sha256="ab", selection={"score": "margin"}, data_schedule="step:0.5:0.5", seeds=(7,)
    )
    weights = zoo / "shades" / "tiny" / "model.safetensors"
    added = add(data, tmp_path, weights=weights, descent=descent)
    assert added.warnings == ()
    card = store.read_member(tmp_path / "shades" / "tiny").card
    assert card.training == training
    provenance = card.provenance
    assert (provenance.weights, provenance.seeds, provenance.train_sha256) == ("trained", (7,), "ab")
    assert (provenance.selection, provenance.policy_schedule) == ({"score": "margin"}, None)
    assert provenance.data_schedule == "step:0.5:0.5"
    assert card.accuracy is not None
    assert card.accuracy.seeds == (7,)


def test_another_image_size_makes_another_member_of_the_same_weights(data: Path, zoo: Path) -> None:
    small = add(data, zoo, name="self", architecture="resnet20", arguments={"depth": 8}, image_size=8)
    large = add(
        data, zoo, name="self-large", architecture="resnet20", arguments={"depth": 8}, image_size=12,
        weights=zoo / "shades" / "self" / "model.safetensors",
    )  # fmt: skip
    assert small.member.card.input.height == 8
    assert large.member.card.input.height == 12
    assert large.member.card.cost.params == small.member.card.cost.params
    assert large.member.card.cost.flops > 2 * small.member.card.cost.flops
    assert large.member.card.provenance.weights == "model.safetensors"
    assert large.member.card.task == small.member.card.task


def test_progress_counts_every_image(data: Path, tmp_path: Path) -> None:
    seen: dict[str, int] = {}

    def begin(what: str, total: int | None) -> Callable[[int], None]:
        def advance(done: int) -> None:
            seen[what] = seen.get(what, 0) + done
            assert total is None or seen[what] <= total

        return advance

    model = TorchModel(architecture="digits_cnn_xs")
    add_member(Addition(name="a", task_path=tmp_path / "t", data=data, model=model, batch_size=5), begin)
    assert seen == {"reading image headers": 24, "running the calibration images": 24}


def test_other_class_names_are_refused_before_anything_is_built(data: Path, zoo: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(data, other)
    (other / "class_2").rename(other / "class_9")
    with pytest.raises(ConflictError, match=r"classes: got .*class_9.*; must be .*class_2"):
        add(other, zoo, name="late", architecture="no such architecture")
    assert "late" not in store.list_members(zoo / "shades")


def test_another_task_size_is_refused(data: Path, zoo: Path) -> None:
    with pytest.raises(ConflictError, match="height: got 16; must be 8"):
        add(data, zoo, name="late", task_size=16)


def test_an_existing_name_is_refused_first_of_all(data: Path, zoo: Path) -> None:
    with pytest.raises(ConflictError, match="tiny: exists already; choose another name, or --overwrite"):
        add(data / "no such folder", zoo)


def test_other_calibration_images_are_warned_of(zoo: Path, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other", per_class=3)
    added = add(other, zoo, name="elsewhere", overwrite=True)
    assert any("'tiny' was calibrated on other images" in warning for warning in added.warnings)
    shutil.rmtree(zoo / "shades" / "elsewhere")


def test_images_of_many_sizes_take_the_models_size_unless_told(data: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(data, mixed)
    write_folder(mixed / "more", classes=1, per_class=1, size=11)
    shutil.move(mixed / "more" / "class_0" / "0.png", mixed / "class_0" / "odd.png")
    shutil.rmtree(mixed / "more")
    assert add(mixed, tmp_path / "a").member.card.task.height == 8
    assert add(mixed, tmp_path / "b", task_size=10).member.card.task.height == 10


def test_a_corrupt_image_stops_it_and_leaves_no_member(data: Path, zoo: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(data, broken)
    file = broken / "class_1" / "3.png"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(ImageError, match=r"class_1/3.png: "):
        add(broken, zoo, name="late")
    assert "late" not in store.list_members(zoo / "shades")


def test_options_that_contradict_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch size: got 0; must be at least 1"):
        add(data, tmp_path, batch_size=0)
    with pytest.raises(ExportError, match="the model has 1000 classes; the data have 3"):
        add(data, tmp_path, architecture="timm/resnet18", pretrained=True)
    with pytest.raises(ExportError, match=r"mean: got \(0.5, 0.5\); must be 1 or 1 finite numbers"):
        add(data, tmp_path, mean=(0.5, 0.5))
    with pytest.raises(ExportError, match=r"std and scale: got \(-1.0,\)"):
        add(data, tmp_path, std=(-1.0,))


ONNX_ADD = """
import sys
from pathlib import Path
from cascade_serve.zoo import Addition, OnnxModel, add_member
model = OnnxModel(file=Path(sys.argv[1]), mean=(0.5,), std=(0.25,))
addition = Addition(name="own", task_path=Path(sys.argv[2]), data=Path(sys.argv[3]), model=model)
added = add_member(addition, lambda what, total: lambda done: None)
assert not {"torch", "timm", "torchvision"} & set(sys.modules)
print(added.member.card.to_json())
"""


def test_an_own_onnx_classifier_needs_no_torch(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", classes=5, size=20, grey=False)
    onnx.save(own_classifier(), tmp_path / "own.onnx")
    command: list[str | Path] = [
        sys.executable,
        "-c",
        ONNX_ADD,
        tmp_path / "own.onnx",
        tmp_path / "zoo" / "own",
        folder,
    ]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    card = json.loads(done.stdout)
    assert (card["architecture"], card["provenance"]["weights"]) == ("onnx", "own.onnx")
    assert (card["task"]["height"], card["input"]["height"]) == (20, 8)
    member = store.read_member(tmp_path / "zoo" / "own" / "own")
    assert set(member.card.files) == {"model.onnx", "calibration.safetensors"}


def shade_images(path: Path) -> Path:
    """Write images of which those of class ``e`` are black."""
    for label in "abcde":
        (path / label).mkdir(parents=True)
        for number in range(3):
            pixels = np.full((SIZE, SIZE, 3), 0 if label == "e" else 40 * number + 30, dtype=np.uint8)
            Image.fromarray(pixels).save(path / label / f"{number}.png")
    return path


def add_own(data: Path, zoo: Path, file: Path, name: str = "own", **options: Any) -> Added:
    model = OnnxModel(file=file, **options)
    return add_member(Addition(name=name, task_path=zoo / "own", data=data, model=model), quiet)


def divide_by_brightness(model: onnx.ModelProto) -> onnx.ModelProto:
    """Make a classifier give NaN on black images."""
    model.graph.node[0].input[0] = "relative"
    mean = onnx.helper.make_node("ReduceMean", ["x"], ["brightness"], axes=[1, 2, 3])
    ratio = onnx.helper.make_node("Div", ["x", "brightness"], ["relative"])
    for position, node in enumerate((mean, ratio)):
        model.graph.node.insert(position, node)
    return model


def test_images_without_finite_logits_count_as_wrong_and_are_warned_of(tmp_path: Path) -> None:
    data = shade_images(tmp_path / "data")
    onnx.save(divide_by_brightness(own_classifier()), tmp_path / "own.onnx")
    added = add_own(data, tmp_path / "zoo", tmp_path / "own.onnx")
    assert any("gave no finite logits on 3 of 15 images" in warning for warning in added.warnings)
    assert np.isnan(store.read_calibration(added.member).logits_NK[-3:]).all()

    for label in "abcd":
        shutil.rmtree(data / label)
        shutil.copytree(data / "e", data / label)
    with pytest.raises(ExportError, match="logits: not finite on any of the 15 calibration images"):
        add_own(data, tmp_path / "zoo", tmp_path / "own.onnx", name="late")
    assert store.list_members(tmp_path / "zoo" / "own") == ("own",)


def test_a_full_disk_leaves_no_member_and_binds_no_task(tmp_path: Path) -> None:
    data = shade_images(tmp_path / "data")
    onnx.save(own_classifier(), tmp_path / "own.onnx")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(CardError, match="File too large"):
            add_own(data, tmp_path / "zoo", tmp_path / "own.onnx")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "zoo" / "own").iterdir()) == []


def test_a_broken_neighbour_is_warned_of(tmp_path: Path) -> None:
    data = shade_images(tmp_path / "data")
    onnx.save(own_classifier(), tmp_path / "own.onnx")
    card = add_own(data, tmp_path / "zoo", tmp_path / "own.onnx").member.path / "card.json"
    card.write_text("{}")
    added = add_own(data, tmp_path / "zoo", tmp_path / "own.onnx", name="next")
    assert any(f"member 'own' can't be read: {card}" in warning for warning in added.warnings)


def test_a_neighbour_for_another_engine_is_told_of(tmp_path: Path) -> None:
    data = shade_images(tmp_path / "data")
    onnx.save(own_classifier(), tmp_path / "own.onnx")
    member = add_own(data, tmp_path / "zoo", tmp_path / "own.onnx").member
    store.replace_card(member, member.card.model_copy(update={"engine": "openvino"}))
    added = add_own(data, tmp_path / "zoo", tmp_path / "own.onnx", name="next")
    warning = "a plan is for one engine, so not for onnxruntime together with 'own' (openvino)"
    assert added.warnings == (warning,)


def test_members_added_side_by_side_to_a_new_task_all_arrive(tmp_path: Path) -> None:
    data = shade_images(tmp_path / "data")
    onnx.save(own_classifier(), tmp_path / "own.onnx")
    code = ONNX_ADD.replace('name="own"', "name=sys.argv[4]")
    command: list[str | Path] = [sys.executable, "-c", code, tmp_path / "own.onnx", tmp_path / "zoo" / "own", data]
    running = [
        subprocess.Popen([*command, name], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8")
        for name in ("a", "b", "c")
    ]
    for process in running:
        errors = process.communicate(timeout=120)[1]
        assert process.returncode == 0, errors
    assert store.list_members(tmp_path / "zoo" / "own") == ("a", "b", "c")
    assert sorted(path.name for path in (tmp_path / "zoo" / "own").iterdir()) == ["a", "b", "c", "task.json"]


def test_an_onnx_of_open_size_and_images_of_many_sizes_ask_for_one(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", classes=5, size=9, grey=False)
    more = write_folder(tmp_path / "more", classes=1, per_class=1, size=12, grey=False)
    shutil.move(more / "class_0" / "0.png", folder / "class_0" / "odd.png")
    onnx.save(own_classifier(open_size=True), tmp_path / "own.onnx")
    addition = Addition(
        name="own", task_path=tmp_path / "zoo" / "own", data=folder, model=OnnxModel(file=tmp_path / "own.onnx")
    )
    with pytest.raises(ConfigError, match="give --task-size"):
        add_member(addition, quiet)


@pytest.mark.skipif(DATA is None, reason="CASCADE_SERVE_DATA is not set")
@pytest.mark.slow
def test_real_weights_reach_their_accuracy_on_real_images(tmp_path: Path) -> None:
    with tarfile.open(Path(str(DATA)) / "cifar10-jpeg-val.tar.gz") as archive:
        # 80 of each class's 500.
        chosen = [entry for entry in archive if int(Path(entry.name).stem) % 500 < 80 if entry.isfile()]
        archive.extractall(tmp_path / "val", members=chosen, filter="data")
    model = TorchModel(architecture="resnet20", weights=Path(str(DATA)) / "cifar10-resnet" / "resnet20.safetensors")
    addition = Addition(name="net", task_path=tmp_path / "zoo" / "cifar", data=tmp_path / "val", model=model)
    card = add_member(addition, quiet).member.card
    assert card.accuracy is not None
    assert card.accuracy.n == 800
    # Four standard errors of a share of 0.8 over 800 rows.
    assert card.accuracy.top1 == pytest.approx(0.810, abs=4 * (0.16 / 800) ** 0.5)
    assert card.calibration is not None
    assert card.calibration.temperature > 1.5
    assert card.calibration.ece_after < card.calibration.ece_before
