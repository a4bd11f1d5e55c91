"""LSTM and GRU nodes of a graph as ONNX means them: weights by name, lengths of the batch.

Paddle2ONNX cuts the weights of a recurrent layer into gates and puts them together again inside of
the graph, without names, and leaves out the lengths of the sequences. Here they become
initializers in ONNX's order of gates, both directions in one: ``<layer>.weight_ih`` (directions,
gates * hidden, inputs), ``<layer>.weight_hh`` (directions, gates * hidden, hidden) and
``<layer>.bias`` (directions, 2 * gates * hidden), input biases first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from asrcompress.errors import ExportFailed

# For each gate of ONNX, its place in Paddle: LSTM i o f c of i f c o, GRU z r h of r z c.
GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}
_SUFFIXES = ("_l0", "_l0_reverse")
# Position of the lengths among the inputs of both operators; initial states come behind.
_LENGTHS = 4


def complete_recurrent(
    model: onnx.ModelProto, network: Any, *, lengths: str | None
) -> onnx.ModelProto:
    """Put names and lengths into the recurrent nodes of an exported graph.

    Args:
        model: as `asrcompress.export.onnx_graph.export_graph` makes it; changed.
        lengths: int64 tensor (batch,) of valid frames behind the subsampling; None in a graph for
            one utterance at a time, which keeps its initial states as inputs.
    Returns:
        `model`.
    Raises:
        ExportFailed: a node whose weights are not those of one layer, or a layer without a node.
    """
    graph = model.graph
    nodes = recurrent_nodes(model)
    layers = {name: layer for name, layer in network.named_sublayers() if _is_recurrent(layer)}
    producer = {name: node for node in graph.node for name in node.output}
    for node in nodes:
        name = _layer_of(node, producer, layers)
        _put_weights(graph, node, name, layers.pop(name))
        node.name = name
        if lengths is not None:
            # States of zeros are the default; the ones in the graph came out of the batch size.
            node.input[_LENGTHS:] = ["recurrent_lens"]
    if layers:
        raise ExportFailed(f"recurrent layers missing from the graph: {', '.join(layers)}")
    if lengths is not None:
        graph.node.append(
            helper.make_node("Cast", [lengths], ["recurrent_lens"], to=onnx.TensorProto.INT32)
        )
    drop_unused(graph)
    completed = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(completed, full_check=True)
    return completed


def recurrent_nodes(model: onnx.ModelProto) -> list[Any]:
    """LSTM and GRU nodes in the order of the graph."""
    return [node for node in model.graph.node if node.op_type in GATES]


def gate_rows(kind: str, rows: np.ndarray) -> np.ndarray:
    """Rows of all gates, (gates * hidden, ...), from Paddle's order to ONNX's."""
    parts = np.split(rows, len(GATES[kind]))
    return np.concatenate([parts[place] for place in GATES[kind]])


def directions_of(parameters: dict[str, np.ndarray], stem: str) -> list[np.ndarray]:
    """The parameter ``<stem>_l0``, and where there is one ``<stem>_l0_reverse``."""
    return [parameters[stem + suffix] for suffix in _SUFFIXES if stem + suffix in parameters]


def sort_nodes(graph: Any) -> None:
    """Order the nodes so that each follows those that it reads from, else as they are."""
    pending = list(graph.node)
    made = {item.name for item in (*graph.input, *graph.initializer)} | {""}
    ordered: list[Any] = []
    while pending:
        waiting = []
        for node in pending:
            if _reads(node) <= made:
                ordered.append(node)
                made |= set(node.output)
            else:
                waiting.append(node)
        if len(waiting) == len(pending):
            raise ExportFailed(f"{pending[0].name}: reads what no node of the graph makes")
        pending = waiting
    del graph.node[:]
    graph.node.extend(ordered)


def drop_unused(graph: Any) -> None:
    """Put the nodes in order and drop nodes and initializers that no output depends on."""
    sort_nodes(graph)
    wanted = {item.name for item in graph.output}
    alive = []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            alive.append(node)
            wanted |= _reads(node)
    del graph.node[:]
    graph.node.extend(reversed(alive))
    kept = [item for item in graph.initializer if item.name in wanted]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]


def _reads(node: Any) -> set[str]:
    """What a node reads from its graph, that of its inner graphs included."""
    names = set(node.input)
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            inner = attribute.g
            made = {item.name for item in (*inner.input, *inner.initializer)}
            made |= {name for item in inner.node for name in item.output}
            names |= {name for item in inner.node for name in _reads(item)} - made
    return names


def _is_recurrent(layer: Any) -> bool:
    return getattr(layer, "mode", None) in GATES and hasattr(layer, "num_directions")


def _layer_of(node: Any, producer: dict[str, Any], layers: dict[str, Any]) -> str:
    """The layer whose input weights a node was given, followed back through cutting and joining."""
    found, pending = set(), [node.input[1]]
    while pending:
        name = pending.pop()
        if name in producer:
            pending += producer[name].input
        elif ".weight_ih" in name:
            found.add(name.rpartition(".")[0])
    if len(found) != 1 or not found <= set(layers):
        raise ExportFailed(f"{node.op_type}: has weights of {sorted(found)}, expected one layer's")
    return str(found.pop())


def _put_weights(graph: Any, node: Any, name: str, layer: Any) -> None:
    kind = node.op_type
    parameters = {key: tensor.numpy() for key, tensor in layer.named_parameters()}
    rows = {
        stem: [gate_rows(kind, item) for item in directions_of(parameters, stem)]
        for stem in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    biases = zip(rows["bias_ih"], rows["bias_hh"], strict=True)
    values = (
        (1, f"{name}.weight_ih", np.stack(rows["weight_ih"])),
        (2, f"{name}.weight_hh", np.stack(rows["weight_hh"])),
        (3, f"{name}.bias", np.stack([np.concatenate(pair) for pair in biases])),
    )
    for position, key, value in values:
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), key))
        node.input[position] = key
