"""The numbers that a graph stores."""

from __future__ import annotations

from collections.abc import Iterator

import onnx


def initializers(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Those of a graph and of the bodies of its loops."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from initializers(attribute.g)
