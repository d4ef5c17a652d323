"""Configurations as JSON, and settings by dotted keys, such as ``members.*.loop.epochs=3``.

A configuration is a frozen dataclass of numbers, texts, enums, tuples, paths and other such dataclasses; where a field
takes one of several dataclasses, each has a literal field ``kind`` that tells them apart.
"""

import copy
import difflib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, JsonValue, TypeAdapter, ValidationError, create_model
from pydantic_core import PydanticSerializationError

from training.errors import SettingsError
from training.settings_fields import known_fields

T = TypeVar("T")

_WILDCARD = "*"
_KIND = "kind"

# Made once a type, because building a validator takes longer than using it.
_ADAPTERS: dict[type, TypeAdapter[Any]] = {}
_HOLDERS: dict[type, type[BaseModel]] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Setting:
    """One ``key=value``.

    Attributes:
        key: as the user typed it.
        text: the value as typed.
        value: the value read as JSON, and else the text.
    """

    key: str
    text: str
    value: JsonValue


def to_json(config: object) -> JsonValue:
    """Give a configuration as a JSON value with all fields, defaults too; equal ones give equal values.

    Raises:
        SettingsError: a field holds what its type does not allow.
    """
    # There and back, so that 1 and 1.0 in a field of fractions are the same.
    value: JsonValue = _dump(from_json(type(config), _dump(config)))
    return value


def _dump(config: object) -> Any:
    try:
        return _adapter(type(config)).dump_python(config, mode="json", warnings="error")
    except PydanticSerializationError as error:
        raise SettingsError(f"{type(config).__name__}: {error}") from error


def from_json(config_type: type[T], value: JsonValue) -> T:
    """Build a configuration from its JSON value; fields that are absent take their defaults.

    Args:
        config_type: a dataclass.
        value: of :func:`to_json`, or written by a user.

    Raises:
        SettingsError: a field is unknown or absent, or its value isn't what it takes; names key, value and expectation.
    """
    try:
        return _validate(config_type, value)
    except ValidationError as error:
        raise _first_error(config_type, value, error) from error


def apply_settings(config: T, settings: Sequence[str]) -> T:
    """Change some fields of a configuration.

    Keys are names of fields and places in lists, joined by dots; ``*`` stands for every entry of a list. Values are
    JSON, and what isn't is text. Setting ``kind`` to another one starts that part anew, with its defaults.

    Args:
        config: stays as it is.
        settings: each as ``key=value``; later ones come on top of earlier ones.

    Returns:
        a configuration of the same type.

    Raises:
        SettingsError: a setting is no ``key=value``, its key is unknown, or its value isn't what the field takes.
    """
    tree = to_json(config)
    parsed = [_parse(setting) for setting in settings]
    places = {place: setting for setting in parsed for place in _set(type(config), tree, setting)}
    try:
        return _validate(type(config), tree)
    except ValidationError as error:
        as_text = _typed_as_text(tree, error, places)
        if as_text is None:
            raise _first_error(type(config), tree, error) from error
        tree = as_text
    return from_json(type(config), tree)


def _parse(setting: str) -> _Setting:
    key, equals, text = setting.partition("=")
    key, text = key.strip(), text.strip()
    if not equals or not key:
        raise SettingsError(f"{setting!r}: got no key=value; must be such as members.0.loop.epochs=3")
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_parse_float)
    except ValueError:
        value = text
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise SettingsError(f"{key}: got {text!a}; must be valid unicode") from error
    return _Setting(key=key, text=text, value=value)


