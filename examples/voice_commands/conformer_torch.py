"""PaddleSpeech's Conformer encoder in PyTorch: same parameter names, same outputs.

Only what train.py configures: conv2d subsampling by 4, relative positions, full context.
PaddleSpeech's peculiarities are kept on purpose: LayerNorm's epsilon of 1e-12, and relative
attention without the shift of Transformer-XL. `u2_torch.U2` is the whole network.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MASKED = -1e4  # far below any attention score, and finite in bfloat16


def layer_norm(width: int) -> nn.LayerNorm:
    """LayerNorm with PaddleSpeech's epsilon."""
    return nn.LayerNorm(width, eps=1e-12)


def positions(count: int, width: int) -> Tensor:
    """Sines and cosines, float32 (1, count, width)."""
    steps = torch.arange(count, dtype=torch.float32).unsqueeze(1)
    rates = torch.exp(-torch.arange(0, width, 2).float() * (math.log(10000.0) / width))
    table = torch.zeros(1, count, width)
    table[0, :, 0::2] = torch.sin(steps * rates)
    table[0, :, 1::2] = torch.cos(steps * rates)
    return table


def additive(allowed: Tensor) -> Tensor:
    """Attention mask to add to the scores, from one of booleans."""
    return torch.zeros(allowed.shape).masked_fill(~allowed, _MASKED)


class FeedForward(nn.Module):
    """Two linear layers."""

    def __init__(self, width: int, hidden: int, dropout: float, activation: Any) -> None:
        super().__init__()
        self.w_1, self.w_2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout, self.activation = nn.Dropout(dropout), activation

    def forward(self, x: Tensor) -> Tensor:
        return self.w_2(self.dropout(self.activation(self.w_1(x))))


class Attention(nn.Module):
    """Multi-head attention."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.linear_q, self.linear_k = nn.Linear(width, width), nn.Linear(width, width)
        self.linear_v, self.linear_out = nn.Linear(width, width), nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        """(N, T, width) to (N, heads, T, size)."""
        return x.view(x.shape[0], -1, self.heads, self.size).transpose(1, 2)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Scores scaled by one head's size, softmax, weighted sum, heads joined."""
        scores = torch.matmul(query / math.sqrt(self.size), key.transpose(-1, -2))
        heard = torch.matmul(torch.softmax(scores + mask, -1).to(value.dtype), value)
        joined = heard.transpose(1, 2).reshape(heard.shape[0], -1, self.heads * self.size)
        return self.linear_out(joined)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        query, key = self.split(self.linear_q(x)), self.split(self.linear_k(memory))
        return self.attend(query, key, self.split(self.linear_v(memory)), mask)


class RelativeAttention(Attention):
    """Self-attention whose scores see the key's content and the key's position."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__(heads, width)
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(heads, self.size))
        self.pos_bias_v = nn.Parameter(torch.zeros(heads, self.size))

    def forward(self, x: Tensor, mask: Tensor, position: Tensor) -> Tensor:
        query, key = self.split(self.linear_q(x)), self.split(self.linear_k(x))
        place = self.split(self.linear_pos(position)).expand(len(x), -1, -1, -1)
        biases = [bias.unsqueeze(1).to(query.dtype) for bias in (self.pos_bias_u, self.pos_bias_v)]
        # (q + u) . k + (q + v) . p as one product of vectors twice as long
        both = torch.cat([query + bias for bias in biases], -1)
        seen = torch.cat([key, place], -1)
        return self.attend(both, seen, self.split(self.linear_v(x)), mask)


class Convolution(nn.Module):
    """Pointwise, GLU, depthwise over time, batch norm, pointwise; padding is kept at zero."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.pointwise_conv1 = nn.Conv1d(width, 2 * width, 1)
        self.depthwise_conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.BatchNorm1d(width, momentum=0.1)  # Paddle writes this momentum as 0.9
        self.pointwise_conv2 = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        first, last = self.pointwise_conv1, self.pointwise_conv2
        x = F.glu(F.linear(x * valid.to(x.dtype), first.weight.squeeze(-1), first.bias), -1)
        x = self.depthwise_conv(x.transpose(1, 2)).transpose(1, 2)
        x = F.silu(self.norm(x.flatten(0, 1)).view(x.shape))
        return F.linear(x, last.weight.squeeze(-1), last.bias) * valid.to(x.dtype)


class ConformerBlock(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward."""

    def __init__(self, conf: dict[str, Any]) -> None:
        super().__init__()
        width, dropout = conf["output_size"], conf["dropout_rate"]
        self.feed_forward_macaron = FeedForward(width, conf["linear_units"], dropout, F.silu)
        self.self_attn = RelativeAttention(conf["attention_heads"], width)
        self.conv_module = Convolution(width, conf["cnn_module_kernel"])
        self.feed_forward = FeedForward(width, conf["linear_units"], dropout, F.silu)
        self.norm_ff_macaron, self.norm_mha = layer_norm(width), layer_norm(width)
        self.norm_conv, self.norm_ff = layer_norm(width), layer_norm(width)
        self.norm_final = layer_norm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, position: Tensor, valid: Tensor) -> Tensor:
        x = x + 0.5 * self.dropout(self.feed_forward_macaron(self.norm_ff_macaron(x)))
        x = x + self.dropout(self.self_attn(self.norm_mha(x), mask, position))
        x = x + self.dropout(self.conv_module(self.norm_conv(x), valid))
        x = x + 0.5 * self.dropout(self.feed_forward(self.norm_ff(x)))
        return self.norm_final(x)


class Subsampling(nn.Module):
    """Two convolutions of stride 2 and a linear layer: 80 mels at 10 ms to a vector at 40 ms."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        convolutions = (nn.Conv2d(1, width, 3, 2), nn.Conv2d(width, width, 3, 2))
        self.conv = nn.Sequential(convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU())
        self.out = nn.Sequential(nn.Linear(width * 19, width))
        self.dropout, self.width = nn.Dropout(dropout), width
        self.register_buffer("table", positions(5000, width), persistent=False)

    def forward(self, speech: Tensor) -> tuple[Tensor, Tensor]:
        x = speech.unsqueeze(1).contiguous(memory_format=torch.channels_last)
        # (N, T', 19, width), as it lies in memory: the weight is turned, not what is far larger
        x = self.conv(x).permute(0, 2, 3, 1).flatten(2)
        turned = self.out[0].weight.view(self.width, self.width, -1).transpose(1, 2).flatten(1)
        x = F.linear(x, turned, self.out[0].bias) * math.sqrt(self.width)
        return self.dropout(x), self.dropout(self.table[:, : x.shape[1]])


class Encoder(nn.Module):
    """Subsampling and Conformer blocks."""

    def __init__(self, conf: dict[str, Any]) -> None:
        super().__init__()
        self.embed = Subsampling(conf["output_size"], conf["positional_dropout_rate"])
        self.encoders = nn.ModuleList(ConformerBlock(conf) for _ in range(conf["num_blocks"]))
        self.after_norm = layer_norm(conf["output_size"])

    def forward(self, speech: Tensor, n_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Encoded (N, T', width), and which of its frames count, booleans (N, T')."""
        x, position = self.embed(speech)
        # PaddleSpeech takes every fourth value of the frames' mask
        counts = torch.arange(x.shape[1])[None] * 4 < n_frames[:, None]
        mask, valid = additive(counts)[:, None, None], counts.float().unsqueeze(-1)
        for block in self.encoders:
            x = block(x, mask, position, valid)
        return self.after_norm(x), counts
