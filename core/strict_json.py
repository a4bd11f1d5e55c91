"""Dataclasses to JSON and back, strictly: no unknown key, no missing key, no wrong type.

JSON that was written by another version or edited by hand fails here, with the name of the key,
and not later as an ``AttributeError`` somewhere else.
"""

from __future__ import annotations

import dataclasses
import json
import math
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from asrcompress.errors import AsrCompressError, BadBundle, BadRecipe

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """`value` as a tree of dict, list, str, int, float, bool and None; dataclasses as dicts."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    return value


def parse(text: str) -> Any:
    """``json.loads`` that also refuses duplicate keys and NaN.

    Raises:
        ValueError: says where the text stops being JSON.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def from_json(cls: type[T], tree: object, *, item: str, error: type[AsrCompressError]) -> T:
    """The dataclass `cls` from a JSON object.

    Args:
        item: what is being read, the beginning of every message.
        error: the class to raise.
    """
    if not isinstance(tree, dict):
        raise error(f"{item}: got {_named(tree)}, expected an object")
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(tree.keys() - fields.keys())
    if unknown:
        raise error(f"{item}: unknown key {', '.join(unknown)}, expected {', '.join(fields)}")
    values = {}
    for name, field in fields.items():
        if name in tree:
            values[name] = _convert(hints[name], tree[name], f"{item}: {name}", error)
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise error(f"{item}: key {name} is missing")
    try:
        return cls(**values)
    except (BadRecipe, BadBundle) as refused:  # what dataclasses raise in __post_init__
        raise error(f"{item}: {refused}") from refused


def _convert(hint: Any, value: object, item: str, error: type[AsrCompressError]) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        return _convert(_choice(arguments, value), value, item, error)
    if dataclasses.is_dataclass(hint):
        return from_json(hint, value, item=item, error=error)  # type: ignore[arg-type]
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(arguments[0], v, f"{item}[{i}]", error) for i, v in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {k: _convert(arguments[1], v, f"{item}.{k}", error) for k, v in value.items()}
    if hint is float and type(value) in (int, float):
        if math.isfinite(value):  # type: ignore[arg-type]
            return float(value)  # type: ignore[arg-type]
        raise error(f"{item}: got {value}, expected a finite number")
    if type(value) is hint:  # not isinstance: True is an int to Python
        return value
    expected = getattr(origin or hint, "__name__", str(hint))
    raise error(f"{item}: got {_named(value)}, expected {expected}")


def _choice(hints: tuple[Any, ...], value: object) -> Any:
    """The member of a union that `value` can be: None, else the exact type, else the first."""
    if value is None and NoneType in hints:
        return NoneType
    others = [hint for hint in hints if hint is not NoneType]
    return next((hint for hint in others if type(value) is hint), others[0])


def _named(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"key {', '.join(twice)} stands twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
