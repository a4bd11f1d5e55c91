"""What is in front of a U2 encoder's blocks: CMVN, subsampling, and where positions come in."""

from __future__ import annotations

from typing import Any

from asrcompress.paddle_imports import import_paddle, import_u2

paddle = import_paddle()
import_u2()  # PaddleSpeech patches Paddle while it is imported

from paddle import nn  # noqa: E402  (after h5py, see paddle_imports)
from paddlespeech.s2t.modules.embedding import (  # noqa: E402
    NoPositionalEncoding,
    RelPositionalEncoding,
)
from paddlespeech.s2t.modules.subsampling import (  # noqa: E402
    DepthwiseConv2DSubsampling4,
    LinearNoSubsampling,
)


class FrontEnd(nn.Layer):
    """Features to the first block's input, and the positional table that blocks read.

    Args:
        encoder: PaddleSpeech's U2 encoder.
        max_outputs: length of the positional table, in output frames.
    """

    def __init__(self, encoder: Any, *, max_outputs: int) -> None:
        super().__init__()
        self.global_cmvn, self.embed = encoder.global_cmvn, encoder.embed
        positions = encoder.embed.pos_enc
        self.has_positions = not isinstance(positions, NoPositionalEncoding)
        # Absolute positions are added here; relative and rotary ones are read by the attention.
        self.adds_positions = self.has_positions and not isinstance(
            positions, RelPositionalEncoding
        )
        if self.has_positions:
            self.scale = float(positions.xscale)
            table = positions.pe[:, :max_outputs].detach()
            table.name = "positional_table"  # else Paddle's running number would be in the graph
            self.register_buffer("pe", table)

    def forward(self, x: Any, offset: Any = None) -> Any:
        """The first block's input, (batch, frames', width).

        Args:
            x: features, float32 (batch, frames, mels).
            offset: output frames before these, int64 (1,); None for none.
        """
        if self.global_cmvn is not None:
            x = self.global_cmvn(x)
        embed = self.embed
        if isinstance(embed, DepthwiseConv2DSubsampling4):
            h = embed.act1(embed.pw_conv(x.unsqueeze(1)))
            h = _flattened(embed.act2(embed.dw_conv(h)))
            return embed.input_proj[0](self._placed(h, offset))
        if isinstance(embed, LinearNoSubsampling):
            linear, norm, _, activation = embed.out
            return self._placed(activation(norm(linear(x))), offset)
        linear = embed.out if hasattr(embed, "out") else embed.linear
        return self._placed(linear(_flattened(embed.conv(x.unsqueeze(1)))), offset)

    def table(self, frames: Any, offset: Any = None) -> Any:
        """Positional encodings of `frames` output frames from `offset` on, (1, frames, width)."""
        if not self.has_positions:
            return None
        if offset is None:
            return self.pe[:, :frames]
        return paddle.slice(self.pe, [1], [offset], [offset + frames])

    def lengths(self, lengths: Any) -> Any:
        """Output frames of utterances of `lengths` feature frames, int64 (batch,)."""
        embed = self.embed
        if isinstance(embed, DepthwiseConv2DSubsampling4):
            convolutions = [embed.pw_conv, embed.dw_conv]
        else:
            convolutions = [layer for layer in getattr(embed, "conv", []) if _is_convolution(layer)]
        for layer in convolutions:
            kernel, stride = layer.weight.shape[2], layer._stride[0]
            lengths = (lengths - kernel) // stride + 1
        return lengths

    def _placed(self, h: Any, offset: Any) -> Any:
        if not self.has_positions:
            return h
        h = h * self.scale
        return h + self.table(paddle.shape(h)[1], offset) if self.adds_positions else h


def _flattened(h: Any) -> Any:
    """(batch, channels, frames, mels) as (batch, frames, channels * mels)."""
    return h.transpose([0, 2, 1, 3]).flatten(2)


def _is_convolution(layer: Any) -> bool:
    return isinstance(layer, nn.Conv2D)
