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

from asrcompress.paddle_imports import import_paddle, import_u2

paddle = import_paddle()
import_u2()  # PaddleSpeech patches Paddle while it is imported

from paddle.nn import functional as F  # noqa: E402  (after h5py, see paddle_imports)
from paddlespeech.s2t.modules.attention import (  # noqa: E402
    RelPositionMultiHeadedAttention,
    RoPERelPositionMultiHeadedAttention,
)
from paddlespeech.s2t.modules.encoder_layer import (  # noqa: E402
    SqueezeformerEncoderLayer,
    TransformerEncoderLayer,
)


def block(layer: Any, h: Any, table: Any, bias: Any, keep: Any) -> Any:
    """One layer of an encoder, of whichever class of PaddleSpeech, on whole utterances."""
    if isinstance(layer, SqueezeformerEncoderLayer):
        return _squeezeformer_block(layer, h, table, bias)
    return cached_block(layer, h, table, bias, keep)[0]


def cached_block(
    layer: Any,
    h: Any,
    table: Any,
    bias: Any,
    keep: Any,
    attention_cache: Any = None,
    convolution_cache: Any = None,
) -> tuple[Any, Any, Any]:
    """A ConformerEncoderLayer or TransformerEncoderLayer after the frames in the caches.

    Returns:
        output, and both caches for the next chunk (None where there is no such layer).
    """
    if isinstance(layer, TransformerEncoderLayer):
        h, keys_values = _attend(layer, layer.norm1, h, table, bias, attention_cache)
        return _residual(layer, layer.norm2, h, layer.feed_forward), keys_values, None
    if layer.feed_forward_macaron is not None:
        norm = layer.norm_ff_macaron
        h = _residual(layer, norm, h, layer.feed_forward_macaron, scale=layer.ff_scale)
    h, keys_values = _attend(layer, layer.norm_mha, h, table, bias, attention_cache)
    inputs = None
    if layer.conv_module is not None:
        x = layer.norm_conv(h) if layer.normalize_before else h
        change, inputs = convolution(layer.conv_module, x, keep, convolution_cache)
        h = h + change if layer.normalize_before else layer.norm_conv(h + change)
    h = _residual(layer, layer.norm_ff, h, layer.feed_forward, scale=layer.ff_scale)
    h = layer.norm_final(h) if layer.conv_module is not None else h
    return h, keys_values, inputs


def _squeezeformer_block(layer: Any, h: Any, table: Any, bias: Any) -> Any:
    """One SqueezeformerEncoderLayer on whole utterances.

    Its convolution module adds nothing to valid frames (see
    `asrcompress.checkpoints.unused_layers`), so only the norm behind it is left.
    """
    h, _ = _attend(layer, layer.layer_norm1, h, table, bias)
    h = _residual(layer, layer.layer_norm2, h, layer.ffn1)
    h = h if layer.normalize_before else layer.layer_norm3(h)
    return _residual(layer, layer.layer_norm4, h, layer.ffn2)


def _residual(layer: Any, norm: Any, h: Any, inner: Any, *, scale: float = 1.0) -> Any:
    """A feed-forward layer with its residual, the norm before or after as the block has it."""
    change = feed_forward(inner, norm(h) if layer.normalize_before else h)
    h = h + (change if scale == 1.0 else scale * change)
    return h if layer.normalize_before else norm(h)


def _attend(
    layer: Any, norm: Any, h: Any, table: Any, bias: Any, cache: Any = None
) -> tuple[Any, Any]:
    """Self-attention with its residual, and the cache for the next chunk."""
    x = norm(h) if layer.normalize_before else h
    change, following = attention(layer.self_attn, x, table, bias, cache)
    if layer.concat_after:
        change = layer.concat_linear(paddle.concat([x, change], axis=-1))
    return (h + change if layer.normalize_before else norm(h + change)), following


def feed_forward(layer: Any, h: Any) -> Any:
    """PositionwiseFeedForward.forward without dropout."""
    return layer.w_2(layer.activation(layer.w_1(_adapted(layer, h))))


def _adapted(layer: Any, h: Any) -> Any:
    """Squeezeformer's learned scale and bias in front of a layer, where it has them."""
    return h * layer.ada_scale + layer.ada_bias if getattr(layer, "adaptive_scale", False) else h


