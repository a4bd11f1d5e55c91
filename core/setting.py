"""One setting of a recipe: a dataclass field that knows its help, its flag and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, TypeVar

from asrcompress.errors import BadRecipe

T = TypeVar("T")


def setting(
    default: Any,
    help: str,
    *,
    low: Any = None,
    high: Any = None,
    one_of: tuple[str, ...] = (),
    flag: str = "",
) -> Any:
    """A dataclass field with its documentation, its allowed values, and its command-line flag.

    Args:
        flag: where it is not the field's own name.
    """
    metadata = {"help": help, "low": low, "high": high, "one_of": one_of, "flag": flag}
    return field(default=default, metadata=metadata)


def check_settings(table: str, settings: T) -> T:
    """One table of a recipe, or a part of it that did not come from a file.

    Raises:
        BadRecipe: a value that is not allowed.
    """
    for item in fields(settings):  # type: ignore[arg-type]
        check_setting(f"{table}.{item.name}", getattr(settings, item.name), item.metadata)
    return settings


def check_setting(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    """One value, or each of several.

    Raises:
        BadRecipe: not allowed.
    """
    if isinstance(value, tuple):
        for item in value:
            check_setting(name, item, metadata)
        return
    low, high, one_of = metadata.get("low"), metadata.get("high"), metadata.get("one_of")
    if one_of and value not in one_of:
        raise BadRecipe(f"{name}: got {value!r}, expected one of {', '.join(one_of)}")
    # Written so that NaN, which compares false with everything, is refused.
    if low is not None and not value >= low:
        raise BadRecipe(f"{name}: got {value}, expected at least {low}")
    if high is not None and not value <= high:
        raise BadRecipe(f"{name}: got {value}, expected at most {high}")
