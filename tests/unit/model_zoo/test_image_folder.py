"""Image folders: order, layout, ids, fingerprints, and folders that are refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_zoo.errors import ImageError
from model_zoo.image_folder import inspect_layout, read_batches, read_images, scan_image_folder


def write_image(path: Path, *, seed: int = 0, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (*size, 3) if mode == "RGB" else size
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("b/2.png", "b/10.png", "a/x.png", "ä/sub/1.png")):
        write_image(tmp_path / name, seed=seed)
    return tmp_path


def test_order_is_torchvisions(folder: Path) -> None:
    torchvision_datasets = pytest.importorskip("torchvision.datasets")
    ours = scan_image_folder(folder)
    theirs = torchvision_datasets.ImageFolder(str(folder))
    assert list(ours.classes) == theirs.classes
    assert [(str(file), int(label)) for file, label in zip(ours.files, ours.labels_N, strict=True)] == theirs.samples


def test_hidden_and_other_files_are_skipped(folder: Path) -> None:
    write_image(folder / ".ipynb_checkpoints" / "1.png")
    write_image(folder / "a" / ".hidden.png")
    write_image(folder / "a" / ".ipynb_checkpoints" / "x-checkpoint.png")
    (folder / "a" / "notes.txt").write_text("not an image")
    scanned = scan_image_folder(folder)
    assert scanned.classes == ("a", "b", "ä")
    assert len(scanned) == 4


def test_links_to_folders_are_followed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write_image(elsewhere / "1.png")
    (folder / "a" / "more").symlink_to(elsewhere)
    assert [file.relative_to(folder).as_posix() for file in scan_image_folder(folder).files][:2] == [
        "a/x.png",
        "a/more/1.png",
    ]


def test_layout_is_common_size_and_channels(folder: Path) -> None:
    layout = inspect_layout(scan_image_folder(folder))
    assert (layout.size, layout.channels) == ((6, 4), 3)
    write_image(folder / "a" / "y.png", size=(5, 5))
    assert inspect_layout(scan_image_folder(folder)).size is None


def test_all_grey_images_make_one_channel(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "1.png", mode="L")
    assert inspect_layout(scan_image_folder(tmp_path)).channels == 1
    write_image(tmp_path / "a" / "2.png")
    assert inspect_layout(scan_image_folder(tmp_path)).channels == 3


def test_images_labels_and_progress(folder: Path) -> None:
    done: list[int] = []
    images = read_images(scan_image_folder(folder), height=6, width=4, channels=3, progress=done.append)
    assert images.images_NHWC.shape == (4, 6, 4, 3)
    assert images.labels_N.tolist() == [0, 1, 1, 2]
    assert sum(done) == 4
    expected_HWC = np.asarray(Image.open(folder / "a" / "x.png"))
    np.testing.assert_array_equal(images.images_NHWC[0], expected_HWC)


def test_batches_are_the_images_in_order(folder: Path) -> None:
    scanned = scan_image_folder(folder)
    whole = read_images(scanned, height=6, width=4, channels=3)
    batches = list(read_batches(scanned, height=6, width=4, channels=3, batch_size=3))
    assert [len(batch.digests) for batch in batches] == [3, 1]
    np.testing.assert_array_equal(np.concatenate([batch.images_BHWC for batch in batches]), whole.images_NHWC)


def test_ids_and_fingerprint_follow_the_bytes_wherever_they_lie(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("copy")
    for file in scan_image_folder(folder).files:
        target = other / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    first, second = (read_images(scan_image_folder(path), height=6, width=4, channels=3) for path in (folder, other))
    np.testing.assert_array_equal(first.sample_ids_N, second.sample_ids_N)
    assert first.sha256 == second.sha256
    write_image(other / "a" / "x.png", seed=99)
    third = read_images(scan_image_folder(other), height=6, width=4, channels=3)
    assert third.sha256 != first.sha256
    assert (third.sample_ids_N != first.sample_ids_N).tolist() == [True, False, False, False]


def test_fingerprint_knows_labels_and_class_names(folder: Path) -> None:
    before = read_images(scan_image_folder(folder), height=6, width=4, channels=3).sha256
    (folder / "a").rename(folder / "aa")
    assert read_images(scan_image_folder(folder), height=6, width=4, channels=3).sha256 != before


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file or directory"):
        scan_image_folder(tmp_path / "absent")


def test_folder_without_classes_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "1.png")
    with pytest.raises(ImageError, match="got no sub-folders; must hold one a class"):
        scan_image_folder(tmp_path)


def test_class_without_images_is_refused(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(ImageError, match="empty: got no images"):
        scan_image_folder(folder)


def test_other_image_formats_are_refused_by_name(folder: Path) -> None:
    (folder / "a" / "x.webp").write_bytes(b"RIFF")
    with pytest.raises(ImageError, match=r"x.webp: got .webp; must be one of .jpg, .jpeg, .png"):
        scan_image_folder(folder)


def test_corrupt_file_is_named(folder: Path) -> None:
    data = (folder / "b" / "2.png").read_bytes()
    (folder / "b" / "2.png").write_bytes(data[:60])
    scanned = scan_image_folder(folder)
    with pytest.raises(ImageError, match=r"b/2.png: .*truncated"):
        read_images(scanned, height=6, width=4, channels=3)
