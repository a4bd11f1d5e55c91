"""The U2 encoder and CTC head as one graph that Paddle2ONNX takes.

PaddleSpeech's own forward cannot be traced (caches of size zero fail in ``paddle.jit.save``), so
this is the same mathematics on the same layers, without caches and dropout. Differences of form,
each exact in real numbers:

* Masks are additive (0 or -1e9) instead of -inf and a second fill.
* A pointwise Conv1D is a matrix product over channels: no transposes around it, and an output that
  ONNX Runtime's integer kernel leaves in float.
* Batch norms are folded into the depthwise convolution before
  (`asrcompress.checkpoints.batch_norm`).
* An utterance's padding is zeroed in front of the depthwise convolution, not only in front of the
  convolution module: so an utterance in a batch gives what it gives alone. PaddleSpeech's own
  batches differ from its batch of one at the end of the shorter utterances.
"""

from __future__ import annotations

from typing import Any

from asrcompress.checkpoints.unused_layers import is_squeezeformer
from asrcompress.export.squeezeformer import squeezeformer_blocks
from asrcompress.export.u2_blocks import block
from asrcompress.export.u2_front import FrontEnd
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
        self.encoder, self.ctc_lo = network.encoder, network.ctc.ctc_lo
        self.front = FrontEnd(network.encoder, max_outputs=max_frames)
        self.hidden = False  # whether the encoder's output is an output of the graph

    def forward(self, x: Any, x_lens: Any) -> tuple[Any, ...]:
        """CTC log-probabilities, and the hidden states behind them where they are wanted.

        Args:
            x: features, float32 (batch, frames, mels).
            x_lens: valid frames, int64 (batch,).
        Returns:
            log_probs float32 (batch, frames', vocabulary) and its valid lengths int64 (batch,).
        """
        outputs: tuple[Any, ...] = self._traced(x, x_lens)
        return outputs

    # Paddle would rewrite the source of every function below, for the sake of control flow that
    # depends on tensors; there is none, and rewriting takes longer than all the rest.
    @paddle.jit.not_to_static
    def _traced(self, x: Any, x_lens: Any) -> tuple[Any, ...]:
        encoder = self.encoder
        h, lengths = self.front(x), self.front.lengths(x_lens)
        frames = paddle.shape(h)[1]
        position = paddle.arange(frames, dtype="int64").unsqueeze(0)
        keep = (position < lengths.unsqueeze(1)).astype("float32")  # (batch, frames')
        bias = ((keep - 1.0) * _MASKED).unsqueeze(1).unsqueeze(1)
        if encoder.static_chunk_size > 0 and not encoder.use_dynamic_chunk:
            bias = bias + _static_chunks(position, encoder.static_chunk_size)
        table, keep = self.front.table(frames), keep.unsqueeze(2)
        if is_squeezeformer(encoder):
            h = squeezeformer_blocks(encoder, h, table, bias, keep)
        else:
            for layer in encoder.encoders:
                h = block(layer, h, table, bias, keep)
            h = encoder.after_norm(h) if encoder.normalize_before else h
        log_probs = F.log_softmax(self.ctc_lo(h), axis=-1)
        return (log_probs, lengths, h) if self.hidden else (log_probs, lengths)


def _static_chunks(position: Any, chunk_size: int) -> Any:
    """Additive mask (1, 1, frames, frames): a frame sees its own chunk and those before.

    A network with ``static_chunk_size`` has this mask whenever it runs, as in PaddleSpeech's
    ``add_optional_chunk_mask``.
    """
    ends = (position // chunk_size + 1) * chunk_size
    seen = (position.unsqueeze(1) < ends.unsqueeze(2)).astype("float32")
    return ((seen - 1.0) * _MASKED).unsqueeze(1)
