"""The units of a U2 encoder: heads, feed-forward units, channels of convolution modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from asrcompress.checkpoints.shapes import BlockShape, EncoderShape
from asrcompress.compress.units import (
    CHANNELS,
    FEED_FORWARD,
    HEADS,
    MACARON,
    Group,
    Kept,
    Member,
    group,
    spans,
)
from asrcompress.errors import BadCheckpoint


def groups_of(network: Any) -> list[Group]:
    """Every group of a U2 encoder, block by block.

    Raises:
        BadCheckpoint: an encoder whose blocks are none of PaddleSpeech's Transformer or Conformer.
    """
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
            group(kind, index, units, members, shapes) for kind, (members, units) in found.items()
        ]
    return groups


def shape_of(network: Any, kept: Kept) -> EncoderShape:
    """The shape that is left.

    Args:
        kept: for every group.
    """
    blocks = []
    for index in range(len(network.encoder.encoders)):
        sizes = {kind: len(units) for (kind, block), units in kept.items() if block == index}
        blocks.append(BlockShape(**sizes))
    return EncoderShape(blocks=tuple(blocks))


def _heads(prefix: str, heads: int, width: int) -> list[Member]:
    rows = spans(heads, width)
    members = [
        Member(tensor=f"{prefix}.{name}.{part}", axis=axis, rows=rows)
        for name in ("linear_q", "linear_k", "linear_v", "linear_pos")
        for part, axis in (("weight", 1), ("bias", 0))
    ]
    members.append(Member(tensor=f"{prefix}.linear_out.weight", axis=0, rows=rows))
    return members + [
        Member(tensor=f"{prefix}.{name}", axis=0, rows=spans(heads))
        for name in ("pos_bias_u", "pos_bias_v")
    ]


def _feed_forward(prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[list[Member], int]:
    units = shapes[f"{prefix}.w_1.weight"][1]
    rows = spans(units)
    members = [
        Member(tensor=f"{prefix}.w_1.weight", axis=1, rows=rows),
        Member(tensor=f"{prefix}.w_1.bias", axis=0, rows=rows),
        Member(tensor=f"{prefix}.w_2.weight", axis=0, rows=rows),
    ]
    return members, units


def _channels(prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[list[Member], int]:
    channels = shapes[f"{prefix}.depthwise_conv.weight"][0]
    rows = spans(channels)
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
