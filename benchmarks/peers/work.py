"""What every peer serves, and what is sent to it: members, bundles, images, and the labels that the cascade gives.

The work: CIFAR ResNets with public weights, resnet20 with threshold 0.9, then resnet56, on real CIFAR-10-JPEG images.
"""
# Shapes: N images, S stages, K classes, HWC image.

import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks.peers.peer import Compute, Engine, Precision
from benchmarks.server import COMMAND
from cascade_serve.core.arrays import FloatArray, ImageArray
from model_zoo.image_folder import read_images, scan_image_folder

MEMBERS = ("resnet20", "resnet56")
THRESHOLD = 0.9
SINGLE = "single"
"""The bundle of the last member alone."""
CASCADE = "cascade"

_TASK = "cifar10"
_IMAGE_SHAPE = (32, 32, 3)
_CALIBRATION_IMAGES = 50
"""A class, of the val set; only ``zoo add`` needs them, as the plan is made by hand. They are not sent."""
_SENT_IMAGES = 200
"""A class, of the val set."""
_TRAIN_IMAGES = 50
"""A class, of the training set: what int8 members are quantised on."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is on disk after :func:`prepare`.

    Attributes:
        folder: of the work.
        image_shape: [H, W, C].
    """

    folder: Path
    image_shape: tuple[int, int, int] = _IMAGE_SHAPE

    @property
    def images(self) -> Path:
        """A .npy file, uint8 [N, H, W, C]."""
        return self.folder / "images.npy"

    @property
    def truth(self) -> Path:
        """A .npy file, int64 [N], the classes."""
        return self.folder / "truth.npy"

    def expected(self, compute: Compute, model: str) -> Path:
        """Name the .npy file, int64 [N], of the labels that a bundle's cascade gives in a precision."""
        precision = Precision.FP32 if compute.precision is Precision.BF16 else compute.precision
        return self.folder / f"expected-{model}-{precision}.npy"

    def zoo(self, compute: Compute) -> Path:
        """Name the zoo of an engine and a precision."""
        return self.folder / "zoo" / str(compute)

    def graphs(self, compute: Compute) -> tuple[Path, ...]:
        """Name the members' ONNX files, which both engines read."""
        zoo = self.zoo(Compute(engine=Engine.ONNX_RUNTIME, precision=_stored(compute.precision)))
        return tuple(zoo / _TASK / member / "model.onnx" for member in MEMBERS)

    def repository(self, compute: Compute) -> Path:
        """Name the repository with the bundles ``cascade`` and ``single``."""
        return self.folder / "repository" / str(compute)


def prepare(data: Path, folder: Path, wanted: list[Compute]) -> Work:
    """Make what is not there yet.

    Args:
        data: with cifar10-jpeg-val.tar.gz, cifar10-jpeg-train.tar.gz and cifar10-resnet/.
        folder: where it goes.
        wanted: engines and precisions to be served.
    """
    folder.mkdir(parents=True, exist_ok=True)
    work = Work(folder=folder)
    if not work.truth.exists():
        _write_images(data, work)
    # Peers read ONNX Runtime's graphs, whatever engine runs them.
    fp32 = Compute(engine=Engine.ONNX_RUNTIME, precision=Precision.FP32)  # the measure of all accuracies
    sources = [fp32, *(replace(fp32, precision=_stored(compute.precision)) for compute in wanted)]
    for compute in dict.fromkeys([*sources, *wanted]):
        if not (work.repository(compute) / SINGLE).exists():
            _write_bundles(data, work, compute)
    for compute in dict.fromkeys(sources):
        if not work.expected(compute, SINGLE).exists():
            _write_expected(work, compute)
    return work


def _stored(precision: Precision) -> Precision:
    """Give the precision of the file that a precision is computed from."""
    return Precision.FP32 if precision is Precision.BF16 else precision


def _write_images(data: Path, work: Work) -> None:
    for split, counts in (
        ("val", {"calibration": _CALIBRATION_IMAGES, "sent": _SENT_IMAGES}),
        ("train", {"train": _TRAIN_IMAGES}),
    ):
        _unpack(data / f"cifar10-jpeg-{split}.tar.gz", work.folder, counts)
    height, width, channels = work.image_shape
    sent = read_images(scan_image_folder(work.folder / "sent"), height=height, width=width, channels=channels)
    np.save(work.images, sent.images_NHWC)
    np.save(work.truth, sent.labels_N)


def _unpack(archive: Path, folder: Path, counts: dict[str, int]) -> None:
    """Write the first images of each class into folders of their own, so many into each."""
    with tarfile.open(archive) as source:
        members = sorted((each for each in source.getmembers() if each.isfile()), key=lambda each: each.name)
        seen: dict[str, int] = {}
        for member in members:
            label, name = member.name.split("/")[-2:]
            position = seen.get(label, 0)
            seen[label] = position + 1
            content = source.extractfile(member)
            assert content is not None
            for target, count in counts.items():
                if position < count:
                    path = folder / target / label / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content.read())
                    break
                position -= count


def _write_bundles(data: Path, work: Work, compute: Compute) -> None:
    zoo, repository = work.zoo(compute), work.repository(compute)
    shutil.rmtree(zoo, ignore_errors=True)
    shutil.rmtree(repository, ignore_errors=True)
    for member in MEMBERS:
        weights = data / "cifar10-resnet" / f"{member}.safetensors"
        options: list[str | Path] = ["--task", _TASK, "--zoo", zoo, "--data", work.folder / "calibration"]
        options += ["--arch", member, "--weights", weights, "--precision", compute.precision]
        if compute.engine is Engine.OPENVINO:
            options += ["--engine", compute.engine]
        if compute.precision is Precision.INT8:
            options += ["--quantisation-data", work.folder / "train"]
        _run("zoo", "add", member, *options)
    # Batches are as large as pays on this machine, as the README advises.
    _run("zoo", "profile", zoo / _TASK)
    stages = ",".join([f"{member}:{THRESHOLD}" for member in MEMBERS[:-1]] + [MEMBERS[-1]])
    for name, text in ((CASCADE, stages), (SINGLE, MEMBERS[-1])):
        _run("plan", zoo / _TASK, "--out", repository / name / "1", "--stages", text, "--no-calibration")


def _run(*arguments: str | Path) -> None:
    subprocess.run([*COMMAND, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def _write_expected(work: Work, compute: Compute) -> None:
    """Compute the labels with ONNX Runtime, an image at a time, in double precision after the logits."""
    images_NHWC: ImageArray = np.load(work.images)
    probabilities = [_probabilities(graph, images_NHWC) for graph in work.graphs(compute)]
    first_NK, last_NK = probabilities
    is_sure_N = first_NK.max(axis=1) >= THRESHOLD
    cascade_NK = np.where(is_sure_N[:, None], first_NK, (first_NK + last_NK) / 2)
    np.save(work.expected(compute, CASCADE), cascade_NK.argmax(axis=1))
    np.save(work.expected(compute, SINGLE), last_NK.argmax(axis=1))
    shares = {"exits after the first stage": float(is_sure_N.mean())}
    (work.folder / f"exits-{compute.precision}.json").write_text(json.dumps(shares))


def _probabilities(graph: Path, images_NHWC: ImageArray) -> FloatArray:
    session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    logits = [session.run(["logits"], {"images": image_HWC[None]})[0] for image_HWC in images_NHWC]
    logits_NK = np.concatenate(logits).astype(np.float64)
    powers_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    probabilities_NK: FloatArray = powers_NK / powers_NK.sum(axis=1, keepdims=True)
    return probabilities_NK
