"""Members of other precisions, from ``zoo add`` to answers of a cascade that mixes them."""
# Shapes: N images, B rows, K classes.

import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from fitted_classifier import digits, fitted_classifier, write_digits
from typer.testing import CliRunner

from cascade_serve import Client
from cascade_serve.bundle import load_bundle
from cascade_serve.cli.app import app
from cascade_serve.core.cost import Cost
from cascade_serve.engine.opening import OpeningConfig
from cascade_serve.engine.openvino import check_precision
from cascade_serve.engine.protocol import EngineConfig
from cascade_serve.errors import ConfigError
from cascade_serve.rpc.server import ServerConfig
from cascade_serve.serving import ServeConfig, ServingProcess
from cascade_serve.zoo import Added, Addition, OnnxModel, Quantisation, TorchModel, add_member
from model_zoo import store
from model_zoo.card import METADATA_KEY, Card, Precision
from model_zoo.errors import ImageError
from model_zoo.graph import GraphSession
from model_zoo.image_folder import draw_images, read_images, scan_image_folder

DATA = os.environ.get("CASCADE_SERVE_DATA")
IMAGES, LABELS = digits()
TRAIN, CALIBRATION = slice(0, 1100), slice(1100, 1400)


def quiet(_what: str, _total: int | None) -> Callable[[int], None]:
    return lambda _done: None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images for training and calibration, and two classifiers."""
    folder = tmp_path_factory.mktemp("digits")
    for name, part in (("train", TRAIN), ("calibration", CALIBRATION)):
        write_digits(folder / name, IMAGES[part], LABELS[part])
    for name, width in (("small", 4), ("large", 24)):
        onnx.save(fitted_classifier(IMAGES[TRAIN], LABELS[TRAIN], width=width), folder / f"{name}.onnx")
    return folder


def add(folder: Path, zoo: Path, name: str, model: str = "large", *, ranges: bool = False, **options: Any) -> Added:
    if ranges:
        options["quantisation"] = Quantisation(data=folder / "train", max_images=200, seed=3)
    addition = Addition(
        name=name,
        task_path=zoo / "digits",
        data=folder / "calibration",
        model=OnnxModel(file=folder / f"{model}.onnx"),
        **options,
    )
    return add_member(addition, quiet)


@pytest.fixture(scope="module")
def zoo(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    zoo = tmp_path_factory.mktemp("zoo")
    for model in ("small", "large"):
        assert add(folder, zoo, f"{model}-fp32", model).warnings == ()
        assert add(folder, zoo, f"{model}-int8", model, precision="int8", ranges=True).warnings == ()
    return zoo


def card_of(zoo: Path, name: str) -> Card:
    return store.read_member(zoo / "digits" / name).card


def top1(card: Card) -> float:
    assert card.accuracy is not None
    return card.accuracy.top1


def test_an_int8_member_has_a_card_and_calibration_of_its_own(folder: Path, zoo: Path) -> None:
    card, source = card_of(zoo, "large-int8"), card_of(zoo, "large-fp32")
    assert (card.precision, card.engine) == ("int8", "onnxruntime")
    assert (source.precision, source.engine, source.conversion) == ("fp32", "onnxruntime", None)
    assert card.cost == source.cost
    assert card.agreement == source.agreement
    assert abs(top1(card) - top1(source)) <= 0.02
    assert top1(source) > 0.9

    graph = onnx.load(zoo / "digits" / "large-int8" / "model.onnx")
    assert any(node.op_type == "QuantizeLinear" for node in graph.graph.node)
    inside = next(entry.value for entry in graph.metadata_props if entry.key == METADATA_KEY)
    assert Card.from_json(inside, "graph") == card.model_copy(update={"files": {}})
    images = read_images(scan_image_folder(folder / "calibration"), height=8, width=8, channels=1)
    calibration = store.read_calibration(store.read_member(zoo / "digits" / "large-int8"))
    # To a step of the quantisation: batches round alike, but kernels may differ with their size.
    np.testing.assert_allclose(calibration.logits_NK, GraphSession(graph).logits(images.images_NHWC), atol=0.05)


def test_an_int8_member_says_how_far_it_lies_from_its_source(folder: Path, zoo: Path) -> None:
    conversion = card_of(zoo, "large-int8").conversion
    assert conversion is not None
    assert (conversion.tool, conversion.n) == ("onnxruntime.quantization", 256)
    assert conversion.same_label > 0.98
    members = [store.read_member(zoo / "digits" / name) for name in ("large-fp32", "large-int8")]
    source_NK, logits_NK = (store.read_calibration(member).logits_NK for member in members)
    assert 0 < conversion.max_logit_difference <= float(np.abs(source_NK - logits_NK).max()) + 1e-4
    ranges = conversion.quantisation
    assert ranges is not None
    drawn = draw_images(scan_image_folder(folder / "train"), 200, seed=3)
    assert (ranges.n, ranges.seed) == (200, 3)
    assert ranges.data_sha256 == read_images(drawn, height=8, width=8, channels=1).sha256


def test_an_fp16_member_takes_half_the_room_and_says_nearly_the_same(folder: Path, zoo: Path, tmp_path: Path) -> None:
    member = add(folder, tmp_path, "half", precision="fp16").member
    source = store.read_member(zoo / "digits" / "large-fp32")
    assert member.card.precision == "fp16"
    assert member.card.cost == source.card.cost
    assert member.graph_path.stat().st_size < 0.6 * source.graph_path.stat().st_size
    conversion = member.card.conversion
    assert conversion is not None
    assert (conversion.tool, conversion.quantisation) == ("model_zoo.half", None)
    assert conversion.same_label > 0.99
    assert 0 < conversion.max_logit_difference < 0.1


def has_openvino(precision: Precision) -> bool:
    try:
        check_precision(precision, "this test")
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("precision", get_args(Precision))
def test_members_for_openvino_are_calibrated_there(
    folder: Path, zoo: Path, tmp_path: Path, precision: Precision
) -> None:
    if not has_openvino(precision):
        pytest.skip(f"OpenVINO has no {precision} on this processor")
    added = add(folder, tmp_path, "other", precision=precision, engine="openvino", ranges=precision == "int8")
    card = added.member.card
    assert (card.precision, card.engine) == (precision, "openvino")
    assert "openvino" in card.provenance.versions
    assert card.cost == card_of(zoo, "large-fp32").cost
    assert abs(top1(card) - top1(card_of(zoo, "large-fp32"))) <= 0.02
    conversion = card.conversion
    assert conversion is not None
    assert (conversion.tool is None) == (precision in ("fp32", "bf16"))
    assert conversion.max_logit_difference < {"fp32": 1e-3, "fp16": 0.1, "bf16": 0.5, "int8": 5}[precision]
    if precision in ("fp32", "bf16"):
        graph = onnx.load(added.member.graph_path)
        assert graph.graph == onnx.load(zoo / "digits" / "large-fp32" / "model.onnx").graph


def test_what_the_processor_lacks_is_refused_before_anything_is_loaded(folder: Path, tmp_path: Path) -> None:
    lacking = [precision for precision in get_args(Precision) if not has_openvino(precision)]
    if not lacking:
        pytest.skip("OpenVINO has every precision on this processor")
    with pytest.raises(ConfigError, match=f"member 'late': precision: got {lacking[0]}; must be fp32"):
        add(folder, tmp_path, "late", "no-such-model", precision=lacking[0], engine="openvino")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"precision": "bf16"},
            "precision: got bf16 on onnxruntime; must be one of fp32, fp16, int8; engines that have bf16: .*, torch",
        ),
        ({"precision": "int8"}, "precision int8: got no --quantisation-data; must be a folder of training images"),
        ({"ranges": True}, "--quantisation-data goes with --precision int8 alone"),
        ({"ranges": True, "precision": "fp16"}, "--quantisation-data goes with --precision int8 alone"),
        ({"engine": "torch"}, "engine: got torch; a member made from an ONNX file has no torch network"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(
    folder: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$"):
        add(folder, tmp_path, "late", **options)


def test_a_graph_that_is_int8_already_is_not_converted_again(folder: Path, zoo: Path, tmp_path: Path) -> None:
    # A member's graph may itself be brought: it takes uint8 NHWC.
    model = OnnxModel(file=zoo / "digits" / "large-int8" / "model.onnx")
    options: dict[str, Any] = {
        "name": "again",
        "task_path": tmp_path / "digits",
        "data": folder / "calibration",
        "model": model,
    }
    card = add_member(Addition(**options), quiet).member.card
    assert (card.precision, card.conversion) == ("int8", None)
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    for precision in precisions:
        with pytest.raises(ConfigError, match=f"precision: got {precision}; the graph is in int8 already"):
            add_member(Addition(**options, precision=precision, overwrite=True), quiet)
    again = Addition(**options, precision="int8", quantisation=Quantisation(data=folder / "train"), overwrite=True)
    with pytest.raises(ConfigError, match="precision: got int8; the graph is in int8 already"):
        add_member(again, quiet)


def test_a_missing_folder_of_training_images_is_told_before_anything_is_loaded(folder: Path, tmp_path: Path) -> None:
    quantisation = Quantisation(data=folder / "nowhere")
    with pytest.raises(ImageError, match="nowhere: No such file or directory"):
        add(folder, tmp_path, "late", "no-such-model", precision="int8", quantisation=quantisation)
    with pytest.raises(ConfigError, match="quantisation images: got 0; must be from 1 to 10000"):
        Quantisation(data=folder / "train", max_images=0)


def test_ranges_from_calibration_images_are_warned_of(folder: Path, tmp_path: Path) -> None:
    quantisation = Quantisation(data=folder / "calibration", max_images=20)
    added = add(folder, tmp_path, "leaky", precision="int8", quantisation=quantisation)
    [warning] = added.warnings
    assert warning.startswith("20 of the 20 quantisation images are calibration images too; give --quantisation-data")


def test_a_member_far_from_its_source_is_warned_of(folder: Path, tmp_path: Path) -> None:
    dark = write_digits(tmp_path / "dark", IMAGES[:20] // 100, LABELS[:20])
    added = add(folder, tmp_path, "blind", precision="int8", quantisation=Quantisation(data=dark))
    conversion = added.member.card.conversion
    assert conversion is not None
    assert conversion.same_label < 0.95
    assert added.warnings[0].startswith("member 'blind' and its fp32 source put only ")
    assert added.warnings[0].endswith(" % of 256 images into the same class")


def test_the_command_line_makes_lists_and_shows_them(folder: Path, tmp_path: Path) -> None:
    def run(*arguments: str | Path) -> str:
        return CliRunner().invoke(app, ["zoo", *map(str, arguments)], catch_exceptions=False).output

    place: list[str | Path] = ["--task", "digits", "--zoo", tmp_path, "--data", folder / "calibration"]
    source: list[str | Path] = ["--onnx", folder / "small.onnx", "--precision", "int8"]
    ranges: list[str | Path] = ["--quantisation-data", folder / "train", "--quantisation-images", "64"]
    assert "int8" in run("add", "q", *place, *source, *ranges)
    assert "int8" in run("list", tmp_path)
    shown = " ".join(run("show", tmp_path / "digits" / "q").split())
    assert "int8 on onnxruntime" in shown
    assert "of 256 images" in shown
    assert "ranges from 64 images, seed 0" in shown
    with pytest.raises(ConfigError, match="--quantisation-images goes with --quantisation-data"):
        run("add", "r", *place, "--onnx", folder / "small.onnx", "--quantisation-images", "64")


def set_seconds(path: Path, seconds: dict[int, float]) -> None:
    """Put other seconds into a member's profile."""
    member = store.read_member(path)
    assert member.card.cost.seconds is not None
    assert member.card.cost.seconds.keys() == seconds.keys()
    cost = member.card.cost.model_copy(update={"seconds": seconds})
    store.replace_card(member, member.card.model_copy(update={"cost": cost}))


