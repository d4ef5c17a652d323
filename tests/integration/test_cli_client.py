"""``infer``, ``evaluate``, ``bench`` and ``health`` against a real server over real, tiny ONNX members."""
# Shapes: N images, HWC image.

import csv
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx_bundle import CLASSES, FLOPS, IMAGE_SHAPE, write_linear_bundle
from PIL import Image

from cascade_serve.bundle import GRAPH_FILE
from cascade_serve.cli.app import main
from cascade_serve.rpc.server import ServerConfig
from cascade_serve.serving import ServeConfig, ServingProcess

CASCADE = "tiny"
NUM_IMAGES = 60
NUM_WRONG = 3


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Ended]


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    return write_linear_bundle(folder / "repository" / CASCADE / "1", folder / "sources").path


@pytest.fixture(scope="module")
def url(bundle_folder: Path) -> Iterator[str]:
    config = ServeConfig(
        repository=bundle_folder.parents[1], server=ServerConfig(port=0), metrics_port=0, watch_interval_s=0
    )
    process = ServingProcess(config)
    process.start()
    yield f"127.0.0.1:{process.server.port}"
    process.stop()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, bundle_folder: Path) -> Path:
    """Dark noise, of which no member is quite sure; each image is filed as the largest member says, but for three."""
    folder = tmp_path_factory.mktemp("images")
    images_NHWC = np.random.default_rng(5).integers(0, 16, (NUM_IMAGES, *IMAGE_SHAPE), dtype=np.uint8)
    session = ort.InferenceSession(bundle_folder / "members" / "large" / GRAPH_FILE)
    label_N = session.run(["logits"], {"images": images_NHWC})[0].argmax(axis=1)
    label_N[:NUM_WRONG] = (label_N[:NUM_WRONG] + 1) % len(CLASSES)
    assert len(set(label_N.tolist())) == len(CLASSES)
    for index, (image_HWC, label) in enumerate(zip(images_NHWC, label_N, strict=True)):
        path = folder / CLASSES[label] / f"bild {index:03d} ä.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image_HWC).save(path)
    return folder


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["cascade-serve", *map(str, arguments)])
        code: Any = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run


def _one(images: Path) -> Path:
    return min(images.rglob("*.png"))


# infer


def test_infer_prints_a_line_an_image(command: Command, url: str, images: Path) -> None:
    files = sorted(images.rglob("*.png"))[:20]
    ended = command("infer", *files, "--url", url, "--model", CASCADE, "--policy", "large")
    assert (ended.code, ended.err) == (0, "")
    head, *lines = ended.out.splitlines()
    assert head.split() == ["path", "class", "confidence", "stage", "reason", "FLOPs"]
    assert [line.split("  ")[0] for line in lines] == [str(file) for file in files]
    assert all("LAST_STAGE" in line and line.endswith("20K") for line in lines)


def test_infer_json_has_all_outputs(command: Command, url: str, images: Path) -> None:
    result = command(
        "infer", _one(images), "--url", url, "--model", CASCADE, "--confidence-threshold", "0,1", "--json"
    ).json
    assert (result["model"], result["version"], result["policy"], result["certified"]) == (
        CASCADE,
        "1",
        "default",
        False,
    )
    assert result["terms"] == {"confidence_threshold": [0.0, 1.0]}
    (row,) = result["images"]
    assert row["path"] == str(_one(images))
    assert row["class"] == CLASSES[row["label"]]
    assert (row["exit_stage"], row["exit_reason"], row["flops"]) == (0, "CONFIDENT", FLOPS[0])
    assert list(row["probabilities"]) == list(CLASSES)
    assert sum(row["probabilities"].values()) == pytest.approx(1)
    assert row["confidence"] == pytest.approx(max(row["probabilities"].values()))


def test_infer_takes_images_of_another_size(command: Command, url: str, tmp_path: Path) -> None:
    Image.new("RGB", (31, 17), (200, 10, 10)).save(tmp_path / "large.jpg")
    assert command("infer", tmp_path / "large.jpg", "--url", url, "--model", CASCADE).code == 0


