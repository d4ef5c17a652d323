"""Sources of data by name, built in and registered by users, and how settings hold them."""

import difflib
from dataclasses import is_dataclass
from typing import Annotated, Any, TypeVar

from pydantic import PlainSerializer, PlainValidator

from training.data.data_set import DataSource
from training.data.digits import DigitsSource
from training.data.folder import FolderSource
from training.data.smallnorb import SmallNorbSource
from training.data.torchvision_sets import TorchvisionSource
from training.errors import DataError, SettingsError
from training.settings import from_json, to_json

_SOURCES: dict[str, type[Any]] = {
    "digits": DigitsSource,
    "cifar10": TorchvisionSource,
    "cifar100": TorchvisionSource,
    "svhn": TorchvisionSource,
    "mnist": TorchvisionSource,
    "smallnorb": SmallNorbSource,
    "folder": FolderSource,
}

_Source = TypeVar("_Source", bound=type[Any])


def register_source(source: _Source) -> _Source:
    """Make a user's source known by its ``kind``; to be used as a decorator, see :class:`DataSource`.

    Raises:
        DataError: it is no dataclass with a default ``kind``, or the kind is taken.
    """
    if not is_dataclass(source) or not hasattr(source, "load"):
        raise DataError(f"{source.__name__}: must be a dataclass with a method called load")
    field = source.__dataclass_fields__.get("kind")
    kind = None if field is None else field.default
    if not isinstance(kind, str):
        raise DataError(f"{source.__name__}: kind: must be a field with a text as its default")
    taken = _SOURCES.get(kind)
    # The same class comes again where its module is reloaded or is also run as a script.
    if taken is not None and taken.__qualname__ != source.__qualname__:
        raise DataError(f"{source.__name__}: kind: got {kind!r}, which {taken.__name__} has already")
    _SOURCES[kind] = source
    return source


def source_names() -> tuple[str, ...]:
    """List the kinds of all sources."""
    return tuple(_SOURCES)


def named_source(kind: str) -> DataSource:
    """Make a source with its defaults.

    Raises:
        DataError: no source has that name.
    """
    source: DataSource = _source_class(kind)(kind=kind)
    return source


def _source_class(kind: object) -> type[Any]:
    if not isinstance(kind, str) or kind not in _SOURCES:
        close = difflib.get_close_matches(str(kind), _SOURCES, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise DataError(f"kind: got {kind!r}; must be one of {', '.join(_SOURCES)}{hint}")
    return _SOURCES[kind]


def _from_settings(value: Any) -> Any:
    """Take a source, or build one from its JSON: the kind says which class."""
    if not isinstance(value, dict):
        if is_dataclass(value) and hasattr(value, "load"):
            return value
        raise ValueError(f"got {value!r}; must be an object with a kind, one of {', '.join(_SOURCES)}")
    try:
        source_class = _source_class(value.get("kind"))
    except DataError as error:
        raise ValueError(str(error)) from error
    try:
        return from_json(source_class, value)
    except SettingsError as error:
        raise ValueError(str(error)) from error


def _to_settings(source: Any) -> Any:
    return to_json(source)


SourceField = Annotated[DataSource, PlainValidator(_from_settings), PlainSerializer(_to_settings)]
"""The type of a configuration's field that holds any source, also a registered one."""
