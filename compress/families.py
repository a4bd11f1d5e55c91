"""Which layers of a network are quantized: one entry per family of PaddleSpeech."""

from __future__ import annotations

from typing import Any

from asrcompress.checkpoints.acoustic import is_u2
from asrcompress.compress import deepspeech2, u2, u2_decoder
from asrcompress.compress.edges import (
    AttentionEdges,
    LayerEdges,
    RecurrentEdges,
    SwishEdges,
    check_skip,
    skipped,
)
from asrcompress.recipe import GREEDY, Decoding


def names_of(network: Any, decoding: Decoding = GREEDY) -> list[str]:
    """Everything that can be quantized or skipped by itself: layers, attentions, recurrent layers.

    In forward order, an attention's products behind its projections.
    """
    layers = [edges.name for edges in layers_of(network, decoding=decoding)]
    for attention in attentions_of(network, decoding=decoding):
        inside = [i for i, name in enumerate(layers) if name.startswith(f"{attention.name}.")]
        layers.insert(max(inside, default=len(layers) - 1) + 1, attention.name)
    # Those of a DeepSpeech2 stand between its convolutions and what is behind them.
    recurrent = [edges.name for edges in recurrent_of(network)]
    first = next((i for i, name in enumerate(layers) if ".conv." not in name), len(layers))
    return layers[:first] + recurrent + layers[first:] if recurrent else layers


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


def swishes_of(network: Any) -> list[SwishEdges]:
    """Every Swish that can run on integers where the layers around it do."""
    return u2.swishes_of(network) if is_u2(network) else []


def recurrent_of(network: Any, skip: tuple[str, ...] = ()) -> list[RecurrentEdges]:
    """Every LSTM and GRU whose weights are quantized."""
    found = [] if is_u2(network) else deepspeech2.recurrent_of(network)
    return [edges for edges in found if not skipped(edges.name, skip)]
