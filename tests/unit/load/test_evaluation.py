"""Parts of an evaluation that need no server: classes by name, the CSV, and the requests of a bench."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cascade_serve.core.request import Mode
from cascade_serve.errors import ConfigError
from cascade_serve.load.evaluation import Predictions, match_labels, write_predictions
from cascade_serve.load.traffic import OUTPUTS, Query, encode_requests, read_answer, read_bench_images
from cascade_serve.rpc.query import Prediction
from cascade_serve.rpc.remote import RemoteError
from cascade_serve.rpc.stubs.grpc_service_pb2 import ModelInferRequest
from model_zoo.errors import ImageError
from model_zoo.image_folder import ImageFolder, scan_image_folder


def _folder(path: Path, counts: dict[str, int], size: tuple[int, int] = (4, 3)) -> ImageFolder:
    for name, count in counts.items():
        (path / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", size, (index, 0, 0)).save(path / name / f"{index}.png")
    return scan_image_folder(path)


def test_labels_follow_names_not_positions(tmp_path: Path) -> None:
    folder = _folder(tmp_path, {"ant": 1, "zebra": 2})
    assert match_labels(folder, ("zebra", "bee", "ant"), model="m").tolist() == [2, 0, 0]


def test_many_foreign_classes_are_told_in_short(tmp_path: Path) -> None:
    folder = _folder(tmp_path, {f"class{index:02d}": 1 for index in range(15)})
    with pytest.raises(ConfigError, match=r"'class11' and 3 more are not among the 1 of m: 'cat'"):
        match_labels(folder, ("cat",), model="m")


def test_predictions_keep_the_order_of_the_files(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "data", {"ant": 2, "bee, large": 1})
    predictions = Predictions.empty(3)
    predictions.label_N[:] = [1, 0, 1]
    predictions.confidence_N[:] = [0.5, 0.25, 1.0]
    predictions.exit_stage_N[:] = [0, 1, 0]
    predictions.flops_N[:] = [10, 30, 10]
    write_predictions(tmp_path / "out.csv", folder, ("ant", "bee, large"), predictions)
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["path", "label", "prediction", "confidence", "exit_stage", "flops"]
    assert rows == [
        ["ant/0.png", "ant", "bee, large", "0.5", "0", "10"],
        ["ant/1.png", "ant", "ant", "0.25", "1", "30"],
        ["bee, large/0.png", "bee, large", "bee, large", "1.0", "0", "10"],
    ]


def test_predictions_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        write_predictions(tmp_path, _folder(tmp_path / "data", {"ant": 1}), ("ant",), Predictions.empty(1))


def test_a_query_sends_what_was_given_and_no_more() -> None:
    images_BHWC = np.zeros((2, 4, 3, 3), dtype=np.uint8)
    bare = ModelInferRequest.FromString(Query(model="m").encode(images_BHWC))
    assert (bare.model_name, bare.model_version, dict(bare.parameters)) == ("m", "", {})
    assert tuple(output.name for output in bare.outputs) == OUTPUTS
    query = Query(
        model="m", version="2", confidence_threshold=(0.9, 0.8), max_flops=7, policy="fast", mode=Mode.ENSEMBLE
    )
    full = ModelInferRequest.FromString(query.encode(images_BHWC, outputs=()))
    assert full.model_version == "2"
    assert set(full.parameters) == {"confidence_threshold", "max_flops", "policy", "mode"}
    assert not full.outputs
    assert query.terms == {
        "confidence_threshold": [0.9, 0.8], "max_flops": 7, "policy": "fast", "mode": "ensemble",
    }  # fmt: skip


def test_requests_are_full_and_use_every_image() -> None:
    images_NHWC = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    requests = [ModelInferRequest.FromString(data) for data in encode_requests(Query(model="m"), images_NHWC, 2)]
    assert [list(request.raw_input_contents[0]) for request in requests] == [[0, 1], [2, 3], [4, 0]]


def test_one_image_fills_a_request() -> None:
    (data,) = encode_requests(Query(model="m"), np.full((1, 1, 1, 1), 9, dtype=np.uint8), 3)
    assert list(ModelInferRequest.FromString(data).raw_input_contents[0]) == [9, 9, 9]


def test_bench_images_fit_the_memory() -> None:
    small = read_bench_images(None, (32, 32, 3), 1, encoded=False, seed=0)
    assert len(small) == 256
    large = read_bench_images(None, (512, 512, 3), 16, encoded=False, seed=0)
    assert len(large) == 5 * 16


def test_bench_images_are_drawn_from_the_folder_at_the_cascades_size(tmp_path: Path) -> None:
    _folder(tmp_path, {"ant": 3, "bee": 2}, size=(9, 9))
    images = read_bench_images(tmp_path, (4, 3, 3), 2, encoded=False, seed=1)
    assert isinstance(images, np.ndarray)
    assert images.shape == (5, 4, 3, 3)
    files = read_bench_images(tmp_path, (4, 3, 3), 2, encoded=True, seed=1)
    assert sorted(files) == sorted(path.read_bytes() for path in tmp_path.rglob("*.png"))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no sub-folders"):
        read_bench_images(tmp_path, (4, 3, 3), 1, encoded=False, seed=0)


def test_an_answer_without_what_was_asked_for_is_told() -> None:
    prediction = Prediction(model_name="m", model_version="1", policy="default", certified=False)
    with pytest.raises(RemoteError, match="the answer lacks the output 'exit_stage'"):
        read_answer(prediction)
