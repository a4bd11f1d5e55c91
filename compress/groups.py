"""The units of a network that structured pruning can remove: one entry per family."""

from __future__ import annotations

from typing import Any

from asrcompress.checkpoints.acoustic import is_u2
from asrcompress.checkpoints.shapes import NetworkShape
from asrcompress.compress import deepspeech2_groups, u2_groups
from asrcompress.compress.units import HEADS, Group, Kept, Member, take

__all__ = ["HEADS", "Group", "Kept", "Member", "groups_of", "shape_of", "take"]


def groups_of(network: Any) -> list[Group]:
    """Every group of `network`, in forward order.

    Raises:
        BadCheckpoint: a kind of encoder whose units are not known.
    """
    if is_u2(network):
        return u2_groups.groups_of(network)
    return deepspeech2_groups.groups_of(network)


def shape_of(network: Any, kept: Kept) -> NetworkShape:
    """The shape that is left.

    Args:
        kept: for every group.
    """
    if is_u2(network):
        return u2_groups.shape_of(network, kept)
    return deepspeech2_groups.shape_of(network, kept)
