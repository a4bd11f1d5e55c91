"""The streaming form of a U2 encoder: one chunk and the caches of earlier ones in, the next out.

The same layers as `asrcompress.export.graph`, so the same weights and ranges. Inputs and their
order are those of sherpa-onnx's streaming ``wenet_ctc`` slot; the arithmetic is that of
PaddleSpeech's ``forward_chunk``. Chunk size and left context are free: the one is how many frames
are fed, the other how much of the attention cache is asked back (``required_cache_size``).
"""

from __future__ import annotations

from typing import Any

import onnx

from asrcompress.bundles.manifest import TensorSpec
from asrcompress.checkpoints.acoustic import head_of, subsampling_factor
from asrcompress.errors import ExportFailed
from asrcompress.export.onnx_graph import Interface, export_graph
from asrcompress.export.u2_blocks import cached_block
from asrcompress.export.u2_front import FrontEnd
from asrcompress.paddle_imports import import_paddle

paddle = import_paddle()

from paddle import nn  # noqa: E402  (after h5py, see paddle_imports)
from paddle.nn import functional as F  # noqa: E402

# exp(-1e9) is 0.0 in float32, as exp(-inf) is.
_MASKED = 1e9


def export_chunks(
    network: Any, *, opset: int, max_frames: int, n_mels: int, hidden: bool = False
) -> onnx.ModelProto:
    """FP32 graph of one streaming step of a U2 network.

    Args:
        network: PaddleSpeech's network in evaluation mode, batch norms folded, causal.
        max_frames: most feature frames between two restarts of a stream; bounds the positions.
        n_mels: width of the features.
        hidden: give the encoder's output too, second after the log-probabilities.
    Raises:
        ExportFailed: a convolution that looks ahead; else see `export_graph`.
    """
    most = max_frames // subsampling_factor(network)
    layer = (ChunkEncoder if _lookback(network) else ConvolutionFreeChunkEncoder)(
        network, max_outputs=most, hidden=hidden
    )
    interface = _interface(network, n_mels=n_mels, hidden=hidden)
    return export_graph(layer, network, interface, opset=opset)


def window_frames(network: Any, chunk_size: int) -> int:
    """Feature frames that give `chunk_size` output frames."""
    embed = network.encoder.embed
    return int((chunk_size - 1) * embed.subsampling_rate + embed.right_context + 1)


def _lookback(network: Any) -> int:
    """Frames that each convolution keeps of the chunk before; 0 where there are no convolutions.

    Raises:
        ExportFailed: a convolution that looks ahead.
    """
    modules = [getattr(layer, "conv_module", None) for layer in network.encoder.encoders]
    for index, module in enumerate(modules):
        if module is not None and module.lorder == 0:
            raise ExportFailed(
                f"encoder.encoders.{index}.conv_module: looks ahead, expected a causal convolution",
                hint="only a checkpoint trained with encoder_conf.causal: true streams",
            )
    return 0 if modules[0] is None else int(modules[0].lorder)


