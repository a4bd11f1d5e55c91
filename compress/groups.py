"""What structured pruning removes: heads, feed-forward units and convolution channels.

A group is a set of units that can be removed one by one without changing anything around them: all
heads of an attention layer, all hidden units of a feed-forward layer, all channels of a convolution
module. A unit owns entries of several tensors; removing it removes them all, so that tensors get
physically smaller and the arithmetic on what is left does not change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from asrcompress.checkpoints.acoustic import is_u2
from asrcompress.checkpoints.shapes import BlockShape, EncoderShape
from asrcompress.errors import BadCheckpoint

HEADS, FEED_FORWARD, MACARON, CHANNELS = "heads", "feed_forward", "macaron", "channels"


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
        kind: `HEADS`, `FEED_FORWARD`, `MACARON` or `CHANNELS`.
        block: index of the encoder's block.
        units: how many there are.
        parameters: numbers that each unit owns.
        macs_per_frame: multiply-accumulates of one unit per output frame, attention's products
            not counted.
    """

    kind: str
    block: int
    units: int
    members: tuple[Member, ...]
    parameters: int
    macs_per_frame: int

    @property
    def name(self) -> str:
        """``block 3 feed_forward``."""
        return f"block {self.block} {self.kind}"


def groups_of(network: Any) -> list[Group]:
    """Every group of a U2 encoder, block by block.

    Raises:
        BadCheckpoint: an encoder whose blocks are none of PaddleSpeech's Transformer or Conformer.
    """
    if not is_u2(network):
        raise BadCheckpoint(
            f"{type(network).__name__}: has no blocks to prune, expected a U2 encoder",
            hint="leave out prune.amount",
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    groups = []
    for index, layer in enumerate(network.encoder.encoders):
        if not hasattr(layer, "self_attn") or not hasattr(layer, "feed_forward"):
            raise BadCheckpoint(
                f"encoder.encoders.{index}: is {type(layer).__name__}, "
                "expected a Conformer or Transformer block",
                hint="structured pruning knows no other",
            )
        prefix = f"encoder.encoders.{index}"
        attention = layer.self_attn
        if type(attention).__name__.startswith("RoPE"):
            raise BadCheckpoint(
                f"{prefix}.self_attn: is {type(attention).__name__}, expected absolute or "
                "relative positions",
                hint="PaddleSpeech's rotary attention computes with its full width only",
            )
        found = {
            HEADS: (_heads(f"{prefix}.self_attn", attention.h, attention.d_k), attention.h),
            FEED_FORWARD: _feed_forward(f"{prefix}.feed_forward", shapes),
        }
        if getattr(layer, "feed_forward_macaron", None) is not None:
            found[MACARON] = _feed_forward(f"{prefix}.feed_forward_macaron", shapes)
        if getattr(layer, "conv_module", None) is not None:
            found[CHANNELS] = _channels(f"{prefix}.conv_module", shapes)
        groups += [
            _group(kind, index, units, members, shapes) for kind, (members, units) in found.items()
        ]
    return groups


def shape_of(network: Any, kept: Mapping[tuple[str, int], Sequence[int]]) -> EncoderShape:
    """The shape that is left.

    Args:
        kept: (kind, block) -> the units that stay, for every group.
    """
    blocks = []
    for index in range(len(network.encoder.encoders)):
        sizes = {kind: len(units) for (kind, block), units in kept.items() if block == index}
        blocks.append(BlockShape(**sizes))
    return EncoderShape(blocks=tuple(blocks))


def take(
    state: Mapping[str, np.ndarray],
    groups: Sequence[Group],
    kept: Mapping[tuple[str, int], Sequence[int]],
) -> dict[str, np.ndarray]:
    """`state` without the units that are not kept: physically smaller tensors.

    Args:
        kept: as for `shape_of`.
    """
    smaller = dict(state)
    for group in groups:
        units = np.sort(np.asarray(kept[group.kind, group.block], np.int64))
        for member in group.members:
            entries = np.sort(member.rows[units].ravel())
            smaller[member.tensor] = np.take(smaller[member.tensor], entries, axis=member.axis)
    return smaller


def _group(
    kind: str,
    block: int,
    units: int,
    members: list[Member],
    shapes: Mapping[str, tuple[int, ...]],
) -> Group:
    present = tuple(item for item in members if item.tensor in shapes)
    sizes = {item.tensor: int(np.prod(shapes[item.tensor])) // units for item in present}
    weights = sum(size for name, size in sizes.items() if len(shapes[name]) > 1)
    parameters = sum(sizes.values())
    return Group(
        kind=kind,
        block=block,
        units=units,
        members=present,
        parameters=parameters,
        macs_per_frame=weights,
    )


def _spans(units: int, width: int) -> np.ndarray:
    return np.arange(units * width).reshape(units, width)


def _heads(prefix: str, heads: int, width: int) -> list[Member]:
    spans = _spans(heads, width)
    members = [
        Member(tensor=f"{prefix}.{name}.{part}", axis=axis, rows=spans)
        for name in ("linear_q", "linear_k", "linear_v", "linear_pos")
        for part, axis in (("weight", 1), ("bias", 0))
    ]
    members.append(Member(tensor=f"{prefix}.linear_out.weight", axis=0, rows=spans))
    one_each = _spans(heads, 1)
    return members + [
        Member(tensor=f"{prefix}.{name}", axis=0, rows=one_each)
        for name in ("pos_bias_u", "pos_bias_v")
    ]


def _feed_forward(prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[list[Member], int]:
    units = shapes[f"{prefix}.w_1.weight"][1]
    rows = _spans(units, 1)
    members = [
        Member(tensor=f"{prefix}.w_1.weight", axis=1, rows=rows),
        Member(tensor=f"{prefix}.w_1.bias", axis=0, rows=rows),
        Member(tensor=f"{prefix}.w_2.weight", axis=0, rows=rows),
    ]
    return members, units


def _channels(prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[list[Member], int]:
    channels = shapes[f"{prefix}.depthwise_conv.weight"][0]
    rows = _spans(channels, 1)
    # The first pointwise convolution makes the values of all channels, then the gates of all.
    pairs = np.stack([np.arange(channels), np.arange(channels) + channels], axis=1)
    members = [
        Member(tensor=f"{prefix}.pointwise_conv1.{part}", axis=0, rows=pairs)
        for part in ("weight", "bias")
    ]
    members += [
        Member(tensor=f"{prefix}.{name}", axis=0, rows=rows)
        for name in (
            "depthwise_conv.weight",
            "depthwise_conv.bias",
            "norm.weight",
            "norm.bias",
            "norm._mean",
            "norm._variance",
        )
    ]
    members.append(Member(tensor=f"{prefix}.pointwise_conv2.weight", axis=1, rows=rows))
    return members, channels
