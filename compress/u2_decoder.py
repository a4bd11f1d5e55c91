"""Which tensors of a U2 network's attention decoder are quantized, and which layers share one.

All Linear layers and both products of every attention. The embedding stays a table of floats: it
is looked up, not multiplied.
"""

from __future__ import annotations

import re
from typing import Any

from asrcompress.compress.edges import AttentionEdges, LayerEdges
from asrcompress.paddle_imports import import_paddle

paddle = import_paddle()

# The encoder's output, which every layer of both directions reads.
MEMORY = "decoder:memory"
_ATTENTION = re.compile(r"decoder\.(\w+_decoder\.)?decoders\.\d+\.(self|src)_attn")


def layers_of(network: Any, *, reverse: bool) -> list[LayerEdges]:
    """Every layer of the decoder to quantize.

    Args:
        reverse: with U2++'s right-to-left decoder.
    """
    return [
        _edges(name, layer, network)
        for name, layer in _part(network, reverse)
        if isinstance(layer, paddle.nn.Linear) and _is_used(name, network)
    ]


def attentions_of(network: Any, *, reverse: bool) -> list[AttentionEdges]:
    """Every attention of the decoder, among tokens and from tokens to frames."""
    return [
        AttentionEdges(name=name, layer=layer)
        for name, layer in _part(network, reverse)
        if _ATTENTION.fullmatch(name)
    ]


def _part(network: Any, reverse: bool) -> list[tuple[str, Any]]:
    """Sublayers of the decoder by name, without the direction that is not used."""
    return [
        (name, layer)
        for name, layer in network.named_sublayers()
        if name.startswith("decoder.")
        and (reverse or not name.startswith("decoder.right_decoder."))
    ]


def _is_used(name: str, network: Any) -> bool:
    """PaddleSpeech makes concat_linear1 and 2 whether they are used or not."""
    owner, _, own = name.rpartition(".")
    if not own.startswith("concat_linear"):
        return True
    return bool(dict(network.named_sublayers())[owner].concat_after)


def _edges(name: str, layer: Any, network: Any) -> LayerEdges:
    owner = name.rpartition(".")[0]
    edge, unsigned = f"{name}:input", False
    if re.search(r"\.self_attn\.linear_[qkv]$", name):
        edge = f"{owner}:input"
    elif re.search(r"\.src_attn\.linear_[kv]$", name):
        edge = MEMORY
    elif name.endswith(".feed_forward.w_2"):
        activation = dict(network.named_sublayers())[owner].activation
        unsigned = isinstance(activation, paddle.nn.ReLU)
    return LayerEdges(name=name, layer=layer, axis=1, input=edge, input_unsigned=unsigned)
