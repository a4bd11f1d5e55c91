"""Paddle's old-style program, which Paddle Lite's ``opt`` reads: two files, taken apart here.

``.pdmodel`` is a ProgramDesc of paddle/fluid/framework/framework.proto, ``.pdiparams`` the
persistable tensors in the order of their names (paddle/fluid/framework/tensor_util.cc,
``TensorToStream``).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asrcompress.errors import ExportFailed
from asrcompress.files import write_atomically
from asrcompress.paddle_imports import import_paddle

import_paddle()

from paddle.base.proto import framework_pb2 as proto  # noqa: E402  (after h5py)

_DTYPES = {5: np.float32, 21: np.int8, 2: np.int32, 3: np.int64, 0: np.bool_}
_TYPES = {np.dtype(kind): number for number, kind in _DTYPES.items()}
_LOD_TENSOR = 7
# Operators that only move or reshape; of a parameter they are done here, once.
_FOLDED = ("assign", "unsqueeze2", "squeeze2", "transpose2", "reshape2")
# Multiplying operators: their input, their weight, and the weight's axis of output channels.
WEIGHTED = {
    "matmul_v2": ("X", "Y", 1),
    "conv2d": ("Input", "Filter", 0),
    "depthwise_conv2d": ("Input", "Filter", 0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedOp:
    """An operator that multiplies a tensor by a parameter.

    Attributes:
        op: the OpDesc.
        input, weight: names of its operands.
        axis: of the weight's output channels.
        macs: multiply-accumulates of one run.
    """

    op: Any
    input: str
    weight: str
    axis: int
    macs: int


class Program:
    """A program and its parameters.

    Attributes:
        parameters: persistable tensor by variable name.
        names: variable -> parameter of the checkpoint, where it is one, in whatever shape.
    """

    def __init__(self, desc: Any, parameters: dict[str, np.ndarray], names: dict[str, str]) -> None:
        self.desc, self.parameters, self.names = desc, parameters, names
        self.block = desc.blocks[0]
        self._variables = {item.name: item for item in self.block.vars}

    def dims(self, name: str) -> tuple[int, ...]:
        """Shape of a variable; every one is known, since the program is static."""
        dims = tuple(self._variables[name].type.lod_tensor.tensor.dims)
        if any(size < 1 for size in dims):
            raise ExportFailed(f"{name}: has shape {dims}, expected a static one")
        return dims

    def add(self, name: str, dims: tuple[int, ...], value: np.ndarray | None = None) -> None:
        """A new variable, float32 or of the type of `value`, which makes it a parameter."""
        item = self.block.vars.add(name=name)
        item.type.type = _LOD_TENSOR
        tensor = item.type.lod_tensor.tensor
        tensor.data_type = _TYPES[np.dtype(np.float32) if value is None else value.dtype]
        tensor.dims.extend(dims)
        self._variables[name] = item
        if value is not None:
            item.persistable = True
            self.parameters[name] = value

    def replace(self, name: str, value: np.ndarray) -> None:
        """Make a variable the parameter `value`, whatever it was."""
        item = self._variables[name]
        tensor = item.type.lod_tensor.tensor
        tensor.data_type = _TYPES[value.dtype]
        del tensor.dims[:]
        tensor.dims.extend(value.shape)
        item.persistable = True
        self.parameters[name] = np.ascontiguousarray(value)

    def set_ops(self, ops: list[Any]) -> None:
        """Replace all operators; parameters that none reads any more are dropped."""
        copies = [proto.OpDesc.FromString(op.SerializeToString()) for op in ops]
        del self.block.ops[:]
        self.block.ops.extend(copies)
        used = {name for op in copies for item in op.inputs for name in item.arguments}
        for name in [name for name in self.parameters if name not in used]:
            del self.parameters[name]
            self._variables[name].persistable = False

    def weighted(self) -> Iterator[WeightedOp]:
        """Every operator that multiplies by a parameter, quantized or not, in order.

        Of a recurrent layer each weight counts by itself.
        """
        for op in self.block.ops:
            if op.type == "rnn":
                yield from self._recurrent(op)
            if op.type not in WEIGHTED:
                continue
            source, target, axis = WEIGHTED[op.type]
            weight = self._original(argument(op, target))
            if weight in self.parameters:
                shape = self.parameters[weight].shape
                outputs = math.prod(self.dims(argument(op, "Out" if axis else "Output", out=True)))
                if axis and attribute(op, "trans_y").b:
                    axis = 0
                macs = outputs * (shape[-2] if axis else math.prod(shape[1:]))
                yield WeightedOp(
                    op=op, input=argument(op, source), weight=weight, axis=axis, macs=macs
                )

    def _recurrent(self, op: Any) -> Iterator[WeightedOp]:
        steps = self.dims(argument(op, "Input"))[0]  # (time, batch, width)
        weights = next(item.arguments for item in op.inputs if item.parameter == "WeightList")
        for name in weights:
            value = self.parameters[name]
            if value.ndim == 2:
                yield WeightedOp(
                    op=op,
                    input=argument(op, "Input"),
                    weight=name,
                    axis=0,
                    macs=steps * value.size,
                )

    def _original(self, name: str) -> str:
        """The int8 parameter behind a dequantized one."""
        for op in self.block.ops:
            if op.type == "dequantize_linear" and argument(op, "Y", out=True) == name:
                return argument(op, "X")
        return name

    def products(self) -> int:
        """Multiply-accumulates of the products of two activations."""
        total = 0
        for op in self.block.ops:
            if op.type == "matmul_v2" and self._original(argument(op, "Y")) not in self.parameters:
                left = self.dims(argument(op, "X"))
                inner = left[-2] if attribute(op, "trans_x").b else left[-1]
                total += math.prod(self.dims(argument(op, "Out", out=True))) * inner
        return total

    def write(self, prefix: Path) -> tuple[Path, Path]:
        """``prefix.pdmodel`` and ``prefix.pdiparams``."""
        model, params = prefix.with_suffix(".pdmodel"), prefix.with_suffix(".pdiparams")
        write_atomically(model, self.desc.SerializeToString())
        write_atomically(params, b"".join(self._streams()))
        return model, params

    def _streams(self) -> Iterator[bytes]:
        for name in sorted(self.parameters):
            value = self.parameters[name]
            tensor = proto.VarType.TensorDesc(data_type=_TYPES[value.dtype], dims=value.shape)
            head = tensor.SerializeToString()
            # Version of the variable, levels of LoD, version of the tensor, then the tensor.
            yield struct.pack("<IQIi", 0, 0, 0, len(head)) + head
            yield np.ascontiguousarray(value).tobytes()


def read_program(prefix: Path, names: dict[str, str]) -> Program:
    """What ``paddle.jit.save`` wrote, its weights folded into the shapes they are used in.

    Args:
        names: Paddle's parameter name -> the checkpoint's.
    """
    desc = proto.ProgramDesc.FromString(prefix.with_suffix(".pdmodel").read_bytes())
    persistable = [v for v in desc.blocks[0].vars if v.persistable and v.type.type == _LOD_TENSOR]
    parameters = {}
    with open(prefix.with_suffix(".pdiparams"), "rb") as stream:
        for name in sorted(item.name for item in persistable):
            stream.seek(16, 1)
            (size,) = struct.unpack("<i", stream.read(4))
            tensor = proto.VarType.TensorDesc.FromString(stream.read(size))
            dtype = np.dtype(_DTYPES[tensor.data_type])
            count = math.prod(tensor.dims)
            data = np.frombuffer(stream.read(count * dtype.itemsize), dtype)
            parameters[name] = data.reshape(tuple(tensor.dims))
    program = Program(desc, parameters, dict(names))
    _fold(program)
    return program


def new_op(kind: str) -> Any:
    """An OpDesc without inputs, outputs and attributes."""
    return proto.OpDesc(type=kind)


def argument(op: Any, parameter: str, *, out: bool = False) -> str:
    """The one tensor of an operator's input or output."""
    for item in op.outputs if out else op.inputs:
        if item.parameter == parameter and item.arguments:
            return str(item.arguments[0])
    raise ExportFailed(f"{op.type}: has no {parameter}")


