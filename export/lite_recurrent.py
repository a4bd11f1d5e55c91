"""DeepSpeech2 for Paddle Lite: a piece of audio and the states before it in, those after it out.

Paddle Lite 2.13rc0's ``rnn`` kernel takes initial states and computes all its outputs right, but
leaves its State outputs unwritten (its unbound copies are never copied back: NaN or garbage). So
the states are computed from what is right. The hidden state is the last output. The cell state of
an LSTM follows from the outputs h: with them known, all gates of all steps are one product, and

    c_T = sum_t (prod_{s > t} f_s) i_t g_t + (prod_s f_s) c_0

is a sum of products of numbers between 0 and 1. The products are taken as sums of logarithms, by a
triangular matrix.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from asrcompress.export.deepspeech2_graph import scores, subsampled
from asrcompress.paddle_imports import import_paddle

paddle = import_paddle()

from paddle import nn  # noqa: E402  (after h5py, see paddle_imports)
from paddle.nn import functional as F  # noqa: E402

# Smallest forget gate; below it nothing of the past is left in float32 anyway.
_SMALLEST_GATE = 1e-30


class StaticDeepSpeech2(nn.Layer):
    """``(x, h, c) -> (log_probs, next_h, next_c)``; of a GRU without c.

    Args:
        network: PaddleSpeech's DeepSpeech2 that reads forward.
        outputs: output frames of the piece.
    """

    def __init__(self, network: Any, *, outputs: int) -> None:
        super().__init__()
        self.encoder, self.ctc_lo = network.encoder, network.decoder.ctc_lo
        self.outputs = outputs
        later = paddle.to_tensor(np.triu(np.ones((outputs, outputs), np.float32), 1))
        later.name = "later_steps"
        self.register_buffer("later", later)

    def forward(self, x: Any, h: Any, c: Any = None) -> tuple[Any, ...]:
        """CTC log-probabilities and the states after the piece.

        Args:
            x: features, float32 (1, frames, mels).
            h, c: states before it, (layers, 1, hidden).
        """
        encoder = self.encoder
        y, next_h, next_c = subsampled(encoder, x), [], []
        for index, norm in enumerate(encoder.layernorm_list):
            before = h[index : index + 1]
            if c is None:
                after, _ = encoder.rnn[index](y, before)
            else:
                cell = c[index : index + 1]
                after, _ = encoder.rnn[index](y, (before, cell))
                next_c.append(self._cell(encoder.rnn[index], y, after, before, cell))
            next_h.append(after[:, self.outputs - 1 :])
            y = norm(after)
        states = [paddle.concat(items) for items in (next_h, next_c) if items]
        return scores(encoder, self.ctc_lo, y), *states

    def _cell(self, rnn: Any, x: Any, after: Any, before: Any, cell: Any) -> Any:
        """Cell state behind the last step, (1, 1, hidden).

        Args:
            x, after: inputs and outputs of the layer, (1, steps, width).
            before, cell: its states before the first step.
        """
        past = paddle.concat([before, after[:, : self.outputs - 1]], axis=1)
        gates = paddle.matmul(x, rnn.weight_ih_l0, transpose_y=True) + rnn.bias_ih_l0
        gates = gates + paddle.matmul(past, rnn.weight_hh_l0, transpose_y=True) + rnn.bias_hh_l0
        i, f, g, _ = paddle.split(gates, 4, axis=2)  # Paddle's order
        kept = paddle.log(F.sigmoid(f) + _SMALLEST_GATE)
        shares = paddle.exp(paddle.matmul(self.later, kept))  # of each step, in the end
        new = (shares * F.sigmoid(i) * paddle.tanh(g)).sum(axis=1, keepdim=True)
        return new + paddle.exp(kept.sum(axis=1, keepdim=True)) * cell
