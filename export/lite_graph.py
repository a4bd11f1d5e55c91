"""A network as Paddle Lite takes it: one static program per length, batch 1, old-style.

The layers are those of `asrcompress.export.u2_blocks`, so the weights, and the ranges that were
learned for them, are those of the ONNX graph. What is particular:

* Every length is fixed. The positional table is cut to it, and only passed on by a slice: ``opt``
  makes no integer kernel for a projection whose input is a parameter.
* What is behind an utterance's end is masked by the second input, which the host computes. So a
  shorter utterance gives in a larger bucket what it gives alone.
* ``clip_extra=False``: without the extra attributes ``opt`` crashes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from asrcompress.bundles.manifest import TensorSpec
from asrcompress.checkpoints.acoustic import is_u2
from asrcompress.checkpoints.unused_layers import belongs_to, is_squeezeformer, unused_layers
from asrcompress.errors import ExportFailed
from asrcompress.export.lite_program import Program, read_program
from asrcompress.export.lite_recurrent import StaticDeepSpeech2
from asrcompress.export.onnx_graph import is_folded_norm, quiet_stderr
from asrcompress.export.u2_blocks import block
from asrcompress.export.u2_front import FrontEnd
from asrcompress.paddle_imports import import_paddle

paddle = import_paddle()

from paddle import nn  # noqa: E402  (after h5py, see paddle_imports)
from paddle.nn import functional as F  # noqa: E402

# exp(-1e9) is 0.0 in float32, as exp(-inf) is.
_MASKED = 1e9
# Parameters that are in the program, by whether the network is U2; encoder.conv.out of DeepSpeech2
# is in every checkpoint and used by no forward pass.
_SHIPPED = {
    True: ("encoder.", "ctc."),
    False: ("encoder.conv.conv.", "encoder.rnn.", "encoder.fc_layers_list.", "decoder.ctc_lo."),
}


class StaticEncoder(nn.Layer):
    """``(x, keep) -> log_probs`` of one length.

    Args:
        network: PaddleSpeech's U2 network, batch norms folded.
        outputs: output frames of the length.
    """

    def __init__(self, network: Any, *, outputs: int) -> None:
        super().__init__()
        self.encoder, self.ctc_lo, self.outputs = network.encoder, network.ctc.ctc_lo, outputs
        self.front = _StaticFrontEnd(network.encoder, max_outputs=outputs)

    def forward(self, x: Any, keep: Any) -> Any:
        """CTC log-probabilities.

        Args:
            x: features, float32 (1, frames, mels).
            keep: 1.0 on output frames of the utterance, 0.0 behind it, (1, frames', 1).
        Returns:
            float32 (1, frames', vocabulary).
        """
        encoder = self.encoder
        h, table = self.front(x), self.front.table(self.outputs)
        bias = ((keep - 1.0) * _MASKED).reshape([1, 1, 1, self.outputs])
        for layer in encoder.encoders:
            h = block(layer, h, table, bias, keep)
        h = encoder.after_norm(h) if encoder.normalize_before else h
        return F.log_softmax(self.ctc_lo(h), axis=-1)


class _StaticFrontEnd(FrontEnd):
    """`FrontEnd` whose absolute positions are cut at a number, not at the shape of a tensor."""

    def __init__(self, encoder: Any, *, max_outputs: int) -> None:
        super().__init__(encoder, max_outputs=max_outputs)
        self.outputs = max_outputs

    def _placed(self, h: Any, offset: Any) -> Any:
        if not self.has_positions:
            return h
        h = h * self.scale
        return h + self.table(self.outputs) if self.adds_positions else h


def interface_of(network: Any, *, frames: int, outputs: int, n_mels: int) -> tuple[TensorSpec, ...]:
    """Inputs of the program of one length: features, then the mask or the states.

    Args:
        frames: feature frames of the length.
        outputs: output frames.
        n_mels: width of the features.
    """
    x = TensorSpec(name="x", dtype="float32", dims=(1, frames, n_mels))
    if is_u2(network):
        return x, TensorSpec(name="keep", dtype="float32", dims=(1, outputs, 1))
    encoder = network.encoder
    dims = (encoder.num_rnn_layers, 1, encoder.rnn_size)
    names = ("h",) if encoder.use_gru else ("h", "c")
    return x, *(TensorSpec(name=name, dtype="float32", dims=dims) for name in names)


def trace_bucket(network: Any, *, frames: int, outputs: int, n_mels: int) -> Program:
    """The program of one length; arguments as of `interface_of`.

    Args:
        network: PaddleSpeech's network in evaluation mode, batch norms folded.
    Raises:
        ExportFailed: a network of a form that Paddle Lite was never given, or a weight of the
            network is not in the program.
    """
    layer = _layer(network, outputs=outputs)
    layer.eval()
    spec = [
        paddle.static.InputSpec(list(item.dims), item.dtype, item.name)
        for item in interface_of(network, frames=frames, outputs=outputs, n_mels=n_mels)
    ]
    names = {
        tensor.name: name
        for name, tensor in network.named_parameters()
        if name.startswith(_SHIPPED[is_u2(network)])
    }
    with tempfile.TemporaryDirectory(prefix="asrcompress-") as folder, quiet_stderr():
        prefix = Path(folder) / "bucket"
        paddle.jit.save(layer, str(prefix), input_spec=spec, clip_extra=False)
        program = read_program(prefix, names)
    present = {program.names.get(name) for name in program.parameters}
    unused = unused_layers(network)
    missing = sorted(
        name
        for name in set(names.values()) - present
        if name.endswith("weight")
        and not belongs_to(name, unused)
        and not is_folded_norm(name, network)
    )
    if missing:
        raise ExportFailed(f"weights missing from the program: {', '.join(missing[:5])}")
    return program


def _layer(network: Any, *, outputs: int) -> Any:
    encoder = network.encoder
    if not is_u2(network):
        if encoder.rnn[0].num_directions != 1:
            raise ExportFailed(
                f"encoder.rnn: rnn_direction is {encoder.rnn_direction}, expected forward",
                hint="Paddle Lite's rnn knows no lengths: backwards it would start in the padding",
            )
        return StaticDeepSpeech2(network, outputs=outputs)
    if is_squeezeformer(encoder):
        raise ExportFailed("encoder: is a Squeezeformer, expected a Conformer or a Transformer")
    if encoder.static_chunk_size > 0 and not encoder.use_dynamic_chunk:
        raise ExportFailed(
            f"encoder.static_chunk_size: got {encoder.static_chunk_size}, expected 0"
        )
    return StaticEncoder(network, outputs=outputs)
