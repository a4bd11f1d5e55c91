"""The utterance graph of a network, whatever its family."""

from __future__ import annotations

from typing import Any

import onnx

from asrcompress.checkpoints.acoustic import head_of, is_u2, subsampling_factor
from asrcompress.export.deepspeech2_graph import export_deepspeech2
from asrcompress.export.graph import ExportedEncoder
from asrcompress.export.onnx_graph import export_graph, utterance_interface


def export_utterances(
    network: Any, *, opset: int, max_frames: int, n_mels: int, hidden: bool = False
) -> onnx.ModelProto:
    """FP32 graph from features to CTC log-probabilities, dynamic batch and time.

    Args:
        network: PaddleSpeech's network in evaluation mode, batch norms folded.
        max_frames: most feature frames of an utterance; bounds the positional table of U2.
        n_mels: width of the features.
        hidden: give the encoder's output too, last, for an attention decoder (U2 only).
    Raises:
        ExportFailed: see `export_graph`.
    """
    if not is_u2(network):
        return export_deepspeech2(network, opset=opset, n_mels=n_mels)
    layer = ExportedEncoder(network, max_frames=max_frames // subsampling_factor(network))
    width, vocabulary = head_of(network).weight.shape
    interface = utterance_interface(
        n_mels=n_mels, vocabulary=vocabulary, hidden=width if hidden else None
    )
    layer.hidden = hidden
    return export_graph(layer, network, interface, opset=opset)
