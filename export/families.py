"""The utterance graph of a network, whatever its family."""

from __future__ import annotations

from typing import Any

import onnx

from asrcompress.acoustic import head_of, subsampling_factor
from asrcompress.export.graph import ExportedEncoder
from asrcompress.export.onnx_graph import export_graph, utterance_interface


def export_utterances(network: Any, *, opset: int, max_frames: int, n_mels: int) -> onnx.ModelProto:
    """FP32 graph from features to CTC log-probabilities, dynamic batch and time.

    Args:
        network: PaddleSpeech's network in evaluation mode, batch norms folded.
        max_frames: most feature frames of an utterance; bounds the positional table.
        n_mels: width of the features.
    Raises:
        ExportFailed: see `export_graph`.
    """
    layer = ExportedEncoder(network, max_frames=max_frames // subsampling_factor(network))
    interface = utterance_interface(n_mels=n_mels, vocabulary=head_of(network).weight.shape[1])
    return export_graph(layer, network, interface, opset=opset)
