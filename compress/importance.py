"""How much each unit of a group matters.

    l1, l2   sum of magnitudes, or root of squares, of the unit's weights (Li et al. 2017,
             arXiv:1608.08710)
    fpgm     distance to the other units of its group: a unit in the middle of the others can be
             replaced by them (He et al. 2019, arXiv:1811.00250)
    taylor   first-order change of the loss when the unit is set to zero, on real batches (Molchanov
             et al. 2019, arXiv:1906.10771)

PaddleSlim has the first three for the filters of Conv2D only; on Linear and Conv1D its pruners
change nothing and say nothing, which is why they are here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from asrcompress.compress.units import Group, Member
from asrcompress.errors import BadRecipe

MAGNITUDES = ("l1", "l2", "fpgm")


def score_magnitudes(
    groups: Sequence[Group], state: Mapping[str, np.ndarray], criterion: str
) -> list[np.ndarray]:
    """Importance of every unit from the weights alone.

    Args:
        criterion: one of `MAGNITUDES`.
    Returns:
        for each group float64 (units,), divided by the group's mean: layers differ in scale, and
        magnitudes say nothing about which layer matters.
    """
    scores = []
    for group in groups:
        vectors = _vectors(group, state)
        if criterion == "l1":
            score = np.abs(vectors).sum(1)
        elif criterion == "l2":
            score = np.sqrt(np.square(vectors).sum(1))
        elif criterion == "fpgm":
            score = _distances(vectors).sum(1)
        else:
            raise BadRecipe(f"criterion: got {criterion}, expected one of {MAGNITUDES}")
        scores.append(score / max(float(score.mean()), 1e-30))
    return scores


class TaylorScores:
    """First-order Taylor importance, gathered over batches.

    The sum over a unit's parameters of gradient times value is the first-order change of the loss
    when all of them become zero; its square is averaged over batches.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = groups
        self._sums = [np.zeros(group.units) for group in groups]
        self._batches = 0

    def add(self, network: Any) -> None:
        """Take the gradients that a backward pass has left in `network`."""
        parameters = {
            name: (tensor.numpy().astype(np.float64), tensor.grad)
            for name, tensor in network.named_parameters()
        }
        for group, total in zip(self._groups, self._sums, strict=True):
            change = np.zeros(group.units)
            for member in group.members:
                if member.tensor not in parameters:  # a buffer, such as a running mean
                    continue
                value, gradient = parameters[member.tensor]
                if gradient is not None:
                    product = value * gradient.numpy().astype(np.float64)
                    change += _per_unit(member, product).sum(1)
            total += np.square(change)
        self._batches += 1

    def scores(self) -> list[np.ndarray]:
        """For each group float64 (units,); comparable between layers.

        Raises:
            BadRecipe: no batch was seen.
        """
        if not self._batches:
            raise BadRecipe("criterion: taylor needs at least one batch of speech, got none")
        return [total / self._batches for total in self._sums]


def _vectors(group: Group, state: Mapping[str, np.ndarray]) -> np.ndarray:
    """(units, numbers): the weights of each unit, biases and norms left out."""
    weights = [item for item in group.members if state[item.tensor].ndim > 1]
    parts: Iterable[np.ndarray] = (
        _per_unit(item, state[item.tensor].astype(np.float64)) for item in weights
    )
    return np.concatenate(list(parts), axis=1)


def _per_unit(member: Member, tensor: np.ndarray) -> np.ndarray:
    """(units, numbers) of one tensor."""
    moved = np.moveaxis(tensor, member.axis, 0).reshape(tensor.shape[member.axis], -1)
    found: np.ndarray = moved[member.rows].reshape(len(member.rows), -1)
    return found


def _distances(vectors: np.ndarray) -> np.ndarray:
    """Euclidean distances between all units."""
    squares = np.square(vectors).sum(1)
    products = squares[:, None] + squares[None] - 2 * vectors @ vectors.T
    found: np.ndarray = np.sqrt(np.maximum(products, 0.0))
    return found
