"""Fake quantization that rounds exactly where the deployed integer kernels round.

Both classes are quanters in the sense of ``paddle.quantization`` (BaseQuanter), so that Paddle's
own QAT and QuantConfig place them. Paddle's FakeQuanterWithAbsMaxObserver was not enough: it knows
one signed grid (no [0, 255] after ReLU and softmax), starts training from a range of 0.001 instead
of a calibrated one, passes gradients through clipped values, and has no learned range.
"""

from __future__ import annotations

from typing import Any

from asrcompress.calibration.observers import Observer
from asrcompress.compress.fake_quantization import fake_quantize, round_weight
from asrcompress.paddle_imports import import_paddle
from asrcompress.ranges import ActivationRange
from asrcompress.targets import FULL_GRID

paddle = import_paddle()

from paddle.quantization import BaseQuanter  # noqa: E402  (after h5py, see paddle_imports)
from paddle.quantization.factory import QuanterFactory  # noqa: E402

# Keeps a dead output channel from dividing by zero; export uses the same floor.
MIN_ABSMAX = 1e-8


def round_through(x: Any) -> Any:
    """Round to nearest with the gradient of the identity (Bengio et al. 2013, arXiv:1308.3432)."""
    return x + (paddle.round(x) - x).detach()


class ActivationQuanter(BaseQuanter):
    """Fake quantization of one edge of the network to uint8.

    It first observes (values pass unchanged), and quantizes from `finish_calibration` on. While
    training, the range then follows one of three rules:

    * ``frozen``: stays as calibrated.
    * ``moving_average``: follows the batches' abs-max (Jacob et al. 2018, arXiv:1712.05877).
    * ``learned``: is trained by gradient (LSQ, Esser et al. 2020, arXiv:1902.08153).
    """

    def __init__(
        self,
        edge: str,
        observer: Observer,
        *,
        unsigned: bool,
        update: str,
        momentum: float,
        lowest: float | None = None,
    ) -> None:
        super().__init__()
        self.edge, self.unsigned, self.lowest = edge, unsigned, lowest
        self._observer: Observer | None = observer
        self.update, self._momentum = update, momentum
        self._low, self._high = (0.0, 255.0) if unsigned else (-128.0, 127.0)
        self._steps = 255.0 if unsigned else 127.0
        self.absmax = self.create_parameter(
            shape=[1], default_initializer=paddle.nn.initializer.Constant(0.0)
        )
        self.absmax.stop_gradient = update != "learned"

    def finish_calibration(self) -> None:
        """Take the observer's range and quantize from now on.

        Raises:
            CalibrationFailed: nothing usable was observed.
        """
        if self._observer is not None:
            self.absmax.set_value(paddle.to_tensor([self._observer.absmax()], dtype="float32"))
            self._observer = None

    def restore(self, absmax: float) -> None:
        """Continue with a range from an earlier run instead of calibrating."""
        self.absmax.set_value(paddle.to_tensor([absmax], dtype="float32"))
        self._observer = None

    @property
    def observing(self) -> bool:
        """Whether values pass unchanged, since there is no range yet."""
        return self._observer is not None

    def range(self) -> ActivationRange:
        """The present range."""
        return ActivationRange(
            absmax=float(self._positive()), unsigned=self.unsigned, lowest=self.lowest
        )

    def scale(self) -> Any:
        """Present scale, a detached tensor of shape [1]."""
        return self._step().detach()

    def forward(self, x: Any) -> Any:
        """`x` rounded to the grid, same shape; unchanged while observing."""
        if self._observer is not None:
            self._observer.observe(self._representable(x))
            return x
        if self.training and self.update == "moving_average":
            batch = self._representable(x).detach().abs().max().reshape([1])
            self.absmax.set_value(self._momentum * self.absmax + (1 - self._momentum) * batch)
        scale = self._step()
        if self.lowest is None:
            return fake_quantize(x, scale, self._low, self._high)
        zero_point = paddle.round(-self.lowest / scale.detach())
        return fake_quantize(x, scale, -zero_point, 255.0 - zero_point)

    def _step(self) -> Any:
        if self.lowest is None:
            return self._positive() / self._steps
        return (self._positive() - self.lowest) / 255.0

    def _positive(self) -> Any:
        return paddle.clip(self.absmax, min=MIN_ABSMAX)

    def _representable(self, x: Any) -> Any:
        """What the end of the grid has to cover: nothing below zero where that side is known."""
        return paddle.clip(x, min=0.0) if self.unsigned or self.lowest is not None else x

    # The rest of paddle.quantization's interface.
    def scales(self) -> Any:
        return self.absmax

    def zero_points(self) -> None:
        return None

    def quant_axis(self) -> int:
        return -1

    def bit_length(self) -> int:
        return 8


class WeightQuanter(BaseQuanter):
    """Symmetric int8 fake quantization with one abs-max per output channel.

    Args:
        axis: the weight's axis of output channels.
    Attributes:
        top: code of the abs-max: 127, or 63 for targets that want weights of 7 bits.
    """

    def __init__(self, axis: int) -> None:
        super().__init__()
        self._axis = axis
        self.enabled = False
        self.top = FULL_GRID

    def absmax(self, weight: Any) -> Any:
        """abs-max per output channel, shape [channels], detached."""
        others = [axis for axis in range(weight.ndim) if axis != self._axis]
        return paddle.clip(weight.detach().abs().max(others), min=MIN_ABSMAX)

    def scale(self, weight: Any) -> Any:
        """Real value of one step per output channel, shape [channels], detached."""
        return self.absmax(weight) / float(self.top)

    def forward(self, weight: Any) -> Any:
        """`weight` rounded to its grid, same shape; unchanged until calibration is finished."""
        if not self.enabled:
            return weight
        shape = [1] * weight.ndim
        shape[self._axis] = -1
        return round_weight(weight, self.scale(weight).reshape(shape))

    def scales(self) -> None:
        return None

    def zero_points(self) -> None:
        return None

    def quant_axis(self) -> int:
        return self._axis

    def bit_length(self) -> int:
        return 8


class GivenQuanter(QuanterFactory):
    """A factory that always hands out the same quanter.

    QuantConfig makes one quanter per layer; layers that read the same tensor must share one, or
    they learn different ranges for it and no graph can express that.
    """

    def __init__(self, quanter: BaseQuanter) -> None:
        super().__init__()
        self._quanter = quanter

    def _instance(self, layer: Any) -> BaseQuanter:
        return self._quanter

    def _get_class(self) -> type:
        return type(self._quanter)

    def __deepcopy__(self, memo: dict[int, Any]) -> GivenQuanter:
        # paddle.quantization.QAT deep-copies its config; the sharing must survive that.
        return self
