"""DeepSpeech2 as graphs: whole utterances, and the chunks of an online (forward) model.

PaddleSpeech's forward in one line per layer, on its own layers. Two things Paddle2ONNX gets wrong
are put right here and in `asrcompress.export.recurrent`:

* It drops the lengths of a batch. An LSTM that reads backwards then starts in the padding behind a
  short utterance: differences of 0.6 to 4 in the log-probabilities.
* Behind each recurrent layer, layer normalisation makes its bias out of the zeros on padding. The
  next layer skips it, but an integer kernel would take it into the range of its input.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import onnx

from asrcompress.bundles.manifest import TensorSpec
from asrcompress.checkpoints.acoustic import head_of
from asrcompress.errors import ExportFailed
from asrcompress.export.onnx_graph import Interface, export_graph, utterance_interface
from asrcompress.export.recurrent import complete_recurrent
from asrcompress.paddle_imports import import_paddle

paddle = import_paddle()

from paddle import nn  # noqa: E402  (after h5py, see paddle_imports)
from paddle.nn import functional as F  # noqa: E402

_WEIGHTS = ("encoder.", "decoder.")


def export_deepspeech2(network: Any, *, opset: int, n_mels: int) -> onnx.ModelProto:
    """FP32 graph from features to CTC log-probabilities, dynamic batch and time.

    Inputs and outputs are those of `asrcompress.export.onnx_graph.utterance_interface`.

    Args:
        network: PaddleSpeech's DeepSpeech2 in evaluation mode, of either direction.
        n_mels: width of the features.
    Raises:
        ExportFailed: see `export_graph` and `complete_recurrent`.
    """
    vocabulary = head_of(network).weight.shape[1]
    interface = replace(utterance_interface(n_mels=n_mels, vocabulary=vocabulary), weights=_WEIGHTS)
    model = export_graph(ExportedDeepSpeech2(network), network, interface, opset=opset)
    return complete_recurrent(model, network, lengths=interface.outputs[1].name)


def export_online(network: Any, *, opset: int, n_mels: int) -> onnx.ModelProto:
    """FP32 graph of one streaming step of a forward model; quantized like the utterance graph.

    Inputs:  ``x`` float32 (1, T, n_mels); ``h`` float32 (layers, 1, hidden); of an LSTM also ``c``
             of the same shape.
    Outputs: ``log_probs`` float32 (1, U, vocabulary); ``next_h``, and of an LSTM ``next_c``, to be
             fed with the next chunk.

    The states of the first chunk are zeros. A step that gives U output frames takes
    T = (U - 1) * 4 + 7 feature frames, and the next one starts U * 4 frames later: neighbouring
    windows share three frames. The last window of an utterance is fed as short as it is, from 7
    frames on, and gives U = ((T - 1) // 2 - 1) // 2 frames; shorter rests give none. Fed so, the
    chunks give exactly the frames of the whole utterance, those of PaddleSpeech's
    ``forward_chunk_by_chunk``, which pads the last window instead and cuts its output.

    Args:
        network: PaddleSpeech's DeepSpeech2 in evaluation mode.
        n_mels: width of the features.
    Raises:
        ExportFailed: the network reads backwards; else see `export_deepspeech2`.
    """
    encoder = network.encoder
    if encoder.rnn[0].num_directions != 1:
        raise ExportFailed(
            f"encoder.rnn: rnn_direction is {encoder.rnn_direction}, expected forward",
            hint="a network that reads backwards needs the whole utterance",
        )
    names = ("h",) if encoder.use_gru else ("h", "c")
    dims = (encoder.num_rnn_layers, 1, encoder.rnn_size)
    vocabulary = head_of(network).weight.shape[1]
    interface = Interface(
        name="encoder_ctc_chunk",
        inputs=(
            TensorSpec(name="x", dtype="float32", dims=(1, "T", n_mels)),
            *(TensorSpec(name=name, dtype="float32", dims=dims) for name in names),
        ),
        outputs=(
            TensorSpec(name="log_probs", dtype="float32", dims=(1, "U", vocabulary)),
            *(TensorSpec(name=f"next_{name}", dtype="float32", dims=dims) for name in names),
        ),
        weights=_WEIGHTS,
    )
    layer = _GruChunks(network) if encoder.use_gru else _LstmChunks(network)
    model = export_graph(layer, network, interface, opset=opset)
    return complete_recurrent(model, network, lengths=None)


class ExportedDeepSpeech2(nn.Layer):
    """``(x, x_lens) -> (log_probs, log_probs_lens)``."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.encoder, self.ctc_lo = network.encoder, network.decoder.ctc_lo

    def forward(self, x: Any, x_lens: Any) -> tuple[Any, Any]:
        encoder = self.encoder
        h = subsampled(encoder, x)
        lengths = ((x_lens - 1) // 2 - 1) // 2
        position = paddle.arange(paddle.shape(h)[1], dtype="int64").unsqueeze(0)
        keep = (position < lengths.unsqueeze(1)).astype("float32").unsqueeze(2)
        for index, norm in enumerate(encoder.layernorm_list):
            h = norm(encoder.rnn[index](h * keep)[0])
        return scores(encoder, self.ctc_lo, h), lengths


class _LstmChunks(nn.Layer):
    """``(x, h, c) -> (log_probs, next_h, next_c)``."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.encoder, self.ctc_lo = network.encoder, network.decoder.ctc_lo

    def forward(self, x: Any, h: Any, c: Any) -> tuple[Any, Any, Any]:
        encoder = self.encoder
        y, next_h, next_c = subsampled(encoder, x), [], []
        for index, norm in enumerate(encoder.layernorm_list):
            state = (h[index : index + 1], c[index : index + 1])
            y, (after_h, after_c) = encoder.rnn[index](y, state)
            y = norm(y)
            next_h.append(after_h)
            next_c.append(after_c)
        return scores(encoder, self.ctc_lo, y), paddle.concat(next_h), paddle.concat(next_c)


class _GruChunks(nn.Layer):
    """``(x, h) -> (log_probs, next_h)``."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.encoder, self.ctc_lo = network.encoder, network.decoder.ctc_lo

    def forward(self, x: Any, h: Any) -> tuple[Any, Any]:
        encoder = self.encoder
        y, following = subsampled(encoder, x), []
        for index, norm in enumerate(encoder.layernorm_list):
            y, after = encoder.rnn[index](y, h[index : index + 1])
            y = norm(y)
            following.append(after)
        return scores(encoder, self.ctc_lo, y), paddle.concat(following)


def subsampled(encoder: Any, x: Any) -> Any:
    """Conv2dSubsampling4Pure.forward: (batch, frames', channels * width')."""
    return encoder.conv.conv(x.unsqueeze(1)).transpose([0, 2, 1, 3]).flatten(2)


def scores(encoder: Any, head: Any, h: Any) -> Any:
    """The dense layers behind the recurrent ones, and the CTC head."""
    for layer in encoder.fc_layers_list:
        h = F.relu(layer(h))
    return F.log_softmax(head(h), axis=-1)
