"""What the C library does with memory that this process has freed; with glibc only.

Left alone it keeps pieces of a size that it has seen freed before, and gives larger ones back at
once. A network wants both otherwise: while it is loaded, every weight is freed for good; while it
is trained, every step frees large pieces that the next one asks for again, and which the system has
to map and clear anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from typing import Any

# Names of mallopt's parameters in glibc's malloc.h, and its defaults.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
# Where glibc's own threshold ends, which grows with what a program frees until it is set by hand.
_LARGEST_KEPT = 32 << 20
_KEEPING = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _TOP_PAD: 64 << 20}
_DEFAULTS = {_MMAP_MAX: 65536, _TRIM_THRESHOLD: 128 << 10, _TOP_PAD: 128 << 10}


@contextlib.contextmanager
def returned_at_once() -> Iterator[None]:
    """In here what is freed goes back to the system, so that the peak is what is really in use.

    Loading a network frees each weight when it has been packed; kept for reuse, which never comes,
    these pieces were a quarter of the peak of a graph of 36 MB.
    """
    library = _glibc()
    if library is None:
        yield
        return
    _set(library, {_MMAP_THRESHOLD: 64 << 10})
    try:
        yield
    finally:
        _set(library, {_MMAP_THRESHOLD: _LARGEST_KEPT, _TRIM_THRESHOLD: 2 * _LARGEST_KEPT})
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
        library.malloc_trim(0)


@functools.cache
def _glibc() -> Any | None:
    """The C library, where it is glibc: others have no malloc_trim."""
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None


def _set(library: Any, values: dict[int, int]) -> None:
    for name, value in values.items():
        library.mallopt(name, value)
