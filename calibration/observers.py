"""Observers: what range of an activation is worth 8 bits, from calibration batches.

PaddleSlim's observers are used where they do what their name says, and extended where not:

* ``min_max``: PaddleSlim's AbsmaxObserver.
* ``percentile``: PaddleSlim's HistObserver, a running histogram.
* ``moving_average``: PaddleSlim has none for calibration; its AVGObserver is a plain mean.
* ``mse``: PaddleSlim's MSEObserver compares losses *across* batches, so that after a quiet first
  batch it returns the abs-max of the last one [seen with 2.6.0]. Ours minimises the squared error
  of the whole running histogram.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np

from asrcompress.errors import CalibrationFailed
from asrcompress.paddle_imports import import_paddle

paddle = import_paddle()

# PaddleSlim's package initialiser needs Paddle to be imported our way first.
from paddleslim.quant.observers import AbsmaxObserver, HistObserver  # noqa: E402
from paddleslim.quant.observers.base_hist import BaseHistObserver  # noqa: E402

METHODS = ("min_max", "moving_average", "percentile", "mse")


class Observer(Protocol):
    """Sees the activations of one edge, batch by batch."""

    def observe(self, activation: Any) -> None:
        """Take one batch into account; any shape, a Paddle tensor."""

    def absmax(self) -> float:
        """The largest magnitude to represent, > 0.

        Raises:
            CalibrationFailed: nothing was observed, or nothing but zeros, or it is not finite.
        """


def make_observer(
    method: str, *, edge: str, steps: float, percentile: float, momentum: float
) -> Observer:
    """Observer for the edge named `edge`.

    Args:
        method: one of `METHODS`.
        steps: of the grid from zero to the end of the range, 127 or 255.
        percentile: share of the values to keep inside the range, for ``percentile``.
        momentum: weight of the past per batch, for ``moving_average``.
    """
    if method == "min_max":
        return _SlimObserver(edge, AbsmaxObserver()._instance(None))
    if method == "percentile":
        return _SlimObserver(edge, HistObserver(percent=percentile)._instance(None))
    if method == "mse":
        return _SlimObserver(edge, HistogramMseObserver(steps))
    if method == "moving_average":
        return MovingAverageObserver(edge, momentum)
    raise ValueError(f"unknown observer {method!r}")  # the recipe is checked before this


# PaddleSlim's observers start from 1e-7 and 1e-8 instead of nothing; no activation is that small.
_NOTHING = 1e-6


def _finite(edge: str, activation: Any) -> Any:
    """`activation` without its gradient; a histogram of NaN would raise something opaque."""
    if not bool(paddle.isfinite(activation).all()):
        raise CalibrationFailed(
            f"{edge}: holds values that are not finite, expected finite activations",
            hint="check the audio of the calibration manifest and the checkpoint's weights",
        )
    return activation.detach()


def _checked(edge: str, absmax: float) -> float:
    if not math.isfinite(absmax) or absmax <= _NOTHING:
        raise CalibrationFailed(
            f"{edge}: observed range is {absmax}, expected a finite value > 0",
            hint="check that the calibration manifest holds speech and the checkpoint is trained",
        )
    return absmax


class _SlimObserver:
    """PaddleSlim's observer interface (call, ``scales()`` = abs-max) behind ours."""

    def __init__(self, edge: str, observer: Any) -> None:
        self._edge, self._observer, self._batches = edge, observer, 0

    def observe(self, activation: Any) -> None:
        self._observer(_finite(self._edge, activation))
        self._batches += 1

    def absmax(self) -> float:
        # A histogram needs two different values; PaddleSlim asserts instead of saying so.
        if not self._batches or getattr(self._observer, "_hist", True) is None:
            return _checked(self._edge, 0.0)
        return _checked(self._edge, float(self._observer.scales()))


class MovingAverageObserver:
    """Exponential moving average of each batch's abs-max (Jacob et al. 2018, section 3.1)."""

    def __init__(self, edge: str, momentum: float) -> None:
        self._edge, self._momentum, self._absmax = edge, momentum, 0.0

    def observe(self, activation: Any) -> None:
        batch = float(_finite(self._edge, activation).abs().max())
        past = self._momentum if self._absmax else 0.0
        self._absmax = past * self._absmax + (1.0 - past) * batch

    def absmax(self) -> float:
        return _checked(self._edge, self._absmax)


class HistogramMseObserver(BaseHistObserver):
    """The symmetric range with the least squared error over the running histogram.

    Args:
        steps: of the grid from zero to the end of the range.
    """

    def __init__(self, steps: float) -> None:
        super().__init__()
        self._steps = steps

    def cal_min_max(self) -> tuple[float, float]:
        """(-t, t) with the best t among 30 %, 31 %, … 100 % of the largest magnitude."""
        edges = np.linspace(self._hist_min, self._hist_max, len(self._hist) + 1)
        magnitudes = np.abs((edges[:-1] + edges[1:]) / 2)
        counts = np.asarray(self._hist, np.float64)
        largest = max(-self._hist_min, self._hist_max)
        thresholds = largest * np.arange(0.30, 1.001, 0.01)
        errors = [self._squared_error(magnitudes, counts, t) for t in thresholds]
        best = float(thresholds[int(np.argmin(errors))])
        return -best, best

    def _squared_error(self, magnitudes: Any, counts: Any, threshold: float) -> float:
        """Rounding error, uniform inside a step, plus the error of clipping at `threshold`."""
        step = threshold / self._steps
        clipped = np.maximum(magnitudes - threshold, 0.0)
        rounding = np.where(clipped > 0, 0.0, step**2 / 12)
        # Exact zeros (ReLU, padding) are representable on every grid and cost nothing.
        rounding[magnitudes < step / 2] = magnitudes[magnitudes < step / 2] ** 2
        return float((counts * (clipped**2 + rounding)).sum())
