"""The layers of a U2 encoder as functions that can be traced, with caches or without.

Without a cache a function computes a whole utterance, with one a chunk and what the next chunk
needs; the arithmetic, and so the weights and ranges, are the same. Shapes: hidden states are
(batch, frames, width), an attention cache is (batch, heads, cached frames, 2 * width / heads) with
keys and values side by side, and a convolution cache (batch, width, kernel - 1), as in
PaddleSpeech's ``forward_chunk``.
"""

from __future__ import annotations

import math
from typing import Any

from asrcompress.paddle_imports import import_paddle

paddle = import_paddle()

from paddle.nn import functional as F  # noqa: E402  (after h5py, see paddle_imports)


def block(layer: Any, h: Any, table: Any, bias: Any, keep: Any) -> Any:
    """One ConformerEncoderLayer with pre-norm, on whole utterances."""
    if layer.feed_forward_macaron is not None:
        h = h + layer.ff_scale * feed_forward(layer.feed_forward_macaron, layer.norm_ff_macaron(h))
    h = h + attention(layer.self_attn, layer.norm_mha(h), table, bias)[0]
    if layer.conv_module is not None:
        h = h + convolution(layer.conv_module, layer.norm_conv(h), keep)[0]
    h = h + layer.ff_scale * feed_forward(layer.feed_forward, layer.norm_ff(h))
    return layer.norm_final(h) if layer.conv_module is not None else h


def feed_forward(layer: Any, h: Any) -> Any:
    """PositionwiseFeedForward.forward without dropout."""
    return layer.w_2(layer.activation(layer.w_1(h)))


def attention(layer: Any, h: Any, table: Any, bias: Any, cache: Any = None) -> tuple[Any, Any]:
    """RelPositionMultiHeadedAttention.forward (arXiv:1901.02860, without the relative shift).

    Args:
        table: positional encodings of the keys, (1, cached frames + frames, width).
        bias: additive mask, broadcast to (batch, heads, frames, keys); None for none.
        cache: keys and values of earlier chunks.
    Returns:
        output, and keys and values of all frames as the next cache.
    """
    heads, width = layer.h, layer.d_k

    def split(tensor: Any) -> Any:
        return tensor.reshape([0, -1, heads, width])

    q, k, v = split(layer.linear_q(h)), split(layer.linear_k(h)), split(layer.linear_v(h))
    p = layer.linear_pos(table).reshape([1, -1, heads, width]).transpose([0, 2, 1, 3])
    k, v = k.transpose([0, 2, 1, 3]), v.transpose([0, 2, 1, 3])
    following = None
    if cache is not None:
        k = paddle.concat([cache[:, :, :, :width], k], axis=2)
        v = paddle.concat([cache[:, :, :, width:], v], axis=2)
        following = paddle.concat([k, v], axis=-1)
    content = paddle.matmul((q + layer.pos_bias_u).transpose([0, 2, 1, 3]), k, transpose_y=True)
    position = paddle.matmul((q + layer.pos_bias_v).transpose([0, 2, 1, 3]), p, transpose_y=True)
    scores = (content + position) * (1.0 / math.sqrt(width))
    if bias is not None:
        scores = scores + bias
    context = paddle.matmul(F.softmax(scores, axis=-1), v)
    h = layer.linear_out(context.transpose([0, 2, 1, 3]).reshape([0, -1, heads * width]))
    return h, following


def convolution(layer: Any, h: Any, keep: Any, cache: Any = None) -> tuple[Any, Any]:
    """ConvolutionModule.forward; a batch norm is the identity by now.

    Args:
        keep: 1.0 on an utterance's own frames, 0.0 on padding, (batch, frames, 1); None for none.
        cache: of a causal convolution, the module's last inputs; None is silence before the start.
    Returns:
        output, and the next cache (None where the convolution is not causal).
    """
    following = None
    if layer.lorder > 0:
        # PaddleSpeech puts the past in front of the *module*: zeros there are not zeros behind
        # the first pointwise convolution, which has a bias.
        h = h.transpose([0, 2, 1])
        if cache is None:
            h = F.pad(h, [layer.lorder, 0], data_format="NCL")
        else:
            h = paddle.concat([cache, h], axis=2)
        following = h[:, :, -layer.lorder :]
        h = h.transpose([0, 2, 1])
    h = pointwise(layer.pointwise_conv1, h)
    value, gate = paddle.split(h, 2, axis=2)
    h = value * F.sigmoid(gate)
    if keep is not None and layer.lorder == 0:
        h = h * keep  # what is behind an utterance must not leak into its end
    h = layer.depthwise_conv(h.transpose([0, 2, 1])).transpose([0, 2, 1])
    if layer.use_layer_norm:
        h = layer.norm(h)
    h = pointwise(layer.pointwise_conv2, layer.activation(h))
    return (h if keep is None else h * keep), following


def pointwise(layer: Any, h: Any) -> Any:
    """A Conv1D of kernel 1 as a product with its weight, (batch, frames, channels)."""
    weight = layer.weight.squeeze(2).transpose([1, 0])
    h = paddle.matmul(h, weight)
    return h if layer.bias is None else h + layer.bias
