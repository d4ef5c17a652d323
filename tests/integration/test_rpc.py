"""What callers get from a running server: answers, descriptions, counts."""
# Shapes: B rows, HWC image.

import io
import threading
import time
from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fake_engine import CASCADE, CLASSES, MEMBERS, FakeEngine, image_of
from PIL import Image
from served_cascade import ServedCascade

from cascade_serve import Client
from cascade_serve.core.arrays import ImageArray
from cascade_serve.core.combine import Combine
from cascade_serve.core.confidence import Confidence
from cascade_serve.core.request import ExitReason
from cascade_serve.errors import ConfigError, InvalidRequestError
from cascade_serve.metrics import SECONDS_BUCKETS
from cascade_serve.rpc.remote import RemoteLateError, RemoteNotFoundError, RemoteUnavailableError

# By the fake members: the first is sure of its label at once, the second after two stages, the third never.
IMAGES_BHWC = np.stack([image_of(0, 255), image_of(1, 130), image_of(2, 10)])


def encoded(image_HWC: ImageArray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_HWC).save(buffer, kind)
    return buffer.getvalue()


def test_each_image_gets_its_own_answer(served: ServedCascade) -> None:
    prediction = served.client.infer(IMAGES_BHWC, model=CASCADE)
    assert (prediction.model_name, prediction.model_version, prediction.policy) == (CASCADE, "3", "default")
    assert prediction.certified
    assert prediction.probabilities is not None
    assert prediction.label is not None
    assert prediction.confidence is not None
    assert prediction.exit_stage is not None
    assert prediction.flops is not None
    assert prediction.probabilities.shape == (3, 3)
    assert prediction.probabilities.dtype == np.float32
    np.testing.assert_allclose(prediction.probabilities.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(prediction.confidence, prediction.probabilities.max(axis=1))
    assert prediction.label.tolist() == [0, 1, 2]
    assert prediction.exit_stage.tolist() == [0, 1, 2]
    assert prediction.exit_reason == (ExitReason.CONFIDENT, ExitReason.CONFIDENT, ExitReason.LAST_STAGE)
    assert prediction.flops.tolist() == [1_000_000, 5_000_000, 21_000_000]
    # By hand: the softmax of logits (4, 0, 0).
    assert prediction.confidence[0] == pytest.approx(np.exp(4) / (np.exp(4) + 2), rel=1e-5)


def test_one_image_needs_no_batch_dimension(served: ServedCascade) -> None:
    prediction = served.client.infer(IMAGES_BHWC[1], model=CASCADE, version="3")
    assert prediction.label is not None
    assert prediction.label.tolist() == [1]


def test_only_the_outputs_asked_for_come_back(served: ServedCascade) -> None:
    prediction = served.client.infer(IMAGES_BHWC, model=CASCADE, outputs=["flops", "label"])
    assert prediction.flops is not None
    assert prediction.label is not None
    assert prediction.probabilities is None
    assert prediction.confidence is None
    assert prediction.exit_stage is None
    assert prediction.exit_reason is None


def test_encoded_images_get_the_answers_of_their_pixels(served: ServedCascade) -> None:
    files = [encoded(image_HWC) for image_HWC in IMAGES_BHWC]
    decoded = served.client.infer(files, model=CASCADE)
    raw = served.client.infer(IMAGES_BHWC, model=CASCADE)
    np.testing.assert_array_equal(decoded.probabilities, raw.probabilities)
    alone = served.client.infer(files[2], model=CASCADE, outputs=["label"])
    assert alone.label is not None
    assert alone.label.tolist() == [2]


def test_a_jpeg_of_another_size_is_resized(served: ServedCascade) -> None:
    large_HWC = np.full((40, 50, 3), (2, 255, 0), dtype=np.uint8)
    prediction = served.client.infer([encoded(large_HWC, "JPEG")], model=CASCADE, outputs=["exit_stage"])
    assert prediction.exit_stage is not None
    assert prediction.exit_stage.tolist() == [0]


@pytest.mark.parametrize(
    ("terms", "policy", "stages", "reasons"),
    [
        ({"policy": "fast"}, "fast", [0, 0, 1], "CCL"),
        ({"policy": "accurate"}, "accurate", [0, 0, 0], "LLL"),
        ({"confidence_threshold": 0.0}, "default", [0, 0, 0], "CCC"),
        ({"confidence_threshold": 1.0}, "default", [2, 2, 2], "LLL"),
        ({"confidence_threshold": [0.99, 0.5]}, "default", [1, 1, 2], "CCL"),
        ({"max_flops": 5_000_000}, "default", [0, 1, 1], "CCF"),
        ({"max_flops": "1M"}, "default", [0, 0, 0], "CFF"),
        ({"mode": "ensemble"}, "default", [2, 2, 2], "LLL"),
        ({"mode": "ensemble", "max_flops": "5.5M"}, "default", [1, 1, 1], "FFF"),
        ({"on_deadline": "answer", "priority": 1, "timeout_s": 20.0}, "default", [0, 1, 2], "CCL"),
    ],
)
def test_terms_reach_the_engine(
    served: ServedCascade, terms: dict[str, object], policy: str, stages: list[int], reasons: str
) -> None:
    prediction = served.client.infer(IMAGES_BHWC, model=CASCADE, **terms)  # type: ignore[arg-type]
    assert prediction.policy == policy
    assert prediction.exit_stage is not None
    assert prediction.exit_stage.tolist() == stages
    assert prediction.exit_reason is not None
    assert "".join(reason.name[0] for reason in prediction.exit_reason) == reasons
    own_terms = {"confidence_threshold", "max_flops", "mode"} & set(terms)
    assert prediction.certified == (policy == "default" and not own_terms)


def test_raw_bytes_answer_like_arrays(served: ServedCascade) -> None:
    serialised = Client.encode(IMAGES_BHWC, model=CASCADE, policy="fast", outputs=["label"])
    prediction = Client.decode(served.client.raw_infer(serialised))
    assert prediction.policy == "fast"
    assert prediction.label is not None
    assert prediction.label.tolist() == [0, 1, 2]


def test_many_clients_at_once_get_their_own_answers(served: ServedCascade) -> None:
    def ask(seed: int) -> None:
        labels_B = np.random.default_rng(seed).integers(0, len(CLASSES), size=1 + seed % 5)
        images_BHWC = np.stack([image_of(int(label), 200) for label in labels_B])
        with Client(served.address, timeout_s=20) as client:
            for _ in range(5):
                prediction = client.infer(images_BHWC, model=CASCADE, policy=["default", "fast"][seed % 2])
                assert prediction.label is not None
                assert prediction.label.tolist() == labels_B.tolist()
                assert prediction.policy == ["default", "fast"][seed % 2]

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(18)))