def test_a_cascade_of_mixed_precisions_is_planned_and_served(folder: Path, zoo: Path, tmp_path: Path) -> None:
    def run(*arguments: str | Path) -> str:
        output = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False).output
        return " ".join(output.split())

    shutil.copytree(zoo, tmp_path / "zoo")
    task_path, names = tmp_path / "zoo" / "digits", ("small-int8", "large-fp32")
    target, members = tmp_path / "repository" / "digits" / "1", ("--members", ",".join(names))
    in_flops = run("plan", task_path, "--out", tmp_path / "flops" / "digits" / "1", *members)
    assert "note: members are in fp32 and int8, whose FLOPs count alike: --cost seconds tells" in in_flops
    run("zoo", "profile", task_path, *names, "--batch-sizes", "1,4", "--rounds", "1", "--seconds-per-size", "0.01")
    # What members this small take hangs on the machine's other work, and with it whether a cascade pays.
    set_seconds(task_path / names[0], {1: 1e-4, 4: 5e-5})
    set_seconds(task_path / names[1], {1: 1e-3, 4: 5e-4})
    in_seconds = run("plan", task_path, "--out", target, *members, "--cost", "seconds")
    assert "note:" not in in_seconds
    machine = " ".join(str(card_of(tmp_path / "zoo", names[0]).cost.profiled_on).split())
    assert f"time: per image, each at its best batch size, measured on {machine}" in run("inspect", target)
    plan = load_bundle(target).plan
    assert plan.cost is Cost.SECONDS
    assert plan.calibration is not None
    assert (plan.calibration.fingerprint.engine, plan.calibration.fingerprint.precision) == ("onnxruntime", "fp32+int8")
    assert {member.name: member.precision for member in plan.members} == {"small-int8": "int8", "large-fp32": "fp32"}

    config = ServeConfig(
        repository=tmp_path / "repository",
        server=ServerConfig(port=0),
        opening=OpeningConfig(engine=EngineConfig(max_batch_size=4)),
        metrics_port=0,
        watch_interval_s=0,
    )
    process = ServingProcess(config)
    process.start()
    try:
        with Client(f"127.0.0.1:{process.server.port}", timeout_s=60) as client:
            answer = client.infer(IMAGES[1400:1500], model="digits")
            stages = client.infer(IMAGES[1400:1500], model="digits", confidence_threshold=1.0)
    finally:
        process.stop()
    assert answer.label is not None
    assert float((answer.label == LABELS[1400:1500]).mean()) > 0.85
    assert not stages.certified
    assert stages.exit_stage is not None
    assert set(stages.exit_stage.tolist()) <= {0, 1}


