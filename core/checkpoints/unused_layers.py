"""Layers that a PaddleSpeech checkpoint has weights for and that no whole utterance goes through.

They are loaded and saved with the rest, since PaddleSpeech wants them, but nothing can be learned
about them, and an exported graph does not contain them.
"""

from __future__ import annotations

from typing import Any

from asrcompress.checkpoints.acoustic import is_u2


def unused_layers(network: Any) -> tuple[str, ...]:
    """Names of such layers of a PaddleSpeech 1.5.0 network.

    * ``concat_linear`` of blocks that do not concatenate, which Transformer blocks always have;
    * the encoder's last norm with post-norm blocks;
    * the convolution modules of a Squeezeformer: ``SqueezeformerEncoder.forward`` hands them the
      mask of *valid* frames as the mask of frames to clear, so that they change valid frames by
      nothing. (Its ``forward_chunk`` hands over no mask.)
    * a Squeezeformer's time reduction when no block uses it.
    * the Linear behind DeepSpeech2's convolutions, which is U2's.
    """
    if not is_u2(network):
        return ("encoder.conv.out",)
    encoder = network.encoder
    names = [
        f"{name}.{child}"
        for name, layer in network.named_sublayers()
        if getattr(layer, "concat_after", True) is False
        for child, inner in layer.named_children()
        if child.startswith("concat_linear") and inner.parameters()
    ]
    if is_squeezeformer(encoder):
        return (*names, *_unused_in_squeezeformer(encoder))
    return tuple(names if encoder.normalize_before else [*names, "encoder.after_norm"])


def belongs_to(name: str, layers: tuple[str, ...]) -> bool:
    """Whether a parameter or layer is one of `layers` or inside one."""
    return any(name == layer or name.startswith(f"{layer}.") for layer in layers)


def is_squeezeformer(encoder: Any) -> bool:
    """Whether an encoder of U2 is a Squeezeformer, whose parts have other names."""
    return hasattr(encoder, "time_reduction_layer")


def _unused_in_squeezeformer(encoder: Any) -> list[str]:
    names = []
    for index, layer in enumerate(encoder.encoders):
        names.append(f"encoder.encoders.{index}.conv_module")
        if layer.normalize_before:  # norms what the convolution module reads
            names.append(f"encoder.encoders.{index}.layer_norm3")
    if not any(index < len(encoder.encoders) for index in encoder.reduce_idx or ()):
        names += ["encoder.time_reduction_layer", "encoder.time_recover_layer"]
    return names
