"""Disjoint, seeded, stratified parts of a data set, and the file that says which row is in which."""
# Shapes: B rows.

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from cascade_serve.core.arrays import IntArray
from training.data.data_set import DataSet
from training.data.images import LabelledImages
from training.errors import DataError
from training.files import write_whole

PARTS = ("train", "policy_validation", "calibration", "test")
"""Train: members and proxies. Policy validation: augmentation policies are judged on it. Calibration: the plan is made
on it. Test: nothing is chosen on it."""

_Names = np.ndarray[tuple[int], np.dtype[np.str_]]


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How much goes where; what is left over goes to train.

    A whole number is a number of rows; a fraction under 1 is a share of all rows, rounded down. Where rows come in
    groups (``DataSet.groups_B``), a part takes whole groups, and so may get more.

    Attributes:
        policy_validation: rows that a policy search judges on; 0 where none is run.
        calibration: rows that the plan is made on.
        test: rows that nothing is chosen on; 0 takes the data set's own test part, and else that part is left alone.
        seed: of the draw.
    """

    policy_validation: int | float = 0
    calibration: int | float
    test: int | float
    seed: int = 0

    def __post_init__(self) -> None:
        for field, least in (("policy_validation", 0), ("calibration", 1), ("test", 0), ("seed", 0)):
            value = getattr(self, field)
            if isinstance(value, float):
                if field == "seed" or not 0 < value < 1:
                    raise ValueError(f"{field}: got {value}; must be a whole number, or a share between 0 and 1")
            elif value < least:
                raise ValueError(f"{field}: got {value}; must be at least {least}")


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Which row is in which part, and what it was drawn from.

    Attributes:
        config: how it was drawn.
        data_sha256: fingerprint of the whole data set.
        ids: of each part, in order.
        sha256: fingerprint of each part.
    """

    config: SplitConfig
    data_sha256: str
    ids: Mapping[str, tuple[int, ...]]
    sha256: Mapping[str, str]


def split(data: LabelledImages | DataSet, config: SplitConfig) -> Mapping[str, LabelledImages]:
    """Split a data set into disjoint parts with the classes in equal shares.

    Rows are shuffled, then dealt out class after class in the proportion of the sizes, so that no class differs from
    its share by more than a row or so. Rows that belong together are not known by their pixels: where a data set
    shows one thing in several images and its source gives no groups, what is measured on them flatters the members.

    Args:
        data: the whole; only a ``DataSet`` can have groups, and a test part of its own.
        config: the sizes.

    Returns:
        ``train``, ``policy_validation`` (unless it is 0), ``calibration`` and ``test``; each in the order of the whole.

    Raises:
        DataError: nothing would be left to train on, a share comes to no row, there is no test part, or a class has
            too few groups.
    """
    whole = data.train if isinstance(data, DataSet) else data
    own_test, groups_B = (data.test, data.groups_B) if isinstance(data, DataSet) else (None, None)
    if config.test == 0 and own_test is None:
        raise DataError("test: got 0; must be at least 1, because the data set has no test part of its own")
    sizes = _sizes(len(whole), config)
    generator = np.random.default_rng(config.seed)
    if groups_B is None:
        names_B = _draw_rows(whole, sizes, generator)
    else:
        names_B = _draw_groups(whole, groups_B, sizes, generator)
    parts = {name: whole.take(np.flatnonzero(names_B == name)) for name in sizes}
    if own_test is not None and config.test == 0:
        parts["test"] = own_test
    return parts


def _sizes(rows: int, config: SplitConfig) -> Mapping[str, int]:
    """Give the rows of each part that is drawn."""
    sizes: dict[str, int] = {}
    for name in PARTS[1:]:
        value = getattr(config, name)
        # The small addend keeps a share that is whole from being rounded down by its representation.
        size = int(rows * value + 1e-9) if isinstance(value, float) else value
        if isinstance(value, float) and size < 1:
            raise DataError(f"{name}: got {value} of {rows} rows; must come to at least one row")
        if size:
            sizes[name] = size
    train = rows - sum(sizes.values())
    if train < 1:
        raise DataError(
            f"{' + '.join(sizes)}: got {' + '.join(str(size) for size in sizes.values())}; "
            f"must sum to under {rows}, all rows"
        )
    return {"train": train, **sizes}


def _draw_rows(whole: LabelledImages, sizes: Mapping[str, int], generator: np.random.Generator) -> _Names:
    """Name the part of each row, all classes in equal shares."""
    shuffled_B = generator.permutation(len(whole))
    by_class_B = shuffled_B[np.argsort(whole.labels_B[shuffled_B], kind="stable")]
    dealt_B = _deal(sizes)
    names_B = np.empty_like(dealt_B)
    names_B[by_class_B] = dealt_B
    return names_B


