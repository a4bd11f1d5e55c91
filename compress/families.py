"""Which layers of a network are quantized: one entry per family of PaddleSpeech."""

from __future__ import annotations

from typing import Any

from asrcompress.acoustic import is_u2
from asrcompress.compress import u2
from asrcompress.compress.edges import AttentionEdges, LayerEdges, check_skip, skipped


def layers_of(network: Any, skip: tuple[str, ...] = ()) -> list[LayerEdges]:
    """Every layer of `network` to quantize, in forward order.

    Args:
        skip: shell patterns of layer names that stay in float.
    Raises:
        BadRecipe: a pattern that matches no layer.
        BadCheckpoint: a layer without a quantized form.
    """
    layers = u2.layers_of(network) if is_u2(network) else []
    attentions = u2.attentions_of(network) if is_u2(network) else []
    check_skip(skip, [edges.name for edges in (*layers, *attentions)])
    return [edges for edges in layers if not skipped(edges.name, skip)]


def attentions_of(network: Any, skip: tuple[str, ...] = ()) -> list[AttentionEdges]:
    """Every attention layer whose products are quantized."""
    found = u2.attentions_of(network) if is_u2(network) else []
    return [edges for edges in found if not skipped(edges.name, skip)]
