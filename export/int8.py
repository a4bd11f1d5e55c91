"""FP32 graph + learned ranges -> INT8 graph, by ONNX Runtime's own QDQQuantizer.

`TensorQuantOverrides` hands it every scale, so that it places the nodes and rounds the weights but
decides no number: what training simulated is what is written, and `_check` proves it bit for bit.
QDQQuantizer is called directly, since ``quantize_static`` insists on calibration data of its own;
it is an internal import, which is why onnxruntime is pinned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from asrcompress.errors import ExportFailed
from asrcompress.export.ahead import optimize_ahead
from asrcompress.export.integer_operators import fuse_integer_operators
from asrcompress.export.recurrent_int8 import quantize_recurrent
from asrcompress.export.residual_norms import fuse_residual_norms
from asrcompress.export.swish_int8 import quantize_swishes
from asrcompress.ranges import ActivationRange, Ranges, WeightRange

_QUANTIZED_OPS = ("Conv", "MatMul")
# Between the product with a weight and attention's operand: bias, heads, a cache, a rotation.
_ON_THE_WAY = {"Transpose", "Reshape", "Add", "Concat", "Mul", "Slice"}


def quantize_graph(
    model: onnx.ModelProto,
    ranges: Ranges,
    *,
    operators: str = "onnxruntime",
    whole: bool = True,
) -> onnx.ModelProto:
    """INT8 form of `model` with exactly the scales in `ranges`.

    Args:
        model: as `asrcompress.export.onnx_graph.export_graph` makes it; not changed.
        ranges: of the same network.
        operators: ``qdq`` for standard ONNX operators only, as far as there are any (a recurrent
            layer has none); ``onnxruntime`` for its own, which compute the same faster.
        whole: the graph stays in one piece. Else ONNX Runtime's simplifications are left for when
            it is loaded, since they join what is to be cut.
    Returns:
        model with int8 weights, uint8 activations and int32 convolution biases.
    Raises:
        ExportFailed: a range that no node uses, a node that two ranges claim, or a number that
            ONNX Runtime changed.
    """
    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    plan = _Plan(graph, ranges)
    plan.absorb_relus()
    overrides = plan.overrides()
    dummies = {
        name: TensorData(lowest=np.float32(-1), highest=np.float32(1))
        for name in overrides
        if name not in plan.initializers
    }
    quantizer = QDQQuantizer(
        graph,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, dummies),  # overrides win over these
        nodes_to_quantize=[],
        nodes_to_exclude=plan.excluded,
        op_types_to_quantize=list(_QUANTIZED_OPS),
        extra_options={
            "TensorQuantOverrides": overrides,
            # MatMulIntegerToFloat is faster than QLinearMatMul and rounds once less.
            "OpTypesToExcludeOutputQuantization": ["MatMul"],
            # It would change the weight scales where bias scales get small.
            "QDQDisableWeightAdjustForInt32Bias": True,
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantized = quantizer.model.model
    _check_numbers(quantized, overrides)
    _check_weights(quantized, plan)
    _quantize_tables(quantized)
    quantize_swishes(quantized, ranges)
    quantize_recurrent(quantized, ranges)
    if operators == "onnxruntime":
        fuse_integer_operators(quantized)
        fuse_residual_norms(quantized)
        quantized = optimize_ahead(quantized) if whole else quantized
    quantized.producer_name = "asrcompress"
    onnx.checker.check_model(quantized, full_check=True)
    return quantized


class _Plan:
    """Which tensor of the graph carries which range."""

    def __init__(self, model: onnx.ModelProto, ranges: Ranges) -> None:
        self.model, self.ranges = model, ranges
        self.initializers = {item.name: item for item in model.graph.initializer}
        self.producer = {name: node for node in model.graph.node for name in node.output}
        weights = {item.parameter: item for item in ranges.weights}
        products = {item.right_parameter: item for item in ranges.products}
        self.layers: list[tuple[Any, WeightRange]] = []
        self.pairs: list[tuple[Any, str, str]] = []
        self.excluded: list[str] = []
        for index, node in enumerate(model.graph.node):
            if node.op_type not in _QUANTIZED_OPS:
                continue
            node.name = node.name or f"{node.op_type}_{index}"
            right = node.input[1]
            if right in weights:
                self.layers.append((node, weights[right]))
            elif right not in self.initializers and (root := self._root(right)) in products:
                item = products.pop(root)
                self.pairs.append((node, item.left, item.right))
            else:
                self.excluded.append(node.name)  # left in float by the recipe
        found = {item.parameter for _, item in self.layers}  # a layer may run twice
        if missing := [*(name for name in weights if name not in found), *products]:
            unused = ", ".join(missing[:5])
            raise ExportFailed(f"ranges without a node in the graph: {unused}")

    def absorb_relus(self) -> None:
        """Drop each ReLU behind a convolution whose unsigned output grid clips at zero anyway."""
        graph = self.model.graph
        outputs = {n.output[0]: item for n, item in self.layers if item.output}
        for node in [n for n in graph.node if n.op_type == "Relu" and n.input[0] in outputs]:
            edge = outputs[node.input[0]].output
            if edge is not None and self.ranges.activations[edge].unsigned:
                for user in graph.node:
                    user.input[:] = [
                        node.input[0] if name == node.output[0] else name for name in user.input
                    ]
                graph.node.remove(node)

    def overrides(self) -> dict[str, list[dict[str, Any]]]:
        """TensorQuantOverrides: one entry per activation, one per channel of each weight."""
        edges: dict[str, str] = {}
        for node, item in self.layers:
            _claim(edges, node.input[0], item.input)
            if item.output is not None:
                _claim(edges, node.output[0], item.output)
        for node, left, right in self.pairs:
            _claim(edges, node.input[0], left)
            _claim(edges, node.input[1], right)
        found = {
            tensor: [_activation(self.ranges.activations[edge])] for tensor, edge in edges.items()
        }
        found |= {item.parameter: self._weight(node, item) for node, item in self.layers}
        return found

    def _weight(self, node: Any, item: WeightRange) -> list[dict[str, Any]]:
        # A Linear is stored [in, out]; a pointwise convolution became [in, out] on its way here.
        axis = 1 if node.op_type == "MatMul" else 0
        shape = self.initializers[item.parameter].dims
        if shape[axis] != len(item.absmax):
            raise ExportFailed(
                f"{item.parameter}: has {shape[axis]} output channels in the graph, "
                f"expected {len(item.absmax)}"
            )
        return [
            {
                "quant_type": QuantType.QInt8,
                "axis": axis,
                "scale": np.array(scale, np.float32),
                "zero_point": np.array(0, np.int8),
            }
            for scale in np.asarray(item.absmax, np.float32) / np.float32(self.ranges.weight_top)
        ]

    def _root(self, name: str) -> str:
        """The weight that an activation was computed with, through shape operators and bias."""
        while name in self.producer:
            node = self.producer[name]
            if node.op_type == "MatMul" and node.input[1] in self.initializers:
                return str(node.input[1])
            if node.op_type not in _ON_THE_WAY:
                return ""
            # Behind a cache of earlier frames comes what this weight made of the new ones.
            name = node.input[-1 if node.op_type == "Concat" else 0]
        return ""


def _claim(edges: dict[str, str], tensor: str, edge: str) -> None:
    if edges.setdefault(tensor, edge) != edge:
        raise ExportFailed(f"{tensor}: is claimed by the ranges of {edges[tensor]} and of {edge}")


def _activation(value: ActivationRange) -> dict[str, Any]:
    """Override of an activation; both numbers must be 0-d arrays of exactly these types."""
    width = np.float32(value.absmax) - np.float32(value.lowest or 0.0)
    one_sided = value.unsigned or value.lowest is not None
    return {
        "quant_type": QuantType.QUInt8,
        "scale": np.array(width / np.float32(255 if one_sided else 127), np.float32),
        "zero_point": np.array(value.zero_point, np.uint8),
    }


def _check_numbers(model: onnx.ModelProto, overrides: Mapping[str, list[dict[str, Any]]]) -> None:
    """Every scale and zero point in the graph is the one that was handed over."""
    stored = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    for name, entries in overrides.items():
        for kind, key in (("_scale", "scale"), ("_zero_point", "zero_point")):
            wanted = np.array([entry[key] for entry in entries]).ravel()
            found = stored.get(name + kind)
            if found is None or not np.array_equal(found.ravel(), wanted):
                raise ExportFailed(f"{name}{kind}: ONNX Runtime did not keep the learned value")


def _check_weights(model: onnx.ModelProto, plan: _Plan) -> None:
    """Every weight with a range is stored as int8, within the grid that was trained for."""
    stored = {item.name: item for item in model.graph.initializer}
    top = plan.ranges.weight_top
    for _, item in plan.layers:
        codes = stored.get(f"{item.parameter}_quantized")
        if codes is None or codes.data_type != onnx.TensorProto.INT8:
            raise ExportFailed(f"{item.parameter}: is not stored as int8")
        largest = int(np.abs(numpy_helper.to_array(codes).astype(np.int32)).max())
        if largest > top:
            raise ExportFailed(f"{item.parameter}: has the code {largest}, expected at most {top}")


def _quantize_tables(model: onnx.ModelProto) -> None:
    """Store a float table that is only sliced and then quantized as uint8: four times smaller.

    This is the positional table; quantizing before slicing gives the same codes.
    """
    graph = model.graph
    tables = {item.name: item for item in graph.initializer}
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    for cut in [n for n in graph.node if n.op_type == "Slice" and n.input[0] in tables]:
        after = users.get(cut.output[0], [])
        if len(users[cut.input[0]]) != 1 or [n.op_type for n in after] != ["QuantizeLinear"]:
            continue
        table, quantize = tables[cut.input[0]], after[0]
        scale = numpy_helper.to_array(tables[quantize.input[1]])
        zero_point = numpy_helper.to_array(tables[quantize.input[2]])
        codes = np.rint(numpy_helper.to_array(table) / scale) + zero_point.astype(np.float32)
        codes = np.clip(codes, 0, 255).astype(np.uint8)
        graph.initializer.remove(table)
        graph.initializer.append(numpy_helper.from_array(codes, f"{table.name}_quantized"))
        cut.input[0] = f"{table.name}_quantized"
        cut.output[0] = quantize.output[0]
        graph.node.remove(quantize)
        for info in [i for i in graph.value_info if i.name == cut.output[0]]:
            graph.value_info.remove(info)
