"""The units of DeepSpeech2: hidden units of LSTM and GRU, channels in front, dense units behind.

A hidden unit of a recurrent layer owns its rows of all gates, its column of the state's weights
(the state that the others read), its place in the layer norm behind, and the columns of whatever
reads that: the next recurrent layer in both directions, the first dense layer, or the CTC head.

All recurrent layers, and both directions of each, keep the same number of units, since PaddleSpeech
holds the states of all of them in one tensor; which units, each chooses for itself. So a pruned
network is one of a smaller ``rnn_layer_size`` that PaddleSpeech's own forward computes, in a stream
too.

The layer norm behind a recurrent layer takes its mean and variance over the units that are left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asrcompress.checkpoints.shapes import RecurrentShape
from asrcompress.compress.units import (
    CONVOLUTION,
    DENSE,
    HIDDEN,
    HIDDEN_REVERSE,
    Group,
    Kept,
    Member,
    group,
    spans,
)

_TIE = "recurrent"
_CONVOLUTIONS = ("encoder.conv.conv.0", "encoder.conv.conv.2")
# Behind the convolutions, and not used in the forward pass; but its shape follows from theirs.
_UNUSED = "encoder.conv.out.0"
Shapes = Mapping[str, tuple[int, ...]]


def groups_of(network: Any) -> list[Group]:
    """Every group of a DeepSpeech2 network, from the features upwards."""
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    encoder = network.encoder
    groups = _convolutions(shapes)
    hidden, directions = encoder.rnn_size, encoder.rnn[0].num_directions
    for index in range(len(encoder.rnn)):
        last = index + 1 == len(encoder.rnn)
        readers = _behind_recurrent(encoder) if last else _recurrent_inputs(index + 1)
        for direction in range(directions):
            members = _hidden(index, direction, hidden, shapes)
            place = spans(hidden, start=direction * hidden)
            members += [Member(tensor=name, axis=axis, rows=place) for name, axis in readers]
            kind = HIDDEN_REVERSE if direction else HIDDEN
            groups.append(group(kind, index, hidden, members, shapes, tie=_TIE))
    return groups + _dense(encoder, shapes)


def shape_of(network: Any, kept: Kept) -> RecurrentShape:
    """The shape that is left.

    Args:
        kept: for every group.
    """
    return RecurrentShape(
        convolutions=(len(kept[CONVOLUTION, 0]), len(kept[CONVOLUTION, 1])),
        hidden=len(kept[HIDDEN, 0]),
        dense=tuple(len(kept[DENSE, index]) for index in range(network.encoder.num_fc_layers)),
    )


def _convolutions(shapes: Shapes) -> list[Group]:
    """Channels of the two convolutions; behind the second, each is a run of inputs."""
    groups = []
    for index, name in enumerate(_CONVOLUTIONS):
        channels = shapes[f"{name}.weight"][0]
        rows = spans(channels)
        members = [
            Member(tensor=f"{name}.{part}", axis=0, rows=rows) for part in ("weight", "bias")
        ]
        if index == 0:
            members.append(Member(tensor=f"{_CONVOLUTIONS[1]}.weight", axis=1, rows=rows))
        else:
            width = shapes["encoder.rnn.0.weight_ih_l0"][1] // channels
            rows = spans(channels, width)
            readers = [*_recurrent_inputs(0), (f"{_UNUSED}.weight", 0)]
            members += [Member(tensor=reader, axis=axis, rows=rows) for reader, axis in readers]
        groups.append(group(CONVOLUTION, index, channels, members, shapes))
    return groups


def _hidden(index: int, direction: int, hidden: int, shapes: Shapes) -> list[Member]:
    """What the units of one direction of a recurrent layer own of it and of its norm."""
    suffix = "_l0_reverse" if direction else "_l0"
    prefix = f"encoder.rnn.{index}"
    gates = shapes[f"{prefix}.weight_hh{suffix}"][0] // hidden
    rows = spans(gates, hidden).T
    members = [
        Member(tensor=f"{prefix}.{stem}{suffix}", axis=0, rows=rows)
        for stem in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ]
    members.append(Member(tensor=f"{prefix}.weight_hh{suffix}", axis=1, rows=spans(hidden)))
    place = spans(hidden, start=direction * hidden)
    return members + [
        Member(tensor=f"encoder.layernorm_list.{index}.{part}", axis=0, rows=place)
        for part in ("weight", "bias")
    ]


def _recurrent_inputs(index: int) -> list[tuple[str, int]]:
    """Tensors of a recurrent layer that read what is in front of it, and their axis of inputs."""
    prefix = f"encoder.rnn.{index}.weight_ih_l0"
    return [(prefix, 1), (f"{prefix}_reverse", 1)]


def _behind_recurrent(encoder: Any) -> list[tuple[str, int]]:
    first = "encoder.fc_layers_list.0" if encoder.num_fc_layers else "decoder.ctc_lo"
    return [(f"{first}.weight", 0)]


def _dense(encoder: Any, shapes: Shapes) -> list[Group]:
    names = [f"encoder.fc_layers_list.{index}" for index in range(encoder.num_fc_layers)]
    readers = [*names, "decoder.ctc_lo"][1:]
    groups = []
    for index, (name, reader) in enumerate(zip(names, readers, strict=True)):
        units = shapes[f"{name}.weight"][1]
        rows = spans(units)
        members = [
            Member(tensor=f"{name}.weight", axis=1, rows=rows),
            Member(tensor=f"{name}.bias", axis=0, rows=rows),
            Member(tensor=f"{reader}.weight", axis=0, rows=rows),
        ]
        groups.append(group(DENSE, index, units, members, shapes))
    return groups
