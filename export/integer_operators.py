"""A QDQ graph in the words of ONNX Runtime's own integer operators.

ONNX Runtime fuses most of a QDQ graph while it loads it. What it leaves undone costs time at every
call; done here, the results are the same numbers:

* **A product with a bias that is quantized next.** As a convolution of kernel 1 it adds the bias in
  the accumulator and writes codes at once, instead of writing floats, adding, and quantizing.
* **Bias and factor behind any other product.** They stay passes of their own over a float tensor,
  although ``MatMulIntegerToFloat`` adds a bias while it writes its output, and a constant factor
  (1/sqrt(d) of attention, 1/2 of a macaron layer) is only another scale.
* **Codes that become floats only to be moved about**, or to be asked for their shape. They can be
  moved, and asked, as codes.
* **A first convolution with one input channel**: `asrcompress.export.four_channels`.

Zero points of symmetric weights stay where they are, zeros as they may be: only with them can ONNX
Runtime keep sums from saturating on x86 without VNNI (``session.x64quantprecision``).

The operators are in ONNX Runtime's domain ``com.microsoft``, in every build of it; other runtimes
need the QDQ form, which is what `asrcompress.export.int8.quantize_graph` gives without this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from asrcompress.export.contrib import DOMAIN, import_contrib
from asrcompress.export.four_channels import pack_pixels
from asrcompress.export.rewriting import Rewriting

# Behind the name of a weight (inputs, outputs): the same as a kernel (outputs, inputs, 1, 1).
KERNEL = "_kernel"
# What may lie between a product and its quantization without arithmetic.
_MOVES = {"Transpose", "Reshape", "Squeeze", "Unsqueeze"}


def fuse_integer_operators(model: onnx.ModelProto) -> None:
    """Rewrite `model` in place.

    Args:
        model: QDQ graph of `asrcompress.export.int8`, int8 weights and uint8 activations.
    """
    graph = Rewriting(model)
    for node in graph.nodes("DequantizeLinear"):
        _ask(graph, node.output[0], node.input[0])
        _move_codes(graph, node)
    for node in graph.nodes("MatMul"):
        product = _product(graph, node)
        if product is not None:
            _fuse(graph, product)
    for node in graph.nodes("Conv"):
        pack_pixels(graph, node)
    graph.finish()
    import_contrib(model)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Product:
    """A MatMul of two dequantized operands, and what it can be fused with.

    Attributes:
        nodes: the MatMul and what follows it as `bias` and `factor`, in order.
        left: DequantizeLinear of the left operand.
        right: of the right one.
        codes: int8 codes of the right one, (inputs, outputs); None for an activation.
        bias: name of an initializer (outputs,).
        factor: constant that the output is multiplied by, the bias with it.
    """

    nodes: tuple[Any, ...]
    left: Any
    right: Any
    codes: np.ndarray | None
    bias: str | None
    factor: float

    @property
    def output(self) -> str:
        """Name of what the last node makes."""
        return str(self.nodes[-1].output[0])


def _product(graph: Rewriting, node: Any) -> _Product | None:
    """The product of a MatMul; None where an operand is in float."""
    left, right = (graph.dequantizer(name) for name in node.input)
    if left is None or right is None:
        return None
    codes = graph.array(right.input[0])
    channels = None if codes is None else codes.shape[1:]
    nodes, bias, factor = [node], None, 1.0
    while (following := graph.reader(nodes[-1].output[0])) is not None:
        other = [name for name in following.input if name != nodes[-1].output[0]]
        value = graph.array(other[0]) if len(other) == 1 else None
        if value is None or value.dtype != np.float32:
            break
        is_bias = following.op_type == "Add" and value.shape == channels
        if is_bias and bias is None and factor == 1.0:
            bias = other[0]
        elif following.op_type == "Mul" and value.size == 1:
            factor *= float(value.reshape(()))
        else:
            break
        nodes.append(following)
    return _Product(
        nodes=tuple(nodes), left=left, right=right, codes=codes, bias=bias, factor=factor
    )


def _fuse(graph: Rewriting, product: _Product) -> None:
    moves, quantize = _quantized_next(graph, product.output)
    if quantize is None or product.factor != 1.0:
        _fuse_to_float(graph, product)
    elif product.bias is None:
        pass  # ONNX Runtime makes a QLinearMatMul of it, which writes the codes at once
    elif len(graph.dimensions(product.output) or ()) == 3 and not moves:
        _fuse_to_codes(graph, product, quantize)
    else:
        # What is moved first is split into heads, and in a stream put behind a cache of floats: the
        # two graphs would store the weight in two forms, and could not share it.
        _fuse_to_float(graph, product)


def _fuse_to_float(graph: Rewriting, product: _Product) -> None:
    """MatMulIntegerToFloat in place of the product, its bias and its factor."""
    left, right, name = product.left, product.right, product.nodes[0].output[0]
    scale, bias = left.input[1], product.bias
    if product.factor != 1.0:
        factor = np.float32(product.factor)
        scale = graph.add(f"{name}_left_scale", graph.value(scale) * factor)
        if bias is not None:
            bias = graph.add(f"{bias}_scaled", graph.value(bias) * factor)
    codes, before = _codes_of(graph, left)
    fused = helper.make_node(
        "MatMulIntegerToFloat",
        [
            codes,
            right.input[0],
            scale,
            right.input[1],
            left.input[2],
            right.input[2],
            *([bias] if bias is not None else []),
        ],
        [product.output],
        name=product.nodes[0].name,
        domain=DOMAIN,
    )
    graph.replace(product.nodes, *before, fused)


def _codes_of(graph: Rewriting, left: Any) -> tuple[str, tuple[Any, ...]]:
    """The codes behind a dequantized operand, and nodes that have to come before.

    An operand that is an output of the graph too is quantized again, to the same codes: so a graph
    that is cut there (a CTC head of its own) still reads that tensor.
    """
    if not graph.is_output(left.output[0]):
        return left.input[0], ()
    again = f"{left.output[0]}_codes_again"
    return again, (helper.make_node("QuantizeLinear", [*left.output, *left.input[1:]], [again]),)


def _fuse_to_codes(graph: Rewriting, product: _Product, quantize: Any) -> None:
    """A convolution of kernel 1 in place of a product (batch, frames, channels) and its bias.

    The batch stands for the height and the frames for the width of an image with channels last.
    The bias is rounded to the accumulator's step, input scale · weight scale, as that of any
    integer convolution.
    """
    left, right, name = product.left, product.right, product.output
    assert product.codes is not None and product.bias is not None
    step = graph.value(left.input[1]).astype(np.float64) * graph.value(right.input[1])
    bias = np.rint(graph.value(product.bias) / step).astype(np.int32)
    axis = graph.add("image_axis", np.array([0], np.int64))
    codes, before = _codes_of(graph, left)
    kernel = np.ascontiguousarray(product.codes.T)[:, :, None, None]
    inputs = [
        f"{name}_channels_first",
        *left.input[1:],
        graph.add(right.input[0] + KERNEL, kernel),
        *right.input[1:],
        *quantize.input[1:],
        graph.add(f"{product.bias}_codes", bias),
    ]
    convolution = helper.make_node(
        "QLinearConv",
        inputs,
        [f"{name}_pixels"],
        name=product.nodes[0].name,
        kernel_shape=[1, 1],
    )
    graph.replace(
        product.nodes,
        *before,
        helper.make_node("Unsqueeze", [codes, axis], [f"{name}_image"]),
        # ONNX Runtime has an operator with channels last, and takes it by itself; but it does not
        # know that one where it keeps int8 sums from saturating on CPUs without VNNI.
        helper.make_node(
            "Transpose", [f"{name}_image"], [f"{name}_channels_first"], perm=[0, 3, 1, 2]
        ),
        convolution,
        helper.make_node("Transpose", [f"{name}_pixels"], [f"{name}_lines"], perm=[0, 2, 3, 1]),
        helper.make_node("Squeeze", [f"{name}_lines", axis], [f"{name}_rows"]),
    )
    _ask(graph, name, f"{name}_rows")
    graph.replace([quantize], helper.make_node("Identity", [f"{name}_rows"], [*quantize.output]))


def _move_codes(graph: Rewriting, node: Any) -> None:
    """Drop a DequantizeLinear whose output is only moved, and quantized to the same grid again."""
    moves, quantize = _quantized_next(graph, node.output[0])
    if quantize is None or graph.array(node.input[0]) is not None:
        return
    grids = [[graph.array(name) for name in item.input[1:]] for item in (node, quantize)]
    if all(a is not None and np.array_equal(a, b) for a, b in zip(*grids, strict=True)):
        _move(graph, node.input[0], moves, quantize)


def _move(graph: Rewriting, codes: str, moves: Sequence[Any], quantize: Any) -> None:
    """Do to `codes` what was done to floats on their way to `quantize`."""
    for move in moves:
        # New names: the graph says of the old ones that they are floats.
        moved = helper.make_node(
            move.op_type, [codes, *move.input[1:]], [f"{move.output[0]}_as_codes"]
        )
        moved.attribute.extend(move.attribute)
        graph.replace([move], moved)
        codes = moved.output[0]
        _ask(graph, move.output[0], codes)
    graph.replace([quantize], helper.make_node("Identity", [codes], [quantize.output[0]]))


def _ask(graph: Rewriting, floats: str, codes: str) -> None:
    """Let whoever asks for the shape of `floats` ask that of `codes`."""
    for node in graph.readers(floats):
        if node.op_type == "Shape":
            asked = helper.make_node("Shape", [codes], [*node.output], name=node.name)
            asked.attribute.extend(node.attribute)
            graph.replace([node], asked)


def _quantized_next(graph: Rewriting, name: str) -> tuple[list[Any], Any]:
    """What moves a tensor about before it is quantized, and the QuantizeLinear; None for none."""
    moves = []
    following = graph.reader(name, besides="Shape")
    while following is not None and following.op_type in _MOVES:
        moves.append(following)
        following = graph.reader(following.output[0], besides="Shape")
    quantized = following is not None and following.op_type == "QuantizeLinear"
    return moves, following if quantized else None
