"""Any folder of images, or an archive of one: classes, size and channels are found by looking."""
# Shapes: N images, HWC image.

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

import numpy as np

from model_zoo.preprocess import ImageHeader
from training.data.data_set import DataSet, LoadProgress, ResizedFile, SkippedFile
from training.data.encoded import EncodedImages, decode_images, read_headers
from training.data.folder_layout import open_parts
from training.data.images import LabelledImages
from training.errors import DataError

_NAMED = 5
"""Files that a message names; the rest are counted."""


class OddSizes(StrEnum):
    """What becomes of an image that has another size than the data set."""

    REFUSE = "refuse"
    RESIZE = "resize"
    """Bilinear, antialiased, without regard to its aspect ratio, as the server does."""
    SKIP = "skip"


class CorruptFiles(StrEnum):
    """What becomes of a file that can't be decoded."""

    REFUSE = "refuse"
    SKIP = "skip"


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderSource:
    """Images as ``<class>/<file>``: a folder, a tar archive of one, or either with ``train`` and ``val`` or ``test``.

    Attributes:
        size: height and width of the data set; None is the size that most images have.
        odd_sizes: what becomes of images of another size.
        corrupt: what becomes of files that can't be decoded.
    """

    kind: Literal["folder"] = "folder"
    size: tuple[int, int] | None = None
    odd_sizes: OddSizes = OddSizes.REFUSE
    corrupt: CorruptFiles = CorruptFiles.REFUSE

    def __post_init__(self) -> None:
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size: got {self.size}; must be at least 1x1")

    def load(self, root: Path | None = None, *, progress: LoadProgress | None = None) -> DataSet:
        """Read all images.

        A file's id is its place in the sorted list of all files, the test part's after those of train, so that
        skipping one file leaves the ids of the others as they were.

        Args:
            root: the folder or archive.
            progress: told how many headers, then how many pixels are read.

        Raises:
            DataError: no folder was given, it holds no images, or files are refused; the message names them.
        """
        if root is None:
            raise DataError("data: got no folder; must be one that holds <class>/<file>, or a tar archive of it")
        parts = open_parts(root)
        if len(parts) == 2:
            _check_classes(*parts)
        return _Reader(source=self, parts=parts, progress=progress).read()


def _check_classes(train: EncodedImages, test: EncodedImages) -> None:
    if train.classes != test.classes:
        differing = sorted(set(train.classes) ^ set(test.classes))[:_NAMED]
        raise DataError(f"{test.name}: classes: must be those of {train.name}; differ in {', '.join(differing)}")


class _Reader:
    """One reading of a folder's one or two parts."""

    def __init__(self, *, source: FolderSource, parts: Sequence[EncodedImages], progress: LoadProgress | None) -> None:
        self._source = source
        self._parts = parts
        self._progress = progress
        self._skipped: list[SkippedFile] = []
        self._resized: list[ResizedFile] = []

    def read(self) -> DataSet:
        """Read headers, agree on a size, then decode."""
        headers = [self._headers(part) for part in self._parts]
        known = [header for part in headers for header in part if header is not None]
        if not known:
            raise DataError(f"{self._parts[0].name}: got no image that can be decoded; must be at least one")
        height, width = self._source.size or _commonest_size(known)
        channels = 1 if all(header.channels == 1 for header in known) else 3
        first_ids = [0, len(self._parts[0])]
        loaded = [
            self._decode(part, self._places(part, part_headers, (height, width)), (height, width, channels), first_id)
            for part, part_headers, first_id in zip(self._parts, headers, first_ids, strict=False)
        ]
        return DataSet(
            train=loaded[0],
            test=loaded[1] if len(loaded) == 2 else None,
            skipped=tuple(self._skipped),
            resized=tuple(self._resized),
        )

    def _headers(self, part: EncodedImages) -> list[ImageHeader | None]:
        headers, broken = read_headers(part, self._progress)
        self._leave_out(part, broken)
        return headers

    def _leave_out(self, part: EncodedImages, broken: Sequence[SkippedFile]) -> None:
        if broken and self._source.corrupt == CorruptFiles.REFUSE:
            raise DataError(
                f"{part.name}: {len(broken)} of {len(part)} files can't be decoded: {_name_files(broken)}; "
                f"mend or remove them, or skip them by corrupt=skip"
            )
        self._skipped.extend(broken)

    def _places(
        self, part: EncodedImages, headers: Sequence[ImageHeader | None], size: tuple[int, int]
    ) -> Sequence[int]:
        """Choose which files are decoded, and deal with those of odd size."""
        odd = {
            place: (header.height, header.width)
            for place, header in enumerate(headers)
            if header is not None and (header.height, header.width) != size
        }
        wanted = f"{size[0]}x{size[1]}"
        reasons = [
            SkippedFile(path=part.paths[place], reason=f"got {height}x{width} pixels; must be {wanted}")
            for place, (height, width) in odd.items()
        ]
        match self._source.odd_sizes:
            case OddSizes.REFUSE if odd:
                raise DataError(
                    f"{part.name}: {len(odd)} of {len(part)} images have another size than {wanted} [height x width]: "
                    f"{_name_files(reasons)}; resize or skip them by odd_sizes=resize or odd_sizes=skip"
                )
            case OddSizes.SKIP:
                self._skipped.extend(reasons)
            case _:
                self._resized.extend(
                    ResizedFile(path=part.paths[place], height=height, width=width)
                    for place, (height, width) in odd.items()
                )
        is_skipping = self._source.odd_sizes == OddSizes.SKIP
        return [
            place for place, header in enumerate(headers) if header is not None and not (is_skipping and place in odd)
        ]

    def _decode(
        self, part: EncodedImages, places: Sequence[int], size: tuple[int, int, int], first_id: int
    ) -> LabelledImages:
        images_NHWC, kept, broken = decode_images(part, places, size=size, progress=self._progress)
        self._leave_out(part, broken)
        rows = np.array(kept, dtype=np.int64)
        labels_N = part.labels_N[rows]
        missing = sorted(set(range(len(part.classes))) - set(labels_N.tolist()))
        if missing:
            raise DataError(f"{part.name}: class {part.classes[missing[0]]!r}: got no image that is left; must be some")
        return LabelledImages(images_BHWC=images_NHWC, labels_B=labels_N, ids_B=rows + first_id, classes=part.classes)


def _commonest_size(headers: Sequence[ImageHeader]) -> tuple[int, int]:
    sizes = Counter((header.height, header.width) for header in headers)
    return sizes.most_common(1)[0][0]


def _name_files(files: Sequence[SkippedFile]) -> str:
    named = ", ".join(f"{file.path} ({file.reason})" for file in files[:_NAMED])
    return named if len(files) <= _NAMED else f"{named} and {len(files) - _NAMED} more"
