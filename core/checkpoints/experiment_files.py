"""Files of an experiment that its configuration names: YAML, and paths that are relative to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from asrcompress.errors import BadCheckpoint, MissingExtra
from asrcompress.files import reading


def read_yaml(path: Path) -> dict[str, Any]:
    """Settings by name.

    Raises:
        BadCheckpoint: not there, not YAML, or something else than settings by name.
        MissingExtra: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise MissingExtra("PyYAML", "compress") from error
    try:
        with reading(path, BadCheckpoint):
            loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    # A date of 2026-13-45 is a ValueError.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        reason = "nested too deeply" if deep else " ".join(str(error).split())
        raise BadCheckpoint(f"{path}: is not YAML, {reason}") from error
    if not isinstance(loaded, dict):
        raise BadCheckpoint(f"{path}: holds {type(loaded).__name__}, expected settings by name")
    return loaded


def resolve(root: Path, value: object, key: str, source: Path) -> Path:
    """A path of the configuration: relative to the experiment, as PaddleSpeech's scripts run.

    Args:
        value: what stands under `key` in the file `source`.
    Raises:
        BadCheckpoint: not a path, or nothing there.
    """
    if not isinstance(value, str) or not value:
        raise BadCheckpoint(f"{source}: {key} is {value!r}, expected a path")
    for candidate in (root / value, source.parent / value, source.parent / Path(value).name):
        if os.path.isfile(candidate):
            return candidate
    raise BadCheckpoint(f"{source}: {key} names {value}, which is not in {root}")
