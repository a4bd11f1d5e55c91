"""The recipe: every setting of a run, from ``asrcompress.toml`` and the command line.

The file is found as other tools find theirs: ``asrcompress.toml`` in the current folder or the
nearest one above. Paths in it are relative to the file. A flag wins over the file, the file over
the default. Unknown keys are refused, so that a misspelt setting is never silently ignored.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from asrcompress.decoding import GREEDY, Decoding
from asrcompress.errors import BadRecipe
from asrcompress.search_settings import Search
from asrcompress.setting import check_settings, setting
from asrcompress.settings import (
    Data,
    Export,
    Gate,
    Probes,
    Prune,
    Quantization,
    Source,
    Streaming,
    Training,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

__all__ = [
    "FILE_NAME",
    "GREEDY",
    "Data",
    "Decoding",
    "Export",
    "Gate",
    "Probes",
    "Prune",
    "Quantization",
    "Recipe",
    "Search",
    "Source",
    "Streaming",
    "Training",
    "check_settings",
    "find_recipe",
    "format_toml",
    "override",
    "read_recipe",
    "settings_of",
]

FILE_NAME = "asrcompress.toml"
_TYPES = {
    Path: "a path",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
}
_LISTS = {
    tuple[str, ...]: "a list of texts",
    tuple[float, ...]: "a list of numbers",
    tuple[int, ...]: "a list of whole numbers",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All settings, grouped as the tables of ``asrcompress.toml``."""

    checkpoint: Source = field(default_factory=Source)
    data: Data = field(default_factory=Data)
    prune: Prune = field(default_factory=Prune)
    sensitivity: Probes = field(default_factory=Probes)
    quantization: Quantization = field(default_factory=Quantization)
    training: Training = field(default_factory=Training)
    decoding: Decoding = field(default_factory=Decoding)
    gate: Gate = field(default_factory=Gate)
    streaming: Streaming = field(default_factory=Streaming)
    search: Search = field(default_factory=Search)
    export: Export = field(default_factory=Export)
    runs: Path = setting(Path("runs"), "folder of run directories")

    def __post_init__(self) -> None:
        for table in fields(self):
            value = getattr(self, table.name)
            if dataclasses.is_dataclass(value):
                check_settings(table.name, value)
        device = self.training.device
        if device != "cpu" and not (device.startswith("gpu:") and device[4:].isdecimal()):
            raise BadRecipe(f"training.device: got {device!r}, expected cpu or gpu:N")
        if self.training.amp and device == "cpu":
            # Paddle's auto_cast does nothing on a CPU and only warns.
            raise BadRecipe("training.amp: got true with device cpu, expected a GPU")

    def to_dict(self) -> dict[str, Any]:
        """Plain data: tables of scalars, paths as strings, unset values left out."""
        return {name: value for name, value in _plain(self).items() if value not in (None, {})}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, source: str, folder: Path) -> Recipe:
        """Recipe from tables as TOML gives them.

        Args:
            source: what to call the data in messages.
            folder: what relative paths are relative to.
        Raises:
            BadRecipe: names every key that is unknown or of the wrong type.
        """
        problems: list[str] = []
        recipe = _parse(cls, data, prefix="", folder=folder, problems=problems)
        if problems:
            raise BadRecipe(f"{source}: " + "; ".join(problems))
        try:
            return cls(**recipe)
        except BadRecipe as error:
            raise BadRecipe(f"{source}: {error}", hint=error.hint) from None


def find_recipe(start: Path) -> Path | None:
    """``asrcompress.toml`` in `start` or the nearest folder above it."""
    for folder in (start.resolve(), *start.resolve().parents):
        # os.path, because pathlib raises where a folder may not be entered.
        if os.path.isfile(folder / FILE_NAME):
            return folder / FILE_NAME
    return None


