"""What structured pruning removes: units, and the entries of tensors that each of them owns.

A group is a set of units of one layer that can be removed one by one without changing anything
around them: heads, hidden units, channels. A unit owns entries of several tensors, what makes it
and what reads it; removing it removes them all, so that tensors get physically smaller and the
arithmetic on what is left does not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

HEADS, FEED_FORWARD, MACARON, CHANNELS = "heads", "feed_forward", "macaron", "channels"
"""Of a block of U2."""
CONVOLUTION, HIDDEN, HIDDEN_REVERSE, DENSE = "convolution", "hidden", "hidden_reverse", "dense"
"""Of DeepSpeech2: channels of the subsampling, units of a recurrent layer by direction, and units
of the dense layers behind."""

Kept = Mapping[tuple[str, int], Sequence[int]]
"""(kind, block) -> the units that stay, ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What the units of a group own of one tensor.

    Attributes:
        tensor: structured name.
        axis: along which units lie side by side.
        rows: int array (units, entries per unit): the entries of each unit on that axis.
    """

    tensor: str
    axis: int
    rows: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Units of one layer.

    Attributes:
        kind: one of those above.
        block: index of the encoder's block, or of the layer among its like.
        units: how many there are.
        tie: groups of the same tie keep the same number of units, though not the same ones; empty
            for a group that stands alone.
    """

    kind: str
    block: int
    units: int
    members: tuple[Member, ...]
    tie: str = ""

    @property
    def name(self) -> str:
        """``block 3 feed_forward``."""
        return f"block {self.block} {self.kind}"

    @property
    def key(self) -> tuple[str, int]:
        """(kind, block), by which plans name it."""
        return self.kind, self.block


def group(
    kind: str,
    block: int,
    units: int,
    members: Iterable[Member],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    tie: str = "",
) -> Group:
    """A group of those members that the network has."""
    present = tuple(item for item in members if item.tensor in shapes)
    return Group(kind=kind, block=block, units=units, members=present, tie=tie)


def spans(units: int, width: int = 1, *, start: int = 0) -> np.ndarray:
    """Rows of units that lie one behind the other from `start` on, `width` entries each."""
    return start + np.arange(units * width).reshape(units, width)


def take(
    state: Mapping[str, np.ndarray], groups: Sequence[Group], kept: Kept
) -> dict[str, np.ndarray]:
    """`state` without the units that are not kept: physically smaller tensors.

    Args:
        kept: for every group.
    """
    gone: dict[tuple[str, int], list[np.ndarray]] = {}
    for item in groups:
        units = np.setdiff1d(np.arange(item.units), np.asarray(kept[item.key], np.int64))
        for member in item.members:
            gone.setdefault((member.tensor, member.axis), []).append(member.rows[units].ravel())
    smaller = dict(state)
    for (name, axis), rows in gone.items():
        # At once for all groups that own entries of an axis: rows count in the whole tensor.
        smaller[name] = np.delete(smaller[name], np.concatenate(rows), axis=axis)
    return smaller
