"""Sources by name, a user's own, and torchvision's files, of which the tests write small ones."""

import gzip
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import scipy.io
from image_folders import write_folder
from PIL import Image
from torchvision import datasets

from training.data.data_set import DataSet, LoadProgress, number_images
from training.data.digits import DigitsSource, load_digits
from training.data.folder import FolderSource, OddSizes
from training.data.smallnorb import SmallNorbSource
from training.data.sources import SourceField, named_source, register_source, source_names
from training.data.torchvision_sets import TorchvisionSource
from training.errors import DataError, SettingsError
from training.settings import apply_settings, from_json, to_json


@register_source
@dataclass(frozen=True, kw_only=True, slots=True)
class Stripes:
    kind: Literal["stripes"] = "stripes"
    vertical: bool = True

    def load(self, root: Path | None = None, *, progress: LoadProgress | None = None) -> DataSet:
        assert root is not None
        arrays = np.load(root / "stripes.npz")
        return DataSet(train=number_images(arrays["pixels"], arrays["labels"], classes=("thin", "wide")))


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    source: SourceField = field(default_factory=DigitsSource)
    seed: int = 0


def test_all_names_give_sources_of_that_kind() -> None:
    names = ("digits", "cifar10", "cifar100", "svhn", "mnist", "smallnorb", "folder", "stripes")
    assert source_names() == names
    assert [named_source(name).kind for name in names] == list(names)


def test_unknown_name() -> None:
    with pytest.raises(DataError, match=r"^kind: got 'cifar'; must be one of digits, .*; did you mean cifar1\d*\?$"):
        named_source("cifar")
    with pytest.raises(DataError, match=r"^kind: got 'xyz'; must be one of digits, cifar10, .*stripes$"):
        named_source("xyz")


def test_own_data_set_in_a_few_lines(tmp_path: Path) -> None:
    np.savez(tmp_path / "stripes.npz", pixels=np.zeros((3, 4, 5), dtype=np.uint8), labels=np.array([0, 1, 1]))
    data = named_source("stripes").load(tmp_path)
    assert data.train.images_BHWC.shape == (3, 4, 5, 1)
    assert data.train.labels_B.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "source",
    [
        DigitsSource(),
        TorchvisionSource(kind="svhn", extra=True),
        TorchvisionSource(kind="cifar10", folder=FolderSource(odd_sizes=OddSizes.SKIP)),
        SmallNorbSource(camera="right", size_px=48),
        FolderSource(size=(3, 4)),
        Stripes(vertical=False),
    ],
)
def test_settings_hold_any_source(source: SourceField) -> None:
    run = Run(source=source)
    assert from_json(Run, to_json(run)) == run


