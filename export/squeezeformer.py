"""The blocks of a Squeezeformer encoder (arXiv:2206.00888), some of them at half the frame rate.

As ``SqueezeformerEncoder.forward`` of PaddleSpeech 1.5.0 computes them, on whole utterances.
"""

from __future__ import annotations

from typing import Any

from asrcompress.export.u2_blocks import block, pointwise
from asrcompress.paddle_imports import import_paddle

paddle = import_paddle()


def squeezeformer_blocks(encoder: Any, h: Any, table: Any, bias: Any, keep: Any) -> Any:
    """All blocks, with the reductions and recoveries of the frame rate between them.

    Args:
        h: first block's input, (batch, frames, width).
        table: positional encodings, (1, frames, width).
        bias: additive mask of the attention, (batch, 1, 1 or frames, frames).
        keep: 1.0 on an utterance's own frames, (batch, frames, 1).
    """
    h = encoder.preln(h)
    reduce_at, recover_at = encoder.reduce_idx or (), encoder.recover_idx or ()
    saved: list[tuple[Any, Any, Any, Any]] = []
    level = 0
    for index, layer in enumerate(encoder.encoders):
        if index in reduce_at:
            saved.append((h, table, bias, keep))
            h = _reduced(encoder.time_reduction_layer, h, keep)
            table = None if table is None else table[:, ::2]
            bias, keep = bias[:, :, ::2, ::2], keep[:, ::2]
            level += 1
        if index in recover_at:
            level -= 1
            # PaddleSpeech never forgets a saved level, so a later one may read an earlier one's.
            full, table, bias, keep = saved[level]
            h = full + _doubled(encoder.time_recover_layer(h), paddle.shape(full)[1])
        h = block(layer, h, table, bias, keep)
    return h if encoder.final_proj is None else encoder.final_proj(h)


def _reduced(layer: Any, h: Any, keep: Any) -> Any:
    """TimeReductionLayer1D and TimeReductionLayerStream: a frame for every two."""
    frames = (paddle.shape(h)[1] + 1) // 2
    y = layer.dw_conv((h * keep).transpose([0, 2, 1])).transpose([0, 2, 1])
    return pointwise(layer.pw_conv, y[:, :frames])


def _doubled(h: Any, frames: Any) -> Any:
    """Each frame twice, the first `frames` of them.

    PaddleSpeech doubles in front of the Linear; behind it there is half the work.
    """
    pairs = paddle.concat([h.unsqueeze(2), h.unsqueeze(2)], axis=2)
    return pairs.reshape([0, -1, h.shape[2]])[:, :frames]
