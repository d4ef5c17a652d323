"""The product's promises, through the real server on the real engine: gRPC, ONNX Runtime and metrics."""
# Shapes: B rows, HWC image.

import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from onnx_bundle import FAILING_PIXEL, FLOPS, IMAGE_SHAPE, NAN_PIXEL, write_linear_bundle
from prometheus_client.parser import text_string_to_metric_families

from cascade_serve import Client
from cascade_serve.core.arrays import ImageArray
from cascade_serve.core.request import ExitReason
from cascade_serve.engine.opening import OpeningConfig
from cascade_serve.engine.protocol import EngineConfig
from cascade_serve.rpc.query import Prediction
from cascade_serve.rpc.remote import RemoteInternalError
from cascade_serve.rpc.server import ServerConfig
from cascade_serve.serving import ServeConfig, ServingProcess

CASCADE = "linear"
TOLERANCE = 1e-5
"""Of a probability, between batches of different sizes."""


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingProcess]:
    folder = tmp_path_factory.mktemp("promises")
    for cascade, trapped in ((CASCADE, ()), ("trapped", ("small",)), ("broken", ("small", "middle", "large"))):
        path = folder / "repository" / cascade / "1"
        write_linear_bundle(path, folder / cascade, trapped=trapped, thresholds=(0.95, 0.5))
    process = ServingProcess(
        ServeConfig(
            repository=folder / "repository",
            server=ServerConfig(port=0),
            opening=OpeningConfig(engine=EngineConfig(workers=2, max_batch_size=8)),
            metrics_port=0,
            watch_interval_s=0,
        )
    )
    process.start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def client(process: ServingProcess) -> Iterator[Client]:
    with Client(f"127.0.0.1:{process.server.port}", timeout_s=30) as client:
        yield client


def random_images(rows: int, seed: int = 0) -> ImageArray:
    """Dim images, so that confidences spread; no pixel springs a trap."""
    return np.random.default_rng(seed).integers(1, 25, size=(rows, *IMAGE_SHAPE), dtype=np.uint8)


def with_first_pixel(value: int, seed: int) -> ImageArray:
    images_BHWC = random_images(1, seed)
    images_BHWC[0, 0, 0, 0] = value
    return images_BHWC


def same(alone: Prediction, together: Prediction, row: int) -> bool:
    assert alone.label is not None
    assert together.label is not None
    assert alone.exit_stage is not None
    assert together.exit_stage is not None
    assert alone.probabilities is not None
    assert together.probabilities is not None
    np.testing.assert_allclose(alone.probabilities[0], together.probabilities[row], atol=TOLERANCE)
    return bool(alone.label[0] == together.label[row] and alone.exit_stage[0] == together.exit_stage[row])


TERMS: list[dict[str, object]] = [
    {},
    {"confidence_threshold": 0.55},
    {"confidence_threshold": (0.9, 0.4)},
    {"max_flops": 5_000},
    {"mode": "ensemble"},
    {"policy": "short", "priority": 1},
]


def test_a_row_gets_the_same_answer_alone_and_in_any_batch(client: Client) -> None:
    images_BHWC = random_images(60)
    for terms in TERMS:
        together = client.infer(images_BHWC, model=CASCADE, **terms)  # type: ignore[arg-type]
        assert together.exit_stage is not None
        with ThreadPoolExecutor(12) as threads:
            alone = list(
                threads.map(
                    lambda row, terms=terms: client.infer(images_BHWC[row : row + 1], model=CASCADE, **terms),
                    range(len(images_BHWC)),
                )
            )
        assert all(same(one, together, row) for row, one in enumerate(alone))


def test_the_thresholds_spread_the_rows_over_all_stages(client: Client) -> None:
    """Without this, the tests here could pass on a cascade that never defers."""
    prediction = client.infer(random_images(200), model=CASCADE)
    assert prediction.exit_stage is not None
    assert set(prediction.exit_stage.tolist()) == {0, 1, 2}


CAPS: list[tuple[int | str, int]] = [
    *((cap, cap) for cap in (1_000, 4_999, 5_000, 24_999, 25_000)),
    ("6K", 6_000),
    ("1G", 10**9),
]