@pytest.mark.parametrize(
    ("settings", "source"),
    [
        (["source.kind=cifar100"], TorchvisionSource(kind="cifar100")),
        (["source.kind=svhn", "source.extra=true"], TorchvisionSource(kind="svhn", extra=True)),
        (["source.kind=stripes", "source.vertical=false"], Stripes(vertical=False)),
        (['source={"kind": "folder", "odd_sizes": "resize"}'], FolderSource(odd_sizes=OddSizes.RESIZE)),
        (["source.kind=folder", "source.size=[8, 9]"], FolderSource(size=(8, 9))),
    ],
)
def test_sources_are_set_by_key(settings: list[str], source: SourceField) -> None:
    assert apply_settings(Run(), settings).source == source


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("source.kind=cifar", r"^source: kind: got 'cifar'; must be one of digits, "),
        ("source.size_px=3", r"^source: size_px: got unknown 'size_px'; must be one of kind$"),
        ("source=7", r"^source: got 7; must be an object with a kind, one of digits, "),
        (
            'source={"kind": "smallnorb", "size_px": 0}',
            r"^source: size_px: got 0; must lie in 1\.\.96$",
        ),
    ],
)
def test_sources_that_can_not_be_set(setting: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        apply_settings(Run(), [setting])


def test_what_can_not_be_registered() -> None:
    class Plain:
        pass

    @dataclass(frozen=True)
    class Kindless:
        def load(self) -> None: ...

    @dataclass(frozen=True)
    class Taken:
        kind: str = "digits"

        def load(self) -> None: ...

    with pytest.raises(DataError, match=r"^Plain: must be a dataclass with a method called load$"):
        register_source(Plain)
    with pytest.raises(DataError, match=r"^Kindless: kind: must be a field with a text as its default$"):
        register_source(Kindless)
    with pytest.raises(DataError, match=r"^Taken: kind: got 'digits', which DigitsSource has already$"):
        register_source(Taken)
    assert register_source(Stripes) is Stripes


def test_digits() -> None:
    told: list[tuple[str, int, int]] = []
    data = DigitsSource().load(progress=lambda *step: told.append(step))
    assert data.train.sha256 == load_digits().sha256
    assert data.test is None
    assert told == [("digits", 1797, 1797)]
    with pytest.raises(DataError, match=r"^data: got somewhere; digits lie inside scikit-learn and take no folder$"):
        DigitsSource().load(Path("somewhere"))


# Torchvision's files.


def write_cifar(root: Path, folder: str, classes: int) -> None:
    """Write batches as published: 3072 bytes an image, channel by channel."""
    batches = ["data_batch_1", "data_batch_2", "test_batch"] if classes == 10 else ["train", "test"]
    (root / folder).mkdir()
    for number, batch in enumerate(batches):
        pixels = (np.arange(4 * 3072, dtype=np.int64) * 7 + number).reshape(4, 3072).astype(np.uint8)
        key = "labels" if classes == 10 else "fine_labels"
        entry = {"data": pixels, key: [(number + place) % classes for place in range(4)]}
        (root / folder / batch).write_bytes(pickle.dumps(entry))
    names = [f"c{number}" for number in range(classes)]
    meta = {"label_names": names} if classes == 10 else {"fine_label_names": names}
    (root / folder / ("batches.meta" if classes == 10 else "meta")).write_bytes(pickle.dumps(meta))


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision take files that don't have the published checksums, and fewer of them."""
    for module in (datasets.cifar, datasets.svhn):
        monkeypatch.setattr(module, "check_integrity", lambda *_: True)
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", ""], ["data_batch_2", ""]])
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [["train", ""]])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("kind", "folder", "classes", "train"),
    [("cifar10", "cifar-10-batches-py", 10, 8), ("cifar100", "cifar-100-python", 100, 4)],
)
def test_cifar(tmp_path: Path, kind: str, folder: str, classes: int, train: int) -> None:
    write_cifar(tmp_path, folder, classes)
    told: list[tuple[str, int, int]] = []
    data = named_source(kind).load(tmp_path, progress=lambda *step: told.append(step))
    assert data.test is not None
    assert data.train.images_BHWC.shape == (train, 32, 32, 3)
    assert data.train.classes == tuple(f"c{number}" for number in range(classes))
    # Red, green and blue of the upper left pixel are 1024 bytes apart.
    assert data.train.images_BHWC[0, 0, 0].tolist() == [0, 1024 * 7 % 256, 2048 * 7 % 256]
    assert data.train.images_BHWC[0, 0, 1, 0] == 7
    assert data.test.ids_B.tolist() == list(range(train, train + 4))
    assert told == [(f"parts of {kind}", 1, 2), (f"parts of {kind}", 2, 2)]


@pytest.mark.usefixtures("unchecked")
def test_svhn_with_its_extra_part(tmp_path: Path) -> None:
    for number, name in enumerate(("train", "test", "extra")):
        pixels_HWCB = np.full((32, 32, 3, 3), number, dtype=np.uint8)
        pixels_HWCB[0, 1, 2, 0] = 200
        # Zero is called 10 in the files.
        scipy.io.savemat(tmp_path / f"{name}_32x32.mat", {"X": pixels_HWCB, "y": np.array([[10], [1], [9]])})
    data = TorchvisionSource(kind="svhn", extra=True).load(tmp_path)
    assert data.test is not None
    assert data.train.labels_B.tolist() == [0, 1, 9] * 2
    assert data.train.ids_B.tolist() == [0, 1, 2, 6, 7, 8]
    assert data.test.ids_B.tolist() == [3, 4, 5]
    assert data.train.images_BHWC[:, 5, 5, 0].tolist() == [0, 0, 0, 2, 2, 2]
    assert np.argwhere(data.train.images_BHWC == 200).tolist() == [[0, 0, 1, 2], [3, 0, 1, 2]]
    assert len(TorchvisionSource(kind="svhn").load(tmp_path).train) == 3


def test_mnist(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, rows in (("train", 3), ("t10k", 2)):
        images = struct.pack(">iiii", 2051, rows, 28, 28) + bytes(range(256)) * 3 * rows + bytes(16 * rows)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 2049, rows) + bytes(range(7, 7 + rows)))
        for path in list(raw.glob(f"{name}*ubyte")):
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
    data = named_source("mnist").load(tmp_path)
    assert data.test is not None
    assert data.train.images_BHWC.shape == (3, 28, 28, 1)
    assert data.train.images_BHWC[0, 1, :3, 0].tolist() == [28, 29, 30]
    assert data.train.labels_B.tolist() == [7, 8, 9]
    assert data.train.classes == tuple("0123456789")
    assert data.test.ids_B.tolist() == [3, 4]


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (0x0803 ^ 0x0100, "x should be of dtype torch.uint8 instead of torch.int8"),
        (0x0803 ^ 0x0800, "the header of a file is damaged"),
        (0x0803 ^ 0x0004, "the header of a file is damaged"),
    ],
)
def test_a_damaged_header_is_refused_where_there_are_no_checksums(tmp_path: Path, head: int, reason: str) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train", "t10k"):
        (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">iiii", head, 1, 28, 28) + bytes(28 * 28))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 2049, 1) + bytes(1))
    with pytest.raises(DataError, match=f"mnist can't be read: {reason}$"):
        named_source("mnist").load(tmp_path)


