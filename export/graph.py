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

from typing import Any

from asrcompress.export.u2_blocks import block
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
            h = block(layer, h, table, bias, keep.unsqueeze(2))
        log_probs = F.log_softmax(self.ctc_lo(encoder.after_norm(h)), axis=-1)
        return log_probs, lengths


def _conv_length(length: Any) -> Any:
    """Output length of a convolution with kernel 3 and stride 2, as in Conv2dSubsampling4."""
    return (length - 1) // 2
