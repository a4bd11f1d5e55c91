"""What a network costs, and what is left of it when units of its groups are removed.

A tensor that belongs to one group shrinks in proportion; one that lies between two, such as the
weights from one recurrent layer to the next, shrinks with both. So what a unit saves depends on
what was removed before, and is asked anew each time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asrcompress.checkpoints.acoustic import is_u2
from asrcompress.checkpoints.unused_layers import belongs_to, unused_layers
from asrcompress.compress.families import attentions_of, layers_of, recurrent_of
from asrcompress.compress.macs import count_macs
from asrcompress.compress.units import Group
from asrcompress.errors import BadRecipe

PARAMETERS, MACS, BYTES = "parameters", "macs", "bytes"
_Uses = tuple[tuple[tuple[int, float], ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One tensor, or one product of attention.

    Attributes:
        amount: its cost while nothing is removed.
        axes: for each axis that groups own entries of: (group, share of the axis per unit).
    """

    name: str
    amount: float
    axes: _Uses

    def left(self, removed: Sequence[int]) -> float:
        """Cost when `removed` units of each group are gone."""
        cost = self.amount
        for axis in self.axes:
            cost *= 1.0 - sum(removed[index] * share for index, share in axis)
        return cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Of a network, by one measure.

    Attributes:
        measure: `PARAMETERS` and `MACS` of the encoder, or `BYTES` of what INT8 ships.
    """

    measure: str
    parts: tuple[Part, ...]

    @property
    def total(self) -> float:
        """While nothing is removed."""
        return sum(part.amount for part in self.parts)

    def left(self, removed: Sequence[int]) -> float:
        """When `removed` units of each group are gone."""
        return sum(part.left(removed) for part in self.parts)

    def touched_by(self, groups: Sequence[int]) -> Costs:
        """The parts that any of some groups own entries of; the others are not changed by them."""
        wanted = set(groups)
        return Costs(
            measure=self.measure,
            parts=tuple(
                part
                for part in self.parts
                if any(index in wanted for axis in part.axes for index, _ in axis)
            ),
        )

    def without(self, blocks: Sequence[int]) -> Costs:
        """When whole blocks of a U2 encoder are gone."""
        prefixes = tuple(f"encoder.encoders.{index}." for index in blocks)
        kept = tuple(part for part in self.parts if not part.name.startswith(prefixes))
        return Costs(measure=self.measure, parts=kept)


def costs_of(
    network: Any, groups: Sequence[Group], *, measure: str, frames: int, n_mels: int
) -> Costs:
    """What `network` costs; layers that take no part in its forward pass cost nothing.

    Args:
        groups: as `asrcompress.compress.groups.groups_of` gives them.
        measure: `PARAMETERS`, `MACS` or `BYTES`.
        frames: feature frames of a typical utterance; attention's products grow with it.
        n_mels: width of the features.
    """
    tensors = {
        name: tuple(tensor.shape)
        for name, tensor in network.named_parameters()
        if not belongs_to(name, unused_layers(network))
    }
    if measure == PARAMETERS:
        amounts = {name: float(math.prod(shape)) for name, shape in tensors.items()}
        amounts = {name: amount for name, amount in amounts.items() if name.startswith("encoder.")}
    elif measure == MACS:
        amounts = _macs(network, tensors, frames=frames, n_mels=n_mels)
    elif measure == BYTES:
        amounts = _bytes(network, tensors)
    else:
        raise BadRecipe(f"prune.measure: got {measure}, expected parameters or macs")
    axes = _axes(groups, tensors)
    for attention in attentions_of(network):  # as many channels as its output projection reads
        axes[attention.name] = axes.get(f"{attention.name}.linear_out.weight", ())
    return Costs(
        measure=measure,
        parts=tuple(
            Part(name=name, amount=amount, axes=axes.get(name, ()))
            for name, amount in amounts.items()
        ),
    )


def _axes(groups: Sequence[Group], tensors: Mapping[str, tuple[int, ...]]) -> dict[str, _Uses]:
    """For each tensor that groups own entries of, see `Part`."""
    found: dict[str, dict[int, list[tuple[int, float]]]] = {}
    for index, item in enumerate(groups):
        for member in item.members:
            if member.tensor in tensors:
                share = member.rows.shape[1] / tensors[member.tensor][member.axis]
                found.setdefault(member.tensor, {}).setdefault(member.axis, []).append(
                    (index, share)
                )
    return {name: tuple(tuple(users) for users in axes.values()) for name, axes in found.items()}


def _macs(
    network: Any, tensors: Mapping[str, tuple[int, ...]], *, frames: int, n_mels: int
) -> dict[str, float]:
    """Of each weight of the encoder, and of attention's products under the attention's name."""
    amounts = {}
    for layer, macs in count_macs(network, frames=frames, n_mels=n_mels).items():
        if not layer.startswith("encoder."):
            continue
        weights = {
            name: math.prod(shape)
            for name, shape in tensors.items()
            if name.startswith(f"{layer}.weight")
        }
        if not weights:  # an attention layer, whose own operations are products of activations
            amounts[layer] = float(macs)
        # A recurrent layer has several, each used once a frame.
        for name, numbers in weights.items():
            amounts[name] = macs * numbers / sum(weights.values())
    return amounts


def _bytes(network: Any, tensors: Mapping[str, tuple[int, ...]]) -> dict[str, float]:
    """Of each parameter that is shipped: a byte a number where INT8 takes it, else four."""
    small = {f"{edges.name}.weight" for edges in layers_of(network)}
    recurrent = tuple(f"{edges.name}.weight_" for edges in recurrent_of(network))
    shipped = ("encoder.", "ctc." if is_u2(network) else "decoder.ctc_lo.")
    return {
        name: math.prod(shape) * (1.0 if name in small or name.startswith(recurrent) else 4.0)
        for name, shape in tensors.items()
        if name.startswith(shipped)
    }
