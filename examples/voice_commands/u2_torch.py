"""PaddleSpeech's U2 in PyTorch: Conformer encoder, CTC, and one left-to-right attention decoder.

Parameter names are PaddleSpeech's, so that its .pdparams go in and out; the decoder layers'
concat_linear, which are saved and never used, are there for that.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conformer_torch import Attention, Encoder, FeedForward, additive, layer_norm, positions

# Their weights are (inputs, outputs) in Paddle and (outputs, inputs) in PyTorch.
_LINEAR = (
    *("linear_q", "linear_k", "linear_v", "linear_out", "linear_pos", "w_1", "w_2"),
    *("output_layer", "ctc_lo", "concat_linear1", "concat_linear2", "embed.out.0"),
)
_RENAMED = {"norm._mean": "norm.running_mean", "norm._variance": "norm.running_var"}


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
