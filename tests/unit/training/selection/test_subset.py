"""A subset comes back from its file, and is used on no other data."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stub_proxy import pixel_images

from training.errors import DataError, SelectionError
from training.selection.subset import Subset, read_subset, write_subset
from training.selection.timing import PhaseSeconds, SelectionSeconds

DATA = pixel_images([[1, 2], [3, 4], [5, 6], [7, 8]])
SUBSET = Subset(
    ids=(103, 100),
    score="margin",
    fraction=0.5,
    seed=3,
    data_sha256=DATA.sha256,
    proxy={"architecture": "resnet20", "loop": {"epochs": 50}},
    proxy_evaluations=2500,
    class_balance=True,
    seconds=SelectionSeconds(training=PhaseSeconds(wall_s=2.5, process_s=4.0)),
)


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new" / "subset.json"
    write_subset(SUBSET, path)
    assert read_subset(path) == SUBSET
    assert list(path.parent.iterdir()) == [path]
    write_subset(replace(SUBSET, seed=4), path)
    assert read_subset(path).seed == 4


def test_it_is_applied_in_the_order_of_the_data() -> None:
    applied = SUBSET.apply(DATA)
    assert applied.ids_B.tolist() == [100, 103]
    assert applied.images_BHWC[:, 0, :, 0].tolist() == [[1, 2], [7, 8]]
    assert SUBSET.rows_in(DATA).tolist() == [3, 0]
    assert len(SUBSET) == 2


def test_its_order_can_order_a_data_schedule() -> None:
    scores = SUBSET.ranking_scores(DATA)
    assert scores.tolist() == [3, 0, 0, 4]
    assert scores.dtype == np.float32


def test_other_data_are_refused() -> None:
    other = pixel_images([[1, 2], [3, 4], [5, 6], [7, 9]])
    message = (
        rf"^subset: data_sha256: got data {other.sha256[:12]}…; must be {DATA.sha256[:12]}…, "
        "the data that it was chosen from$"
    )
    for use in (SUBSET.apply, SUBSET.ranking_scores):
        with pytest.raises(SelectionError, match=message):
            use(other)


def test_ids_that_the_data_do_not_have_are_refused() -> None:
    with pytest.raises(DataError, match="99"):
        replace(SUBSET, ids=(100, 99)).apply(DATA)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": [1, 1]}, r"file: Value error, ids: got 2, 1 of them different; must be unique"),
        ({"ids": []}, r"file: Value error, ids: got 0, 0 of them different; must be unique"),
        ({"ids": [3, 1 << 63]}, r"file: Value error, ids: got 3\.\.9223372036854775808; must be 64-bit integers"),
        ({"ids": [1, "x"]}, r"ids\.1: Input should be a valid integer"),
        ({"fraction": 0}, r"file: Value error, fraction: got 0\.0; must be above 0 and at most 1"),
        ({"fraction": 1.5}, r"file: Value error, fraction: got 1\.5; must be above 0 and at most 1"),
        ({"schema_version": 2}, r"schema_version: Input should be 1"),
        ({"data_sha256": None}, r"data_sha256: Input should be a valid string"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "subset.json"
    write_subset(SUBSET, path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(SelectionError, match=rf"^.*subset\.json: {message}"):
        read_subset(path)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match=r"absent\.json: No such file or directory$"):
        read_subset(tmp_path / "absent.json")
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(SelectionError, match=r"text\.json: file: Invalid JSON"):
        read_subset(tmp_path / "text.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(SelectionError, match=r"file.*: (Not a directory|File exists)$"):
        write_subset(SUBSET, tmp_path / "file" / "subset.json")