def read_recipe(path: Path) -> Recipe:
    """Recipe from a TOML file.

    Raises:
        BadRecipe: not readable, not TOML, unknown keys, wrong types, values out of range.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadRecipe(f"{path}: cannot be read, {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a ValueError
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise BadRecipe(f"{path}: is not TOML, {reason}") from error
    # Runs lie beside the recipe, wherever the command is given.
    data = {"runs": "runs", **data}
    return Recipe.from_dict(data, source=str(path), folder=path.absolute().parent)


def override(recipe: Recipe, values: Mapping[tuple[str, str], Any]) -> Recipe:
    """`recipe` with other values, by (table, setting); the table is "" for what has none."""
    changes: dict[str, Any] = {}
    for (table, name), value in values.items():
        if not table:
            changes[name] = value
        else:
            current = changes.get(table, getattr(recipe, table))
            changes[table] = dataclasses.replace(current, **{name: value})
    return dataclasses.replace(recipe, **changes)


def settings_of(kind: type) -> dict[tuple[str, str], dataclasses.Field[Any]]:
    """Every setting of a recipe by (table, name), with its field."""
    found: dict[tuple[str, str], dataclasses.Field[Any]] = {}
    types_by_name = typing.get_type_hints(kind)
    for item in fields(kind):
        inner = types_by_name[item.name]
        if dataclasses.is_dataclass(inner):
            found |= {(item.name, each.name): each for each in fields(inner)}
        else:
            found["", item.name] = item
    return found


def format_toml(recipe: Recipe) -> str:
    """`recipe` as a commented TOML file; settings at their default are commented out."""
    lines = [f"runs = {_toml(recipe.runs)}  # folder of run directories"]
    for table in fields(recipe):
        value = getattr(recipe, table.name)
        if not dataclasses.is_dataclass(value):
            continue
        lines += ["", f"[{table.name}]"]
        for item in fields(value):
            current = getattr(value, item.name)
            shown = "" if current is None else _toml(current)
            prefix = "# " if current == item.default else ""
            lines.append(f"{prefix}{item.name} = {shown or '...'}  # {item.metadata['help']}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, str | Path):
        try:
            str(value).encode("utf-8")
        except UnicodeEncodeError as error:  # a file name of another encoding
            raise BadRecipe(f"{str(value)!r}: is not UTF-8, expected a name that is") from error
        # JSON escapes what TOML does, and leaves out only the DEL character.
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        items = {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
        return {key: item for key, item in items.items() if item is not None}
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _parse(
    kind: type, data: Mapping[str, Any], *, prefix: str, folder: Path, problems: list[str]
) -> dict[str, Any]:
    types_by_name = typing.get_type_hints(kind)
    parsed: dict[str, Any] = {}
    for key, value in data.items():
        name = prefix + key
        wanted = types_by_name.get(key)
        if wanted is None:
            problems.append(f"{name} is not a setting, expected one of {', '.join(types_by_name)}")
        elif isinstance(wanted, type) and dataclasses.is_dataclass(wanted):
            if isinstance(value, Mapping):
                inner = _parse(wanted, value, prefix=f"{name}.", folder=folder, problems=problems)
                parsed[key] = wanted(**inner)
            else:
                problems.append(f"{name} is {value!r}, expected a table")
        else:
            parsed[key] = _convert(name, value, wanted, folder=folder, problems=problems)
    return parsed


def _convert(name: str, value: Any, wanted: Any, *, folder: Path, problems: list[str]) -> Any:
    """`value` as the field's type, or a problem added."""
    if isinstance(wanted, types.UnionType):  # Path | None
        wanted = next(item for item in typing.get_args(wanted) if item is not type(None))
    if wanted is Path and isinstance(value, str) and value and "\0" not in value:
        return folder / value
    if wanted is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if wanted is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if wanted in (bool, str) and type(value) is wanted:
        return value
    label = _LISTS.get(wanted) or _TYPES[wanted]
    if wanted in _LISTS and isinstance(value, list):
        inner, wrong = typing.get_args(wanted)[0], list[str]()
        items = [_convert(name, item, inner, folder=folder, problems=wrong) for item in value]
        if not wrong:
            return tuple(items)
    problems.append(f"{name} is {value!r}, expected {label}")
    return None
