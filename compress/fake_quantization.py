"""Rounding to a grid of integers and back, with its gradients.

Written out of Paddle's elementary operators this took 14 passes over memory, forward and backward
together. On a CPU it is one each, by `asrcompress.compress.rounding_kernels`. Elsewhere it is
Paddle's operators, as few as will do and in place: a tensor of one element that is broadcast is
slower than one that is expanded first, and so is the gradient of ``clip``. The same numbers come
out of all of them; docs/training-speed.md has the measurements.
"""

from __future__ import annotations

from typing import Any

from asrcompress.compress import rounding_kernels
from asrcompress.paddle_imports import import_paddle

paddle = import_paddle()

from paddle.autograd import PyLayer  # noqa: E402  (after h5py, see paddle_imports)

# Times the distance to the grid's end, then cut to [0, 1]: 0 inside of the range and 1 outside.
_STEEP = 1e20


def fake_quantize(x: Any, scale: Any, low: Any, high: Any) -> Any:
    """`x` rounded to multiples of `scale`, the codes cut to [`low`, `high`]; same shape.

    Gradients are those of LSQ (Esser et al. 2020, arXiv:1902.08153, equations 3 and 5): rounding
    counts as the identity, values outside get none, and `scale` gets what rounding and cutting do.

    Args:
        scale: tensor of one element, float32; its gradient is not made where it is stopped.
        low, high: codes, as numbers or as tensors of one element without gradient.
    """
    if x.dtype != paddle.float32:
        x = x.astype("float32")  # of mixed precision
    on_cpu = x.place.is_cpu_place()
    if paddle.is_grad_enabled() and not (x.stop_gradient and scale.stop_gradient):
        layer = _FakeQuantizeOnCpu if on_cpu else _FakeQuantize
        return layer.apply(x, scale, low, high)
    if on_cpu:
        return rounding_kernels.rounded(x, float(scale), float(low), float(high))
    wide = scale.expand(x.shape)
    return paddle.round(paddle.clip(x / wide, low, high)).multiply_(wide)


def round_weight(weight: Any, scale: Any) -> Any:
    """`weight` rounded to multiples of `scale`, which broadcasts to it and gets no gradient."""
    wide = scale.detach().expand(weight.shape)
    if weight.stop_gradient or not paddle.is_grad_enabled():
        return paddle.round(weight / wide).multiply_(wide)
    return _RoundWeight.apply(weight, wide)


class _FakeQuantizeOnCpu(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Any, scale: Any, low: Any, high: Any) -> Any:
        ctx.grid = float(scale), float(low), float(high)
        ctx.learned, ctx.wanted = not scale.stop_gradient, not x.stop_gradient
        ctx.save_for_backward(x)
        return rounding_kernels.rounded(x, *ctx.grid)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        (x,) = ctx.saved_tensor()
        of_x, of_scale = rounding_kernels.gradients(x, gradient, *ctx.grid)
        # Paddle insists on None where no gradient is wanted.
        return of_x if ctx.wanted else None, paddle.to_tensor([of_scale]) if ctx.learned else None


class _FakeQuantize(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Any, scale: Any, low: Any, high: Any) -> Any:
        wide = scale.expand(x.shape)
        exact = x / wide
        codes = paddle.clip(exact, low, high)
        outside = (exact - codes).abs().scale_(_STEEP).clip_(0.0, 1.0)
        inside = outside.scale_(-1.0, 1.0)
        codes.round_()
        ctx.learned, ctx.wanted = not scale.stop_gradient, not x.stop_gradient
        error = None
        if ctx.learned:
            # What the output does per unit of scale: code - exact inside, the code itself outside.
            error = codes - exact.multiply_(inside)
        ctx.save_for_backward(inside, error)
        return codes.multiply_(wide)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        inside, error = ctx.saved_tensor()
        of_x = gradient * inside if ctx.wanted else None
        if not ctx.learned:
            return of_x, None
        return of_x, paddle.matmul(gradient.reshape([1, -1]), error.reshape([-1, 1])).reshape([1])


class _RoundWeight(PyLayer):
    @staticmethod
    def forward(ctx: Any, weight: Any, wide: Any) -> Any:
        return (weight / wide).round_().multiply_(wide)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient, None
