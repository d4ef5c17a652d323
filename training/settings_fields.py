"""Which fields a part of a configuration has, told from the types and the JSON value."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import JsonValue

_KIND = "kind"


def known_fields(config_type: Any, node: JsonValue, place: Sequence[str | int]) -> tuple[str, ...] | None:
    """List the fields of the dataclass that a node stands for.

    Args:
        config_type: of the whole configuration.
        node: the JSON value at the place; its ``kind`` chooses among the dataclasses of a union.
        place: keys and list places from the whole to the node.

    Returns:
        names; None where any name may come, such as in a mapping.
    """
    options = [option for option in _at(config_type, place) if option is not types.NoneType]
    meant = [option for option in options if is_dataclass(option) and _has_kind(option, node)]
    if not meant:
        return None
    return tuple(dict.fromkeys(field.name for option in meant for field in fields(option)))


def _at(config_type: Any, place: Sequence[str | int]) -> list[Any]:
    """Give the types that may stand at a place."""
    options = _options(config_type)
    for name in place:
        entered = []
        for option in options:
            if is_dataclass(option) and isinstance(option, type):
                hint = get_type_hints(option, include_extras=True).get(str(name))
                entered.extend([] if hint is None else _options(hint))
            else:
                entered.extend(_entries(option))
        options = entered
    return options


def _options(hint: Any) -> list[Any]:
    """Take unions and annotations apart."""
    origin = get_origin(hint)
    if origin is Annotated:
        return _options(get_args(hint)[0])
    if origin in (Union, types.UnionType):
        return [option for part in get_args(hint) for option in _options(part)]
    return [hint]


def _entries(hint: Any) -> list[Any]:
    """Give what a sequence's or mapping's entries may be."""
    origin, arguments = get_origin(hint), get_args(hint)
    if not isinstance(origin, type):
        return []
    if issubclass(origin, Mapping):
        return _options(arguments[1])
    if issubclass(origin, Sequence):
        return [option for part in arguments if part is not Ellipsis for option in _options(part)]
    return []


def _has_kind(option: Any, node: JsonValue) -> bool:
    if not isinstance(node, dict) or _KIND not in node:
        return True
    hint = get_type_hints(option).get(_KIND)
    return get_origin(hint) is not Literal or node[_KIND] in get_args(hint)
