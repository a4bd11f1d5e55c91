"""The U2 encoder and CTC head as one graph that Paddle2ONNX takes.

PaddleSpeech's own forward cannot be traced (caches of size zero fail in ``paddle.jit.save``), so
this is the same mathematics on the same layers, without caches and dropout. Differences of form,
each exact in real numbers:

* Masks are additive (0 or -1e9) instead of -inf and a second fill.
* A pointwise Conv1D is a matrix product over channels: no transposes around it, and an output that
  ONNX Runtime's integer kernel leaves in float.
* Batch norms are folded into the depthwise convolution before (`asrcompress.batch_norm`).
* An utterance's padding is zeroed in front of the depthwise convolution, not only in front of the
  convolution module: so an utterance in a batch gives what it gives alone. PaddleSpeech's own
  batches differ from its batch of one at the end of the shorter utterances.
"""

from __future__ import annotations

import math
from typing import Any

from asrcompress.paddle_imports import import_paddle

paddle = import_paddle()

from paddle import nn  # noqa: E402  (after h5py, see paddle_imports)
from paddle.nn import functional as F  # noqa: E402

# exp(-1e9) is 0.0 in float32, as exp(-inf) is; unlike -inf it survives a row without any frame.
_MASKED = 1e9


class ExportedEncoder(nn.Layer):
    """``(x, x_lens) -> (log_probs, log_probs_lens)`` with dynamic batch and time.

    Args:
        network: PaddleSpeech's U2 network, batch norms folded.
        max_frames: longest output, in subsampled frames; bounds the positional table.
    """

    def __init__(self, network: Any, *, max_frames: int) -> None:
        super().__init__()
        encoder = network.encoder
        self.encoder, self.ctc_lo = encoder, network.ctc.ctc_lo
        positions = encoder.embed.pos_enc
        self.scale = float(positions.xscale)
        table = positions.pe[:, :max_frames].detach()
        table.name = "positional_table"  # else Paddle's running number would be in the graph
        self.register_buffer("pe", table)

    def forward(self, x: Any, x_lens: Any) -> tuple[Any, Any]:
        """CTC log-probabilities.

        Args:
            x: features, float32 (batch, frames, mels).
            x_lens: valid frames, int64 (batch,).
        Returns:
            log_probs float32 (batch, frames', vocabulary) and its valid lengths int64 (batch,).
        """
        encoder = self.encoder
        if encoder.global_cmvn is not None:
            x = encoder.global_cmvn(x)
        h = encoder.embed.conv(x.unsqueeze(1))
        h = encoder.embed.out(h.transpose([0, 2, 1, 3]).flatten(2)) * self.scale
        lengths = _conv_length(_conv_length(x_lens))
        frames = paddle.shape(h)[1]
        position = paddle.arange(frames, dtype="int64").unsqueeze(0)
        keep = (position < lengths.unsqueeze(1)).astype("float32")  # (batch, frames')
        table = self.pe[:, :frames]
        bias = ((keep - 1.0) * _MASKED).unsqueeze(1).unsqueeze(1)
        for layer in encoder.encoders:
            h = _block(layer, h, table, bias, keep.unsqueeze(2))
        log_probs = F.log_softmax(self.ctc_lo(encoder.after_norm(h)), axis=-1)
        return log_probs, lengths


def _conv_length(length: Any) -> Any:
    """Output length of a convolution with kernel 3 and stride 2, as in Conv2dSubsampling4."""
    return (length - 1) // 2


def _block(layer: Any, h: Any, table: Any, bias: Any, keep: Any) -> Any:
    """One ConformerEncoderLayer with pre-norm, (batch, frames, channels)."""
    if layer.feed_forward_macaron is not None:
        h = h + layer.ff_scale * _feed_forward(layer.feed_forward_macaron, layer.norm_ff_macaron(h))
    h = h + _attention(layer.self_attn, layer.norm_mha(h), table, bias)
    if layer.conv_module is not None:
        h = h + _convolution(layer.conv_module, layer.norm_conv(h), keep)
    h = h + layer.ff_scale * _feed_forward(layer.feed_forward, layer.norm_ff(h))
    return layer.norm_final(h) if layer.conv_module is not None else h


def _feed_forward(layer: Any, h: Any) -> Any:
    return layer.w_2(layer.activation(layer.w_1(h)))


def _attention(layer: Any, h: Any, table: Any, bias: Any) -> Any:
    """RelPositionMultiHeadedAttention.forward (arXiv:1901.02860, without the relative shift)."""
    heads, width = layer.h, layer.d_k

    def split(tensor: Any) -> Any:
        return tensor.reshape([0, -1, heads, width])

    q, k, v = split(layer.linear_q(h)), split(layer.linear_k(h)), split(layer.linear_v(h))
    p = layer.linear_pos(table).reshape([1, -1, heads, width]).transpose([0, 2, 1, 3])
    k, v = k.transpose([0, 2, 1, 3]), v.transpose([0, 2, 1, 3])
    content = paddle.matmul((q + layer.pos_bias_u).transpose([0, 2, 1, 3]), k, transpose_y=True)
    position = paddle.matmul((q + layer.pos_bias_v).transpose([0, 2, 1, 3]), p, transpose_y=True)
    scores = (content + position) * (1.0 / math.sqrt(width)) + bias
    context = paddle.matmul(F.softmax(scores, axis=-1), v)
    return layer.linear_out(context.transpose([0, 2, 1, 3]).reshape([0, -1, heads * width]))


def _convolution(layer: Any, h: Any, keep: Any) -> Any:
    """ConvolutionModule.forward; the batch norm is the identity by now."""
    h = _pointwise(layer.pointwise_conv1, h)
    value, gate = paddle.split(h, 2, axis=2)
    h = value * F.sigmoid(gate) * keep
    h = h.transpose([0, 2, 1])
    if layer.lorder > 0:  # causal: all context on the left
        h = F.pad(h, [layer.lorder, 0], data_format="NCL")
    h = layer.depthwise_conv(h).transpose([0, 2, 1])
    if layer.use_layer_norm:
        h = layer.norm(h)
    return _pointwise(layer.pointwise_conv2, layer.activation(h)) * keep


def _pointwise(layer: Any, h: Any) -> Any:
    """A Conv1D of kernel 1 as a product with its weight, (batch, frames, channels)."""
    weight = layer.weight.squeeze(2).transpose([1, 0])
    h = paddle.matmul(h, weight)
    return h if layer.bias is None else h + layer.bias
