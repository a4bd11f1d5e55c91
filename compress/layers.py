"""Quantized forms of the layers that Paddle's QAT has none for.

``paddle.nn.quant.qat.QuantedLinear`` serves Linear as it is. Missing there: Conv1D altogether, an
output range (ONNX Runtime's QLinearConv needs one), the rounding of the bias to int32, and every
product of two activations. Each class is used through ``QuantConfig.add_qat_layer_mapping``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from asrcompress.compress.quanters import ActivationQuanter, round_through
from asrcompress.compress.quick_layers import convolve
from asrcompress.paddle_imports import import_paddle, import_u2

paddle = import_paddle()
import_u2()  # PaddleSpeech patches Paddle's Tensor while it is imported; the methods are used below

from paddle import nn  # noqa: E402
from paddle.nn import functional as F  # noqa: E402
from paddlespeech.s2t.modules.attention import (  # noqa: E402
    MultiHeadedAttention,
    RelPositionMultiHeadedAttention,
    RoPERelPositionMultiHeadedAttention,
)


class _QuantedConv(nn.Layer):
    """A convolution with fake-quantized input, weight, bias and output.

    Keeps the original's parameters under their names.
    """

    _convolve: Any

    def __init__(self, layer: Any, config: Any) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self._stride, self._dilation, self._groups = layer._stride, layer._dilation, layer._groups
        # Conv1D keeps what was asked for, Conv2D a normalised form beside it.
        self._padding = getattr(layer, "_updated_padding", layer._padding)
        self._data_format = layer._data_format
        if layer._padding_mode != "zeros":
            raise ValueError(f"padding mode {layer._padding_mode} has no integer kernel")
        self.weight_quanter = config.weight._instance(layer)
        self.activation_quanter = config.activation._instance(layer) if config.activation else None
        # Set by the caller on a layer that runs as QLinearConv: the quanter of its input, whoever
        # applies it, and that of its output. A pointwise convolution runs as a matrix product,
        # with a float bias and a float output, and has neither.
        self.source_quanter: ActivationQuanter | None = None
        self.output_quanter: ActivationQuanter | None = None

    def forward(self, x: Any) -> Any:
        """The convolution of `x`, all of it on the integer grids."""
        if self.activation_quanter is not None:
            x = self.activation_quanter(x)
        y = convolve(
            self._convolve,
            x,
            self.weight_quanter(self.weight),
            self._rounded_bias(),
            stride=self._stride,
            padding=self._padding,
            dilation=self._dilation,
            groups=self._groups,
            data_format=self._data_format,
        )
        return y if self.output_quanter is None else self.output_quanter(y)

    def _rounded_bias(self) -> Any:
        """The bias on the accumulator's int32 grid, step = input scale · weight scale."""
        if self.bias is None or self.source_quanter is None or not self.weight_quanter.enabled:
            return self.bias
        step = self.source_quanter.scale() * self.weight_quanter.scale(self.weight)
        return round_through(self.bias / step) * step


class QuantedConv1D(_QuantedConv):
    """Conv1D, depthwise and pointwise ones included."""

    _convolve = staticmethod(F.conv1d)


class QuantedConv2D(_QuantedConv):
    """Conv2D with an output range and an integer bias."""

    _convolve = staticmethod(F.conv2d)


class AttentionQuanters(nn.Layer):
    """One quanter per operand of an attention layer, under the operand's name."""

    def __init__(self, operands: Mapping[str, ActivationQuanter]) -> None:
        super().__init__()
        for name, quanter in operands.items():
            self.add_sublayer(name, quanter)


class _QuantedAttention(MultiHeadedAttention):
    """What the quantized attentions share: the layer's projections, quantized before, and operands.

    A subclass also derives from PaddleSpeech's class, whose arithmetic it repeats.
    """

    def __init__(self, layer: Any, config: Any) -> None:
        nn.Layer.__init__(self)
        self.h, self.d_k = layer.h, layer.d_k
        self.linear_q, self.linear_k, self.linear_v = layer.linear_q, layer.linear_k, layer.linear_v
        self.linear_out, self.dropout = layer.linear_out, layer.dropout
        # Set by the caller: a quanter in the config would be inherited by every sublayer.
        self.quanters: AttentionQuanters | None = None

    def _context(self, scores: Any, v: Any, mask: Any) -> Any:
        """softmax, dropout and the product with the values, as in ``forward_attention``."""
        assert self.quanters is not None
        edges = self.quanters
        padding = mask.unsqueeze(1).equal(0)[:, :, :, : scores.shape[-1]]
        attention = F.softmax(scores.masked_fill(padding, -float("inf")), axis=-1)
        attention = edges.weights(attention.masked_fill(padding, 0.0))
        context = paddle.matmul(self.dropout(attention), edges.value(v))
        context = context.transpose([0, 2, 1, 3]).reshape([v.shape[0], -1, self.h * self.d_k])
        return self.linear_out(context)


