"""ONNX Runtime's TensorRT provider as a backend, on a CUDA device."""
# Shapes: B rows of a batch, K classes, HWC image.

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from cascade_serve.bundle import GRAPH_FILE, Bundle
from cascade_serve.core.arrays import FloatArray, ImageArray
from cascade_serve.core.plan import Member
from cascade_serve.engine import onnx
from cascade_serve.engine.onnx import CPU_PROVIDER, Device, OnnxSession, Placement, check_available, cuda_provider
from cascade_serve.engine.protocol import EngineConfig
from cascade_serve.engine.sessions import Session, SessionRunner
from cascade_serve.errors import BundleError, ConfigError

PROVIDER = "TensorrtExecutionProvider"
_PRECISIONS = ("fp32", "fp16")
_HALF_ENGINE_NAME = "tensorrt"


def engine_name(members: Sequence[Member]) -> str:
    """Say what computes members' answers, for a fingerprint.

    fp32 is computed as ONNX Runtime's other providers do. Of an fp16 member, TensorRT may also round what stands before
    its first contraction and behind its last, which were float32 when the member was calibrated.
    """
    return onnx.ENGINE_NAME if all(member.precision == "fp32" for member in members) else _HALF_ENGINE_NAME


def cache_beside(bundle: Bundle) -> Path:
    """Give the folder for a version's engines where none was named: its neighbour, which no server takes for one."""
    return bundle.path.with_name(f".{bundle.path.name}.tensorrt")


def make_tensorrt_runners(
    bundle: Bundle, config: EngineConfig, *, device_id: int = 0, cache: Path | None = None
) -> list[SessionRunner]:
    """Open one set of sessions for each worker. Engines that are not in the cache are built, which takes minutes.

    Turns TF32 off for the whole process, see :func:`forbid_tf32`.

    Args:
        bundle: verified.
        config: gives the number of workers, the threads of each, and the batch buckets.
        device_id: which CUDA device.
        cache: folder of engines; None is :func:`cache_beside`.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ConfigError: the installed onnxruntime has no TensorRT provider, or could not load it; TensorRT lacks a member's
            precision; or the cache can't be written.
        BundleError: a graph can't be loaded, or its input or output is not what a member's must be.
    """
    for member in bundle.plan.members:
        check_precision(member)
    check_available(PROVIDER, "engine: got 'tensorrt'")
    forbid_tf32()
    folder = cache_beside(bundle) if cache is None else cache
    return [
        SessionRunner(bundle.plan, [_open(bundle, member, config, device_id, folder) for member in bundle.plan.members])
        for _ in range(config.workers)
    ]


def forbid_tf32() -> None:
    """Turn TF32 off for the process, before it opens its first session: TensorRT is told by the environment alone."""
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"


def check_precision(member: Member) -> None:
    """Refuse a precision that members can't have on TensorRT: it wants int8 activations signed, and ours are not.

    Raises:
        ConfigError: it is one.
    """
    if member.precision not in _PRECISIONS:
        raise ConfigError(
            f"member {member.name!r}: precision: got {member.precision}; must be {' or '.join(_PRECISIONS)}, which is"
            " what the tensorrt engine runs"
        )


def _open(bundle: Bundle, member: Member, config: EngineConfig, device_id: int, cache: Path) -> "BucketedSession":
    path, task = bundle.member_path(member.name) / GRAPH_FILE, bundle.plan.task
    name = batch_name(OnnxSession(path, task, config.threads_per_worker, onnx.place(Device.CPU)), path)
    is_half = member.precision == "fp16"
    sessions: dict[int, Session] = {}
    for rows in config.batch_buckets:
        # By what the graph says, as TensorRT's own names for its files don't know the weights.
        engines = cache / f"{member.files[GRAPH_FILE]}-{member.precision}" / str(rows)
        with built_in(engines) as folder:
            placement = place(folder, device_id=device_id, is_half=is_half, fixed_batch=(name, rows))
            sessions[rows] = OnnxSession(path, task, config.threads_per_worker, placement)
    return BucketedSession(sessions)


def batch_name(session: OnnxSession, path: Path) -> str:
    """Give the name of a graph's batch dimension, by which it can be fixed.

    Raises:
        BundleError: it has none.
    """
    if session.batch_name is None:
        raise BundleError(f"{path}: inputs: the batch of 'images' has no name; the tensorrt engine fixes it by name")
    return session.batch_name


def place(folder: Path, *, device_id: int, is_half: bool, fixed_batch: tuple[str, int]) -> Placement:
    """Say how a graph runs on TensorRT; the CUDA provider takes what TensorRT leaves.

    With its batch fixed, every shape of the graph is known. So engines are built when a session is opened, and never
    while it runs, wherever TensorRT cuts the graph. (Ranges of shapes would have to be given for each tensor at a cut,
    such as behind the transposing of uint8 images, which TensorRT leaves to others.)

    Args:
        folder: where engines are read from, and written to.
        device_id: which CUDA device.
        is_half: compute in float16.
        fixed_batch: name of the batch dimension, and the rows of every run.
    """
    options = {
        "device_id": str(device_id),
        "trt_fp16_enable": "1" if is_half else "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
    }
    providers = ((PROVIDER, options), cuda_provider(device_id), CPU_PROVIDER)
    return Placement(providers=providers, device_id=device_id, fixed_batch=fixed_batch)


@contextmanager
def built_in(folder: Path) -> Iterator[Path]:
    """Give a folder of engines, or, where there is none yet, one to build in that becomes it when all went well.

    A process that is killed, or another that builds the same, so leaves no half of an engine to be read.

    Raises:
        ConfigError: the folder can't be made.
    """
    if folder.is_dir():
        yield folder
        return
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(
            f"engine_cache: got {folder.parent.parent}; must be a folder that can be written to: {error.strerror}"
        ) from error
    try:
        yield partial
        # Another process may have been quicker: its engines are as good.
        with suppress(OSError):
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class BucketedSession:
    """A graph for each of some batch sizes; a batch runs in the smallest that it fits in, filled up.

    Args:
        sessions: rows → the graph for so many; used by one thread at a time.
    """

    def __init__(self, sessions: Mapping[int, Session]) -> None:
        self._sessions = dict(sorted(sessions.items()))

    def logits(self, images_BHWC: ImageArray) -> FloatArray:
        """Run uint8 images [B, H, W, C], at most as many as the largest size, and give float32 logits [B, K].

        Raises:
            MemberError: the run failed.
        """
        num_rows = len(images_BHWC)
        size = next(size for size in self._sessions if size >= num_rows)
        if size > num_rows:
            images_BHWC = np.concatenate([images_BHWC, np.zeros((size - num_rows, *images_BHWC.shape[1:]), np.uint8)])
        return self._sessions[size].logits(images_BHWC)[:num_rows]
