"""Paddle's ``.pdparams`` files, read without Paddle and without running what they contain.

A ``.pdparams`` file is a pickle, and a pickle can name any function for the reader to call. What
``paddle.save`` writes for a state dict needs no more than numpy arrays in dicts
(paddle/framework/io.py, ``_legacy_save`` and ``_pickle_save``), so only those are accepted.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from asrcompress.errors import BadCheckpoint
from asrcompress.files import write_atomically

# What paddle.save adds beside the tensors: structured name -> parameter name.
_NAME_TABLE = "StructuredToParameterName@@"
# Paddle splits arrays over 2**30 bytes into slices when the pickle protocol is 2 or 3.
_SLICE_TABLE = "UnpackBigParamInfor@@"

# numpy 1 writes numpy.core, numpy 2 numpy._core; both read either.
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
}


class _StateDictUnpickler(pickle.Unpickler):
    """Resolves the names in `_ALLOWED` and refuses every other."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"names {module}.{name}, which no state dict needs")
        return super().find_class(module, name)


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a ``.pdparams`` file by their structured names.

    Returns:
        name -> array, in the file's order, with the dtypes of the file.
    Raises:
        BadCheckpoint: not a Paddle state dict, truncated, or holding anything but tensors.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadCheckpoint(f"{path}: cannot be read, {error.strerror}") from error
    try:
        loaded = _StateDictUnpickler(io.BytesIO(data)).load()
    # A pickle's opcodes can fail in any of these ways on a truncated or foreign file.
    except (
        pickle.UnpicklingError,
        EOFError,
        AttributeError,
        ImportError,
        IndexError,
        KeyError,
        MemoryError,
        OverflowError,
        TypeError,
        UnicodeDecodeError,
        ValueError,
    ) as error:
        raise BadCheckpoint(
            f"{path}: is not a Paddle state dict, {str(error) or type(error).__name__}",
            hint="give the .pdparams file that paddle.save wrote from model.state_dict()",
        ) from error
    return _tensors(path, loaded)


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
        # Paddle 2.1 and later may store (parameter name, array) instead of the array.
        array = value[1] if isinstance(value, tuple) and len(value) == 2 else value
        if not isinstance(name, str) or not isinstance(array, np.ndarray):
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