def attention(layer: Any, h: Any, table: Any, bias: Any, cache: Any = None) -> tuple[Any, Any]:
    """Self-attention: plain, with relative positions, or rotary, by the class of `layer`.

    As ``forward`` of MultiHeadedAttention, RelPositionMultiHeadedAttention (arXiv:1901.02860,
    without the relative shift) and RoPERelPositionMultiHeadedAttention (arXiv:2104.09864).

    Args:
        table: positional encodings of the keys, (1, cached frames + frames, width).
        bias: additive mask, broadcast to (batch, heads, frames, keys); None for none.
        cache: keys and values of earlier chunks.
    Returns:
        output, and keys and values of all frames as the next cache; rotated keys have their even
        channels in front of the odd ones.
    """
    heads, width = layer.h, layer.d_k
    h = _adapted(layer, h)

    def split(tensor: Any) -> Any:
        return tensor.reshape([0, -1, heads, width])

    q, k, v = split(layer.linear_q(h)), split(layer.linear_k(h)), split(layer.linear_v(h))
    if isinstance(layer, RoPERelPositionMultiHeadedAttention):
        angles = table if cache is None else _last(table, paddle.shape(h)[1])
        q, k = _rotated(q, angles), _rotated(k, angles)
    k, v = k.transpose([0, 2, 1, 3]), v.transpose([0, 2, 1, 3])
    following = None
    if cache is not None:
        k = paddle.concat([cache[:, :, :, :width], k], axis=2)
        v = paddle.concat([cache[:, :, :, width:], v], axis=2)
        following = paddle.concat([k, v], axis=-1)
    if isinstance(layer, RelPositionMultiHeadedAttention):
        p = split(layer.linear_pos(table)).transpose([0, 2, 1, 3])
        row = _position_row(layer, k, p) * (1.0 / math.sqrt(width))
        bias = row if bias is None else row + bias
        k = k + p
    scores = paddle.matmul(_by_head(q), k, transpose_y=True) * (1.0 / math.sqrt(width))
    if bias is not None:
        scores = scores + bias
    context = paddle.matmul(F.softmax(scores, axis=-1), v)
    h = layer.linear_out(context.transpose([0, 2, 1, 3]).reshape([0, -1, heads * width]))
    return h, following


def _position_row(layer: Any, k: Any, p: Any) -> Any:
    """What the two learned biases of relative positions add to the scores, (batch, heads, 1, keys).

    PaddleSpeech's scores are (q + u) · k + (q + v) · p. Without the relative shift, which it leaves
    out, that is q · (k + p) + (u · k + v · p): one product of two activations instead of two, and
    a row that is the same for every query.

    Args:
        k: keys, (batch, heads, keys, channels).
        p: projected positions of the keys, (1, heads, keys, channels).
    """
    content = paddle.matmul(k, layer.pos_bias_u.unsqueeze(2))
    position = paddle.matmul(p, layer.pos_bias_v.unsqueeze(2))
    return (content + position).transpose([0, 1, 3, 2])


def _by_head(tensor: Any) -> Any:
    """(batch, frames, heads, channels) as (batch, heads, frames, channels)."""
    return tensor.transpose([0, 2, 1, 3])


def _rotated(tensor: Any, table: Any) -> Any:
    """Rotary positions (arXiv:2104.09864, equation 34) of queries or keys.

    The product of queries and keys does not care in which order channels stand, so the even ones
    stay together, and no interleaving is needed.

    Args:
        tensor: (batch, frames, heads, channels).
        table: sines in even and cosines in odd places, (1, frames, heads * channels).
    """
    angles = table.reshape([1, -1, tensor.shape[2], tensor.shape[3]])
    sine, cosine = angles[:, :, :, 0::2], angles[:, :, :, 1::2]
    even, odd = tensor[:, :, :, 0::2], tensor[:, :, :, 1::2]
    return paddle.concat([even * cosine - odd * sine, odd * cosine + even * sine], axis=-1)


def _last(table: Any, frames: Any) -> Any:
    """The last `frames` positions of a table."""
    total = paddle.shape(table)[1]
    return paddle.slice(table, [1], [total - frames], [total])


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