class QuantedMultiHeadedAttention(_QuantedAttention):
    """PaddleSpeech's attention without positions, its products quantized.

    The arithmetic is that of ``MultiHeadedAttention.forward`` without caches; Transformer encoders
    and the attention decoder have it.
    """

    # Of each product: the weight behind its right operand, and both operands.
    products = (("linear_k", "query", "key"), ("linear_v", "weights", "value"))

    def forward(
        self, query: Any, key: Any, value: Any, mask: Any, pos_emb: Any = None, cache: Any = None
    ) -> tuple[Any, Any]:
        """Attention; shapes as in PaddleSpeech. The cache is passed through untouched."""
        assert self.quanters is not None
        edges = self.quanters
        q, k, v = self.forward_qkv(query, key, value)
        scores = paddle.matmul(edges.query(q), edges.key(k), transpose_y=True)
        return self._context(scores / math.sqrt(self.d_k), v, mask), cache


class QuantedRelPositionAttention(_QuantedAttention, RelPositionMultiHeadedAttention):
    """PaddleSpeech's relative-position attention with quantized products.

    ``RelPositionMultiHeadedAttention.forward`` without caches, its scores in the form that is
    exported: (q + u) · k + (q + v) · p = q · (k + p) + (u · k + v · p), since PaddleSpeech leaves
    out the relative shift. So query · key, where key is the sum of keys and positions, is the one
    product of activations behind the scores, and the row of the biases stays in float.
    weights (the softmax) · value gives the context.
    """

    # Of each product: the weight behind its right operand, and both operands.
    products = (("linear_k", "query", "key"), ("linear_v", "weights", "value"))

    def __init__(self, layer: Any, config: Any) -> None:
        super().__init__(layer, config)
        self.linear_pos, self.adaptive_scale = layer.linear_pos, layer.adaptive_scale
        self.pos_bias_u, self.pos_bias_v = layer.pos_bias_u, layer.pos_bias_v
        if layer.adaptive_scale:
            self.ada_scale, self.ada_bias = layer.ada_scale, layer.ada_bias

    def forward(
        self, query: Any, key: Any, value: Any, mask: Any, pos_emb: Any, cache: Any = None
    ) -> tuple[Any, Any]:
        """Self-attention; shapes as in PaddleSpeech. The cache is passed through untouched."""
        assert self.quanters is not None
        edges = self.quanters
        if self.adaptive_scale:
            # Query, key and value are one tensor in an encoder, and one edge.
            query = key = value = self.ada_scale * query + self.ada_bias
        q, k, v = self.forward_qkv(query, key, value)
        p = self.linear_pos(pos_emb)
        p = p.reshape([pos_emb.shape[0], -1, self.h, self.d_k]).transpose([0, 2, 1, 3])
        # Not as a product of matrices: Paddle 2.6's gradient of one with a single column fails.
        row = (k * self.pos_bias_u.unsqueeze(1)).sum(-1) + (p * self.pos_bias_v.unsqueeze(1)).sum(
            -1
        )
        row = row.unsqueeze(2)
        scores = paddle.matmul(edges.query(q), edges.key(k + p), transpose_y=True) + row
        return self._context(scores / math.sqrt(self.d_k), v, mask), cache


class QuantedRotaryAttention(_QuantedAttention, RoPERelPositionMultiHeadedAttention):
    """PaddleSpeech's attention with rotary positions, its products quantized.

    The arithmetic is that of ``RoPERelPositionMultiHeadedAttention.forward`` without caches;
    queries and keys are quantized after their rotation, where they are multiplied.
    """

    # Of each product: the weight behind its right operand, and both operands.
    products = (("linear_k", "query", "key"), ("linear_v", "weights", "value"))

    def forward(
        self, query: Any, key: Any, value: Any, mask: Any, pos_emb: Any, cache: Any = None
    ) -> tuple[Any, Any]:
        """Self-attention; shapes as in PaddleSpeech. The cache is passed through untouched."""
        assert self.quanters is not None
        edges = self.quanters
        q, k, v = self.forward_qkv(query, key, value)
        q, k = self.apply_rotary_position_embeddings(pos_emb[:, -q.shape[2] :, :], q, k)
        scores = paddle.matmul(edges.query(q), edges.key(k), transpose_y=True)
        return self._context(scores / math.sqrt(self.d_k), v, mask), cache
