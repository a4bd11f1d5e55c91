"""Which tensors of a U2 Conformer are quantized, and which layers share one.

One rule per place of the network; `edges_of` applies them to every layer. Two layers that read the
same tensor name the same edge, and a convolution names its output where the next layer reads it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from asrcompress.errors import BadCheckpoint, BadRecipe
from asrcompress.paddle_imports import import_paddle

paddle = import_paddle()

# Sub-networks that are shipped; the attention decoder only takes part in the training loss.
_SHIPPED = ("encoder.", "ctc.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerEdges:
    """A weighted layer and the edges around it.

    Attributes:
        name: structured name, ``encoder.encoders.0.feed_forward.w_1``.
        layer: the Paddle layer.
        axis: output channels of its weight.
        input: edge it reads.
        input_unsigned: the input is the output of a ReLU.
        output: edge it writes, where its integer kernel needs an output range.
        output_unsigned: a ReLU follows, which the unsigned grid performs by itself.
    """

    name: str
    layer: Any
    axis: int
    input: str
    input_unsigned: bool = False
    output: str | None = None
    output_unsigned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionEdges:
    """An attention layer whose products are quantized; edges are ``<name>:<operand>``."""

    name: str
    layer: Any


def layers_of(network: Any, skip: tuple[str, ...] = ()) -> list[LayerEdges]:
    """Every layer of `network` to quantize, in forward order.

    Args:
        skip: shell patterns of layer names that stay in float.
    Raises:
        BadRecipe: a pattern that matches no layer.
    """
    named = [
        (name, layer)
        for name, layer in network.named_sublayers()
        if name.startswith(_SHIPPED)
        and isinstance(layer, paddle.nn.Linear | paddle.nn.Conv1D | paddle.nn.Conv2D)
    ]
    known = [name for name, _ in named] + [edges.name for edges in _attentions(network)]
    for pattern in skip:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise BadRecipe(
                f"skip: {pattern!r} matches no layer",
                hint="asrcompress inspect CHECKPOINT --layers lists them",
            )
    return [_edges(name, layer) for name, layer in named if not skipped(name, skip)]


def attentions_of(network: Any, skip: tuple[str, ...] = ()) -> list[AttentionEdges]:
    """Every attention layer whose products are quantized."""
    return [edges for edges in _attentions(network) if not skipped(edges.name, skip)]


def skipped(name: str, skip: tuple[str, ...]) -> bool:
    """Whether a layer name matches one of the shell patterns."""
    return any(fnmatchcase(name, pattern) for pattern in skip)


def _attentions(network: Any) -> list[AttentionEdges]:
    found = []
    for name, layer in network.named_sublayers():
        if re.fullmatch(r"encoder\.encoders\.\d+\.self_attn", name):
            if not hasattr(layer, "pos_bias_u"):
                raise BadCheckpoint(
                    f"{name}: is {type(layer).__name__}, expected relative-position attention",
                    hint="only selfattention_layer_type: rel_selfattn is supported",
                )
            found.append(AttentionEdges(name=name, layer=layer))
    return found


def _edges(name: str, layer: Any) -> LayerEdges:
    axis = 1 if isinstance(layer, paddle.nn.Linear) else 0
    if name == "encoder.embed.conv.0":
        return LayerEdges(
            name=name,
            layer=layer,
            axis=axis,
            input=f"{name}:input",
            output=f"{name}:output",
            output_unsigned=True,
        )
    if name == "encoder.embed.conv.2":
        return LayerEdges(
            name=name,
            layer=layer,
            axis=axis,
            input="encoder.embed.conv.0:output",
            input_unsigned=True,
            output=f"{name}:output",
            output_unsigned=True,
        )
    if name == "encoder.embed.out.0":
        conv = "encoder.embed.conv.2:output"
        return LayerEdges(name=name, layer=layer, axis=axis, input=conv, input_unsigned=True)
    if name.endswith((".linear_q", ".linear_k", ".linear_v")):
        attention = name.rpartition(".")[0]
        return LayerEdges(name=name, layer=layer, axis=axis, input=f"{attention}:input")
    if name.endswith(".linear_pos"):
        return LayerEdges(name=name, layer=layer, axis=axis, input="encoder.embed.pos_enc:table")
    if name.endswith(".depthwise_conv"):
        return LayerEdges(
            name=name, layer=layer, axis=axis, input=f"{name}:input", output=f"{name}:output"
        )
    # Pointwise convolutions are exported as matrix products, whose outputs stay float.
    return LayerEdges(name=name, layer=layer, axis=axis, input=f"{name}:input")
