"""What the C library does with memory that this process has freed; with glibc only.

Left alone it keeps small pieces and gives large ones back at once. A network wants both otherwise:
after it is loaded, much is free for good, in small pieces; while it is trained, every step frees
large pieces that the next one asks for again, and which the system has to map and clear anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from typing import Any

# Names of mallopt's parameters in glibc's malloc.h, and its defaults.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_KEEPING = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _TOP_PAD: 64 << 20}
_DEFAULTS = {_MMAP_MAX: 65536, _TRIM_THRESHOLD: 128 << 10, _TOP_PAD: 128 << 10}


def give_back() -> None:
    """Return what is free to the system."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """In here the process keeps what is freed; afterwards it is given back."""
    library = _glibc()
    if library is None:
        yield
        return
    _set(library, _KEEPING)
    try:
        yield
    finally:
        _set(library, _DEFAULTS)
        give_back()


@functools.cache
def _glibc() -> Any | None:
    """The C library, where it is glibc: others have no malloc_trim."""
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None


def _set(library: Any, values: dict[int, int]) -> None:
    for name, value in values.items():
        library.mallopt(name, value)
