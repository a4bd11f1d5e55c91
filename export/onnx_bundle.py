"""What a bundle says of an exported U2 graph."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import onnx

from asrcompress.bundle_manifest import BundleManifest, Source, TensorSpec
from asrcompress.checkpoint import Checkpoint
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
# Fewest feature frames that two convolutions of kernel 3 and stride 2 leave a frame of.
MIN_FRAMES = 7
_DTYPES = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.INT64: "int64"}


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
) -> BundleManifest:
    """Manifest for `model`, its files still to be listed by ``write_bundle``.

    Args:
        model: exported graph.
        precision: ``int8`` or ``fp32``.
        subsampling: feature frames per output frame.
        max_frames: most feature frames that the graph accepts.
        quality: CER and verdict, or None where nothing was measured.
    """
    graph = onnx.load(model, load_external_data=False)
    return BundleManifest(
        family=checkpoint.family,
        precision=precision,
        model=f"model.{precision}.onnx" if precision == "int8" else "model.onnx",
        inputs=tuple(_tensor(item) for item in graph.graph.input),
        outputs=tuple(_tensor(item) for item in graph.graph.output),
        features=checkpoint.features,
        blank_id=checkpoint.vocabulary.blank_id,
        vocab_size=len(checkpoint.vocabulary),
        subsampling_factor=subsampling,
        min_frames=MIN_FRAMES,
        max_frames=max_frames,
        opset=next(item.version for item in graph.opset_import if item.domain in ("", "ai.onnx")),
        source=Source(checkpoint_name=checkpoint.name, checkpoint_sha256=checkpoint.sha256),
        tools=tool_versions(),
        integer_share=integer_share,
        quality=quality,
    )


def _tensor(item: Any) -> TensorSpec:
    kind = item.type.tensor_type
    if kind.elem_type not in _DTYPES:
        raise ExportFailed(f"{item.name}: element type {kind.elem_type}, expected float32 or int64")
    dims = tuple(dim.dim_value or dim.dim_param for dim in kind.shape.dim)
    return TensorSpec(name=item.name, dtype=_DTYPES[kind.elem_type], dims=dims)