def test_one_client_serves_many_threads(served: ServedCascade) -> None:
    def ask(label: int) -> list[int]:
        prediction = served.client.infer(image_of(label, 255), model=CASCADE, outputs=["label"])
        assert prediction.label is not None
        labels: list[int] = prediction.label.tolist()
        return labels

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, [0, 1, 2] * 10)) == [[0], [1], [2]] * 10


def test_info_tells_what_a_caller_needs(served: ServedCascade) -> None:
    info = served.client.info(CASCADE)
    assert (info.name, info.version, info.versions) == (CASCADE, 3, ("3",))
    assert info.image_shape == (4, 5, 3)
    assert info.classes == CLASSES
    assert info.max_images == served.engines[-1].config.max_queue_rows
    assert (info.combine, info.confidence) == (Combine.MEAN_PROBS, Confidence.MAX_PROB)
    assert {name: member.flops for name, member in info.members.items()} == MEMBERS
    assert info.policies == served.plan.policies
    assert info.stage_flops["default"] == (1_000_000, 5_000_000, 21_000_000)
    assert info.calibration == served.plan.calibration


def test_statistics_count_requests_rows_and_runs(served: ServedCascade) -> None:
    before = {one.name: one for one in served.client.statistics()}
    assert set(before) == {CASCADE, *(f"{CASCADE}.{member}" for member in MEMBERS)}
    served.client.infer(IMAGES_BHWC, model=CASCADE)
    with pytest.raises(RemoteNotFoundError):
        served.client.infer(IMAGES_BHWC, model=CASCADE, policy="none")
    (after,) = served.client.statistics(CASCADE)
    assert (after.rows, after.requests) == (before[CASCADE].rows + 3, before[CASCADE].requests + 1)
    assert after.failures == before[CASCADE].failures + 1
    (small,) = served.client.statistics(f"{CASCADE}.small")
    assert small.rows == before[f"{CASCADE}.small"].rows + 3
    assert small.compute_s > before[f"{CASCADE}.small"].compute_s


def test_the_index_lists_versions(served: ServedCascade) -> None:
    assert [(one.name, one.version, one.state) for one in served.client.index()] == [(CASCADE, "3", "READY")]


def test_flops_and_exits_in_the_metrics_are_the_sums_over_replies(served: ServedCascade) -> None:
    def flops() -> float:
        return sum(served.metric("cascade_flops_total", cascade=CASCADE, policy=name) for name in served.plan.policies)

    def exits() -> float:
        return sum(
            served.metric("cascade_exits_total", cascade=CASCADE, stage=stage, reason=reason.name)
            for stage in "012"
            for reason in ExitReason
        )

    flops_before, exits_before = flops(), exits()
    predictions = [
        served.client.infer(IMAGES_BHWC[:rows], model=CASCADE, policy=policy)
        for rows, policy in ((1, "default"), (3, "fast"), (2, "accurate"), (3, "default"))
    ]
    assert flops() - flops_before == sum(int(one.flops.sum()) for one in predictions if one.flops is not None)
    assert exits() - exits_before == 9


