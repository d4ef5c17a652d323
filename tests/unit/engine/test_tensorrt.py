"""ONNX Runtime's TensorRT provider: how it is asked for, and all around it; the runs themselves where there is one."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx_bundle import CLASSES, IMAGE_SHAPE, write_linear_bundle
from table_committee import Watcher

from cascade_serve.bundle import Bundle
from cascade_serve.bundle_folder import scan, stamp
from cascade_serve.core.arrays import FloatArray, ImageArray
from cascade_serve.core.plan import Fingerprint
from cascade_serve.core.request import Request
from cascade_serve.engine import tensorrt
from cascade_serve.engine.onnx import CPU_PROVIDER, Device, OnnxSession, Placement, make_runners
from cascade_serve.engine.opening import Backend, OpeningConfig, open_engine
from cascade_serve.engine.protocol import EngineConfig
from cascade_serve.errors import BundleError, ConfigError, MemberError

HAS_TENSORRT = tensorrt.PROVIDER in onnxruntime.get_available_providers()
without_tensorrt = pytest.mark.skipif(HAS_TENSORRT, reason="needs an onnxruntime without TensorRT")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_linear_bundle(tmp_path / "repository" / "linear" / "1", tmp_path / "sources")


def config(device: Device = Device.CUDA, *, allow_uncertified: bool = False) -> OpeningConfig:
    return OpeningConfig(
        engine=EngineConfig(max_batch_size=8),
        backend=Backend.TENSORRT,
        device=device,
        allow_uncertified=allow_uncertified,
    )


def with_precision(bundle: Bundle, precision: str) -> Bundle:
    small, *others = bundle.plan.members
    return replace(bundle, plan=replace(bundle.plan, members=(replace(small, precision=precision), *others)))


def random_images(rows: int) -> ImageArray:
    return np.random.default_rng(3).integers(0, 256, size=(rows, *IMAGE_SHAPE), dtype=np.uint8)


def cpu_session(bundle: Bundle, fixed_batch: tuple[str, int] | None = None) -> OnnxSession:
    placement = Placement(providers=(CPU_PROVIDER,), fixed_batch=fixed_batch)
    return OnnxSession(bundle.member_path("small") / "model.onnx", bundle.plan.task, 1, placement)


def test_a_graph_is_offered_to_tensorrt_then_cuda_then_the_cpu(tmp_path: Path) -> None:
    placement = tensorrt.place(tmp_path, device_id=3, is_half=False, fixed_batch=("batch", 16))
    assert [name for name, _ in placement.providers] == [
        "TensorrtExecutionProvider",
        "CUDAExecutionProvider",
        "CPUExecutionProvider",
    ]
    assert placement.providers[0][1] == {
        "device_id": "3",
        "trt_fp16_enable": "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(tmp_path),
    }
    assert placement.providers[1][1]["device_id"] == "3"
    assert placement.providers[1][1]["use_tf32"] == "0"
    assert (placement.device_id, placement.fixed_batch) == (3, ("batch", 16))
    half = tensorrt.place(tmp_path, device_id=3, is_half=True, fixed_batch=("batch", 16))
    assert half.providers[0][1]["trt_fp16_enable"] == "1"


def test_a_session_of_one_batch_size_takes_no_other(bundle: Bundle) -> None:
    session = cpu_session(bundle, ("n", 4))
    assert session.logits(random_images(4)).shape == (4, len(CLASSES))
    with pytest.raises(MemberError, match="Got: 3 Expected: 4"):
        session.logits(random_images(3))
    assert (cpu_session(bundle).batch_name, session.batch_name) == ("n", None)


def test_a_batch_runs_in_the_smallest_size_that_holds_it(bundle: Bundle) -> None:
    sizes: list[int] = []

    class Counting:
        def __init__(self, rows: int) -> None:
            self.session = cpu_session(bundle, ("n", rows))

        def logits(self, images_BHWC: ImageArray) -> FloatArray:
            sizes.append(len(images_BHWC))
            return self.session.logits(images_BHWC)

    bucketed, anything = tensorrt.BucketedSession({rows: Counting(rows) for rows in (8, 1, 2, 4)}), cpu_session(bundle)
    for rows in range(1, 9):
        images_BHWC = random_images(rows)
        np.testing.assert_allclose(bucketed.logits(images_BHWC), anything.logits(images_BHWC), rtol=1e-5, atol=1e-5)
    assert sizes == [1, 2, 4, 4, 8, 8, 8, 8]


def test_a_batch_without_a_name_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    graph = bundle.member_path("small") / "model.onnx"
    model = onnx.load(graph)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].Clear()
    onnx.save(model, graph)
    with pytest.raises(BundleError, match=r"small/model\.onnx: inputs: the batch of 'images' has no name"):
        tensorrt.batch_name(cpu_session(bundle), graph)


def test_engines_lie_beside_the_version_and_are_none_of_its_files(bundle: Bundle) -> None:
    before = stamp(bundle.path)
    folder = tensorrt.cache_beside(bundle) / "graph" / "8"
    with tensorrt.built_in(folder) as building:
        (building / "a.engine").write_bytes(b"built")
    assert folder.parent.parent.parent == bundle.path.parent
    assert [path.name for path in folder.iterdir()] == ["a.engine"]
    assert stamp(bundle.path) == before
    assert list(scan(bundle.path.parent.parent).versions) == ["linear"]
    assert scan(bundle.path.parent.parent).versions["linear"] == [bundle.path]
    with tensorrt.built_in(folder) as again:
        assert again == folder


def test_what_was_half_built_is_not_kept(tmp_path: Path) -> None:
    folder = tmp_path / "graph" / "8"

    def fail() -> None:
        with tensorrt.built_in(folder) as building:
            (building / "a.engine").write_bytes(b"ha")
            raise BundleError("the build failed")

    with pytest.raises(BundleError, match="the build failed"):
        fail()
    assert list(folder.parent.iterdir()) == []


def test_of_two_that_build_the_same_the_first_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "graph" / "8"
    with tensorrt.built_in(folder) as slow:
        (slow / "a.engine").write_bytes(b"slow")
        with tensorrt.built_in(folder) as quick:
            (quick / "a.engine").write_bytes(b"quick")
    assert (folder / "a.engine").read_bytes() == b"quick"
    assert list(folder.parent.iterdir()) == [folder]


def test_a_cache_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(ConfigError, match=r"engine_cache: got .*/file; must be a folder that can be written to: Not a"),
        tensorrt.built_in(tmp_path / "file" / "graph" / "8"),
    ):
        pass


@without_tensorrt
def test_an_onnxruntime_without_tensorrt_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    with pytest.raises(ConfigError, match=r"engine: got 'tensorrt'; this onnxruntime has only .*CPUExecutionProvider"):
        open_engine(bundle, config(), Watcher())
    assert "NVIDIA_TF32_OVERRIDE" not in os.environ
    assert not tensorrt.cache_beside(bundle).exists()


def test_it_runs_on_cuda_alone(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="device: got 'cpu'; the tensorrt engine runs on 'cuda' alone"):
        open_engine(bundle, config(Device.CPU), Watcher())


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_a_precision_that_it_lacks_is_refused_by_name(bundle: Bundle, precision: str) -> None:
    with pytest.raises(ConfigError, match=f"member 'small': precision: got {precision}; must be fp32 or fp16"):
        open_engine(with_precision(bundle, precision), config(), Watcher())


def test_a_cache_is_for_tensorrt_alone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"engine_cache: got .* for onnx; only tensorrt keeps engines"):
        OpeningConfig(engine_cache=tmp_path)


def test_fp32_keeps_what_onnxruntime_promised_and_fp16_does_not(tmp_path: Path) -> None:
    measured_on = Fingerprint(engine="onnxruntime", precision="fp32")
    bundle = write_linear_bundle(tmp_path / "linear" / "1", tmp_path / "sources", measured_on=measured_on)
    assert tensorrt.engine_name(bundle.plan.members) == "onnxruntime"
    mixed = with_precision(bundle, "fp16")
    with pytest.raises(BundleError, match="calibrated on onnxruntime in fp32, and would be served on tensorrt in fp16"):
        open_engine(mixed, config(), Watcher())


@pytest.mark.gpu(library="tensorrt")
def test_it_gives_the_logits_of_the_cpu_and_builds_engines_once(bundle: Bundle) -> None:
    (cpu,) = make_runners(bundle, EngineConfig(), Device.CPU)
    engine = EngineConfig(max_batch_size=8)
    (runner,) = tensorrt.make_tensorrt_runners(bundle, engine)
    for rows in (1, 3, 8):
        images_BHWC = random_images(rows)
        for index in range(len(bundle.plan.members)):
            np.testing.assert_allclose(
                runner.run(index, images_BHWC), cpu.run(index, images_BHWC), rtol=1e-4, atol=1e-3
            )
    built = stamp(tensorrt.cache_beside(bundle))
    assert built
    (again,) = tensorrt.make_tensorrt_runners(bundle, engine)
    again.run(0, random_images(5))
    assert stamp(tensorrt.cache_beside(bundle)) == built


@pytest.mark.gpu(library="tensorrt")
def test_a_committee_is_served_on_it(bundle: Bundle) -> None:
    images_BHWC = random_images(20)
    replies = []
    for opening in (config(), OpeningConfig(engine=EngineConfig(max_batch_size=8))):
        engine = open_engine(bundle, opening, Watcher())
        engine.warm_up()
        replies.append(engine.admit(Request(images_BHWC=images_BHWC)).result())
        engine.close()
    np.testing.assert_allclose(replies[0].probabilities_BK, replies[1].probabilities_BK, atol=1e-4)
