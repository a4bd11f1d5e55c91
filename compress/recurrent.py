"""LSTM and GRU with int8 weights, rounded as ONNX Runtime's integer kernels round.

``DynamicQuantizeLSTM`` (and the integer GRU of `asrcompress.export.recurrent_int8`) multiply int8
weights, one scale per gate row, with activations that they quantize as they come: the input once
per utterance, the state at every step, both to asymmetric uint8 between their own minimum and
maximum. So there is no activation range to learn, but the rounding is there to train against.

Paddle's fused recurrent kernel cannot round the state between two steps, and a loop of Paddle
operators under autograd costs many times its time. So the values come from a loop without
gradients, and the gradients from the fused kernel on the same rounded weights and input: a
straight-through estimator whose forward pass is exact, for 1.1 to 2 times the time of float.

What the state's rounding is worth: on a trained network of 3 x 256 LSTM units, log-probabilities
are 0.0036 on average from those of the deployed graph; 0.0097 without rounding the state, 0.0124
without rounding the input either. INT8 as a whole moves them by 0.027.
"""

from __future__ import annotations

from typing import Any

from asrcompress.compress.quanters import WeightQuanter, round_through
from asrcompress.paddle_imports import import_paddle

paddle = import_paddle()

from paddle import nn  # noqa: E402  (after h5py, see paddle_imports)
from paddle.nn import functional as F  # noqa: E402


def quantize_dynamically(x: Any) -> Any:
    """`x` on ONNX Runtime's dynamic uint8 grid, one grid per item of the first axis.

    The range always holds zero, and zero is a code (DynamicQuantizeLinear's definition). ONNX
    Runtime makes one grid for a whole batch; a batch of one is what is deployed and gated, so each
    utterance gets its own here.

    Args:
        x: float32 (batch, ...).
    Returns:
        same shape; the gradient is the identity's.
    """
    axes = list(range(1, x.ndim))
    low = paddle.clip(x.detach().min(axes, keepdim=True), max=0.0)
    high = paddle.clip(x.detach().max(axes, keepdim=True), min=0.0)
    scale = paddle.where(high > low, (high - low) / 255.0, paddle.ones_like(low))
    zero_point = paddle.round(-low / scale)
    codes = paddle.clip(round_through(x / scale) + zero_point, 0.0, 255.0)
    return (codes - zero_point) * scale


