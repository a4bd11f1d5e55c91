"""Batch normalisation folded into the convolution before it.

At inference a batch norm is a per-channel affine map, and a convolution with per-channel weight
scales absorbs it exactly (Jacob et al. 2018, arXiv:1712.05877, section 3.2). Folding before
quantization-aware training means that training sees the weights that will ship, and that the
statistics are frozen: a short fine-tuning cannot drag them off.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from asrcompress.paddle_imports import import_paddle


def fold_batch_norm(network: Any) -> int:
    """Fold each convolution module's batch norm into its depthwise convolution, in place.

    The norm layer stays, so that the state dict keeps PaddleSpeech's names, but becomes the exact
    identity: folding twice changes nothing. Layer-norm modules are left alone.

    Returns:
        number of batch norms folded.
    """
    folded = 0
    for layer in network.sublayers():
        if hasattr(layer, "depthwise_conv") and not getattr(layer, "use_layer_norm", True):
            _fold(layer.depthwise_conv, layer.norm)
            folded += 1
    return folded


def _fold(conv: Any, norm: Any) -> None:
    paddle = import_paddle()
    if conv.bias is None:
        raise ValueError("a depthwise convolution without bias cannot absorb a batch norm")
    gamma, beta = norm.weight.numpy(), norm.bias.numpy()
    mean, variance = norm._mean.numpy(), norm._variance.numpy()
    epsilon = np.float32(norm._epsilon)
    gain = gamma / np.sqrt(variance + epsilon)
    conv.weight.set_value(conv.weight.numpy() * gain.reshape(-1, 1, 1))
    conv.bias.set_value((conv.bias.numpy() - mean) * gain + beta)
    # gamma / sqrt(variance + epsilon) is now 1 to the last bit, for a later fold of the saved file.
    unit = np.full_like(variance, 1.0)
    norm.weight.set_value(np.sqrt(unit + epsilon))
    norm.bias.set_value(np.zeros_like(beta))
    norm._mean.set_value(np.zeros_like(mean))
    norm._variance.set_value(unit)
    norm.weight.stop_gradient = norm.bias.stop_gradient = True
    # Batch statistics must not be used nor updated in training mode either.
    norm._use_global_stats = True
    assert isinstance(norm, paddle.nn.BatchNorm1D)
