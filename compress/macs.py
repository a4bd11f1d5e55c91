"""Multiply-accumulates of a network, counted by the shapes that its layers see."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from asrcompress.checkpoints.network import PaddleAcousticModel
from asrcompress.compress.families import attentions_of, layers_of, recurrent_of


def count_macs(network: Any, *, frames: int, n_mels: int) -> dict[str, int]:
    """Multiply-accumulates per layer of one forward pass; of an attention layer, its products.

    Args:
        frames: feature frames of the utterance.
        n_mels: width of the features.
    """
    macs: dict[str, int] = {}
    hooks = []
    for edges in layers_of(network):

        def count(layer: Any, inputs: Any, output: Any, name: str = edges.name) -> None:
            shape = layer.weight.shape
            # Linear is [in, out]; a convolution [out, in / groups, kernel...].
            per_output = shape[0] if len(shape) == 2 else math.prod(shape[1:])
            macs[name] = math.prod(output.shape) * per_output

        hooks.append(edges.layer.register_forward_post_hook(count))
    for recurrent in recurrent_of(network):

        def count_all(layer: Any, inputs: Any, output: Any, name: str = recurrent.name) -> None:
            weights = [p for own, p in layer.named_parameters() if "weight" in own]
            macs[name] = output[0].shape[1] * sum(math.prod(weight.shape) for weight in weights)

        hooks.append(recurrent.layer.register_forward_post_hook(count_all))
    PaddleAcousticModel(network).log_probs([np.zeros((frames, n_mels), np.float32)])
    for hook in hooks:
        hook.remove()
    for attention in attentions_of(network):
        width, inner = attention.layer.linear_q.weight.shape
        out_frames = macs[f"{attention.name}.linear_q"] // (width * inner)
        # Scores and context, and scores of positions where they are apart: frames x frames x
        # channels each.
        products = 3 if hasattr(attention.layer, "linear_pos") else 2
        macs[attention.name] = products * out_frames**2 * inner
    return macs