def _draw_groups(
    whole: LabelledImages, groups_B: IntArray, sizes: Mapping[str, int], generator: np.random.Generator
) -> _Names:
    """Name the part of each row, the same for all of a group.

    Of each class, groups are drawn for a part until it has at least its share of rows; a group is of the class of its
    first row. What is left over is train's.
    """
    _, first_G, group_B = np.unique(groups_B, return_index=True, return_inverse=True)
    rows_G, labels_G = np.bincount(group_B), whole.labels_B[first_G]
    names_G = np.full(len(first_G), "train", dtype=f"U{max(map(len, PARTS))}")
    for label in np.unique(labels_G):
        left = generator.permutation(np.flatnonzero(labels_G == label))
        rows = int(rows_G[left].sum())
        for name, size in sizes.items():
            if name != "train":
                wanted = size * rows / len(whole)
                count = int(np.searchsorted(np.cumsum(rows_G[left]), wanted)) + 1
                names_G[left[:count]] = name
                left = left[count:]
        if len(left) == 0:
            raise DataError(
                f"class {whole.classes[label]!r}: got {(labels_G == label).sum()} groups; must be more, "
                f"so that {', '.join(sizes)} can have some each"
            )
    names_B: _Names = names_G[group_B]
    return names_B


def _deal(sizes: Mapping[str, int]) -> _Names:
    """Spread each name evenly over a sequence in which it stands as often as its size says."""
    # Each name claims evenly spaced places; sorting the claims interleaves them in proportion.
    places = np.concatenate([(np.arange(size) + 0.5) / size for size in sizes.values()])
    names = np.repeat(list(sizes), list(sizes.values()))
    dealt: _Names = names[np.argsort(places, kind="stable")]
    return dealt


def record_splits(data: DataSet, config: SplitConfig, parts: Mapping[str, LabelledImages]) -> Splits:
    """Put down which row is in which part."""
    return Splits(
        config=config,
        data_sha256=data.sha256,
        ids={name: tuple(part.ids_B.tolist()) for name, part in parts.items()},
        sha256={name: part.sha256 for name, part in parts.items()},
    )


def write_splits(splits: Splits, path: Path) -> None:
    """Write the record as JSON; the same record gives the same bytes.

    Raises:
        DataError: the file can't be written.
    """
    # Part by part, so that a person can look at the file without meeting 50,000 lines of numbers.
    lines = [f'  "{name}": {json.dumps(ids, separators=(",", ":"))}' for name, ids in splits.ids.items()]
    head = {"config": asdict(splits.config), "data_sha256": splits.data_sha256, "sha256": dict(splits.sha256)}
    text = json.dumps(head, indent=1)[:-2] + ',\n "ids": {\n' + ",\n".join(lines) + "\n }\n}\n"
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise DataError(f"{error.filename or path}: {error.strerror}") from error


def read_splits(path: Path) -> Splits:
    """Read such a record back.

    Raises:
        DataError: the file can't be read or is damaged.
    """
    try:
        return TypeAdapter(Splits).validate_json(path.read_bytes(), strict=True)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        raise DataError(f"{path}: damaged: {_first(error.errors()[0])}") from error


def _first(details: Any) -> str:
    return f"{'.'.join(str(key) for key in details['loc']) or 'the file'}: {details['msg']}"


def apply_splits(splits: Splits, data: DataSet) -> Mapping[str, LabelledImages]:
    """Take the recorded parts out of a data set, and verify that they are what they were.

    Raises:
        DataError: the data set, or a part of it, is not what the record was made on.
    """
    if data.sha256 != splits.data_sha256:
        raise DataError(
            f"data set: got fingerprint {data.sha256}; the splits were drawn from {splits.data_sha256}: split anew"
        )
    parts: dict[str, LabelledImages] = {}
    for name, ids in splits.ids.items():
        is_own_test = name == "test" and splits.config.test == 0 and data.test is not None
        whole = data.test if is_own_test and data.test is not None else data.train
        parts[name] = whole.take(whole.rows_of(np.array(ids, dtype=np.int64)))
        if parts[name].sha256 != splits.sha256.get(name):
            raise DataError(f"{name}: got fingerprint {parts[name].sha256}; the splits say {splits.sha256.get(name)}")
    _check_disjoint(parts)
    return parts


def _check_disjoint(parts: Mapping[str, LabelledImages]) -> None:
    ids = np.concatenate([part.ids_B for part in parts.values()])
    values, counts = np.unique(ids, return_counts=True)
    if len(values) != len(ids):
        raise DataError(f"ids: got {values[counts > 1][0]} in several parts; must be disjoint")
