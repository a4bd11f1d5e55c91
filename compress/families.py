"""Which layers of a network are quantized: one entry per family of PaddleSpeech."""

from __future__ import annotations

from typing import Any

from asrcompress.checkpoints.acoustic import is_u2
from asrcompress.compress import deepspeech2, u2, u2_decoder
from asrcompress.compress.edges import (
    AttentionEdges,
    LayerEdges,
    RecurrentEdges,
    check_skip,
    skipped,
)
from asrcompress.recipe import GREEDY, Decoding


def layers_of(
    network: Any, skip: tuple[str, ...] = (), decoding: Decoding = GREEDY
) -> list[LayerEdges]:
    """Every layer of `network` to quantize, in forward order.

    Args:
        skip: shell patterns of layer names that stay in float.
        decoding: whether the attention decoder is shipped too, and which directions.
    Raises:
        BadRecipe: a pattern that matches no layer.
        BadCheckpoint: a layer without a quantized form.
    """
    layers = u2.layers_of(network) if is_u2(network) else deepspeech2.layers_of(network)
    attentions = u2.attentions_of(network) if is_u2(network) else []
    if decoding.uses_decoder:
        layers += u2_decoder.layers_of(network, reverse=decoding.uses_reverse)
        attentions += u2_decoder.attentions_of(network, reverse=decoding.uses_reverse)
    known = [edges.name for edges in layers] + [edges.name for edges in attentions]
    check_skip(skip, known + [edges.name for edges in recurrent_of(network)])
    return [edges for edges in layers if not skipped(edges.name, skip)]


def attentions_of(
    network: Any, skip: tuple[str, ...] = (), decoding: Decoding = GREEDY
) -> list[AttentionEdges]:
    """Every attention layer whose products are quantized."""
    found = u2.attentions_of(network) if is_u2(network) else []
    if decoding.uses_decoder:
        found += u2_decoder.attentions_of(network, reverse=decoding.uses_reverse)
    return [edges for edges in found if not skipped(edges.name, skip)]


def recurrent_of(network: Any, skip: tuple[str, ...] = ()) -> list[RecurrentEdges]:
    """Every LSTM and GRU whose weights are quantized."""
    found = [] if is_u2(network) else deepspeech2.recurrent_of(network)
    return [edges for edges in found if not skipped(edges.name, skip)]
