"""Scikit-learn's digits are read from its own file, as it would read them itself."""

from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
from sklearn import datasets

from training.data import digits
from training.errors import DataError


def test_they_are_what_scikit_learn_loads() -> None:
    images_BP, labels_B = datasets.load_digits(return_X_y=True)
    ours = digits.load_digits()
    assert np.array_equal(ours.labels_B, labels_B)
    assert np.array_equal(ours.images_BHWC[..., 0], np.rint(images_BP.reshape(-1, 8, 8) * 255 / 16))


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "find_spec", lambda _name: None)
    with pytest.raises(DataError, match="digits: scikit-learn is not installed; install cascade-serve"):
        digits.load_digits()


def test_a_scikit_learn_that_keeps_them_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    moved = ModuleSpec("sklearn", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(digits, "find_spec", lambda _name: moved)
    with pytest.raises(DataError, match=r"digits\.csv\.gz: got no such file; this version of scikit-learn keeps"):
        digits.load_digits()
