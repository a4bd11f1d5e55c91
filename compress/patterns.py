"""Which weights of a matrix become zero, by magnitude and by pattern.

Weights are looked at as (outputs, inputs, places): Linear is (outputs, inputs, 1), a convolution
has the places of its kernel, an LSTM or GRU the rows of all gates as outputs.

    unstructured   any weight (Han et al. 2015, arXiv:1506.02626)
    1xN            N neighbouring outputs of one input together, all places of the kernel (Lin et
                   al. 2021, arXiv:2105.14713)
    2:4            two of every four neighbouring inputs of an output and place (Mishra et al. 2021,
                   arXiv:2104.08378)

Outputs or inputs behind the last whole block of N or four stay.
"""

from __future__ import annotations

import numpy as np

UNSTRUCTURED, BLOCKS, TWO_OF_FOUR = "unstructured", "1xN", "2:4"


def as_rows(weight: np.ndarray, output_axis: int) -> np.ndarray:
    """`weight` as (outputs, inputs, places)."""
    moved = np.moveaxis(weight, output_axis, 0)
    return moved.reshape(moved.shape[0], moved.shape[1], -1)


def from_rows(rows: np.ndarray, shape: tuple[int, ...], output_axis: int) -> np.ndarray:
    """The inverse of `as_rows` for a weight of `shape`."""
    moved = np.moveaxis(np.empty(shape, np.bool_), output_axis, 0).shape
    return np.moveaxis(rows.reshape(moved), 0, output_axis)


def losses(rows: np.ndarray, pattern: str, block: int) -> np.ndarray:
    """What each removable piece would take away: mean magnitude of the weights that go.

    Args:
        rows: (outputs, inputs, places).
        block: N of ``1xN``.
    Returns:
        unstructured: (outputs, inputs, places); ``1xN``: (outputs // N, inputs); ``2:4``:
        (outputs, inputs // 4, places), of the two smallest of each four.
    """
    size: np.ndarray = np.abs(rows)
    if pattern == UNSTRUCTURED:
        return size
    outputs, inputs, places = rows.shape
    if pattern == BLOCKS:
        whole = size[: outputs // block * block].reshape(-1, block, inputs, places)
        found: np.ndarray = whole.mean((1, 3))
        return found
    fours = size[:, : inputs // 4 * 4].reshape(outputs, -1, 4, places)
    smallest: np.ndarray = np.sort(fours, axis=2)[:, :, :2].mean(2)
    return smallest


def mask(rows: np.ndarray, gone: np.ndarray, pattern: str, block: int) -> np.ndarray:
    """True for the weights that stay.

    Args:
        rows: (outputs, inputs, places).
        gone: bool, the pieces to remove, shaped as `losses`.
    """
    if pattern == UNSTRUCTURED:
        return ~gone
    stay = np.ones(rows.shape, np.bool_)
    outputs, inputs, places = rows.shape
    if pattern == BLOCKS:
        stay[: outputs // block * block] = ~np.repeat(gone, block, axis=0)[:, :, None]
        return stay
    fours = np.abs(rows[:, : inputs // 4 * 4]).reshape(outputs, -1, 4, places)
    order = np.argsort(np.argsort(fours, axis=2, kind="stable"), axis=2, kind="stable")
    kept = (order >= 2) | ~gone[:, :, None]
    stay[:, : inputs // 4 * 4] = kept.reshape(outputs, -1, places)
    return stay


def smallest(losses_of: list[np.ndarray], share: float, *, uniform: bool) -> list[np.ndarray]:
    """The pieces with the smallest losses, exactly `share` of them rounded down.

    Args:
        losses_of: of each tensor.
        uniform: the same share of every tensor, instead of the smallest of all tensors.
    """
    if uniform:
        return [_smallest(item, share) for item in losses_of]
    together = _smallest(np.concatenate([item.ravel() for item in losses_of]), share)
    ends = np.cumsum([item.size for item in losses_of])[:-1]
    parts = np.split(together, ends)
    return [part.reshape(item.shape) for part, item in zip(parts, losses_of, strict=True)]


def _smallest(values: np.ndarray, share: float) -> np.ndarray:
    """Bool, shaped as `values`; ties go by position, so that the number is exact."""
    gone = np.zeros(values.size, np.bool_)
    gone[np.argsort(values, axis=None, kind="stable")[: int(share * values.size)]] = True
    return gone.reshape(values.shape)
