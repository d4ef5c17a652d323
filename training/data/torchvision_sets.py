"""CIFAR-10, CIFAR-100, SVHN and MNIST: torchvision's own files, or an image folder of the same images."""
# Shapes: B images of a part, HWC or CHW image.

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cascade_serve.core.arrays import ImageArray
from training.data.data_set import DataSet, LoadProgress, number_images
from training.data.folder import FolderSource
from training.data.folder_layout import is_image_folder
from training.data.images import LabelledImages
from training.errors import DataError

Kind = Literal["cifar10", "cifar100", "svhn", "mnist"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Published:
    """What is known of a published data set.

    Attributes:
        torchvision: name of torchvision's class.
        file: of torchvision's layout, by which a folder is known to hold it.
        classes: how many.
        shape: height, width and channels.
        parts: torchvision's keyword arguments for train, test and, where there is one, an extra part.
    """

    torchvision: str
    file: str
    classes: int
    shape: tuple[int, int, int]
    parts: tuple[dict[str, Any], ...] = ({"train": True}, {"train": False})


_PUBLISHED: dict[str, _Published] = {
    "cifar10": _Published(torchvision="CIFAR10", file="cifar-10-batches-py", classes=10, shape=(32, 32, 3)),
    "cifar100": _Published(torchvision="CIFAR100", file="cifar-100-python", classes=100, shape=(32, 32, 3)),
    "svhn": _Published(
        torchvision="SVHN",
        file="train_32x32.mat",
        classes=10,
        shape=(32, 32, 3),
        parts=({"split": "train"}, {"split": "test"}, {"split": "extra"}),
    ),
    "mnist": _Published(torchvision="MNIST", file="MNIST/raw", classes=10, shape=(28, 28, 1)),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchvisionSource:
    """A published data set, as torchvision keeps it on disk or as an image folder.

    Attributes:
        kind: which.
        download: whether torchvision may fetch the files where they are absent.
        extra: SVHN only: whether its 531,131 easier extra images are trained on too; their ids follow those of test.
        folder: how files are treated where the data are an image folder or an archive of one.
    """

    kind: Kind
    download: bool = False
    extra: bool = False
    folder: FolderSource = field(default_factory=FolderSource)

    def __post_init__(self) -> None:
        if self.extra and self.kind != "svhn":
            raise ValueError(f"extra: got True for {self.kind}; only svhn has an extra part")

    def load(self, root: Path | None = None, *, progress: LoadProgress | None = None) -> DataSet:
        """Read train and test; an image folder may come without test.

        Args:
            root: what torchvision calls root, or an image folder (see ``training.data.folder_layout``).
            progress: told after each part, and for image folders after each batch.

        Raises:
            DataError: the files are absent, damaged, or those of another data set.
        """
        if root is None:
            raise DataError(f"data: got no folder; must be one that holds {self.kind}")
        published = _PUBLISHED[self.kind]
        if not (root / published.file).exists() and is_image_folder(root):
            data = self.folder.load(root, progress=progress)
            _check(data.train, self.kind, published, root)
            return data
        if not (root / published.file).exists() and not self.download:
            raise DataError(
                f"{root}: got neither {published.file}, as torchvision keeps {self.kind}, nor an image folder; "
                f"put it there or let it be downloaded by download=true"
            )
        return self._load_files(root, published, progress)

    def _load_files(self, root: Path, published: _Published, progress: LoadProgress | None) -> DataSet:
        arrays = published.parts if self.extra else published.parts[:2]
        parts: list[LabelledImages] = []
        first_id = 0
        for number, arguments in enumerate(arrays):
            parts.append(_read_part(self.kind, root, arguments, first_id, download=self.download))
            first_id += len(parts[-1])
            if progress is not None:
                progress(f"parts of {self.kind}", number + 1, len(arrays))
        train, test, *extra = parts
        data = DataSet(train=_join(train, *extra) if extra else train, test=test)
        _check(data.train, self.kind, published, root)
        return data


def _read_part(kind: Kind, root: Path, arguments: dict[str, Any], first_id: int, *, download: bool) -> LabelledImages:
    from torchvision import datasets

    make: Callable[..., Any] = getattr(datasets, _PUBLISHED[kind].torchvision)
    try:
        part = make(root=str(root), download=download, **arguments)
    except (OSError, RuntimeError, ValueError, EOFError, TypeError, AssertionError) as error:
        # Torchvision asserts what it wants in the headers of MNIST's files, without a word.
        raise DataError(f"{root}: {kind} can't be read: {str(error) or 'the header of a file is damaged'}") from error
    images_BHWC: ImageArray = np.asarray(part.data)
    if kind == "svhn":
        images_BHWC = np.ascontiguousarray(images_BHWC.transpose(0, 2, 3, 1))
    labels = np.asarray(part.labels if kind == "svhn" else part.targets)
    names = tuple(part.classes) if kind.startswith("cifar") else tuple(str(digit) for digit in range(10))
    return number_images(images_BHWC, labels, classes=names, first_id=first_id)


def _join(*parts: LabelledImages) -> LabelledImages:
    return LabelledImages(
        images_BHWC=np.concatenate([part.images_BHWC for part in parts]),
        labels_B=np.concatenate([part.labels_B for part in parts]),
        ids_B=np.concatenate([part.ids_B for part in parts]),
        classes=parts[0].classes,
    )


def _check(data: LabelledImages, kind: Kind, published: _Published, root: Path) -> None:
    found = (len(data.classes), *data.images_BHWC.shape[1:])
    wanted = (published.classes, *published.shape)
    if found != wanted:
        raise DataError(f"{root}: got [classes, H, W, C] {list(found)}; {kind} must have {list(wanted)}")
