"""The ONNX Runtime backend on real, tiny graphs."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_bundle import CLASSES, IMAGE_SHAPE, write_linear_bundle, write_linear_graph
from table_committee import make_table_bench

from cascade_serve.bundle import Bundle
from cascade_serve.core.arrays import FloatArray, ImageArray
from cascade_serve.core.request import Request, Terms
from cascade_serve.engine.onnx import Device, make_runners
from cascade_serve.engine.opening import OpeningConfig, open_engine
from cascade_serve.engine.protocol import EngineConfig
from cascade_serve.errors import BundleError, MemberError


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_linear_bundle(tmp_path / "linear" / "1", tmp_path / "sources")


def random_images(rows: int, seed: int = 0) -> ImageArray:
    return np.random.default_rng(seed).integers(0, 256, size=(rows, *IMAGE_SHAPE), dtype=np.uint8)


def by_hand(bundle: Bundle, member: str, images_BHWC: ImageArray) -> FloatArray:
    model = onnx.load(bundle.member_path(member) / "model.onnx")
    weights_DK = onnx.numpy_helper.to_array(model.graph.initializer[0])
    logits_BK: FloatArray = images_BHWC.reshape(len(images_BHWC), -1).astype(np.float32) @ weights_DK
    return logits_BK


def test_logits_are_those_of_the_graph(bundle: Bundle) -> None:
    (runner,) = make_runners(bundle, EngineConfig(), Device.CPU)
    images_BHWC = random_images(7)
    for index, member in enumerate(bundle.plan.members):
        np.testing.assert_allclose(
            runner.run(index, images_BHWC), by_hand(bundle, member.name, images_BHWC), rtol=1e-4, atol=1e-4
        )


def test_a_row_gets_the_same_answer_alone_and_in_any_batch(bundle: Bundle) -> None:
    engine = open_engine(bundle, OpeningConfig(engine=EngineConfig(max_batch_size=8)), make_table_bench().watcher)
    images_BHWC = random_images(40)
    together = engine.admit(Request(images_BHWC=images_BHWC, terms=Terms(confidence_threshold=0.9))).result()
    for row in range(len(images_BHWC)):
        alone = engine.admit(
            Request(images_BHWC=images_BHWC[row : row + 1], terms=Terms(confidence_threshold=0.9))
        ).result()
        assert alone.exit_stage_B[0] == together.exit_stage_B[row]
        assert alone.label_B[0] == together.label_B[row]
        np.testing.assert_allclose(alone.probabilities_BK[0], together.probabilities_BK[row], atol=1e-5)
    engine.close()


def test_what_the_runtime_refuses_is_the_members_error(bundle: Bundle) -> None:
    (runner,) = make_runners(bundle, EngineConfig(), Device.CPU)
    with pytest.raises(MemberError, match=r"member 'middle': .*images"):
        runner.run(1, np.zeros((1, 5, 5, 3), dtype=np.uint8))


def test_a_file_that_is_no_graph_is_refused(bundle: Bundle) -> None:
    (bundle.member_path("large") / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(BundleError, match=r"large/model\.onnx"):
        make_runners(bundle, EngineConfig(), Device.CPU)


@pytest.mark.parametrize(
    ("shape", "num_classes", "message"),
    [((8, 4, 3), len(CLASSES), r"inputs: got .*8, 4, 3"), (IMAGE_SHAPE, 7, r"outputs: got .*\[7\]")],
)
def test_a_graph_for_another_task_is_refused(
    bundle: Bundle, shape: tuple[int, int, int], num_classes: int, message: str
) -> None:
    write_linear_graph(bundle.member_path("small") / "model.onnx", 0, shape, num_classes)
    with pytest.raises(BundleError, match=message):
        make_runners(bundle, EngineConfig(), Device.CPU)


@pytest.mark.gpu(library="onnxruntime")
def test_cuda_gives_the_logits_of_the_cpu(bundle: Bundle) -> None:
    (cpu,) = make_runners(bundle, EngineConfig(), Device.CPU)
    (cuda,) = make_runners(bundle, EngineConfig(), Device.CUDA)
    images_BHWC = random_images(9)
    for index in range(len(bundle.plan.members)):
        np.testing.assert_allclose(cuda.run(index, images_BHWC), cpu.run(index, images_BHWC), rtol=1e-4, atol=1e-3)
