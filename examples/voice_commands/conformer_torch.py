"""PaddleSpeech's offline Conformer U2 in PyTorch: same parameter names, same outputs.

Only what examples/voice_commands/train.py configures: conv2d subsampling by 4, relative positions,
full context, CTC and one left-to-right decoder. PaddleSpeech's peculiarities are kept on purpose:
LayerNorm's epsilon of 1e-12, relative attention without the shift of Transformer-XL, and the
decoder layers' concat_linear, which are saved and never used.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MASKED = -1e4  # far below any attention score, and finite in bfloat16
# Their weights are (inputs, outputs) in Paddle and (outputs, inputs) in PyTorch.
_LINEAR = (
    *("linear_q", "linear_k", "linear_v", "linear_out", "linear_pos", "w_1", "w_2"),
    *("output_layer", "ctc_lo", "concat_linear1", "concat_linear2", "embed.out.0"),
)
_RENAMED = {"norm._mean": "norm.running_mean", "norm._variance": "norm.running_var"}


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
        x = self.conv(x).permute(0, 2, 1, 3).flatten(2)
        x = self.out(x) * math.sqrt(self.width)
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


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder, feed-forward."""

    def __init__(self, width: int, conf: dict[str, Any]) -> None:
        super().__init__()
        self.self_attn = Attention(conf["attention_heads"], width)
        self.src_attn = Attention(conf["attention_heads"], width)
        self.feed_forward = FeedForward(width, conf["linear_units"], conf["dropout_rate"], F.relu)
        self.norm1, self.norm2, self.norm3 = (layer_norm(width) for _ in range(3))
        self.concat_linear1 = nn.Linear(2 * width, width).requires_grad_(False)
        self.concat_linear2 = nn.Linear(2 * width, width).requires_grad_(False)
        self.dropout = nn.Dropout(conf["dropout_rate"])

    def forward(self, x: Tensor, past: Tensor, memory: Tensor, counts: Tensor) -> Tensor:
        said = self.norm1(x)
        x = x + self.dropout(self.self_attn(said, said, past))
        x = x + self.dropout(self.src_attn(self.norm2(x), memory, counts))
        return x + self.dropout(self.feed_forward(self.norm3(x)))


class Decoder(nn.Module):
    """Predicts each symbol from those before it and the encoder's output."""

    def __init__(self, n_symbols: int, width: int, conf: dict[str, Any]) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Embedding(n_symbols, width))
        self.decoders = nn.ModuleList(DecoderLayer(width, conf) for _ in range(conf["num_blocks"]))
        self.after_norm, self.output_layer = layer_norm(width), nn.Linear(width, n_symbols)
        self.dropout, self.width = nn.Dropout(conf["positional_dropout_rate"]), width
        self.register_buffer("table", positions(500, width), persistent=False)

    def forward(self, said: Tensor, memory: Tensor, counts: Tensor) -> Tensor:
        length = said.shape[1]
        x = self.dropout(self.embed(said) * math.sqrt(self.width) + self.table[:, :length])
        past = additive(torch.ones(length, length, dtype=torch.bool).tril())
        for layer in self.decoders:
            x = layer(x, past, memory, additive(counts)[:, None, None])
        return self.output_layer(self.after_norm(x))


class U2(nn.Module):
    """The network of a PaddleSpeech conf/model.yaml, given as a dict."""

    def __init__(self, conf: dict[str, Any], n_symbols: int) -> None:
        super().__init__()
        width = conf["encoder_conf"]["output_size"]
        self.encoder = Encoder(conf["encoder_conf"])
        self.decoder = Decoder(n_symbols, width, conf["decoder_conf"])
        self.ctc = nn.ModuleDict({"ctc_lo": nn.Linear(width, n_symbols)})
        self.eos, self.conf = n_symbols - 1, conf["model_conf"]

    def ctc_log_probs(self, encoded: Tensor) -> Tensor:
        """Log-probabilities (N, T', symbols), float32."""
        return F.log_softmax(self.ctc["ctc_lo"](encoded).float(), -1)

    def loss(self, speech: Tensor, n_frames: Tensor, ids: list[list[int]]) -> Tensor:
        """PaddleSpeech's hybrid of CTC and attention, per symbol of the batch."""
        encoded, counts = self.encoder(speech, n_frames)
        said = [torch.tensor(item) for item in ids]
        n_said = torch.tensor([len(item) for item in ids])
        log_probs = self.ctc_log_probs(encoded).transpose(0, 1)
        ctc = F.ctc_loss(
            log_probs, torch.cat(said), counts.sum(1), n_said, reduction="sum", zero_infinity=True
        )
        inputs = nn.utils.rnn.pad_sequence([F.pad(s, (1, 0), value=self.eos) for s in said], True)
        wanted = [F.pad(s, (0, 1), value=self.eos) for s in said]
        attention = F.cross_entropy(
            self.decoder(inputs, encoded, counts).float().flatten(0, 1),
            nn.utils.rnn.pad_sequence(wanted, True, -1).flatten(),
            ignore_index=-1,
            label_smoothing=self.conf["lsm_weight"],
            reduction="sum",
        )
        weight = self.conf["ctc_weight"]
        return (weight * ctc + (1 - weight) * attention) / n_said.sum()


def from_paddle(weights: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """A state dict of `U2` from the tensors of a .pdparams file."""
    state = {}
    for name, array in weights.items():
        tensor = torch.from_numpy(np.array(array))
        for paddle_name, own_name in _RENAMED.items():
            name = name.replace(paddle_name, own_name)
        state[name] = tensor.t().contiguous() if _is_linear(name) else tensor
    return state


def to_paddle(state: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """The tensors of a .pdparams file from a state dict of `U2`."""
    weights = {}
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        tensor = tensor.detach().t() if _is_linear(name) else tensor.detach()
        for paddle_name, own_name in _RENAMED.items():
            name = name.replace(own_name, paddle_name)
        weights[name] = np.array(tensor.numpy(), np.float32, order="C")
    return weights


def _is_linear(name: str) -> bool:
    return name.removesuffix(".weight").endswith(_LINEAR) and name.endswith(".weight")
