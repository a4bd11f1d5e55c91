"""Pickles of plain data, read without running them.

A pickle is a program, and Python's unpickler does what it says: it imports what is named, calls
it, hashes whatever is made a key, and allocates what is asked for. numpy's own part of it trusts
the flags of a dtype. So the program is only parsed here, with `pickletools`, and the few
instructions that dicts, lists, tuples, text, numbers and numpy arrays need are carried out by this
module. Every name stands for a function below; no name is ever looked up. What is allocated is
bounded by the size of the file.
"""

from __future__ import annotations

import math
import os
import pickle
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np

# A state dict of 5,000 tensors takes 150,000; a minute of parsing is 20 million.
_MOST_INSTRUCTIONS = 2_000_000
_MOST_DIMENSIONS = 32
_NEWEST_PROTOCOL = 4  # paddle.save takes no later one
_DTYPES = frozenset(["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"])
_BYTE_ORDERS = ("<", "|", "=")
_CONSTANTS = frozenset(
    [
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "BINFLOAT",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BINSTRING",
        "SHORT_BINSTRING",
    ]
)
_VALUES: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Name:
    """A name in a pickle, and what is called in its place; None where it is never called."""

    label: str
    call: Callable[..., Any] | None


class _Draft:
    """An array that a pickle has announced and not described yet."""


def read_plain_pickle(path: Path) -> Any:
    """The object in a pickle, if it is plain data.

    Returns:
        dicts, lists and tuples of str, bytes, int, float, bool, None and numpy arrays; the arrays
        are read-only views of what was read.
    Raises:
        pickle.UnpicklingError: holds anything else, is cut off, or is no pickle.
        OSError: cannot be read.
    """
    with path.open("rb") as file:
        source = _Bounded(file)
        try:
            return _Machine(source.size_bytes).run(pickletools.genops(cast("IO[bytes]", source)))
        except ValueError as error:  # the parser's
            raise pickle.UnpicklingError(str(error)) from error
        except (TypeError, LookupError, OverflowError, MemoryError) as error:
            raise pickle.UnpicklingError("contradicts itself") from error