def attribute(op: Any, name: str) -> Any:
    """An operator's attribute."""
    return next(item for item in op.attrs if item.name == name)


def _fold(program: Program) -> None:
    """Compute reshaped and transposed parameters; ``opt`` crashes on a Conv1D's unsqueezed one.

    A convolution's bias becomes a vector again, which the convolution's kernel takes in.
    """
    kept = []
    for op in program.block.ops:
        if op.type in _FOLDED and argument(op, "X") in program.parameters:
            source, target = argument(op, "X"), argument(op, "Out", out=True)
            program.replace(target, _moved(op, program.parameters[source]))
            if source in program.names:
                program.names[target] = program.names[source]
        else:
            kept.append(op)
    program.set_ops(kept)
    for op in program.block.ops:
        bias = argument(op, "Y") if op.type == "elementwise_add" else ""
        if bias in program.parameters:
            value = program.parameters[bias]
            if value.ndim == 4 and value.shape == (1, value.size, 1, 1):
                program.replace(bias, value.reshape(-1))
                attribute(op, "axis").i = 1


def _moved(op: Any, value: np.ndarray) -> np.ndarray:
    if op.type == "unsqueeze2":
        for axis in attribute(op, "axes").ints:
            value = np.expand_dims(value, axis)
        return value
    if op.type == "squeeze2":
        return np.squeeze(value, tuple(attribute(op, "axes").ints))
    if op.type == "transpose2":
        return np.transpose(value, list(attribute(op, "axis").ints))
    return value.reshape(list(attribute(op, "shape").ints)) if op.type == "reshape2" else value
