"""Four parts of a data set: disjoint, whole, stratified, seeded, and read back only where they still fit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled_images import make_data

from training.data.data_set import DataSet
from training.data.digits import load_digits
from training.data.splits import (
    PARTS,
    SplitConfig,
    Splits,
    apply_splits,
    read_splits,
    record_splits,
    split,
    write_splits,
)
from training.errors import DataError

_CONFIG = SplitConfig(policy_validation=3, calibration=4, test=2, seed=5)


def own_test_set() -> DataSet:
    return DataSet(train=make_data([0, 1, 2] * 6), test=make_data([0, 1, 2, 2], first_id=18))


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_split_is_disjoint_whole_stratified_and_in_order(seed: int) -> None:
    digits = load_digits()
    parts = split(digits, SplitConfig(policy_validation=97, calibration=700, test=400, seed=seed))
    sizes = {"train": 600, "policy_validation": 97, "calibration": 700, "test": 400}
    assert {name: len(part) for name, part in parts.items()} == sizes
    assert tuple(parts) == PARTS
    ids = np.concatenate([part.ids_B for part in parts.values()])
    assert sorted(ids.tolist()) == list(range(1797))
    for part in parts.values():
        assert np.all(np.diff(part.ids_B) > 0)
        assert np.array_equal(part.images_BHWC, digits.images_BHWC[part.ids_B])
        assert np.array_equal(part.labels_B, digits.labels_B[part.ids_B])
        expected_K = np.bincount(digits.labels_B) * len(part) / len(digits)
        assert np.all(np.abs(np.bincount(part.labels_B) - expected_K) <= 2)


def test_split_depends_on_its_seed_alone() -> None:
    digits = load_digits()
    first, again, other = (split(digits, SplitConfig(calibration=300, test=300, seed=seed)) for seed in (3, 3, 4))
    assert [part.sha256 for part in first.values()] == [part.sha256 for part in again.values()]
    assert first["test"].sha256 != other["test"].sha256


def test_no_policy_search_no_part_for_it() -> None:
    assert tuple(split(load_digits(), SplitConfig(calibration=300, test=300))) == ("train", "calibration", "test")


def test_shares_are_of_all_rows_and_rounded_down() -> None:
    parts = split(load_digits(), SplitConfig(policy_validation=0.1, calibration=0.25, test=400))
    # 1797 rows: a tenth is 179.7, a quarter 449.25.
    sizes = {"train": 1797 - 179 - 449 - 400, "policy_validation": 179, "calibration": 449, "test": 400}
    assert {name: len(part) for name, part in parts.items()} == sizes


def test_own_test_part_is_taken_where_none_is_drawn() -> None:
    data = own_test_set()
    parts = split(data, SplitConfig(calibration=6, test=0))
    assert parts["test"] is data.test
    assert (len(parts["train"]), len(parts["calibration"])) == (12, 6)


def test_own_test_part_is_left_alone_where_one_is_drawn() -> None:
    parts = split(own_test_set(), SplitConfig(calibration=6, test=3))
    assert len(parts["test"]) == 3
    assert max(int(part.ids_B.max()) for part in parts.values()) < 18


@given(
    labels=st.lists(st.integers(0, 2), min_size=3, max_size=60),
    shares=st.tuples(st.floats(0, 0.5), st.floats(0.05, 0.9), st.floats(0.05, 0.9)),
    seed=st.integers(0, 100),
)
def test_any_split_loses_and_doubles_nothing(labels: list[int], shares: tuple[float, ...], seed: int) -> None:
    validation = int(shares[0] * (len(labels) - 3))
    calibration = max(1, int(shares[1] * (len(labels) - validation - 2)))
    test = max(1, int(shares[2] * (len(labels) - validation - calibration - 1)))
    config = SplitConfig(policy_validation=validation, calibration=calibration, test=test, seed=seed)
    parts = split(make_data(labels), config)
    assert len(parts.get("policy_validation", ())) == validation
    assert (len(parts["calibration"]), len(parts["test"])) == (calibration, test)
    assert sorted(np.concatenate([part.ids_B for part in parts.values()]).tolist()) == list(range(len(labels)))


@pytest.mark.parametrize(("share", "rows"), [(0.29, 29), (0.57, 57), (0.1, 10)])
def test_share_that_is_whole_is_not_rounded_down_by_its_representation(share: float, rows: int) -> None:
    assert len(split(make_data([0, 1] * 50), SplitConfig(calibration=share, test=1))["calibration"]) == rows


def grouped(labels: list[int], groups: list[int]) -> DataSet:
    return DataSet(train=make_data(labels), test=make_data([0], first_id=len(labels)), groups_B=np.array(groups))


def test_groups_go_into_one_part_each() -> None:
    # Two classes of five toys with four images each, as smallNORB has them, mixed.
    order = np.random.default_rng(0).permutation(40)
    groups = np.repeat(np.arange(10), 4)[order]
    data = grouped((groups // 5).tolist(), groups.tolist())
    parts = split(data, SplitConfig(policy_validation=2, calibration=9, test=0, seed=2))
    toys = {name: set(groups[part.ids_B].tolist()) for name, part in parts.items() if name != "test"}
    # 1 row of each class is part of a toy, 4.5 rows are part of two.
    assert {name: len(found) for name, found in toys.items()} == {"train": 4, "policy_validation": 2, "calibration": 4}
    assert set().union(*toys.values()) == set(range(10))
    assert all(sum(toy < 5 for toy in found) == len(found) // 2 for found in toys.values())
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 16, "policy_validation": 8, "calibration": 16, "test": 1,
    }  # fmt: skip
    assert all(np.all(np.diff(part.ids_B) > 0) for part in parts.values())


def test_groups_are_drawn_by_the_seed_and_no_larger_than_they_must_be() -> None:
    data = grouped([0] * 40, np.repeat(np.arange(10), 4).tolist())
    drawn = [split(data, SplitConfig(calibration=8, test=0, seed=seed))["calibration"] for seed in range(20)]
    assert {len(part) for part in drawn} == {8}
    assert len({tuple(part.ids_B.tolist()) for part in drawn}) > 10


def test_class_needs_a_group_for_each_part() -> None:
    data = grouped([0, 0, 0, 1, 1, 1, 1], [0, 1, 2, 3, 3, 4, 4])
    with pytest.raises(
        DataError, match=r"^class 'b': got 2 groups; must be more, so that train, policy_validation, calibration can"
    ):
        split(data, SplitConfig(policy_validation=1, calibration=1, test=0))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SplitConfig(calibration=2, test=1), r"^calibration \+ test: got 2 \+ 1; must sum to under 3, all rows$"),
        (SplitConfig(policy_validation=1, calibration=1, test=1), r"^policy_validation \+ .*: got 1 \+ 1 \+ 1; must"),
        (SplitConfig(calibration=0.2, test=1), r"^calibration: got 0\.2 of 3 rows; must come to at least one row$"),
        (SplitConfig(calibration=1, test=0), r"^test: got 0; must be at least 1, because the data set has no test"),
    ],
)
def test_split_that_can_not_be(config: SplitConfig, message: str) -> None:
    with pytest.raises(DataError, match=message):
        split(make_data([0, 1, 2]), config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"calibration": 0}, r"^calibration: got 0; must be at least 1$"),
        ({"test": -1}, r"^test: got -1; must be at least 0$"),
        ({"seed": -1}, r"^seed: got -1; must be at least 0$"),
        ({"policy_validation": 1.5}, r"^policy_validation: got 1\.5; must be a whole number, or a share between 0"),
        ({"calibration": 0.0}, r"^calibration: got 0\.0; must be a whole number, or a share between 0 and 1$"),
    ],
)
def test_sizes_are_checked(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SplitConfig(**{"calibration": 1, "test": 1, **fields})


@pytest.mark.parametrize("test", [0, 2])
def test_record_brings_the_same_parts_back(tmp_path: Path, test: int) -> None:
    data = own_test_set()
    config = SplitConfig(policy_validation=3, calibration=4, test=test)
    parts = split(data, config)
    write_splits(record_splits(data, config, parts), tmp_path / "splits.json")
    splits = read_splits(tmp_path / "splits.json")
    assert splits == record_splits(data, config, parts)
    again = apply_splits(splits, data)
    assert {name: part.sha256 for name, part in again.items()} == {name: part.sha256 for name, part in parts.items()}


def test_same_record_same_bytes(tmp_path: Path) -> None:
    data = own_test_set()
    for name in ("a", "b"):
        write_splits(record_splits(data, _CONFIG, split(data, _CONFIG)), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert len((tmp_path / "a").read_text().splitlines()) < 30


def test_record_of_other_data_is_refused() -> None:
    splits = record_splits(own_test_set(), _CONFIG, split(own_test_set(), _CONFIG))
    other = DataSet(train=make_data([0, 1, 2] * 6))
    with pytest.raises(DataError, match=r"^data set: got fingerprint \w{64}; the splits were drawn from \w{64}: split"):
        apply_splits(splits, other)


def test_part_that_was_changed_by_hand_is_refused(tmp_path: Path) -> None:
    data = own_test_set()
    path = tmp_path / "splits.json"
    write_splits(record_splits(data, _CONFIG, split(data, _CONFIG)), path)
    record = json.loads(path.read_text())
    record["ids"]["test"][0] = record["ids"]["train"][0]
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"^test: got fingerprint \w{64}; the splits say \w{64}$"):
        apply_splits(read_splits(path), data)


def test_parts_that_share_a_row_are_refused() -> None:
    data = own_test_set()
    parts = dict(split(data, _CONFIG))
    parts["test"] = parts["calibration"]
    with pytest.raises(DataError, match=r"^ids: got \d+ in several parts; must be disjoint$"):
        apply_splits(record_splits(data, _CONFIG, parts), data)


def test_damaged_record(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    with pytest.raises(DataError, match=r"splits\.json: No such file or directory$"):
        read_splits(path)
    path.write_text("{")
    with pytest.raises(DataError, match=r"splits\.json: damaged: the file: Invalid JSON"):
        read_splits(path)
    path.write_text('{"config": {"calibration": 0, "test": 1}}')
    with pytest.raises(DataError, match=r"splits\.json: damaged: config: Value error, calibration: got 0; must be"):
        read_splits(path)


def test_record_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    splits = Splits(config=_CONFIG, data_sha256="", ids={}, sha256={})
    with pytest.raises(DataError, match=r": (Not a directory|File exists)$"):
        write_splits(splits, tmp_path / "file" / "splits.json")