def test_damaged_files_are_refused_by_their_checksums(tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar-10-batches-py", 10)
    with pytest.raises(DataError, match=r"cifar10 can't be read: Dataset not found or corrupted"):
        named_source("cifar10").load(tmp_path)


def test_published_set_as_an_image_folder(tmp_path: Path) -> None:
    write_folder(tmp_path, classes=10, per_class=2, size=32, grey=False)
    assert named_source("cifar10").load(tmp_path).train.images_BHWC.shape == (20, 32, 32, 3)
    Image.new("RGB", (9, 9)).save(tmp_path / "class_3" / "odd.png")
    source = TorchvisionSource(kind="cifar10", folder=FolderSource(odd_sizes=OddSizes.SKIP))
    assert [file.path for file in source.load(tmp_path).skipped] == ["class_3/odd.png"]


def _other_classes(root: Path) -> Path:
    return write_folder(root / "images", classes=3, per_class=2, size=32, grey=False)


@pytest.mark.parametrize(
    ("kind", "prepare", "message"),
    [
        ("cifar10", _other_classes, r"got \[classes, H, W, C\] \[3, 32, 32, 3\]; cifar10 must have \[10, 32, 32, 3\]$"),
        ("mnist", lambda root: root, r"got neither MNIST/raw, as torchvision keeps mnist, nor an image folder; put it"),
        ("svhn", lambda root: root / "absent", r"absent: got neither train_32x32\.mat, as torchvision keeps svhn, nor"),
        ("cifar100", lambda root: None, r"^data: got no folder; must be one that holds cifar100$"),
    ],
)
def test_what_is_not_there(tmp_path: Path, kind: str, prepare: Callable[[Path], Path | None], message: str) -> None:
    with pytest.raises(DataError, match=message):
        named_source(kind).load(prepare(tmp_path))


def test_download_only_where_it_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    class Mnist:
        data = np.zeros((1, 28, 28), dtype=np.uint8)
        targets = np.array([0])

        def __init__(self, **arguments: Any) -> None:
            asked.append(arguments)

    monkeypatch.setattr(datasets, "MNIST", Mnist)
    TorchvisionSource(kind="mnist", download=True).load(tmp_path)
    assert asked == [{"root": str(tmp_path), "download": True, "train": train} for train in (True, False)]


def test_extra_is_svhns_alone() -> None:
    with pytest.raises(ValueError, match=r"^extra: got True for mnist; only svhn has an extra part$"):
        TorchvisionSource(kind="mnist", extra=True)


def test_test_part_must_fit_train() -> None:
    train = number_images(np.zeros((2, 4, 4), dtype=np.uint8), np.array([0, 1]), classes=("a", "b"))
    with pytest.raises(DataError, match=r"^test: got 2 ids that train has too, such as 0; must be disjoint$"):
        DataSet(train=train, test=train)
    other = number_images(np.zeros((1, 4, 4), dtype=np.uint8), np.array([0]), classes=("a", "c"), first_id=2)
    with pytest.raises(DataError, match=r"^test: got classes \['a', 'c'\]; must be those of train, \['a', 'b'\]$"):
        DataSet(train=train, test=other)
    other = number_images(np.zeros((1, 4, 5), dtype=np.uint8), np.array([0]), classes=("a", "b"), first_id=2)
    with pytest.raises(DataError, match=r"^test: got images \[H, W, C\] \[4, 5, 1\]; must be as in train, \[4, 4,"):
        DataSet(train=train, test=other)
    with pytest.raises(DataError, match=r"^train: got no images; must be at least one$"):
        DataSet(train=train.take(np.array([], dtype=np.int64)))


def test_rows_are_known_by_one_id_each() -> None:
    train = number_images(np.zeros((3, 4, 4), dtype=np.uint8), np.array([0, 1, 0]), classes=("a", "b"))
    with pytest.raises(DataError, match=r"^train: ids: got 2 of 3 rows; must be unique$"):
        DataSet(train=train.take(np.array([0, 1, 1])))
    with pytest.raises(DataError, match=r"^groups: got \[2\]; must be one a row of train, 3$"):
        DataSet(train=train, groups_B=np.array([0, 1]))


@pytest.mark.parametrize("labels", [[0.0, 1.7], [0.0, float("nan")], [False, True]])
def test_labels_must_be_whole_numbers(labels: list[float]) -> None:
    with pytest.raises(DataError, match=r"^labels: got (float64|bool); must be whole numbers$"):
        number_images(np.zeros((2, 4, 4), dtype=np.uint8), np.array(labels), classes=("a", "b"))
