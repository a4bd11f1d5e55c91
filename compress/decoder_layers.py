"""Plain attention with quantized products, as the attention decoder has it."""

from __future__ import annotations

import math
from typing import Any

from asrcompress.compress.layers import AttentionQuanters
from asrcompress.paddle_imports import import_paddle, import_u2

paddle = import_paddle()
import_u2()  # PaddleSpeech patches Paddle's Tensor while it is imported; the methods are used below

from paddle import nn  # noqa: E402
from paddle.nn import functional as F  # noqa: E402
from paddlespeech.s2t.modules.attention import MultiHeadedAttention  # noqa: E402


class QuantedMultiHeadedAttention(MultiHeadedAttention):
    """PaddleSpeech's attention without positions, its products quantized.

    The arithmetic is that of ``MultiHeadedAttention.forward`` without caches; the projections
    were quantized before.
    """

    # Of each product: the weight behind its right operand, and both operands.
    products = (("linear_k", "query", "key"), ("linear_v", "weights", "value"))

    def __init__(self, layer: Any, config: Any) -> None:
        nn.Layer.__init__(self)
        self.h, self.d_k = layer.h, layer.d_k
        self.linear_q, self.linear_k, self.linear_v = layer.linear_q, layer.linear_k, layer.linear_v
        self.linear_out, self.dropout = layer.linear_out, layer.dropout
        # Set by the caller: a quanter in the config would be inherited by every sublayer.
        self.quanters: AttentionQuanters | None = None

    def forward(
        self, query: Any, key: Any, value: Any, mask: Any, pos_emb: Any = None, cache: Any = None
    ) -> tuple[Any, Any]:
        """Attention; shapes as in PaddleSpeech. The cache is passed through untouched."""
        assert self.quanters is not None
        edges = self.quanters
        q, k, v = self.forward_qkv(query, key, value)
        scores = paddle.matmul(edges.query(q), edges.key(k), transpose_y=True)
        padding = mask.unsqueeze(1).equal(0)[:, :, :, : scores.shape[-1]]
        scores = (scores / math.sqrt(self.d_k)).masked_fill(padding, -float("inf"))
        weights = edges.weights(F.softmax(scores, axis=-1).masked_fill(padding, 0.0))
        context = paddle.matmul(self.dropout(weights), edges.value(v)).transpose([0, 2, 1, 3])
        return self.linear_out(context.reshape([len(query), -1, self.h * self.d_k])), cache