def test_a_cap_holds(command: Command, url: str, images: Path) -> None:
    terms = ("--max-flops", "5.9K", "--confidence-threshold", 1)
    result = command("infer", _one(images), "--url", url, "--model", CASCADE, *terms, "--json").json
    assert (result["images"][0]["exit_reason"], result["images"][0]["flops"]) == ("FLOP_CAP", FLOPS[0] + FLOPS[1])


def test_a_refused_request_is_told(command: Command, url: str, images: Path) -> None:
    ended = command("infer", _one(images), "--url", url, "--model", CASCADE, "--max-flops", 10)
    assert ended.code == 1
    assert ended.out == ""
    assert ended.err.startswith(f"error: {url}: INVALID_ARGUMENT: max_flops: got 10")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "absent"), "NOT_FOUND"),
        (("--model", CASCADE, "--policy", "absent"), "NOT_FOUND: policy 'absent' not found"),
        (("--model", CASCADE, "--model-version", "7"), "NOT_FOUND"),
    ],
)
def test_unknown_names_are_told(
    command: Command, url: str, images: Path, arguments: tuple[str, ...], message: str
) -> None:
    ended = command("infer", _one(images), "--url", url, *arguments)
    assert ended.code == 1
    assert message in ended.err


def test_a_broken_image_is_told(command: Command, url: str, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    ended = command("infer", tmp_path / "broken.png", "--url", url, "--model", CASCADE)
    assert ended.code == 1
    assert "INVALID_ARGUMENT: encoded[0]" in ended.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--confidence-threshold", "1.5"), "must be a number between 0 and 1"),
        (("--confidence-threshold", "0.5,nan"), "must be a number between 0 and 1"),
        (("--max-flops", "many"), "'many' is not a number of FLOPs"),
        (("--mode", "both"), "ensemble"),
        (("--tls-key", "key.pem"), "--tls-authority must be given"),
        (("--url", "localhost"), "must be HOST:PORT"),
        (("missing.png",), "missing.png"),
    ],
)
def test_bad_usage_exits_with_two(
    command: Command, url: str, images: Path, arguments: tuple[str, ...], message: str
) -> None:
    ended = command("infer", _one(images), "--url", url, "--model", CASCADE, *arguments)
    assert ended.code == 2
    assert message in " ".join(ended.err.replace("│", " ").split())


def test_a_url_of_no_characters_is_told(command: Command) -> None:
    ended = command("health", "--url", "\udcc3:1")
    assert ended.code == 2
    assert ended.err.startswith("error: '\\udcc3:1': 'utf-8' codec can't encode")


def test_an_unreachable_server_is_named(command: Command, images: Path) -> None:
    ended = command("infer", _one(images), "--url", "127.0.0.1:9", "--model", CASCADE)
    assert ended.code == 1
    assert "127.0.0.1:9: UNAVAILABLE" in ended.err


