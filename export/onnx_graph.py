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
from pathlib import Path
from typing import Any

import numpy as np

from asrcompress.errors import ExportFailed, MissingExtra
from asrcompress.export.graph import ExportedEncoder
from asrcompress.files import write_atomically
from asrcompress.paddle_imports import import_paddle

paddle = import_paddle()

try:
    import onnx
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator
except ImportError as error:
    raise MissingExtra("onnx", "compress") from error

INPUTS = ("x", "x_lens")
OUTPUTS = ("log_probs", "log_probs_lens")
# Operators that only move or reshape: folding one of a weight keeps its values and its channels.
_SHAPE_OPS = {"Identity", "Squeeze", "Unsqueeze", "Transpose", "Reshape"}


def export_graph(network: Any, *, opset: int, max_frames: int, n_mels: int) -> onnx.ModelProto:
    """FP32 graph of encoder and CTC head with dynamic batch and time.

    Args:
        network: PaddleSpeech's network in evaluation mode, batch norms folded.
        opset: 13 to 17; from 17 on layer normalisation is one operator.
        max_frames: longest output in subsampled frames.
        n_mels: width of the features.
    Returns:
        model with inputs `INPUTS`, outputs `OUTPUTS`, initializers named as in the checkpoint.
    Raises:
        ExportFailed: Paddle2ONNX fails, or a weight of the network is missing from the graph.
    """
    graph = ExportedEncoder(network, max_frames=max_frames)
    graph.eval()
    model = onnx.load_from_string(_trace(graph, opset=opset, n_mels=n_mels))
    if model.opset_import[0].version != opset:
        raise ExportFailed(f"opset: got {model.opset_import[0].version}, expected {opset}")
    names = {tensor.name: name for name, tensor in network.named_parameters()}
    _fold_constants(model, names)
    _drop_dead_nodes(model)
    _rename_interface(model, n_mels=n_mels)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model, full_check=True)
    _check_weights(model, network)
    return model


def _trace(graph: Any, *, opset: int, n_mels: int) -> bytes:
    import paddle2onnx

    spec = [
        paddle.static.InputSpec([-1, -1, n_mels], "float32", INPUTS[0]),
        paddle.static.InputSpec([-1], "int64", INPUTS[1]),
    ]
    with tempfile.TemporaryDirectory(prefix="asrcompress-") as folder, _quiet_stderr():
        prefix = str(Path(folder) / "graph")
        paddle.jit.save(graph, prefix, input_spec=spec)
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
def _quiet_stderr() -> Iterator[None]:
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
    if len(set(renamed.values())) != len(renamed):
        raise ExportFailed("a weight is used in two shapes, expected one")
    for node in kept:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    for name, value in constants.items():
        if name in used:
            tensor = numpy_helper.from_array(np.ascontiguousarray(value), renamed.get(name, name))
            model.graph.initializer.append(tensor)


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


def _rename_interface(model: onnx.ModelProto, *, n_mels: int) -> None:
    """Names and dimensions as in sherpa-onnx's offline CTC slots."""
    graph = model.graph
    old = [item.name for item in (*graph.input, *graph.output)]
    new = dict(zip(old, INPUTS + OUTPUTS, strict=True))
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    del graph.value_info[:]
    dims: dict[str, list[str | int]] = {
        "x": ["N", "T", n_mels],
        "x_lens": ["N"],
        "log_probs": ["N", "T_out", graph.output[0].type.tensor_type.shape.dim[2].dim_value],
        "log_probs_lens": ["N"],
    }
    for item in (*graph.input, *graph.output):
        item.name = new[item.name]
        kind = item.type.tensor_type.elem_type
        item.CopyFrom(onnx.helper.make_tensor_value_info(item.name, kind, dims[item.name]))
    graph.name = "encoder_ctc"


def _check_weights(model: onnx.ModelProto, network: Any) -> None:
    """Every weight of encoder and CTC head is in the graph, and nothing of the decoder."""
    present = {item.name for item in model.graph.initializer}
    wanted = {
        name
        for name, _ in network.named_parameters()
        if name.startswith(("encoder.", "ctc.")) and not _is_folded_norm(name, network)
    }
    # Constants equal to another one may be merged; weights of two or more dimensions are not.
    missing = sorted(name for name in wanted - present if name.endswith("weight"))
    if missing:
        raise ExportFailed(f"weights missing from the graph: {', '.join(missing[:5])}")


def _is_folded_norm(name: str, network: Any) -> bool:
    """Batch norms and what the forward never uses (concat_linear) are not exported."""
    if ".concat_linear." in name:
        return True
    owner = dict(network.named_sublayers()).get(name.rpartition(".")[0])
    return type(owner).__name__ == "BatchNorm1D"


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write `model` atomically."""
    write_atomically(path, model.SerializeToString())
