"""PaddleSpeech network -> FP32 ONNX graph, by ``paddle.jit.save`` and Paddle2ONNX.

Paddle2ONNX writes weights as Constant nodes under Paddle's parameter names, some of them behind
Squeeze or Transpose. ONNX Runtime's quantizer only sees initializers and says nothing of the rest,
so constants are folded here and named as in the checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asrcompress.bundles.manifest import TensorSpec
from asrcompress.checkpoints.unused_layers import belongs_to, unused_layers
from asrcompress.errors import ExportFailed, MissingExtra
from asrcompress.files import write_atomically
from asrcompress.paddle_imports import import_paddle

paddle = import_paddle()

try:
    import onnx
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator
except ImportError as error:
    raise MissingExtra("onnx", "compress") from error

# Operators that only move or reshape: folding one of a weight keeps its values and its channels.
_SHAPE_OPS = {"Identity", "Squeeze", "Unsqueeze", "Transpose", "Reshape"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """Inputs and outputs of a graph, in order; a dimension is a size, or a name where it is free.

    Attributes:
        name: of the graph.
        inputs: also say what is traced; dtypes as Paddle and numpy spell them.
        outputs: every one that the layer returns, or its first ones: the others are dropped.
        weights: prefixes of the parameters that the graph must contain.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: tuple[str, ...]


def utterance_interface(*, n_mels: int, vocabulary: int, hidden: int | None = None) -> Interface:
    """Features of whole utterances to log-probabilities; names as in sherpa-onnx's offline slots.

    Args:
        n_mels: width of the features.
        vocabulary: number of CTC outputs.
        hidden: width of the encoder's output, where the graph gives that too.
    """
    states = (TensorSpec(name="hidden", dtype="float32", dims=("N", "T_out", hidden or 0)),)
    return Interface(
        name="encoder_ctc",
        inputs=(
            TensorSpec(name="x", dtype="float32", dims=("N", "T", n_mels)),
            TensorSpec(name="x_lens", dtype="int64", dims=("N",)),
        ),
        outputs=(
            TensorSpec(name="log_probs", dtype="float32", dims=("N", "T_out", vocabulary)),
            TensorSpec(name="log_probs_lens", dtype="int64", dims=("N",)),
            *(states if hidden else ()),
        ),
        weights=("encoder.", "ctc."),
    )


def export_graph(layer: Any, network: Any, interface: Interface, *, opset: int) -> onnx.ModelProto:
    """FP32 ONNX graph of a Paddle layer that computes with the weights of `network`.

    Args:
        layer: takes the interface's inputs and returns its outputs; traceable by Paddle.
        network: PaddleSpeech's network in evaluation mode, batch norms folded.
        opset: 13 to 17; from 17 on layer normalisation is one operator.
    Returns:
        model with the interface's names and dimensions, initializers named as in the checkpoint.
    Raises:
        ExportFailed: Paddle2ONNX fails, or a weight of the network is missing from the graph.
    """
    layer.eval()
    model = onnx.load_from_string(_trace(layer, interface, opset=opset))
    if model.opset_import[0].version != opset:
        raise ExportFailed(f"opset: got {model.opset_import[0].version}, expected {opset}")
    names = {tensor.name: name for name, tensor in network.named_parameters()}
    _fold_constants(model, names)
    _drop_dead_nodes(model)
    _rename_interface(model, interface)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model, full_check=True)
    _check_weights(model, network, interface)
    return model


