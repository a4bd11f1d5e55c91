"""The streaming graph of a network, whatever its family, and what a bundle says of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from asrcompress.bundles.manifest import StreamingModel
from asrcompress.checkpoints.acoustic import is_u2, subsampling_factor
from asrcompress.export.chunk_graph import export_chunks, window_frames
from asrcompress.export.onnx_bundle import tensor_specs
from asrcompress.recipe import Streaming


def export_streaming(
    network: Any,
    settings: Streaming,
    *,
    name: str,
    opset: int,
    max_frames: int,
    n_mels: int,
    hidden: bool = False,
) -> tuple[onnx.ModelProto, StreamingModel]:
    """FP32 graph of one step, and its description.

    Args:
        network: PaddleSpeech's network in evaluation mode, batch norms folded, streamable.
        name: file name that the graph will have.
        max_frames: most feature frames between two restarts of a stream.
        n_mels: width of the features.
        hidden: give the encoder's output too, for an attention decoder (U2 only).
    Raises:
        ExportFailed: see `asrcompress.export.onnx_graph.export_graph`.
    """
    factor = subsampling_factor(network)
    if is_u2(network):
        model = export_chunks(
            network, opset=opset, max_frames=max_frames, n_mels=n_mels, hidden=hidden
        )
        window: int = window_frames(network, settings.chunk_size)
        most: int | None = max_frames // factor
    else:
        from asrcompress.export.deepspeech2_graph import export_online

        model = export_online(network, opset=opset, n_mels=n_mels)
        # Two convolutions of kernel 3 and stride 2 without padding; the recurrence has no end.
        window, most = (settings.chunk_size - 1) * factor + 7, None
    inputs, outputs = tensor_specs(model)
    spec = StreamingModel(
        kind="u2" if is_u2(network) else "deepspeech2",
        model=name,
        inputs=inputs,
        outputs=outputs,
        chunk_size=settings.chunk_size,
        left_chunks=settings.left_chunks,
        window_frames=window,
        hop_frames=settings.chunk_size * factor,
        max_outputs=most,
    )
    return model, spec


def describe_again(spec: StreamingModel, model: onnx.ModelProto, name: str) -> StreamingModel:
    """`spec` for the quantized form of its graph."""
    inputs, outputs = tensor_specs(model)
    return replace(spec, model=name, inputs=inputs, outputs=outputs)


def example_feed(spec: StreamingModel) -> dict[str, np.ndarray]:
    """Random inputs of a step in the middle of a stream, for counting kernels."""
    rng = np.random.default_rng(0)
    chunks = spec.left_chunks if spec.left_chunks >= 0 else 4
    cached = min(chunks * spec.chunk_size, (spec.max_outputs or 0) - spec.chunk_size)
    sizes = {"T": spec.window_frames, "C": cached, "K": cached + spec.chunk_size}
    special = {"offset": cached, "required_cache_size": -1}
    feed: dict[str, np.ndarray] = {}
    for item in spec.inputs:
        shape = [d if isinstance(d, int) else sizes.get(d, 1) for d in item.dims]
        if item.dtype == "float32":
            feed[item.name] = rng.standard_normal(shape, np.float32)
        elif item.dtype == "bool":
            feed[item.name] = np.ones(shape, bool)
        else:
            feed[item.name] = np.full(shape, special.get(item.name, 0), np.int64)
    return feed
