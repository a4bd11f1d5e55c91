"""Fake quantization of a whole tensor in one pass over memory, on a CPU: two loops for numba.

Paddle has no operator for it, and each of the elementary ones that it takes reads and writes the
tensor once. PaddleSpeech depends on numba anyway. The loops are compiled at the first call on a
machine and kept in numba's cache.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numba
import numpy as np

from asrcompress.paddle_imports import import_paddle

paddle = import_paddle()

_BLOCK, _LANES = 1024, 16
# No fast-math: what is not a number must come out as such, and sums must not depend on the machine.
_compiled = numba.njit(cache=True, nogil=True, error_model="numpy", boundscheck=False)


def rounded(x: Any, scale: float, low: float, high: float) -> Any:
    """`x` on its grid, a new tensor.

    Args:
        x: float32, on a CPU.
        scale, low, high: as for `asrcompress.compress.fake_quantization.fake_quantize`.
    """
    x = x if x.is_contiguous() else x.contiguous()
    result = paddle.empty(x.shape, dtype="float32")
    if x.size:
        _round(_memory(x), _memory(result), *np.array([scale, low, high], np.float32))
    return result


def gradients(x: Any, gradient: Any, scale: float, low: float, high: float) -> tuple[Any, float]:
    """Gradients of what `rounded` was given: of `x`, a new tensor, and of `scale`."""
    x = x if x.is_contiguous() else x.contiguous()
    gradient = gradient if gradient.is_contiguous() else gradient.contiguous()
    of_x = paddle.empty(x.shape, dtype="float32")
    if not x.size:
        return of_x, 0.0
    limits = np.array([scale, low, high], np.float32)
    return of_x, float(_differentiate(_memory(x), _memory(gradient), _memory(of_x), *limits))


def _memory(tensor: Any) -> np.ndarray:
    """The tensor's own memory as a flat array; the tensor has to outlive it."""
    values = (ctypes.c_float * int(tensor.size)).from_address(tensor.data_ptr())
    return np.ctypeslib.as_array(values)


@_compiled  # type: ignore[untyped-decorator, unused-ignore]
def _round(x: np.ndarray, result: np.ndarray, scale: float, low: float, high: float) -> None:
    for i in range(x.size):
        exact = x[i] / scale
        # Written so that NaN, which compares false with everything, stays.
        code = low if exact < low else (high if exact > high else exact)
        result[i] = np.rint(code) * scale


@_compiled  # type: ignore[untyped-decorator, unused-ignore]
def _differentiate(
    x: np.ndarray, gradient: np.ndarray, of_x: np.ndarray, scale: float, low: float, high: float
) -> float:
    """Sums in as many lanes as the widest vectors have, by blocks, and these in float64."""
    errors = np.zeros(_BLOCK, np.float32)
    total = 0.0
    for start in range(0, x.size, _BLOCK):
        size = min(_BLOCK, x.size - start)
        for i in range(size):
            exact, given = x[start + i] / scale, gradient[start + i]
            inside = (exact >= low) & (exact <= high)
            code = low if exact < low else (high if exact > high else exact)
            of_x[start + i] = given if inside else np.float32(0)
            errors[i] = given * (np.rint(code) - (exact if inside else np.float32(0)))
        errors[size:] = 0
        lanes = np.zeros(_LANES, np.float32)
        for i in range(0, _BLOCK, _LANES):
            for lane in range(_LANES):
                lanes[lane] += errors[i + lane]
        for lane in range(_LANES):
            total += lanes[lane]
    return total