def test_outcomes_and_rejections_are_counted_without_callers_words(served: ServedCascade) -> None:
    unknown = {"cascade": "(unknown)", "policy": "(unknown)", "outcome": "NOT_FOUND"}
    refused = {"cascade": CASCADE, "reason": "not_found"}
    answered = {"cascade": CASCADE, "policy": "fast", "outcome": "OK"}
    name = "cascade_request_duration_seconds_count"
    before = served.metric(name, **unknown), served.metric(name, **answered)
    refused_before = served.metric("cascade_rejections_total", **refused)
    with pytest.raises(RemoteNotFoundError):
        served.client.infer(IMAGES_BHWC, model="a-callers-own-word")
    with pytest.raises(RemoteNotFoundError):
        served.client.infer(IMAGES_BHWC, model=CASCADE, policy="a-callers-own-word")
    served.client.infer(IMAGES_BHWC, model=CASCADE, policy="fast")
    assert (served.metric(name, **unknown), served.metric(name, **answered)) == (before[0] + 1, before[1] + 1)
    assert served.metric("cascade_rejections_total", **refused) == refused_before + 1
    text = "".join(str(sample) for family in served.metrics.collect() for sample in family.samples)
    assert "a-callers-own-word" not in text
    assert served.metric("cascade_bundle_version", cascade=CASCADE) == 3


def test_the_histograms_p99_is_within_a_bucket_of_the_clients(served: ServedCascade, fake: FakeEngine) -> None:
    labels = {"cascade": CASCADE, "policy": "accurate", "outcome": "OK"}

    def cumulative() -> list[float]:
        name = "cascade_request_duration_seconds_bucket"
        return [served.metric(name, **labels, le=str(edge)) for edge in SECONDS_BUCKETS]

    before = cumulative()
    fake.pause_s = 0.03
    seen_s = []
    for _ in range(40):
        start_s = time.perf_counter()
        served.client.infer(IMAGES_BHWC, model=CASCADE, policy="accurate")
        seen_s.append(time.perf_counter() - start_s)
    counts = [after - was for after, was in zip(cumulative(), before, strict=True)]
    servers = bisect_left(counts, 0.99 * counts[-1])
    clients = bisect_left(SECONDS_BUCKETS, float(np.quantile(seen_s, 0.99)))
    assert counts[-1] == 40
    assert abs(servers - clients) <= 1


def test_rows_in_flight_are_seen(served: ServedCascade, fake: FakeEngine) -> None:
    fake.hold()
    asking = threading.Thread(target=served.client.infer, args=(IMAGES_BHWC,), kwargs={"model": CASCADE})
    asking.start()
    fake.wait_for_tickets(1)
    assert served.server.in_flight == 1
    waiting = served.metric("cascade_rows_in_flight", cascade=CASCADE, state="waiting")
    running = served.metric("cascade_rows_in_flight", cascade=CASCADE, state="running")
    assert waiting + running == 3
    fake.release()
    asking.join()


def test_a_client_checks_what_it_can(served: ServedCascade) -> None:
    with pytest.raises(InvalidRequestError, match=r"^images: got float32 \[4, 5, 3\]; must be uint8 \[n, height, "):
        served.client.infer(IMAGES_BHWC[0].astype(np.float32), model=CASCADE)
    with pytest.raises(InvalidRequestError, match=r"^images: got uint8 \[4, 5\]; must be"):
        served.client.infer(IMAGES_BHWC[0, :, :, 0], model=CASCADE)
    with pytest.raises(InvalidRequestError, match=r"^encoded: got elements of type str; must be bytes"):
        served.client.infer(["cat.jpg"], model=CASCADE)  # type: ignore[list-item]


@pytest.mark.parametrize("url", ["http://127.0.0.1:8001", "localhost", ""])
def test_a_url_must_be_host_and_port(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^url: got '.*'; must be HOST:PORT, such as 127.0.0.1:8001$"):
        Client(url)


def test_a_server_that_is_not_there_is_unavailable(free_port: int) -> None:
    with Client(f"127.0.0.1:{free_port}", timeout_s=10) as client:
        assert not client.is_live()
        assert not client.is_ready()
        with pytest.raises(RemoteUnavailableError, match="UNAVAILABLE: "):
            client.infer(IMAGES_BHWC, model=CASCADE)
        with pytest.raises(RemoteLateError):
            client.wait_until_serving(timeout_s=0.1)
