"""What ONNX Runtime would do to a graph at every start, done once.

It simplifies and fuses each time a graph is loaded. For a 12-block Conformer that is a third of the
load time, on a device again and again with the same result, which it can as well write down.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnxruntime

from asrcompress.errors import ExportFailed
from asrcompress.onnxruntime_errors import ORT_ERRORS
from asrcompress.onnxruntime_optimizers import OPTIMIZED_KEY

_SEVERITY_ERROR = 3
# The first that has layer normalisation as an operator.
_LAYER_NORM_OPSET = 17
# They would store weights in another form, which a graph for streams could no longer share with the
# one for utterances, or write operators that are not in ONNX at this opset.
_LEFT_FOR_LOADING = (
    "ConstantFoldingDQ",
    "TransposeOptimizer",
    "TransposeOptimizer_CPUExecutionProvider",
    "LayerNormFusionL1",
    "LayerNormFusionL2",
    "SimplifiedLayerNormFusion",
)


def optimize_ahead(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph that ONNX Runtime makes of `model`, which computes the same.

    Only what holds on every CPU is done here (``ORT_ENABLE_EXTENDED``, exact sums for x86 without
    VNNI left out): memory layouts are chosen for the machine at hand, so they stay for loading.

    Args:
        model: may have ONNX Runtime's own operators; not changed.
    Returns:
        model with the same inputs, outputs and weights.
    Raises:
        ExportFailed: ONNX Runtime refuses the graph.
    """
    with tempfile.TemporaryDirectory(prefix="asrcompress-") as folder:
        path = Path(folder) / "model.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _SEVERITY_ERROR
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(path)
        try:
            onnxruntime.InferenceSession(
                model.SerializeToString(),
                sess_options=options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=list(_LEFT_FOR_LOADING),
            )
        except ORT_ERRORS as error:
            raise ExportFailed(f"ONNX Runtime refuses the graph: {error}") from error
        found = onnx.load(path)
    _keep_declarations(model, found)
    if _is_finished(found):
        found.metadata_props.add(key=OPTIMIZED_KEY, value=f"onnxruntime {onnxruntime.__version__}")
    return found


def _is_finished(model: onnx.ModelProto) -> bool:
    """Whether the optimizers in `DONE_AHEAD` would find nothing more.

    Not so before opset 17: there they wait for layer norms, which are fused at loading.
    """
    opset = {item.domain: item.version for item in model.opset_import}[""]
    return opset >= _LAYER_NORM_OPSET and not list(_constant_nodes(model.graph, frozenset()))


def _constant_nodes(graph: onnx.GraphProto, outside: frozenset[str]) -> Iterator[onnx.NodeProto]:
    """Nodes that compute the same at every call, loops' bodies included."""
    constants = {*outside, *(item.name for item in graph.initializer)}
    for node in graph.node:
        if all(name in constants for name in node.input):
            constants |= set(node.output)
            yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _constant_nodes(attribute.g, frozenset(constants))


def _keep_declarations(model: onnx.ModelProto, found: onnx.ModelProto) -> None:
    """ONNX Runtime declares all domains that it knows, and drops what it does not need itself."""
    used = {node.domain for node in found.graph.node} | {""}
    declared = [item for item in found.opset_import if item.domain in used]
    del found.opset_import[:]
    found.opset_import.extend(declared)
    found.ir_version = model.ir_version
    found.graph.name = model.graph.name
    del found.metadata_props[:]
    found.metadata_props.extend(model.metadata_props)