class ChunkEncoder(nn.Layer):
    """``(x, offset, required_cache_size, attn_cache, conv_cache, attn_mask) -> (log_probs, ...)``.

    Args:
        network: see `export_chunks`.
        max_outputs: length of the positional table, in output frames.
        hidden: give the encoder's output too.
    """

    def __init__(self, network: Any, *, max_outputs: int, hidden: bool = False) -> None:
        super().__init__()
        self.encoder, self.ctc_lo = network.encoder, network.ctc.ctc_lo
        self.front = FrontEnd(network.encoder, max_outputs=max_outputs)
        self.hidden = hidden

    def forward(
        self,
        x: Any,
        offset: Any,
        required_cache_size: Any,
        attn_cache: Any,
        conv_cache: Any,
        attn_mask: Any,
    ) -> tuple[Any, ...]:
        """One chunk.

        Args:
            x: features, float32 (1, frames, mels); windows overlap by the subsampling's context.
            offset: output frames before this chunk, int64 (1,).
            required_cache_size: frames of attention to keep, int64 (1,); negative keeps all.
            attn_cache: keys and values, float32 (blocks, heads, cached, 2 * width / heads).
            conv_cache: inputs of the convolutions, float32 (blocks, 1, width, kernel - 1).
            attn_mask: which keys may be looked at, bool (1, 1, cached + frames').
        Returns:
            log_probs (1, frames', vocabulary), hidden (1, frames', width), and the next caches.
        """
        return self._step(x, offset, required_cache_size, attn_cache, conv_cache, attn_mask)

    def _step(
        self,
        x: Any,
        offset: Any,
        required_cache_size: Any,
        attn_cache: Any,
        conv_cache: Any,
        attn_mask: Any,
    ) -> tuple[Any, ...]:
        encoder = self.encoder
        h = self.front(x, offset)
        cached = paddle.shape(attn_cache)[2].astype("int64")
        keys = cached + paddle.shape(h)[1].astype("int64")
        table = self.front.table(keys, offset - cached)
        bias = ((attn_mask.astype("float32") - 1.0) * _MASKED).unsqueeze(1)
        attention, convolution = [], []
        for index, layer in enumerate(encoder.encoders):
            inputs = None if conv_cache is None else conv_cache[index]
            h, keys_values, inputs = cached_block(
                layer, h, table, bias, None, attn_cache[index : index + 1], inputs
            )
            attention.append(keys_values)
            convolution.append(inputs)
        h = encoder.after_norm(h) if encoder.normalize_before else h
        log_probs = F.log_softmax(self.ctc_lo(h), axis=-1)
        wanted = paddle.where(required_cache_size < 0, keys, required_cache_size)
        dropped = keys - paddle.minimum(wanted, keys)
        kept = paddle.slice(paddle.concat(attention), [2], [dropped], [keys.reshape([1])])
        given = (log_probs, h) if self.hidden else (log_probs,)
        return (*given, kept) if conv_cache is None else (*given, kept, paddle.stack(convolution))


class ConvolutionFreeChunkEncoder(ChunkEncoder):
    """The same without ``conv_cache``, which a Transformer encoder has no use for."""

    def forward(  # type: ignore[override]
        self, x: Any, offset: Any, required_cache_size: Any, attn_cache: Any, attn_mask: Any
    ) -> tuple[Any, ...]:
        """One chunk; see `ChunkEncoder.forward`."""
        return self._step(x, offset, required_cache_size, attn_cache, None, attn_mask)


def _interface(network: Any, *, n_mels: int, hidden: bool) -> Interface:
    layer = network.encoder.encoders[0]
    blocks, width = len(network.encoder.encoders), network.encoder.output_size()
    heads, head_width = layer.self_attn.h, layer.self_attn.d_k
    vocabulary = head_of(network).weight.shape[1]
    lookback = _lookback(network)

    def attention(name: str, frames: str) -> TensorSpec:
        return TensorSpec(name=name, dtype="float32", dims=(blocks, heads, frames, 2 * head_width))

    def convolution(name: str) -> tuple[TensorSpec, ...]:
        dims = (blocks, 1, width, lookback)
        return (TensorSpec(name=name, dtype="float32", dims=dims),) if lookback else ()

    states = (TensorSpec(name="hidden", dtype="float32", dims=(1, "U", width)),) if hidden else ()
    return Interface(
        name="encoder_ctc_chunk",
        inputs=(
            TensorSpec(name="x", dtype="float32", dims=(1, "T", n_mels)),
            TensorSpec(name="offset", dtype="int64", dims=(1,)),
            TensorSpec(name="required_cache_size", dtype="int64", dims=(1,)),
            attention("attn_cache", "C"),
            *convolution("conv_cache"),
            TensorSpec(name="attn_mask", dtype="bool", dims=(1, 1, "K")),
        ),
        outputs=(
            TensorSpec(name="log_probs", dtype="float32", dims=(1, "U", vocabulary)),
            *states,
            attention("next_attn_cache", "next_C"),
            *convolution("next_conv_cache"),
        ),
        weights=("encoder.", "ctc."),
    )