@pytest.mark.parametrize(("cap", "limit"), CAPS)
@pytest.mark.parametrize("mode", ["cascade", "ensemble"])
def test_the_cap_is_never_exceeded(client: Client, cap: int | str, limit: int, mode: str) -> None:
    prediction = client.infer(random_images(200), model=CASCADE, max_flops=cap, mode=mode, confidence_threshold=1.0)
    assert prediction.flops is not None
    assert prediction.flops.max() <= limit
    assert prediction.exit_reason is not None
    expected = ExitReason.LAST_STAGE if limit >= sum(FLOPS) else ExitReason.FLOP_CAP
    assert expected in prediction.exit_reason


def test_raising_the_threshold_never_lowers_the_exit_stage(client: Client) -> None:
    images_BHWC = random_images(150)
    last_B = np.full(len(images_BHWC), -1)
    for threshold in np.linspace(0, 1, 11).tolist():
        stage_B = client.infer(images_BHWC, model=CASCADE, confidence_threshold=threshold).exit_stage
        assert stage_B is not None
        assert (stage_B >= last_B).all()
        last_B = stage_B
    assert last_B.min() == 2


def test_a_nan_member_defers_and_never_makes_a_label(client: Client) -> None:
    images_BHWC = np.concatenate([with_first_pixel(NAN_PIXEL, 1), random_images(3)])
    prediction = client.infer(images_BHWC, model="trapped", confidence_threshold=0.0)
    assert prediction.exit_stage is not None
    assert prediction.exit_stage.tolist() == [1, 0, 0, 0]
    with pytest.raises(RemoteInternalError, match="row 2: no member gave a finite prediction"):
        client.infer(
            np.concatenate([random_images(2), with_first_pixel(NAN_PIXEL, 1)]), model="broken", confidence_threshold=1.0
        )


def test_a_poisoned_request_fails_alone(client: Client) -> None:
    poison_BHWC, good_BHWC = with_first_pixel(FAILING_PIXEL, 2), random_images(1, 3)
    expected = client.infer(good_BHWC, model="trapped")

    def call(index: int) -> str:
        if index % 4 == 0:
            with pytest.raises(RemoteInternalError, match="row 0: member 'small' failed"):
                client.infer(poison_BHWC, model="trapped")
            return "failed"
        assert same(client.infer(good_BHWC, model="trapped"), expected, 0)
        return "answered"

    with ThreadPoolExecutor(16) as threads:
        outcomes = list(threads.map(call, range(200)))
    assert outcomes.count("failed") == 50


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(process: ServingProcess) -> Samples:
    with urllib.request.urlopen(f"http://127.0.0.1:{process.metrics_server.port}/metrics", timeout=10) as page:
        text = page.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(samples: Samples, name: str, **labels: str) -> float:
    wanted = set(labels.items())
    return sum(value for (found, marks), value in samples.items() if found == name and wanted <= marks)


def test_the_counters_add_up_to_the_replies(process: ServingProcess, client: Client) -> None:
    before = scrape(process)
    jobs = [(TERMS[index % len(TERMS)], random_images(1 + index % 5, index)) for index in range(120)]
    with ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(lambda job: client.infer(job[1], model=CASCADE, **job[0]), jobs))
    after = scrape(process)

    def grown(name: str, **labels: str) -> float:
        labels["cascade"] = CASCADE
        return total(after, name, **labels) - total(before, name, **labels)

    rows = sum(len(images_BHWC) for _, images_BHWC in jobs)
    flops = [reply.flops for reply in replies if reply.flops is not None]
    assert len(flops) == len(jobs)
    assert grown("cascade_flops_total") == sum(int(flops_B.sum()) for flops_B in flops)
    assert grown("cascade_exits_total") == rows
    for stage in range(3):
        exits = sum(reply.exit_stage.tolist().count(stage) for reply in replies if reply.exit_stage is not None)
        assert grown("cascade_exits_total", stage=str(stage)) == exits
        assert grown("cascade_row_duration_seconds_count", stage=str(stage)) == exits
    assert grown("cascade_request_duration_seconds_count", outcome="OK") == len(jobs)
    assert total(after, "cascade_rows_in_flight", cascade=CASCADE) == 0