def _trace(layer: Any, interface: Interface, *, opset: int) -> bytes:
    import paddle2onnx

    spec = [
        paddle.static.InputSpec(
            [-1 if isinstance(dim, str) else dim for dim in item.dims], item.dtype, item.name
        )
        for item in interface.inputs
    ]
    with tempfile.TemporaryDirectory(prefix="asrcompress-") as folder, quiet_stderr():
        prefix = str(Path(folder) / "graph")
        paddle.jit.save(layer, prefix, input_spec=spec)
        exported = paddle2onnx.export(
            f"{prefix}.pdmodel",
            f"{prefix}.pdiparams",
            opset_version=opset,
            auto_upgrade_opset=False,
            verbose=False,
            enable_onnx_checker=True,
        )
    if not exported:
        raise ExportFailed(f"Paddle2ONNX wrote nothing at opset {opset}")
    return bytes(exported)


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hide what Paddle's C++ logs on file descriptor 2 while a program is saved."""
    saved = os.dup(2)
    with open(os.devnull, "w") as devnull:
        os.dup2(devnull.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _fold_constants(model: onnx.ModelProto, names: dict[str, str]) -> None:
    """Constants, and shape operators on them, become initializers with checkpoint names."""
    constants: dict[str, np.ndarray] = {}
    origin: dict[str, str] = {}
    kept = []
    for node in model.graph.node:
        if node.op_type == "Constant":
            value = next(a for a in node.attribute if a.name == "value")
            constants[node.output[0]] = numpy_helper.to_array(value.t)
            if node.output[0] in names:
                origin[node.output[0]] = names[node.output[0]]
        elif node.op_type in _SHAPE_OPS and all(name in constants for name in node.input):
            constants[node.output[0]] = _evaluate(node, model, constants)
            if node.input[0] in origin:
                origin[node.output[0]] = origin[node.input[0]]
        else:
            kept.append(node)
    used = {name for node in kept for name in node.input}
    renamed = {name: origin[name] for name in constants if name in used and name in origin}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, weight in renamed.items():  # a layer may run twice, its weight is stored once
        if shapes.setdefault(weight, constants[name].shape) != constants[name].shape:
            raise ExportFailed(f"{weight}: is used in two shapes, expected one")
    for node in kept:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    stored = {renamed.get(name, name): constants[name] for name in constants if name in used}
    for name, value in stored.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))


def _evaluate(node: Any, model: onnx.ModelProto, constants: dict[str, np.ndarray]) -> np.ndarray:
    """Value of one shape operator, by ONNX's reference implementation."""
    inputs = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), None
        )
        for name in dict.fromkeys(node.input)
        for v in [constants[name]]
    ]
    output = onnx.helper.make_empty_tensor_value_info(node.output[0])
    graph = onnx.helper.make_graph([node], "fold", inputs, [output])
    single = onnx.helper.make_model(graph, opset_imports=model.opset_import)
    feed = {name: constants[name] for name in node.input}
    return np.asarray(ReferenceEvaluator(single).run(None, feed)[0])


def _drop_dead_nodes(model: onnx.ModelProto) -> None:
    """Remove nodes that no output depends on."""
    wanted = {output.name for output in model.graph.output}
    alive = []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            alive.append(node)
            wanted |= set(node.input)
    del model.graph.node[:]
    model.graph.node.extend(reversed(alive))


def _rename_interface(model: onnx.ModelProto, interface: Interface) -> None:
    """Names and dimensions of the interface, whatever Paddle called them."""
    graph = model.graph
    new: dict[str, str] = {}
    for items, specs in ((graph.input, interface.inputs), (graph.output, interface.outputs)):
        if len(items) != len(specs):
            raise ExportFailed(f"{graph.name}: {len(items)} tensors, expected {len(specs)}")
        new |= {item.name: spec.name for item, spec in zip(items, specs, strict=True)}
        for item, spec in zip(items, specs, strict=True):
            kind = item.type.tensor_type.elem_type
            item.CopyFrom(onnx.helper.make_tensor_value_info(spec.name, kind, list(spec.dims)))
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    del graph.value_info[:]
    graph.name = interface.name


def _check_weights(model: onnx.ModelProto, network: Any, interface: Interface) -> None:
    """Every weight that the interface promises is in the graph."""
    present = {item.name for item in model.graph.initializer}
    unused = unused_layers(network)
    wanted = {
        name
        for name, _ in network.named_parameters()
        if name.startswith(interface.weights)
        and not belongs_to(name, unused)
        and not is_folded_norm(name, network)
    }
    # Constants equal to another one may be merged; weights of two or more dimensions are not.
    missing = sorted(name for name in wanted - present if name.endswith("weight"))
    if missing:
        raise ExportFailed(f"weights missing from the graph: {', '.join(missing[:5])}")


def is_folded_norm(name: str, network: Any) -> bool:
    """Batch norms are part of the convolution before them by now."""
    owner = dict(network.named_sublayers()).get(name.rpartition(".")[0])
    return type(owner).__name__ == "BatchNorm1D"


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write `model` atomically."""
    write_atomically(path, model.SerializeToString())
