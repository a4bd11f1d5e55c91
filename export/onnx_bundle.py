"""What a bundle says of an exported U2 graph."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import onnx

from asrcompress.bundles.manifest import (
    BundleManifest,
    DecoderModel,
    Source,
    StreamingModel,
    TensorSpec,
)
from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.checkpoints.u2_settings import min_frames
from asrcompress.errors import ExportFailed

_TOOLS = (
    "asrcompress",
    "paddlepaddle",
    "paddlepaddle-gpu",
    "paddleslim",
    "paddlespeech",
    "paddle2onnx",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "kaldi-native-fbank",
    "numpy",
)
_DTYPES = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.BOOL: "bool",
}


def tool_versions() -> dict[str, str]:
    """Versions of everything that decides what is exported, as installed."""
    found = {}
    for name in _TOOLS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def describe(
    model: Path,
    checkpoint: Checkpoint,
    *,
    precision: str,
    subsampling: int,
    max_frames: int,
    integer_share: float | None,
    quality: dict[str, Any] | None,
    streaming: StreamingModel | None = None,
    decoder: DecoderModel | None = None,
) -> BundleManifest:
    """Manifest for `model`, its files still to be listed by ``write_bundle``.

    Args:
        model: exported graph.
        precision: ``int8`` or ``fp32``.
        subsampling: feature frames per output frame.
        max_frames: most feature frames that the graph accepts.
        quality: CER and verdict, or None where nothing was measured.
        streaming: of the graph for streams, where one is shipped too.
        decoder: of the attention decoder, likewise.
    """
    graph = onnx.load(model, load_external_data=False)
    inputs, outputs = tensor_specs(graph)
    return BundleManifest(
        family=checkpoint.family,
        precision=precision,
        model=f"model.{precision}.onnx" if precision == "int8" else "model.onnx",
        inputs=inputs,
        outputs=outputs,
        features=checkpoint.features,
        blank_id=checkpoint.vocabulary.blank_id,
        vocab_size=len(checkpoint.vocabulary),
        subsampling_factor=subsampling,
        min_frames=min_frames(checkpoint.network),
        max_frames=max_frames,
        streaming=streaming,
        decoder=decoder,
        opset=next(item.version for item in graph.opset_import if item.domain in ("", "ai.onnx")),
        source=Source(checkpoint_name=checkpoint.name, checkpoint_sha256=checkpoint.sha256),
        tools=tool_versions(),
        integer_share=integer_share,
        quality=quality,
    )


def tensor_specs(model: onnx.ModelProto) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a graph.

    Raises:
        ExportFailed: an element type that no bundle has.
    """
    graph = model.graph
    return tuple(map(_tensor, graph.input)), tuple(map(_tensor, graph.output))


def _tensor(item: Any) -> TensorSpec:
    kind = item.type.tensor_type
    if kind.elem_type not in _DTYPES:
        raise ExportFailed(f"{item.name}: element type {kind.elem_type}, expected one of {_DTYPES}")
    dims = tuple(dim.dim_value or dim.dim_param for dim in kind.shape.dim)
    return TensorSpec(name=item.name, dtype=_DTYPES[kind.elem_type], dims=dims)
