"""Which tensors of a U2 Conformer are quantized, and which layers share one.

One rule per place of the network; `edges_of` applies them to every layer. Two layers that read the
same tensor name the same edge, and a convolution names its output where the next layer reads it.
"""

from __future__ import annotations

import re
from typing import Any

from asrcompress.compress.edges import AttentionEdges, LayerEdges
from asrcompress.errors import BadCheckpoint
from asrcompress.paddle_imports import import_paddle

paddle = import_paddle()

# Sub-networks that are shipped; the attention decoder only takes part in the training loss.
_SHIPPED = ("encoder.", "ctc.")


def layers_of(network: Any) -> list[LayerEdges]:
    """Every layer of `network` to quantize, in forward order."""
    return [
        _edges(name, layer)
        for name, layer in network.named_sublayers()
        if name.startswith(_SHIPPED)
        and isinstance(layer, paddle.nn.Linear | paddle.nn.Conv1D | paddle.nn.Conv2D)
    ]


def attentions_of(network: Any) -> list[AttentionEdges]:
    """Every attention layer whose products are quantized."""
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
