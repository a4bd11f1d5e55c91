"""Command-line flags for every setting of the recipe, made from the recipe itself.

A setting that is added to `asrcompress.recipe` gets its flag, its help and its check here without
another line, so file and command line cannot drift apart.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from asrcompress.errors import BadRecipe
from asrcompress.recipe import Recipe, find_recipe, override, read_recipe, settings_of

_TABLES = {
    "": "Run",
    "checkpoint": "Checkpoint",
    "data": "Data",
    "prune": "Pruning",
    "sensitivity": "Sensitivity",
    "quantization": "Quantization",
    "training": "Training",
    "decoding": "Decoding",
    "gate": "Gate",
    "streaming": "Streaming",
    "search": "Search",
    "export": "Export",
}


def with_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` a flag per setting; its `recipe` parameter gets the resulting recipe."""
    flags = {_parameter_name(table, field): (table, field.name) for (table, _), field in _ALL}

    @functools.wraps(command)
    def wrapped(recipe_file: Path | None = None, **given: Any) -> None:
        values = {flags[name]: _absolute(given.pop(name)) for name in list(given) if name in flags}
        changes = {key: value for key, value in values.items() if value not in (None, [], ())}
        command(recipe=_recipe(recipe_file, changes), **given)

    # Not get_type_hints: on Python 3.10 it hides the Annotated of what defaults to None.
    hints = inspect.get_annotations(command, eval_str=True)
    own = [
        parameter.replace(annotation=hints[parameter.name])
        for parameter in inspect.signature(command).parameters.values()
        if parameter.name != "recipe"
    ]
    parameters = [*own, _recipe_file_parameter()]
    parameters += [_parameter(table, field) for (table, _), field in _ALL]
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped


def _recipe(file: Path | None, changes: Mapping[tuple[str, str], Any]) -> Recipe:
    """Defaults, then the recipe file (given, or found from here upwards), then flags."""
    found = file or find_recipe(Path.cwd())
    return override(read_recipe(found) if found else Recipe(), changes)


def require_checkpoint(recipe: Recipe) -> Path:
    """The checkpoint folder of a recipe.

    Raises:
        BadRecipe: none is named.
    """
    if recipe.checkpoint.path is None:
        raise BadRecipe(
            "checkpoint.path: not set, and no asrcompress.toml in this folder or above it",
            hint="asrcompress init CHECKPOINT, or --checkpoint FOLDER",
        )
    return recipe.checkpoint.path


_ALL = [(key, field) for key, field in settings_of(Recipe).items()]


def _parameter_name(table: str, field: Any) -> str:
    return f"{table}_{field.name}" if table else str(field.name)


def _parameter(table: str, field: Any) -> inspect.Parameter:
    """A Typer option for one setting; None means that the flag was not given."""
    meta = field.metadata
    flag = "--" + (meta["flag"] or field.name).replace("_", "-")
    kind = _plain_type(table, field)
    names = [f"{flag}/--no-{flag[2:]}"] if kind is bool else [flag]
    help_text = meta["help"] + (f" ({', '.join(meta['one_of'])})" if meta["one_of"] else "")
    if field.default not in (None, ()):
        default = field.default
        shown = ", ".join(map(str, default)) if isinstance(default, tuple) else default
        help_text += f" [default: {shown}]"
    option = typer.Option(
        *names, help=help_text, rich_help_panel=_TABLES[table], show_default=False
    )
    return inspect.Parameter(
        _parameter_name(table, field),
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def _plain_type(table: str, field: Any) -> Any:
    """What Typer parses; a setting that is a tuple is a flag that can be repeated."""
    owner = typing.get_type_hints(Recipe)[table] if table else Recipe
    wanted = typing.get_type_hints(owner)[field.name]
    if isinstance(wanted, types.UnionType):
        wanted = next(item for item in typing.get_args(wanted) if item is not type(None))
    if typing.get_origin(wanted) is tuple:
        return list[typing.get_args(wanted)[0]]  # type: ignore[misc]
    return wanted


def _recipe_file_parameter() -> inspect.Parameter:
    option = typer.Option("--recipe", help="recipe file [default: asrcompress.toml, here or above]")
    return inspect.Parameter(
        "recipe_file",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[Path | None, option],
    )


def _absolute(value: Any) -> Any:
    """Paths on the command line are relative to the current folder, wherever the recipe lies."""
    if isinstance(value, Path):
        return value.resolve()
    return tuple(value) if isinstance(value, list) else value
