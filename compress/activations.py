"""Swish as it runs on integers: x · sigmoid(x), each of the two on a grid of 8 bits."""

from __future__ import annotations

from typing import Any

from asrcompress.compress.fake_quantization import fake_quantize
from asrcompress.compress.quanters import ActivationQuanter
from asrcompress.paddle_imports import import_paddle
from asrcompress.ranges import GATE

paddle = import_paddle()

from paddle import nn  # noqa: E402  (after h5py, see paddle_imports)

# Swish is nothing below: -0.0027 at -8. Codes are worth more above.
LOWEST_INPUT = -8.0


class QuantedSwish(nn.Layer):
    """What ONNX Runtime's QLinearSigmoid and QLinearMul compute.

    The output is rounded by the layer that reads it, as all inputs are.

    Args:
        quanter: of the input.
        rounded: the input comes rounded by that quanter: a convolution writes codes.
    """

    def __init__(self, quanter: ActivationQuanter, *, rounded: bool) -> None:
        super().__init__()
        self.input_quanter = quanter
        self._rounded = rounded

    def forward(self, x: Any) -> Any:
        """Swish of `x`, same shape; plain while the input's range is observed."""
        if not self._rounded:
            x = self.input_quanter(x)
        gate = nn.functional.sigmoid(x)
        if not self.input_quanter.observing:
            gate = fake_quantize(gate, paddle.full([1], GATE.scale), 0.0, 255.0)
        return x * gate
