"""A residual sum and the layer norm behind it, as one operator.

ONNX Runtime fuses the two where nothing else reads the sum. In a block whose norms come first the
next residual sum does; its operator can give that sum too, as a fourth output.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

from asrcompress.export.contrib import DOMAIN, import_contrib
from asrcompress.export.rewriting import Rewriting

# What takes a piece of a table: it may have another shape, and be added to every utterance alike.
_PIECES = {"Slice", "Gather"}


def fuse_residual_norms(model: onnx.ModelProto) -> None:
    """Rewrite `model` in place; the numbers stay the same, bit for bit.

    Args:
        model: layer norms of several operators, before opset 17, stay as they are.
    """
    graph = Rewriting(model)
    for norm in graph.nodes("LayerNormalization"):
        total = graph.producer(norm.input[0])
        if total is not None and _is_residual(graph, total) and _is_plain(graph, norm):
            _fuse(graph, total, norm)
    graph.finish()
    import_contrib(model)


def _is_residual(graph: Rewriting, node: Any) -> bool:
    """Whether it adds two tensors (batch, frames, channels) of one shape."""
    if node.op_type != "Add" or len(graph.readers(node.output[0])) < 2:
        return False  # ONNX Runtime fuses what has one reader by itself
    for name in node.input:
        source = graph.producer(name)
        if source is None or source.op_type in _PIECES or len(graph.dimensions(name) or ()) != 3:
            return False
    return True


def _is_plain(graph: Rewriting, norm: Any) -> bool:
    """Whether it normalises the last axis, with both parameters."""
    axis = next((item.i for item in norm.attribute if item.name == "axis"), -1)
    parameters = [graph.array(name) for name in norm.input[1:]]
    return (
        axis in (-1, 2)
        and len(parameters) == 2
        and all(
            value is not None and value.ndim == 1 and value.dtype == np.float32
            for value in parameters
        )
    )


def _fuse(graph: Rewriting, total: Any, norm: Any) -> None:
    epsilon = next((item.f for item in norm.attribute if item.name == "epsilon"), 1e-5)
    fused = helper.make_node(
        "SkipLayerNormalization",
        [*total.input, *norm.input[1:]],
        [norm.output[0], "", "", total.output[0]],
        name=norm.name,
        domain=DOMAIN,
        epsilon=epsilon,
    )
    graph.replace([norm])
    graph.replace([total], fused)