@pytest.mark.skipif(DATA is None, reason="CASCADE_SERVE_DATA is not set")
@pytest.mark.slow
def test_a_real_network_keeps_its_accuracy_in_int8(tmp_path: Path) -> None:
    for part, first, last in (("train", 0, 20), ("val", 0, 40)):
        with tarfile.open(Path(str(DATA)) / f"cifar10-jpeg-{part}.tar.gz") as archive:
            rows = 5000 if part == "train" else 500
            chosen = [
                entry for entry in archive if entry.isfile() and first <= int(Path(entry.name).stem) % rows < last
            ]
            archive.extractall(tmp_path / part, members=chosen, filter="data")
    model = TorchModel(architecture="resnet20", weights=Path(str(DATA)) / "cifar10-resnet" / "resnet20.safetensors")
    addition = Addition(
        name="net",
        task_path=tmp_path / "zoo" / "cifar",
        data=tmp_path / "val",
        model=model,
        precision="int8",
        quantisation=Quantisation(data=tmp_path / "train", max_images=200),
    )
    added = add_member(addition, quiet)
    conversion = added.member.card.conversion
    assert conversion is not None
    assert conversion.same_label > 0.95
    assert added.warnings == ()
    # Four standard errors of a share of 0.8 over 400 rows.
    assert top1(added.member.card) == pytest.approx(0.810, abs=4 * (0.16 / 400) ** 0.5)
    assert added.member.graph_path.stat().st_size < 400_000
