"""The exception tree: as drawn at its head, and with messages that name field, value and limit."""

import inspect
import re

import pytest

from cascade_serve import errors
from cascade_serve.errors import CascadeError, ConfigError, InvalidRequestError, MissingExtraError, NotFoundError

CLASSES = [member for _, member in inspect.getmembers(errors, inspect.isclass) if member.__module__ == errors.__name__]


def test_every_class_is_drawn_under_its_parent() -> None:
    drawn = [re.sub(r"[│├└─ ]", " ", line) for line in (errors.__doc__ or "").splitlines() if "Error" in line]
    parents: dict[str, str | None] = {}
    path: list[tuple[int, str]] = []
    for line in drawn:
        match = re.match(r"( *)(\w+Error)\b", line)
        if match is None:
            continue
        depth, name = len(match[1]), match[2]
        path = [(other_depth, other) for other_depth, other in path if other_depth < depth]
        parents[name] = path[-1][1] if path else None
        path.append((depth, name))
    actual = {cls.__name__: cls.__mro__[1].__name__ for cls in CLASSES if cls is not CascadeError}
    assert {name: parent for name, parent in parents.items() if parent} == actual


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_says_what_it_means(cls: type[CascadeError]) -> None:
    assert issubclass(cls, CascadeError)
    assert cls.__doc__


def test_invalid_request_names_field_value_and_limit() -> None:
    error = InvalidRequestError("images", "float32 [2, 8, 8]", "uint8 [n, 8, 8, 1]")
    assert str(error) == "images: got float32 [2, 8, 8]; must be uint8 [n, 8, 8, 1]"
    assert error.field == "images"


def test_not_found_names_what_there_is() -> None:
    assert str(NotFoundError("cascade", "zahl", ["digits"])) == "cascade 'zahl' not found; known: digits"
    assert str(NotFoundError("cascade", "zahl", [])) == "cascade 'zahl' not found; known: none"


def test_missing_extra_says_how_to_install_it() -> None:
    error = MissingExtraError("torch", "train")
    assert isinstance(error, ConfigError)
    assert str(error) == "torch is not installed; install it with: pip install 'cascade-serve[train]'"
