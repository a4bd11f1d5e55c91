"""PaddleSpeech's layers in forms that Paddle's CPU kernels compute quickly.

The arithmetic is the same; only the route differs. What Paddle 2.6 does slowly on a CPU, measured
(docs/training-speed.md): adding a bias between two axes, the gradient of a layer norm, a depthwise
convolution, the random numbers of dropout. On another device the layers are left as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from asrcompress.paddle_imports import import_paddle, import_u2

paddle = import_paddle()
import_u2()  # PaddleSpeech patches Paddle while it is imported

from paddle import nn  # noqa: E402  (after h5py, see paddle_imports)
from paddle.autograd import PyLayer  # noqa: E402
from paddle.nn import functional as F  # noqa: E402
from paddlespeech.s2t.modules import align  # noqa: E402


def convolve(
    function: Callable[..., Any], x: Any, weight: Any, bias: Any | None, **settings: Any
) -> Any:
    """``paddle.nn.functional.conv1d`` or ``conv2d``, channels first, with a quicker bias.

    Args:
        function: one of the two.
        x: (batch, channels, ...); weight: as `function` wants it.
        bias: (output channels,).
        settings: the other arguments of `function`.
    """
    if not _quick(x) or not str(settings.get("data_format", "NC")).startswith("NC"):
        return function(x, weight, bias, **settings)
    y = _depthwise(x, weight, settings) if function is F.conv1d else None
    if y is None:
        y = function(x, weight, None, **settings)
    return y if bias is None else _biased(y, bias)


def _quick(x: Any) -> bool:
    return bool(x.place.is_cpu_place()) and x.dtype == paddle.float32


def _biased(y: Any, bias: Any) -> Any:
    """`bias` added to the channels of `y`; with one axis behind the channels Paddle is quick."""
    flat = y if y.ndim == 3 else y.reshape([y.shape[0], y.shape[1], -1])
    added = flat + bias.reshape([-1, 1])
    return added if y.ndim == 3 else added.reshape(y.shape)


def _depthwise(x: Any, weight: Any, settings: dict[str, Any]) -> Any | None:
    """A depthwise Conv1D as a matrix product over its windows, or None where it is none."""
    channels, one, width = weight.shape
    plain = one == 1 and settings["groups"] == channels == x.shape[1]
    if not paddle.is_grad_enabled():
        return None  # forward alone is not slower in Paddle's kernel
    if not plain or _single(settings["stride"]) != 1 or _single(settings["dilation"]) != 1:
        return None
    padding = settings["padding"]
    if isinstance(padding, str) or (not isinstance(padding, int) and len(padding) != 1):
        return None
    batch, _, frames = x.shape
    windows = F.unfold(
        x.reshape([batch * channels, 1, 1, frames]),
        [1, width],
        paddings=[0, _single(padding)],
    ).reshape([batch, channels, width, -1])
    return paddle.matmul(weight.unsqueeze(0), windows).squeeze(2)


def _single(value: Any) -> int:
    return int(value if isinstance(value, int) else value[0])


class _LayerNorm(PyLayer):
    """Paddle's forward; the gradient as sums over rows and columns by matrix products."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, epsilon: float) -> Any:
        ctx.epsilon = epsilon
        ctx.save_for_backward(x, weight)
        return F.layer_norm(x, [x.shape[-1]], weight, bias, epsilon)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        x, weight = ctx.saved_tensor()
        width = x.shape[-1]
        rows = [x.size // width, width]
        flat, given = x.reshape(rows), gradient.reshape(rows)
        share = paddle.full([width, 1], 1.0 / width)
        centred = flat - paddle.matmul(flat, share).expand(rows)
        variance = paddle.matmul(paddle.square(centred), share)
        inverse = paddle.rsqrt(variance + ctx.epsilon).expand(rows)
        normal = centred.multiply_(inverse)
        along = given * normal
        ones = paddle.ones([1, rows[0]])
        of_weight = paddle.matmul(ones, along).reshape([-1])
        of_bias = paddle.matmul(ones, given).reshape([-1])
        share = share * weight.reshape([-1, 1])
        mean, slope = paddle.matmul(given, share), paddle.matmul(along, share)
        of_x = (given * weight.expand(rows)).subtract_(mean.expand(rows))
        of_x.subtract_(normal.multiply_(slope.expand(rows))).multiply_(inverse)
        return of_x.reshape(x.shape), of_weight, of_bias


class DropoutSource:
    """Random numbers for the dropout of one network, from numpy: Paddle's are drawn one by one."""

    def __init__(self) -> None:
        self._random = np.random.Generator(np.random.SFC64(0))

    def seed(self, *key: int) -> None:
        """Start again; the same key gives the same masks."""
        self._random = np.random.Generator(np.random.SFC64(key))

    def mask(self, shape: list[int], rate: float) -> Any:
        """0 with probability `rate` to 1 in 65536, else what keeps the mean; float32 of `shape`."""
        lost = round(rate * 65536)
        kept = self._random.integers(0, 65536, shape, dtype=np.uint16) >= lost
        return paddle.to_tensor(np.multiply(kept, 65536 / (65536 - lost), dtype=np.float32))


class _QuickDropout(nn.Dropout):
    source: DropoutSource

    def forward(self, x: Any) -> Any:
        simple = self.axis is None and self.mode == "upscale_in_train" and 0 < self.p < 1
        if not self.training or not simple or not _quick(x):
            return super().forward(x)
        return x * self.source.mask(x.shape, self.p)


class _QuickLayerNorm(align.LayerNorm):
    def forward(self, x: Any) -> Any:
        if not _quick(x) or list(self._normalized_shape) != [x.shape[-1]]:
            return super().forward(x)
        trained = (x, self.weight, self.bias)
        if not paddle.is_grad_enabled() or any(t is None or t.stop_gradient for t in trained):
            return super().forward(x)
        return _LayerNorm.apply(x, self.weight, self.bias, self._epsilon)


class _QuickConv1D(align.Conv1D):
    def forward(self, x: Any) -> Any:
        return super().forward(x) if self._padding_mode != "zeros" else _convolve(F.conv1d, self, x)


class _QuickConv2D(align.Conv2D):
    def forward(self, x: Any) -> Any:
        return super().forward(x) if self._padding_mode != "zeros" else _convolve(F.conv2d, self, x)


def _masked_fill(x: Any, mask: Any, value: float) -> Any:
    """PaddleSpeech's ``Tensor.masked_fill``; Paddle broadcasts slowly inside of ``where``."""
    return paddle.where(mask.expand(x.shape), paddle.full_like(x, value), x)


def _convolve(function: Callable[..., Any], layer: Any, x: Any) -> Any:
    return convolve(
        function,
        x,
        layer.weight,
        layer.bias,
        stride=layer._stride,
        # Conv1D keeps what was asked for, Conv2D a normalised form beside it.
        padding=getattr(layer, "_updated_padding", layer._padding),
        dilation=layer._dilation,
        groups=layer._groups,
        data_format=layer._data_format,
    )


_MASKED_FILL = paddle.Tensor.masked_fill
# Exactly these classes, not their subclasses.
_QUICK = {
    nn.Dropout: _QuickDropout,
    align.LayerNorm: _QuickLayerNorm,
    align.Conv1D: _QuickConv1D,
    align.Conv2D: _QuickConv2D,
}


@contextlib.contextmanager
def quick_layers(network: Any, source: DropoutSource) -> Iterator[None]:
    """PaddleSpeech's plain layers in `network` are quick ones in here, with the same parameters.

    Args:
        source: of the masks of dropout.
    """
    changed = [layer for layer in network.sublayers() if type(layer) in _QUICK]
    before = [type(layer) for layer in changed]
    try:
        paddle.Tensor.masked_fill = _masked_fill
        for layer in changed:
            layer.__class__ = _QUICK[type(layer)]
            if isinstance(layer, _QuickDropout):
                layer.source = source
        yield
    finally:
        paddle.Tensor.masked_fill = _MASKED_FILL
        for layer, plain in zip(changed, before, strict=True):
            layer.__class__ = plain
