"""The attention decoder as a graph of its own: what is the next token of each of some texts.

The mathematics of PaddleSpeech's TransformerDecoder and BiTransformerDecoder on their own layers,
with teacher forcing. Differences of form, each exact in real numbers:

* One utterance's hidden states serve all texts: keys and values are computed once, not per text.
* Padding of shorter texts needs no mask: it is behind them, where the causal mask hides it.
* The positional table is computed, not stored: texts may have any length.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx

from asrcompress.bundles.manifest import TensorSpec
from asrcompress.checkpoints.acoustic import has_attention_loss
from asrcompress.errors import ExportFailed
from asrcompress.export.onnx_graph import Interface, export_graph
from asrcompress.export.u2_blocks import feed_forward
from asrcompress.paddle_imports import import_paddle

paddle = import_paddle()

from paddle import nn  # noqa: E402  (after h5py, see paddle_imports)
from paddle.nn import functional as F  # noqa: E402

# exp(-1e9) is 0.0 in float32, as exp(-inf) is.
_MASKED = 1e9
# Largest difference of a computed position from PaddleSpeech's table; seen: 3e-5.
_POSITION_TOLERANCE = 1e-3


def export_decoder(network: Any, *, opset: int, reverse: bool) -> onnx.ModelProto:
    """FP32 graph of a U2 network's attention decoder.

    Args:
        network: PaddleSpeech's network in evaluation mode.
        reverse: with the right-to-left decoder of U2++.
    Returns:
        graph ``(hidden, tokens) -> log_probs``; with `reverse` also ``reversed_tokens ->
        reversed_log_probs``. `tokens` are texts behind sos, padded at the end with anything.
    Raises:
        ExportFailed: no trained decoder, or none for the other direction; see `export_graph`.
    """
    if not has_attention_loss(network):
        raise ExportFailed("decoder: was not trained, expected model_conf.ctc_weight below 1")
    if reverse and not hasattr(network.decoder, "right_decoder"):
        raise ExportFailed("decoder: reads left to right only, expected a bitransformer decoder")
    layer = ExportedDecoder(network, reverse=reverse)
    return export_graph(layer, network, _interface(network, reverse=reverse), opset=opset)


def _interface(network: Any, *, reverse: bool) -> Interface:
    width, vocabulary = network.ctc.ctc_lo.weight.shape
    inputs = [
        TensorSpec(name="hidden", dtype="float32", dims=(1, "T", width)),
        TensorSpec(name="tokens", dtype="int64", dims=("N", "L")),
    ]
    outputs = [TensorSpec(name="log_probs", dtype="float32", dims=("N", "L", vocabulary))]
    both = hasattr(network.decoder, "left_decoder")
    weights = ["decoder.left_decoder." if both else "decoder."]
    if reverse:
        inputs.append(TensorSpec(name="reversed_tokens", dtype="int64", dims=("M", "K")))
        outputs.append(
            TensorSpec(name="reversed_log_probs", dtype="float32", dims=("M", "K", vocabulary))
        )
        weights.append("decoder.right_decoder.")
    return Interface(
        name="attention_decoder",
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        weights=tuple(weights),
    )


class ExportedDecoder(nn.Layer):
    """``(hidden, tokens[, reversed_tokens]) -> log_probs[, reversed_log_probs]``.

    Args:
        network: PaddleSpeech's U2 network.
        reverse: with the right-to-left decoder.
    """

    def __init__(self, network: Any, *, reverse: bool) -> None:
        super().__init__()
        decoder = network.decoder
        self.left = getattr(decoder, "left_decoder", decoder)
        self.right = decoder.right_decoder if reverse else None
        width = network.ctc.ctc_lo.weight.shape[0]
        steps = np.exp(np.arange(0, width, 2, dtype=np.float32) * -(math.log(10000.0) / width))
        for part in filter(None, (self.left, self.right)):
            _check_positions(part, steps)
        frequencies = paddle.to_tensor(steps)
        frequencies.name = "position_frequencies"
        self.register_buffer("frequencies", frequencies)
        self.scale = float(self.left.embed[1].xscale)  # not while tracing: a tensor in PaddleSpeech

    def forward(self, hidden: Any, tokens: Any, reversed_tokens: Any = None) -> Any:
        """Log-probabilities of the token behind each token.

        Args:
            hidden: the encoder's output for one utterance, float32 (1, frames, width).
            tokens: int64 (texts, length), each row sos and the text.
            reversed_tokens: the same, texts back to front.
        Returns:
            float32 (texts, length, vocabulary), one per direction.
        """
        left = self._read(self.left, hidden, tokens)
        if self.right is None:
            return left
        return left, self._read(self.right, hidden, reversed_tokens)

    # Without control flow on tensors there is nothing for Paddle to rewrite, which takes long.
    @paddle.jit.not_to_static
    def _read(self, decoder: Any, hidden: Any, tokens: Any) -> Any:
        """TransformerDecoder.forward without dropout."""
        length = paddle.shape(tokens)[1]
        position = paddle.arange(length, dtype="int64")
        angles = position.astype("float32").unsqueeze(1) * self.frequencies.unsqueeze(0)
        table = paddle.stack([paddle.sin(angles), paddle.cos(angles)], axis=2).flatten(1)
        # A token sees itself and what is before it.
        visible = (position.unsqueeze(0) <= position.unsqueeze(1)).astype("float32")
        bias = ((visible - 1.0) * _MASKED).unsqueeze(0).unsqueeze(0)
        h = decoder.embed[0](tokens) * self.scale + table.unsqueeze(0)
        for layer in decoder.decoders:
            h = _block(layer, h, hidden, bias)
        if decoder.normalize_before:
            h = decoder.after_norm(h)
        return F.log_softmax(decoder.output_layer(h), axis=-1)


def _check_positions(decoder: Any, steps: np.ndarray) -> None:
    """What is computed in the graph is what PaddleSpeech has in its table."""
    table = decoder.embed[1].pe.numpy()[0]
    angles = np.arange(len(table), dtype=np.float32)[:, None] * steps
    computed = np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(table.shape)
    if np.abs(computed - table).max() > _POSITION_TOLERANCE:
        raise ExportFailed("decoder: has other positions than sines and cosines")


def _block(layer: Any, h: Any, hidden: Any, bias: Any) -> Any:
    """DecoderLayer.forward without dropout and caches."""
    before = layer.normalize_before
    x = layer.norm1(h) if before else h
    seen = _self_attention(layer.self_attn, x, bias)
    if layer.concat_after:
        seen = layer.concat_linear1(paddle.concat([x, seen], axis=-1))
    h = h + seen
    h = h if before else layer.norm1(h)
    x = layer.norm2(h) if before else h
    heard = _source_attention(layer.src_attn, x, hidden)
    if layer.concat_after:
        heard = layer.concat_linear2(paddle.concat([x, heard], axis=-1))
    h = h + heard
    h = h if before else layer.norm2(h)
    h = h + feed_forward(layer.feed_forward, layer.norm3(h) if before else h)
    return h if before else layer.norm3(h)


def _self_attention(layer: Any, x: Any, bias: Any) -> Any:
    """MultiHeadedAttention among the tokens of each text, (texts, length, width)."""

    def split(tensor: Any) -> Any:
        return tensor.reshape([0, -1, layer.h, layer.d_k]).transpose([0, 2, 1, 3])

    q, k, v = split(layer.linear_q(x)), split(layer.linear_k(x)), split(layer.linear_v(x))
    scores = paddle.matmul(q, k, transpose_y=True) * (1.0 / math.sqrt(layer.d_k)) + bias
    context = paddle.matmul(F.softmax(scores, axis=-1), v).transpose([0, 2, 1, 3])
    return layer.linear_out(context.reshape([0, -1, layer.h * layer.d_k]))


def _source_attention(layer: Any, x: Any, hidden: Any) -> Any:
    """MultiHeadedAttention from the tokens of all texts, as one row, to the utterance."""

    def split(tensor: Any) -> Any:
        return tensor.reshape([1, -1, layer.h, layer.d_k]).transpose([0, 2, 1, 3])

    q, k, v = split(layer.linear_q(x)), split(layer.linear_k(hidden)), split(layer.linear_v(hidden))
    scores = paddle.matmul(q, k, transpose_y=True) * (1.0 / math.sqrt(layer.d_k))
    context = paddle.matmul(F.softmax(scores, axis=-1), v).transpose([0, 2, 1, 3])
    return layer.linear_out(paddle.reshape(context, paddle.shape(x)))
