"""Paddle's ``.pdparams`` files, read without Paddle and without running what they contain.

A ``.pdparams`` file is a pickle, and a pickle can name any function for the reader to call. What
``paddle.save`` writes for a state dict needs no more than numpy arrays in dicts
(paddle/framework/io.py, ``_legacy_save`` and ``_pickle_save``; 3.x writes the same), so only those
are accepted: see `asrcompress.checkpoints.plain_pickle`.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from asrcompress.checkpoints.plain_pickle import read_plain_pickle
from asrcompress.errors import BadCheckpoint
from asrcompress.files import reading, write_atomically

# What paddle.save adds beside the tensors: structured name -> parameter name.
_NAME_TABLE = "StructuredToParameterName@@"
# Paddle splits arrays over 2**30 bytes into slices when the pickle protocol is 2 or 3.
_SLICE_TABLE = "UnpackBigParamInfor@@"
_DEEPEST = 8


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a ``.pdparams`` file by their structured names.

    Returns:
        name -> array, in the file's order, with the dtypes of the file; not writable.
    Raises:
        BadCheckpoint: not a Paddle state dict, truncated, or holding anything but tensors.
    """
    return _tensors(path, _read(path))


def read_state(path: Path) -> Any:
    """Whatever ``paddle.save`` wrote, such as a ``.pdopt``: data as saved, tensors as arrays.

    Raises:
        BadCheckpoint: truncated, or holding anything but dicts, lists, text, numbers and tensors.
    """
    return _plain(path, _read(path), depth=0)


def _read(path: Path) -> Any:
    try:
        with reading(path, BadCheckpoint):
            return read_plain_pickle(path)
    except pickle.UnpicklingError as error:
        raise BadCheckpoint(
            f"{path}: is not a Paddle state dict, {error}",
            hint="give the .pdparams file that paddle.save wrote from model.state_dict()",
        ) from error


def _plain(path: Path, value: Any, *, depth: int) -> Any:
    """`value` with (parameter name, array) replaced by the array."""
    if depth > _DEEPEST:  # lists may hold themselves
        raise BadCheckpoint(f"{path}: is nested more than {_DEEPEST} deep, expected a state")
    if isinstance(value, dict):
        items = {key: _plain(path, item, depth=depth + 1) for key, item in value.items()}
        return {key: item for key, item in items.items() if key != _NAME_TABLE}
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], np.ndarray):
        return value[1]
    if isinstance(value, list | tuple):
        return type(value)(_plain(path, item, depth=depth + 1) for item in value)
    return value


def _tensors(path: Path, loaded: object) -> dict[str, np.ndarray]:
    if not isinstance(loaded, dict):
        raise BadCheckpoint(f"{path}: holds {type(loaded).__name__}, expected a dict of tensors")
    if _SLICE_TABLE in loaded:
        raise BadCheckpoint(
            f"{path}: is stored in slices (pickle protocol 2 or 3), expected whole tensors",
            hint="paddle.save(paddle.load(path), path, protocol=4)",
        )
    tensors = {}
    for name, value in loaded.items():
        if name == _NAME_TABLE:
            continue
        # Inside of other data Paddle stores (parameter name, array) instead of the array.
        array = value[1] if isinstance(value, tuple) and len(value) == 2 else value
        if not isinstance(name, str):
            raise BadCheckpoint(f"{path}: has the key {name}, expected names of tensors")
        if not isinstance(array, np.ndarray):
            raise BadCheckpoint(
                f"{path}: {name!r} is {type(array).__name__}, expected a tensor",
                hint="give the model's .pdparams, not the optimizer's .pdopt",
            )
        tensors[name] = array
    if not tensors:
        raise BadCheckpoint(f"{path}: holds no tensor")
    return tensors


def write_weights(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write `tensors` as ``paddle.save`` does, so that ``paddle.load`` reads them."""
    payload: OrderedDict[str, Any] = OrderedDict(tensors)
    payload[_NAME_TABLE] = {name: name for name in tensors}
    write_atomically(path, pickle.dumps(payload, protocol=4))