class _QuantedRecurrent:
    """What `QuantedLSTM` and `QuantedGRU` share: a Paddle layer that has been taken over whole.

    Takes the place of an ``nn.LSTM`` or ``nn.GRU`` with one layer, batch first.
    """

    def __init__(self, layer: Any, config: Any) -> None:
        # Its registries too, or weight_ih_l0 would lose its twin 0.cell.weight_ih of checkpoints.
        vars(self).update(vars(layer))
        self._directions = int(layer.num_directions)
        # Paddle's order: input and state weights of each direction, then the biases likewise.
        self._exact = list(layer._all_weights)
        # A tuple stays out of Paddle's registry: RNNBase takes every sublayer for one of its cells.
        self.weight_quanters = tuple(WeightQuanter(axis=0) for _ in range(2 * self._directions))

    def quantized_weights(self) -> list[tuple[str, Any, WeightQuanter]]:
        """Name within the layer, parameter and quanter of every weight that is rounded."""
        named = {id(parameter): name for name, parameter in self._parameters.items()}  # type: ignore[attr-defined]
        weights = self._exact[: len(self.weight_quanters)]
        return [
            (named[id(weight)], weight, quanter)
            for weight, quanter in zip(weights, self.weight_quanters, strict=True)
        ]

    def forward(self, inputs: Any, initial_states: Any = None, sequence_length: Any = None) -> Any:
        """As the layer's own: output (batch, frames, directions * hidden) and final states."""
        fused = super().forward  # type: ignore[misc]
        if not self.weight_quanters[0].enabled:
            return fused(inputs, initial_states, sequence_length)
        weights = list(self._exact)
        for index, quanter in enumerate(self.weight_quanters):
            weights[index] = quanter(weights[index])
        keep = _own_frames(inputs, sequence_length)
        x = quantize_dynamically(inputs if keep is None else inputs * keep)
        with paddle.no_grad():
            exact, states = self._simulate(x, weights, initial_states, sequence_length, keep)
        if not self.training:  # type: ignore[attr-defined]
            return exact, states
        self._all_weights = weights
        y, _ = fused(x, initial_states, sequence_length)
        self._all_weights = self._exact
        return y + (exact - y).detach(), states

    def _simulate(
        self, x: Any, weights: list[Any], initial: Any, lengths: Any, keep: Any
    ) -> tuple[Any, Any]:
        """The layer with its state rounded at every step.

        Args:
            x: rounded input, (batch, frames, features).
            weights: rounded, in Paddle's order, with the float biases.
            initial: states (directions, batch, hidden), a pair of them for LSTM; None for zeros.
            keep: 1.0 on an utterance's own frames, (batch, frames, 1); None where all are.
        """
        outputs, finals = [], []
        for direction in range(self._directions):
            w_ih, w_hh = weights[2 * direction : 2 * direction + 2]
            first = 2 * (self._directions + direction)
            b_ih, b_hh = weights[first : first + 2]
            gates = paddle.matmul(x, w_ih, transpose_y=True) + b_ih
            if direction:
                gates = _reversed(gates, lengths)
            state, hidden = self._initial(x, initial, direction), []
            for step in range(x.shape[1]):
                h = quantize_dynamically(state[0])
                before, state = (
                    state,
                    self._cell(
                        gates[:, step], paddle.matmul(h, w_hh, transpose_y=True) + b_hh, state
                    ),
                )
                if keep is not None:
                    mask = keep[:, step]
                    pairs = zip(before, state, strict=True)
                    state = [old + mask * (new - old) for old, new in pairs]
                hidden.append(state[0])
            y = paddle.stack(hidden, axis=1)
            y = y if keep is None else y * keep
            outputs.append(_reversed(y, lengths) if direction else y)
            finals.append(state)
        stacked = tuple(paddle.stack(parts) for parts in zip(*finals, strict=True))
        return paddle.concat(outputs, axis=-1), stacked if len(stacked) > 1 else stacked[0]

    def _initial(self, x: Any, initial: Any, direction: int) -> list[Any]:
        """State of one direction before its first step, each part (batch, hidden)."""
        parts = self.state_components  # type: ignore[attr-defined]
        if initial is None:
            return [paddle.zeros([x.shape[0], self.hidden_size])] * parts  # type: ignore[attr-defined]
        return [item[direction] for item in (initial if parts > 1 else [initial])]

    def _cell(self, x: Any, h: Any, state: list[Any]) -> list[Any]:
        """State after one step.

        Args:
            x, h: the input's and the state's part of the gates, (batch, gates * hidden).
        """
        raise NotImplementedError


class QuantedLSTM(_QuantedRecurrent, nn.LSTM):
    """LSTM on the grids of ``DynamicQuantizeLSTM``."""

    def _cell(self, x: Any, h: Any, state: list[Any]) -> list[Any]:
        i, f, candidate, o = paddle.split(x + h, 4, axis=-1)
        cell = F.sigmoid(f) * state[1] + F.sigmoid(i) * paddle.tanh(candidate)
        return [F.sigmoid(o) * paddle.tanh(cell), cell]


class QuantedGRU(_QuantedRecurrent, nn.GRU):
    """GRU with the reset gate behind the product, as cuDNN, Paddle and ONNX's second form do."""

    def _cell(self, x: Any, h: Any, state: list[Any]) -> list[Any]:
        x_r, x_z, x_c = paddle.split(x, 3, axis=-1)
        h_r, h_z, h_c = paddle.split(h, 3, axis=-1)
        candidate = paddle.tanh(x_c + F.sigmoid(x_r + h_r) * h_c)
        return [candidate + F.sigmoid(x_z + h_z) * (state[0] - candidate)]


def _own_frames(x: Any, lengths: Any) -> Any:
    """1.0 on an utterance's own frames, (batch, frames, 1); None where there is no padding."""
    frames = x.shape[1]
    if lengths is None or int(lengths.min()) >= frames:
        return None
    position = paddle.arange(frames, dtype=lengths.dtype).unsqueeze(0)
    return (position < lengths.unsqueeze(1)).astype(x.dtype).unsqueeze(2)


def _reversed(x: Any, lengths: Any) -> Any:
    """Each utterance's own frames backwards, its padding where it was."""
    batch, frames, width = x.shape
    if lengths is None or int(lengths.min()) >= frames:
        return paddle.flip(x, axis=[1])
    position = paddle.arange(frames, dtype="int64").unsqueeze(0)
    last = lengths.astype("int64").unsqueeze(1) - 1
    source = paddle.where(position <= last, last - position, position.expand([batch, frames]))
    rows = source + paddle.arange(batch, dtype="int64").unsqueeze(1) * frames
    flat = paddle.gather(x.reshape([-1, width]), rows.reshape([-1]))
    return flat.reshape([batch, frames, width])