class _Bounded:
    """A file that never allocates for more than is left of it, whatever length it states."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size_bytes = os.fstat(file.fileno()).st_size

    def read(self, n_bytes: int) -> bytes:
        return self._file.read(min(n_bytes, self.size_bytes))

    def readline(self) -> bytes:
        return self._file.readline(1 << 16)

    def tell(self) -> int:
        return self._file.tell()


class _Machine:
    """The part of the pickle machine that makes plain data.

    Args:
        most_bytes: that calls may make, all together; texts can be named again and again.
    """

    def __init__(self, most_bytes: int) -> None:
        self._left_bytes = most_bytes
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, instructions: Any) -> Any:
        """Carry out a program; its result."""
        for count, (opcode, argument, position) in enumerate(instructions):
            if count >= _MOST_INSTRUCTIONS:
                raise pickle.UnpicklingError(f"has more than {_MOST_INSTRUCTIONS} instructions")
            if opcode.name == "STOP":
                return self._stack.pop()
            self._step(opcode.name, argument, position)
        raise pickle.UnpicklingError("ends too early")

    def _step(self, name: str, argument: Any, position: int) -> None:
        if name in _CONSTANTS:
            self._stack.append(argument)
        elif name in _VALUES:
            self._stack.append(_VALUES[name]())
        elif name in _TUPLES:
            self._stack.append(tuple(self._pop(_TUPLES[name])))
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif name != "FRAME":
            raise pickle.UnpicklingError(
                f"has the instruction {name} at byte {position}, which no state dict needs"
            )

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) - (self._marks[-1] if self._marks else 0) < count:
            raise pickle.UnpicklingError("takes more values than it has made")
        items = self._stack[-count:] if count else []
        del self._stack[len(self._stack) - count :]
        return items

    def _pop_to_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def protocol(self, version: Any) -> None:
        if version > _NEWEST_PROTOCOL:
            raise pickle.UnpicklingError(f"is of protocol {version}, expected 2 to 4")

    def mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def set_items(self, _: Any) -> None:
        self._fill(self._pop_to_mark())

    def set_item(self, _: Any) -> None:
        self._fill(self._pop(2))

    def append_items(self, _: Any) -> None:
        self._extend(self._pop_to_mark())

    def append_item(self, _: Any) -> None:
        self._extend(self._pop(1))

    def _fill(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], dict):
            raise pickle.UnpicklingError("sets an item of what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._stack[-1][_key(key)] = value

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise pickle.UnpicklingError("appends to what is no list")
        self._stack[-1].extend(items)

    def memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def put(self, index: Any) -> None:
        self._memo[index] = self._stack[-1]

    def get(self, index: Any) -> None:
        self._stack.append(self._memo[index])

    def name(self, dotted: Any) -> None:
        module, _, name = dotted.partition(" ")
        self._push_name(module, name)

    def name_of_stack(self, _: Any) -> None:
        self._push_name(*self._pop(2))

    def _push_name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise pickle.UnpicklingError("names what is no text")
        label = f"{module}.{name}"
        if label not in _NAMES:
            raise pickle.UnpicklingError(f"names {label[:100]}, which no state dict needs")
        self._stack.append(_Name(label=label, call=_NAMES[label]))

    def call(self, _: Any) -> None:
        function, arguments = self._pop(2)
        if not isinstance(function, _Name) or function.call is None:
            raise pickle.UnpicklingError("calls what no state dict calls")
        if not isinstance(arguments, tuple):
            raise pickle.UnpicklingError(f"calls {function.label} without arguments")
        made = function.call(*arguments)
        if isinstance(made, bytes):
            self._left_bytes -= len(made)
            if self._left_bytes < 0:
                raise pickle.UnpicklingError("makes more data than it holds")
        self._stack.append(made)

    def build(self, _: Any) -> None:
        target, state = self._pop(2)
        if isinstance(target, _Draft):
            built = _array_of_state(state)
            for index, value in self._memo.items():
                if value is target:
                    self._memo[index] = built
            target = built
        elif isinstance(target, np.dtype):
            _check_dtype_state(state)
        else:
            raise pickle.UnpicklingError("sets the state of what is no array")
        self._stack.append(target)


_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.protocol,
    "MARK": _Machine.mark,
    "TUPLE": _Machine.tuple,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "APPEND": _Machine.append_item,
    "APPENDS": _Machine.append_items,
    "MEMOIZE": _Machine.memoize,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name_of_stack,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
}


def _key(key: object) -> str | int:
    """Keys are text or numbers: the hash of a deeply nested tuple overflows the C stack."""
    if not isinstance(key, str | int):
        raise pickle.UnpicklingError(f"has a {type(key).__name__} as a key, expected text")
    return key


def _reconstruct(kind: object, shape: object, code: object) -> _Draft:
    return _Draft()


def _dtype(code: object, *_: object) -> np.dtype:
    if not isinstance(code, str) or code not in _DTYPES:
        shown = code[:40] if isinstance(code, str) else type(code).__name__
        raise pickle.UnpicklingError(f"holds an array of dtype {shown}, expected numbers")
    return np.dtype(code)


def _check_dtype_state(state: Any) -> None:
    """(version, byte order, nothing about fields or subarrays, sizes, flags [, metadata])."""
    plain = (None, None, None, -1, -1, 0)
    fits = isinstance(state, tuple) and len(state) in (8, 9) and isinstance(state[1], str)
    if not fits or state[1] not in _BYTE_ORDERS or state[2:8] != plain or any(state[8:]):
        raise pickle.UnpicklingError("holds an array of a dtype that is no little-endian number")


def _array_of_state(state: Any) -> np.ndarray:
    _, shape, dtype, is_fortran, raw = state
    return _array(raw, dtype, shape, "F" if is_fortran else "C")


def _array(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    is_shape = isinstance(shape, tuple) and len(shape) <= _MOST_DIMENSIONS
    if not is_shape or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        raise pickle.UnpicklingError("holds an array of an impossible shape")
    if not isinstance(dtype, np.dtype) or not isinstance(raw, bytes) or order not in ("C", "F"):
        raise pickle.UnpicklingError("holds an array that is not described as numpy does")
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes != len(raw):
        raise pickle.UnpicklingError(
            f"holds an array of shape {list(shape)} with {len(raw)} bytes, expected {n_bytes}"
        )
    return np.ndarray(shape, dtype, raw, order=order)


def _scalar(dtype: Any, raw: Any) -> Any:
    return _array(raw, dtype, (), "C")[()]


def _tuple(items: Any) -> tuple:
    """What `paddle.save` makes of a tensor inside of other data: (name, array)."""
    if not isinstance(items, tuple) or len(items) != 2:
        raise pickle.UnpicklingError("makes a tuple of what is no tensor")
    return items


def _ordered_dict() -> dict[str, Any]:
    """The items follow, as they do for a dict."""
    return {}


def _encode(text: Any, encoding: Any) -> bytes:
    """How protocol 2 of Python 3 writes bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("encodes text as no pickle of bytes does")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """And how it writes the bytes of an empty array."""
    return b""


# numpy 1 writes numpy.core, numpy 2 numpy._core; protocol 2 says __builtin__.
_NAMES: dict[str, Callable[..., Any] | None] = {
    "numpy.ndarray": None,
    "numpy.dtype": _dtype,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "collections.OrderedDict": _ordered_dict,
    "builtins.tuple": _tuple,
    "__builtin__.tuple": _tuple,
    "_codecs.encode": _encode,
    "__builtin__.bytes": _no_bytes,
}
