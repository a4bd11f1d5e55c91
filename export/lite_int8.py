"""Learned ranges -> the quantized form of a program that Paddle Lite's ``opt`` accepts.

On each activation ``quantize_linear`` and ``dequantize_linear``, on each int8 weight
``dequantize_linear``; every scale is an abs-max, as PaddleSlim writes them (``onnx_format``). From
that ``opt`` chooses integer kernels. What differs from the ONNX form of the same ranges:

* Activations are int8 and symmetric. An edge behind a ReLU, learned on 255 steps from zero to its
  maximum, has 127 here: the same range, half as fine.
* The products of attention stay in float: there is no integer kernel for two activations.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from asrcompress.errors import ExportFailed
from asrcompress.export.lite_program import (
    WEIGHTED,
    Program,
    WeightedOp,
    argument,
    new_op,
)
from asrcompress.ranges import Ranges, WeightRange

# Paddle's AttrType, of framework.proto.
_INT, _BOOLEAN = 0, 6
# A channel of zeros has no range; any scale gives its zeros.
_SMALLEST = np.float32(1e-8)
# 8 bits; and 7, whose products of neighbours cannot saturate the 16 bits of the x86 kernel.
LEVELS = {"arm": 127, "x86": 63}


def quantize_program(program: Program, ranges: Ranges, target: str) -> tuple[str, ...]:
    """Put the learned ranges into `program`, in place.

    Args:
        ranges: of the layers in the program; those of recurrent layers are not used, since their
            kernels are float.
        target: ``arm``: every layer that has a range; ``x86``: the convolutions that its kernels
            compute right (see `right_on_x86`), with 7-bit weights.
    Returns:
        parameters of the checkpoint that are int8 now.
    Raises:
        ExportFailed: a range without a layer, or of another number of channels.
    """
    known = {item.parameter: item for item in ranges.weights}
    ops = list(program.weighted())
    unused = sorted(known.keys() - {program.names.get(item.weight, "") for item in ops})
    if unused:
        raise ExportFailed(f"ranges without a layer in the program: {', '.join(unused[:5])}")
    behind = _followers(program)
    rewriter = _Rewriter(program, ranges, min(LEVELS[target], ranges.weight_top))
    for item in ops:
        found = known.get(program.names.get(item.weight, ""))
        if found is not None and (target != "x86" or right_on_x86(program, item, behind)):
            rewriter.quantize(item, found)
    rewriter.finish()
    return tuple(rewriter.quantized)


def right_on_x86(program: Program, item: WeightedOp, behind: dict[str, list[Any]]) -> bool:
    """Whether Paddle Lite 2.13rc0 computes an int8 layer right on x86.

    Its matrix products are wrong or missing, a depthwise convolution without bias crashes, and
    the conversion to int8 is wrong in the last elements of a tensor unless size % 32 < 8.
    """
    convolution = item.op.type.endswith("conv2d")
    size = int(np.prod(program.dims(item.input)))
    users = behind.get(argument(item.op, "Output", out=True), []) if convolution else []
    biased = [u for u in users if u.type == "elementwise_add"]
    has_bias = any(argument(user, "Y") in program.parameters for user in biased)
    return convolution and has_bias and size % 32 < 8


def _followers(program: Program) -> dict[str, list[Any]]:
    """Variable -> operators that read it."""
    found: dict[str, list[Any]] = {}
    for op in program.block.ops:
        for item in op.inputs:
            for name in item.arguments:
                found.setdefault(name, []).append(op)
    return found


class _Rewriter:
    """The operators of a program, with the new ones among them."""

    def __init__(self, program: Program, ranges: Ranges, levels: int) -> None:
        self.program, self.ranges, self.levels = program, ranges, levels
        self.before: dict[int, list[Any]] = {}  # position of an operator -> what goes before it
        self.positions = {id(op): index for index, op in enumerate(program.block.ops)}
        self.quantized: list[str] = []

    def quantize(self, item: WeightedOp, found: WeightRange) -> None:
        """One layer; two layers never share a weight."""
        program, weight = self.program, item.weight
        values = program.parameters[weight]
        if values.shape[item.axis] != len(found.absmax):
            raise ExportFailed(
                f"{found.parameter}: has {values.shape[item.axis]} output channels, "
                f"expected {len(found.absmax)}"
            )
        absmax = np.maximum(np.asarray(found.absmax, np.float32), _SMALLEST)
        step = absmax / np.float32(self.levels)
        shape = [1] * values.ndim
        shape[item.axis] = -1
        codes = np.clip(np.rint(values / step.reshape(shape)), -self.levels, self.levels)
        program.replace(weight, codes.astype(np.int8))
        # The kernel divides a scale by 127, however many levels the weights use.
        scale = absmax * np.float32(127 / self.levels)
        ops = self._weight(weight, scale, item.axis)
        threshold = np.float32(self.ranges.activations[found.input].absmax)
        ops += self._activation(item.input, weight, threshold)
        self.before[self.positions[id(item.op)]] = ops
        source, target, _ = WEIGHTED[item.op.type]
        _redirect(item.op, source, f"{weight}@x")
        _redirect(item.op, target, f"{weight}@w")
        self.quantized.append(found.parameter)

    def finish(self) -> None:
        """Write the operators back."""
        ops = []
        for index, op in enumerate(self.program.block.ops):
            ops += [*self.before.get(index, []), op]
        self.program.set_ops(ops)

    def _weight(self, weight: str, scale: np.ndarray, axis: int) -> list[Any]:
        dims = self.program.parameters[weight].shape
        self._scale(f"{weight}@w", scale)
        self.program.add(f"{weight}@w", dims)
        return [_operator("dequantize_linear", weight, f"{weight}@w", f"{weight}@w", axis)]

    def _activation(self, tensor: str, weight: str, threshold: np.float32) -> list[Any]:
        dims = self.program.dims(tensor)
        self._scale(f"{weight}@x", np.array([threshold], np.float32))
        for name in (f"{weight}@q", f"{weight}@x"):
            self.program.add(name, dims)
        return [
            _operator("quantize_linear", tensor, f"{weight}@x", f"{weight}@q", -1),
            _operator("dequantize_linear", f"{weight}@q", f"{weight}@x", f"{weight}@x", -1),
        ]

    def _scale(self, name: str, scale: np.ndarray) -> None:
        self.program.add(f"{name}_scale", scale.shape, scale)
        self.program.add(f"{name}_zero", scale.shape, np.zeros_like(scale))


def _operator(kind: str, tensor: str, grid: str, output: str, axis: int) -> Any:
    op = new_op(kind)
    for parameter, name in (
        ("X", tensor),
        ("Scale", f"{grid}_scale"),
        ("ZeroPoint", f"{grid}_zero"),
    ):
        op.inputs.add(parameter=parameter, arguments=[name])
    op.outputs.add(parameter="Y", arguments=[output])
    op.attrs.add(name="is_test", type=_BOOLEAN, b=True)
    op.attrs.add(name="quant_axis", type=_INT, i=axis)
    op.attrs.add(name="bit_length", type=_INT, i=8)
    return op


def _redirect(op: Any, parameter: str, name: str) -> None:
    for item in op.inputs:
        if item.parameter == parameter:
            item.arguments[0] = name
