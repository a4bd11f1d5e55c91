"""Which kernels a ``.nb`` file will run: read off the file, since opt's log does not say.

The file (Paddle Lite's naive buffer, meta version 2) is a head of 26 bytes, the program as a
flatbuffer of lite/model_parser/flatbuffers/framework.fbs, and the parameters. Each operator names
the kernel that opt chose in its attribute ``__@kernel_type_attr@__``, as
``operator/alias/target/precision/layout``; the device runs that kernel and no other.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from asrcompress.errors import ExportFailed

_HEAD = struct.Struct("<H16sQ")  # meta version, version of opt, bytes of the program
_META_VERSION = 2
_KERNEL = "__@kernel_type_attr@__"
_TARGETS = {"1": "host", "2": "x86", "4": "arm"}
_INT8 = "2"
# Multiplying operators, and which input is the weight.
_WEIGHTS = {
    "fc": "W",
    "conv2d": "Filter",
    "depthwise_conv2d": "Filter",
    "matmul_v2": "Y",
    "rnn": "WeightList",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """An operator of a ``.nb`` file.

    Attributes:
        operator: its type, ``fc``.
        kernel: what runs it, ``fc/fp32out/4/2/1``.
        target: ``arm``, ``x86`` or ``host``.
        integer: whether it computes on int8.
        weights: its parameters, or the second operand of a product.
    """

    operator: str
    kernel: str
    target: str
    integer: bool
    weights: tuple[str, ...]


def read_kernels(path: Path) -> tuple[Kernel, ...]:
    """The operators of a ``.nb`` file in order.

    Raises:
        ExportFailed: not such a file, or a truncated one.
    """
    data = path.read_bytes()
    try:
        meta, _, size = _HEAD.unpack_from(data)
        if meta != _META_VERSION or _HEAD.size + size >= len(data):
            raise ExportFailed(f"{path}: is truncated or of meta version {meta}, expected 2")
        program = _Table.root(data[_HEAD.size : _HEAD.size + size])
        kernels = tuple(_kernel(op) for op in program.tables(0)[0].tables(3))
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ExportFailed(f"{path}: is not a Paddle Lite model, {error}") from error
    if not kernels:
        raise ExportFailed(f"{path}: has no operator")
    return kernels


def count_kernels(kernels: tuple[Kernel, ...]) -> dict[str, int]:
    """How often each kernel that multiplies or converts is there, by name."""
    shown = [k.kernel for k in kernels if k.operator in _WEIGHTS or k.operator == "calib"]
    return dict(sorted(Counter(shown).items()))


def integer_macs(kernels: tuple[Kernel, ...], macs: Mapping[str, int]) -> int:
    """Multiply-accumulates by weights that integer kernels do.

    Args:
        macs: of each layer, by the variable of its weight, as the program has them.
    Raises:
        ExportFailed: a layer of the program has no kernel in the file, so nothing is known of it.
    """
    found: dict[str, bool] = {}
    for item in kernels:
        for weight in item.weights:
            found[weight] = found.get(weight, True) and item.integer
    missing = sorted(macs.keys() - found.keys())
    if missing:
        raise ExportFailed(f"layers without a kernel in the file: {', '.join(missing[:5])}")
    return sum(count for weight, count in macs.items() if found[weight])


def _kernel(op: _Table) -> Kernel:
    operator = op.text(0)
    attributes = {item.text(0): item for item in op.tables(3)}
    name = attributes[_KERNEL].text(4) if _KERNEL in attributes else ""
    parts = name.split("/")
    if len(parts) != 5:
        raise ExportFailed(f"{operator}: names no kernel, got {name!r}")
    inputs = {item.text(0): item.texts(1) for item in op.tables(1)}
    return Kernel(
        operator=operator,
        kernel=name,
        target=_TARGETS.get(parts[2], parts[2]),
        integer=parts[3] == _INT8,
        weights=tuple(inputs.get(_WEIGHTS.get(operator, ""), [])),
    )


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of a flatbuffer; fields are numbered in the order of the schema."""

    data: bytes
    at: int

    @staticmethod
    def root(data: bytes) -> _Table:
        return _Table(data, _u32(data, 0))

    def text(self, field: int) -> str:
        at = self._field(field)
        return _text(self.data, at + _u32(self.data, at)) if at else ""

    def texts(self, field: int) -> list[str]:
        return [_text(self.data, at) for at in self._vector(field)]

    def tables(self, field: int) -> list[_Table]:
        return [_Table(self.data, at) for at in self._vector(field)]

    def _field(self, number: int) -> int:
        """Where a field is; 0 where it has its default."""
        layout = self.at - struct.unpack_from("<i", self.data, self.at)[0]
        slot = 4 + 2 * number
        if slot >= struct.unpack_from("<H", self.data, layout)[0]:
            return 0
        offset = int(struct.unpack_from("<H", self.data, layout + slot)[0])
        return self.at + offset if offset else 0

    def _vector(self, number: int) -> Iterator[int]:
        """Where the elements of a vector of offsets are."""
        at = self._field(number)
        if not at:
            return
        start = at + _u32(self.data, at)
        for index in range(_u32(self.data, start)):
            place = start + 4 + 4 * index
            yield place + _u32(self.data, place)


def _u32(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", data, at)[0])


def _text(data: bytes, at: int) -> str:
    size = _u32(data, at)
    return data[at + 4 : at + 4 + size].decode()
