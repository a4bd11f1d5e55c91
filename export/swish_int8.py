"""Swish on integers: x · sigmoid(x) with each of the two on a uint8 grid.

ONNX Runtime runs a Sigmoid and a Mul between quantized tensors as QLinearSigmoid, a table of 256
entries, and QLinearMul. Its own quantizer would give every Sigmoid and Mul of a graph ranges; here
only those in front of a quantized layer are meant, so their Q/DQ pairs are put in one by one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

from asrcompress.errors import ExportFailed
from asrcompress.export.rewriting import Rewriting
from asrcompress.ranges import GATE, ActivationRange, Ranges

# Between a layer's weight and its Swish: the product, a bias, a quantized output, moves.
_ON_THE_WAY = {
    "DequantizeLinear", "MatMul", "Conv", "Add", "QuantizeLinear",
    "Squeeze", "Unsqueeze", "Transpose", "Reshape",
}  # fmt: skip


def quantize_swishes(model: onnx.ModelProto, ranges: Ranges) -> None:
    """Put the ranges around each Swish of `ranges` into a QDQ graph, in place.

    Args:
        model: QDQ graph with everything else of `ranges` in it.
    Raises:
        ExportFailed: behind a layer is no Swish.
    """
    if not ranges.swishes:
        return
    graph = Rewriting(model)
    for edge in ranges.swishes:
        sigmoid, product = _find(graph, edge.removesuffix(":output"))
        before, around = _pair(graph, sigmoid.input[0], edge, ranges.activations[edge])
        gate, behind = _pair(graph, sigmoid.output[0], "swish_gate", GATE)
        factors = [gate if name == sigmoid.output[0] else before for name in product.input]
        graph.replace(
            [sigmoid], *around, helper.make_node("Sigmoid", [before], sigmoid.output), *behind
        )
        graph.replace([product], helper.make_node("Mul", factors, product.output))
    graph.finish()


def _pair(
    graph: Rewriting, tensor: str, name: str, grid: ActivationRange
) -> tuple[str, tuple[Any, ...]]:
    """A Q/DQ pair that reads `tensor`: the name of what comes out, and the two nodes."""
    scale = graph.add(f"{name}_scale", np.array(grid.scale, np.float32))
    zero_point = graph.add(f"{name}_zero_point", np.array(grid.zero_point, np.uint8))
    codes, real = f"{tensor}_swish_codes", f"{tensor}_swish_real"
    return real, (
        helper.make_node("QuantizeLinear", [tensor, scale, zero_point], [codes]),
        helper.make_node("DequantizeLinear", [codes, scale, zero_point], [real]),
    )


def _find(graph: Rewriting, layer: str) -> tuple[Any, Any]:
    """The Sigmoid and the Mul of the Swish behind `layer`."""
    tensor = f"{layer}.weight_quantized"
    while len(readers := graph.readers(tensor)) == 1 and readers[0].op_type in _ON_THE_WAY:
        tensor = readers[0].output[0]
    kinds = {node.op_type: node for node in readers}
    if len(readers) != 2 or set(kinds) != {"Mul", "Sigmoid"}:
        raise ExportFailed(f"{layer}: has no Swish behind it in the graph, expected one")
    return kinds["Sigmoid"], kinds["Mul"]