def _parse_float(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _refuse(text: str) -> float:
    """Leave as text what JSON has no numbers for: no field takes a number that is not finite."""
    raise ValueError(text)


def _set(config_type: type, tree: JsonValue, setting: _Setting) -> list[tuple[str | int, ...]]:
    """Put a value in its places in the tree, and give these."""
    *parents, last = setting.key.split(".")
    places = []
    for place, node in _walk(config_type, tree, parents, setting):
        for name in _names(config_type, node, last, place, setting):
            if name == _KIND and isinstance(node, dict) and node.get(_KIND) != setting.value:
                node.clear()
            cast("dict[str | int, JsonValue]", node)[name] = copy.deepcopy(setting.value)
            places.append((*place, name))
    return places


def _walk(
    config_type: type, tree: JsonValue, parents: Sequence[str], setting: _Setting
) -> Iterator[tuple[tuple[str | int, ...], JsonValue]]:
    """Follow a key, and each branch of a wildcard, to the object or list that holds what is set."""
    nodes: list[tuple[tuple[str | int, ...], JsonValue]] = [((), tree)]
    for parent in parents:
        entered = []
        for place, node in nodes:
            for name in _names(config_type, node, parent, place, setting):
                holder = cast("dict[str | int, JsonValue]", node)
                # Where nothing was, an object grows: its other fields take their defaults.
                if isinstance(node, dict) and holder.get(name) is None:
                    holder[name] = {}
                entered.append(((*place, name), holder[name]))
        nodes = entered
    yield from nodes


def _names(
    config_type: type, node: JsonValue, part: str, place: tuple[str | int, ...], setting: _Setting
) -> Sequence[str | int]:
    """Give what one part of a key stands for in a node."""
    where = ".".join(str(name) for name in place) or "the configuration"
    if isinstance(node, list):
        if part == _WILDCARD:
            return range(len(node))
        if not part.isdecimal() or int(part) >= len(node):
            raise SettingsError(f"{setting.key}: got {part!r}; {where} has entries 0..{len(node) - 1}, or * for all")
        return (int(part),)
    if not isinstance(node, dict):
        raise SettingsError(f"{setting.key}: got {part!r}; {where} is {json.dumps(node)} and has no fields")
    if part == _WILDCARD:
        return tuple(node)
    known = known_fields(config_type, node, place)
    if known is not None and part not in known:
        raise SettingsError(_unknown(setting.key, part, known))
    return (part,)


def _unknown(key: str, part: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(part, known, n=2)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{key}: got unknown {part!r}; {hint}must be one of {', '.join(known)}"


def _typed_as_text(
    tree: JsonValue, error: ValidationError, places: dict[tuple[str | int, ...], _Setting]
) -> JsonValue | None:
    """Take values such as 123 as text where the field wants text; None where there are no such fields."""
    changed = copy.deepcopy(tree)
    is_changed = False
    for details in error.errors():
        place = _place(tree, details)
        setting = places.get(place)
        if setting is None or details["type"] != "string_type" or setting.value == setting.text:
            continue
        node: Any = changed
        for name in place[:-1]:
            node = node[name]
        node[place[-1]] = setting.text
        is_changed = True
    return changed if is_changed else None


def _validate(config_type: type[T], value: JsonValue) -> T:
    # Strict JSON: "3" is no number, and yes is no truth.
    holder: Any = _holder(config_type).model_validate_json(json.dumps({"value": value}), strict=True)
    return cast("T", holder.value)


def _adapter(config_type: type) -> TypeAdapter[Any]:
    if config_type not in _ADAPTERS:
        _ADAPTERS[config_type] = TypeAdapter(config_type)
    return _ADAPTERS[config_type]


def _holder(config_type: type) -> type[BaseModel]:
    if config_type not in _HOLDERS:
        # Plain dataclasses take the settings of the model that holds them: unknown fields are refused everywhere.
        config = ConfigDict(extra="forbid")
        _HOLDERS[config_type] = create_model("Holder", __config__=config, value=(config_type, ...))
    return _HOLDERS[config_type]


def _first_error(config_type: type, tree: JsonValue, error: ValidationError) -> SettingsError:
    details = _of_meant_kind(error)[0]
    place = _place(tree, details)
    key = ".".join(str(name) for name in place) or config_type.__name__
    message = details["msg"].replace("Input should be", "must be").removeprefix("Value error, ")
    match details["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            parent = place[:-1]
            known = known_fields(config_type, _at(tree, parent), parent) or ()
            return SettingsError(_unknown(key, str(place[-1]), known))
        case "value_error":
            # The message names the field already.
            return SettingsError(f"{key}: {message}".removeprefix(f"{config_type.__name__}: "))
        case "union_tag_invalid":
            got = json.dumps(details["ctx"]["tag"])
            return SettingsError(f"{key}.{_KIND}: got {got}; must be one of {details['ctx']['expected_tags']}")
        case "union_tag_not_found" | "missing":
            absent = f"{key}.{_KIND}" if details["type"] == "union_tag_not_found" else key
            return SettingsError(f"{absent}: got nothing; must be given")
        case "json_invalid":
            return SettingsError(f"{key}: got text that is no valid unicode: {details['ctx']['error']}")
        case _:
            return SettingsError(f"{key}: got {json.dumps(details['input'], default=str)}; {message}")


def _of_meant_kind(error: ValidationError) -> list[Any]:
    """Leave out the complaints of all those dataclasses of a union that the value's kind does not mean."""
    errors = error.errors()
    kinds = [details for details in errors if details["loc"][-1:] == (_KIND,) and details["type"] == "literal_error"]
    others = {details["loc"][:-1] for details in kinds}
    meant = [details for details in errors if not any(details["loc"][: len(other)] == other for other in others)]
    if meant:
        return meant
    expected = dict.fromkeys(str(details["ctx"]["expected"]) for details in kinds)
    return [{**kinds[0], "msg": f"must be {' or '.join(expected)}"}]


def _place(tree: JsonValue, details: Any) -> tuple[str | int, ...]:
    """Give where an error is, without the names of dataclasses and types that pydantic puts among the keys."""
    loc = details["loc"][1:]
    place: list[str | int] = []
    node = tree
    for position, name in enumerate(loc):
        is_key = isinstance(node, dict) and name in node
        is_entry = isinstance(node, list) and isinstance(name, int) and name < len(node)
        if is_key or is_entry:
            place.append(name)
            node = cast("dict[str | int, JsonValue]", node)[name]
        elif position == len(loc) - 1 and details["type"] == "missing":
            place.append(name)
    return tuple(place)


def _at(tree: JsonValue, place: Sequence[str | int]) -> JsonValue:
    node: Any = tree
    for name in place:
        node = node[name]
    return cast("JsonValue", node)
