"""The ONNX Runtime backend on real, tiny graphs."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx_bundle import CLASSES, IMAGE_SHAPE, write_linear_bundle, write_linear_graph
from table_committee import make_table_bench

from cascade_serve.bundle import Bundle
from cascade_serve.core.arrays import FloatArray, ImageArray
from cascade_serve.core.request import Request, Terms
from cascade_serve.engine.onnx import (
    CPU_PROVIDER,
    Device,
    OnnxSession,
    Placement,
    _load_cuda,
    _run_bound,
    cuda_provider,
    make_runners,
)
from cascade_serve.engine.opening import OpeningConfig, open_engine
from cascade_serve.engine.protocol import EngineConfig
from cascade_serve.errors import BundleError, ConfigError, MemberError


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


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="needs an onnxruntime without CUDA"
)
@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_a_provider_that_was_left_out_is_missed(bundle: Bundle) -> None:
    placement = Placement(providers=(cuda_provider(0), CPU_PROVIDER), device_id=0)
    with pytest.raises(ConfigError, match=r"CUDAExecutionProvider: .* could not load it, and would run on CPUExec"):
        OnnxSession(bundle.member_path("small") / "model.onnx", bundle.plan.task, 1, placement)


def test_a_session_on_a_gpu_takes_cuda_from_pip_packages_too(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []

    def preload() -> None:
        told.append("preload")
        sys.stdout.write("Failed to load libcudnn.so.9")

    monkeypatch.setattr(onnxruntime, "preload_dlls", preload)
    _load_cuda.cache_clear()
    for device_id, loads in ((None, 0), (0, 1), (1, 1)):
        placement = Placement(providers=(CPU_PROVIDER,), device_id=device_id)
        OnnxSession(bundle.member_path("small") / "model.onnx", bundle.plan.task, 1, placement)
        assert len(told) == loads
    _load_cuda.cache_clear()
    assert capsys.readouterr().out == ""


def test_what_fails_on_a_device_is_not_run_on_another(bundle: Bundle) -> None:
    placement = Placement(providers=(CPU_PROVIDER,))
    session = OnnxSession(bundle.member_path("small") / "model.onnx", bundle.plan.task, 1, placement)
    assert session._session._enable_fallback is False


class RecordedBinding:
    """Takes down what is bound where."""

    def __init__(self) -> None:
        self.outputs: list[tuple[object, ...]] = []

    def bind_cpu_input(self, name: str, images_BHWC: ImageArray) -> None:
        assert name == "images"

    def bind_output(self, *arguments: object) -> None:
        self.outputs.append(arguments)

    def copy_outputs_to_cpu(self) -> list[FloatArray]:
        return [np.zeros((1, 3), np.float32)]


class RecordedSession:
    def __init__(self) -> None:
        self.binding = RecordedBinding()

    def io_binding(self) -> RecordedBinding:
        return self.binding

    def run_with_iobinding(self, binding: RecordedBinding) -> None:
        assert binding is self.binding


def test_logits_are_left_on_the_device_that_made_them() -> None:
    session = RecordedSession()
    _run_bound(session, random_images(1), 1)
    assert session.binding.outputs == [("logits", "cuda", 1)]


@pytest.mark.gpu(library="onnxruntime")
def test_cuda_gives_the_logits_of_the_cpu(bundle: Bundle) -> None:
    (cpu,) = make_runners(bundle, EngineConfig(), Device.CPU)
    (cuda,) = make_runners(bundle, EngineConfig(), Device.CUDA)
    images_BHWC = random_images(9)
    for index in range(len(bundle.plan.members)):
        np.testing.assert_allclose(cuda.run(index, images_BHWC), cpu.run(index, images_BHWC), rtol=1e-4, atol=1e-3)