# evaluate


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("images_per_request", [1, 7, 64])
def test_evaluate_counts_every_image_once(
    command: Command, url: str, images: Path, encoded: bool, images_per_request: int
) -> None:
    sending = ("--images-per-request", images_per_request, "--concurrency", 3, *(["--encoded"] if encoded else []))
    ended = command("evaluate", images, "--url", url, "--model", CASCADE, "--policy", "large", *sending, "--json", "-")
    assert (ended.code, ended.err) == (0, "")
    result = ended.json
    assert result["n"] == NUM_IMAGES
    assert result["accuracy"] == pytest.approx(1 - NUM_WRONG / NUM_IMAGES)
    low, high = result["accuracy_interval"]
    assert low < result["accuracy"] < high
    assert (result["mean_flops"], result["max_flops"], result["exits"]) == (FLOPS[2], FLOPS[2], [NUM_IMAGES])
    assert sum(entry["n"] for entry in result["per_class"].values()) == NUM_IMAGES
    assert 0 < result["latency_ms"]["p50"] <= result["latency_ms"]["p99"] <= result["latency_ms"]["max"]
    assert result["images_per_s"] > 0
    assert result["requests"] == -(-NUM_IMAGES // images_per_request)
    assert result["terms"] == {"policy": "large"}
    assert result["certified_share"] == 0


@pytest.mark.parametrize(("threshold", "stage"), [(0, 0), (1, 2)])
def test_evaluate_counts_exits_and_flops_by_stage(
    command: Command, url: str, images: Path, threshold: int, stage: int
) -> None:
    result = command(
        "evaluate", images, "--url", url, "--model", CASCADE, "--confidence-threshold", threshold, "--json", "-"
    ).json
    assert result["exits"] == [0] * stage + [NUM_IMAGES]
    assert result["mean_flops"] == result["max_flops"] == sum(FLOPS[: stage + 1])


def test_two_runs_can_be_compared_in_pairs(command: Command, url: str, images: Path, tmp_path: Path) -> None:
    runs = []
    for policy in ("large", "default"):
        target = tmp_path / f"{policy}.csv"
        ended = command(
            "evaluate", images, "--url", url, "--model", CASCADE, "--policy", policy, "--predictions", target
        )
        assert ended.code == 0
        with target.open(encoding="utf-8", newline="") as file:
            runs.append(list(csv.DictReader(file)))
    large, default = runs
    assert [row["path"] for row in large] == [row["path"] for row in default]
    assert sorted(row["path"] for row in large) == sorted(
        str(path.relative_to(images)) for path in images.rglob("*.png")
    )
    assert all(row["label"] == row["path"].split("/")[0] for row in large)
    assert sum(row["label"] == row["prediction"] for row in large) == NUM_IMAGES - NUM_WRONG
    assert {row["flops"] for row in large} == {str(FLOPS[2])}
    assert {int(row["exit_stage"]) for row in default} <= {0, 1, 2}


def test_evaluate_prints_what_it_found(command: Command, url: str, images: Path, tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    ended = command("evaluate", images, "--url", url, "--model", CASCADE, "--policy", "large", "--json", target)
    assert "95.00% (95% interval " in ended.out
    assert "FLOPs per image  mean 20K, largest 20K" in ended.out
    assert f"stage 0: {NUM_IMAGES} (100.0%)" in ended.out
    assert json.loads(target.read_text())["n"] == NUM_IMAGES


def test_classes_are_matched_by_name(command: Command, url: str, images: Path, tmp_path: Path) -> None:
    """A folder with the last class alone, which by position would be taken for the first."""
    (tmp_path / CLASSES[-1]).symlink_to(images / CLASSES[-1])
    result = command("evaluate", tmp_path, "--url", url, "--model", CASCADE, "--policy", "large", "--json", "-").json
    assert list(result["per_class"]) == [CLASSES[-1]]
    assert result["accuracy"] >= 0.5


def test_a_foreign_class_is_refused(command: Command, url: str, images: Path, tmp_path: Path) -> None:
    (tmp_path / "wolf").symlink_to(images / CLASSES[0])
    ended = command("evaluate", tmp_path, "--url", url, "--model", CASCADE)
    assert ended.code == 2
    assert "classes 'wolf' are not among the 3 of tiny: 'cat', 'dog', 'frog'" in ended.err


def test_a_failed_request_ends_the_evaluation(command: Command, url: str, images: Path) -> None:
    ended = command("evaluate", images, "--url", url, "--model", CASCADE, "--max-flops", 1, "--images-per-request", 1)
    assert ended.code == 1
    assert ".png: INVALID_ARGUMENT: max_flops: got 1" in ended.err


def test_a_broken_file_ends_the_evaluation(command: Command, url: str, tmp_path: Path) -> None:
    (tmp_path / CLASSES[0]).mkdir()
    (tmp_path / CLASSES[0] / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    ended = command("evaluate", tmp_path, "--url", url, "--model", CASCADE)
    assert ended.code == 2
    assert "broken.jpg" in ended.err


def test_a_result_that_cannot_be_written_is_told(command: Command, url: str, images: Path, tmp_path: Path) -> None:
    ended = command("evaluate", images, "--url", url, "--model", CASCADE, "--json", tmp_path / "no" / "x.json")
    assert ended.code == 2
    assert "No such file or directory" in ended.err
    assert "accuracy" in ended.out


# bench


@pytest.mark.parametrize("extra", [(), ("--rate", 400)])
def test_bench_measures_a_count(command: Command, url: str, extra: tuple[object, ...]) -> None:
    ended = command(
        "bench", "--url", url, "--model", CASCADE, "--count", 50, "--warm-up", 0, "--concurrency", 4,
        "--connections", 2, "--images-per-request", 3, *extra, "--json", "-",
    )  # fmt: skip
    assert (ended.code, ended.err) == (0, "")
    result = ended.json
    assert (result["requests"], result["failed"], result["images"]) == (50, 0, 150)
    assert sum(result["exits"]) == 150
    assert FLOPS[0] <= result["mean_flops"] <= result["max_flops"] <= sum(FLOPS)
    assert result["loop"] == ("open" if extra else "closed")
    assert (result["concurrency"], result["connections"], result["data"]) == (4, 2, "random")
    latency = result["latency_ms"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]


@pytest.mark.parametrize("encoded", [(), ("--encoded",)])
def test_bench_sends_real_images(command: Command, url: str, images: Path, encoded: tuple[str, ...]) -> None:
    terms = ("--policy", "large", "--data", images, "--images-per-request", 7, *encoded)
    ended = command("bench", "--url", url, "--model", CASCADE, "--count", 10, "--warm-up", 0, *terms)
    assert ended.code == 0
    assert "mean 20K, largest 20K" in ended.out
    assert "stage 0: 70 (100.0%)" in ended.out
    assert "closed loop, 8 callers" in ended.out


def test_bench_is_bounded_in_time(command: Command, url: str) -> None:
    result = command("bench", "--url", url, "--model", CASCADE, "--seconds", 0.3, "--warm-up", 0.1, "--json", "-").json
    assert result["requests"] > 0
    assert 0 < result["duration_s"] < 30


def test_bench_tells_at_once_what_every_request_would_be_refused_for(command: Command, url: str) -> None:
    ended = command("bench", "--url", url, "--model", CASCADE, "--max-flops", 1, "--seconds", 3600)
    assert ended.code == 1
    assert "INVALID_ARGUMENT: max_flops: got 1" in ended.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rate", 0), "rate: got 0.0; must be above 0"),
        (("--count", 0), "count: got 0; must be at least 1"),
        (("--seconds", -1), "seconds: got -1.0; must be above 0"),
        (("--encoded",), "needs --data"),
        (("--concurrency", 0), "--concurrency"),
    ],
)
def test_bad_bench_usage_exits_with_two(
    command: Command, url: str, arguments: tuple[object, ...], message: str
) -> None:
    ended = command("bench", "--url", url, "--model", CASCADE, *arguments)
    assert ended.code == 2
    assert message in " ".join(ended.err.replace("│", " ").split())


# health


@pytest.mark.parametrize("arguments", [(), ("--model", CASCADE), ("--wait", 5)])
def test_health_of_a_serving_server(command: Command, url: str, arguments: tuple[object, ...]) -> None:
    ended = command("health", "--url", url, *arguments)
    assert (ended.code, ended.out, ended.err) == (0, "SERVING\n", "")


def test_health_of_an_unknown_cascade(command: Command, url: str) -> None:
    ended = command("health", "--url", url, "--model", "absent")
    assert (ended.code, ended.out) == (1, "SERVICE_UNKNOWN\n")


def test_health_of_no_server(command: Command) -> None:
    ended = command("health", "--url", "127.0.0.1:9")
    assert ended.code == 1
    assert "127.0.0.1:9: UNAVAILABLE" in ended.err


@pytest.mark.parametrize("name", ["infer", "evaluate", "bench", "health"])
def test_help_tells_units_and_defaults(command: Command, name: str) -> None:
    ended = command(name, "--help")
    assert ended.code == 0
    for option in ("--url", "--model", "--timeout"):
        assert option in ended.out
    assert "127.0.0.1:8001" in ended.out
