"""What the settings of a U2 network decide without building it: its limits, and what is refused.

Nothing here imports Paddle. The numbers are those of PaddleSpeech 1.5.0's subsampling and
positional encoding layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asrcompress.errors import BadCheckpoint

# Feature frames that the subsampling makes one output frame of, and that each further one takes,
# by input_layer. Squeezeformer and DeepSpeech2 subsample as conv2d does.
_INPUT_LAYERS = {"linear": (1, 1), "conv2d": (7, 4), "conv2d6": (11, 6), "conv2d8": (15, 8)}
_CONV2D = _INPUT_LAYERS["conv2d"]
# Positions of PaddleSpeech's encodings (max_len), which its own assertion keeps outputs below.
_POSITIONS = 5000
_TIME_REDUCTIONS = ("conv1d", "stream")


def min_frames(settings: Mapping[str, Any]) -> int:
    """Fewest feature frames that a network makes an output frame of.

    Args:
        settings: of the network, as in `Checkpoint.network`.
    """
    return _input_layer(settings)[0]


def max_frames(settings: Mapping[str, Any]) -> int | None:
    """Most feature frames that PaddleSpeech's positional encoding reaches; None: no such limit."""
    encoder = settings.get("encoder_conf")
    if not isinstance(encoder, dict) or encoder.get("pos_enc_layer_type") == "no_pos":
        return None
    longest = encoder.get("max_len", _POSITIONS)
    positions = longest if type(longest) is int and longest > 1 else _POSITIONS
    return (positions - 1) * _input_layer(settings)[1]


def _input_layer(settings: Mapping[str, Any]) -> tuple[int, int]:
    encoder = settings.get("encoder_conf")
    if not isinstance(encoder, dict) or settings.get("encoder") == "squeezeformer":
        return _CONV2D
    return _INPUT_LAYERS.get(str(encoder.get("input_layer", "conv2d")), _CONV2D)


def check_u2(settings: Mapping[str, Any], source: Path) -> None:
    """Refuse networks that PaddleSpeech builds, but whose output nobody could use.

    Args:
        settings: of the network, as in `Checkpoint.network`.
        source: the file they came from.
    Raises:
        BadCheckpoint: with the key and what PaddleSpeech 1.5.0 does with it.
    """
    encoder = settings["encoder_conf"]
    if encoder.get("activation_type") == "glu":
        raise BadCheckpoint(
            f"{source}: encoder_conf.activation_type is glu, which halves the width that the next "
            "layer expects: PaddleSpeech cannot run it",
            hint="take the configuration that this checkpoint was trained with",
        )
    if settings.get("encoder") == "squeezeformer":
        _check_squeezeformer(encoder, source)


def _check_squeezeformer(encoder: Mapping[str, Any], source: Path) -> None:
    blocks = encoder.get("num_blocks", 12)
    reduced = _inside(encoder.get("reduce_idx", 5), blocks)
    recovered = _inside(encoder.get("recover_idx", 11), blocks)
    if reduced != recovered:
        raise BadCheckpoint(
            f"{source}: encoder_conf halves the frame rate {reduced} times (reduce_idx) and "
            f"recovers it {recovered} times (recover_idx), expected the same: PaddleSpeech "
            "reports the lengths of the recovered rate for its output",
        )
    kind = encoder.get("time_reduction_layer_type", "conv1d")
    if reduced and kind not in _TIME_REDUCTIONS:
        raise BadCheckpoint(
            f"{source}: encoder_conf.time_reduction_layer_type is {kind!r}, "
            f"expected {' or '.join(_TIME_REDUCTIONS)}",
            hint="the two-dimensional time reduction has no exported form",
        )
    widths = encoder.get("encoder_dim", 256), encoder.get("output_size", 256)
    if encoder.get("pos_enc_layer_type") == "abs_pos" and widths[0] != widths[1]:
        raise BadCheckpoint(
            f"{source}: encoder_conf.encoder_dim is {widths[0]} and output_size {widths[1]}, "
            "expected the same with pos_enc_layer_type abs_pos: PaddleSpeech cannot run it"
        )


def _inside(index: object, blocks: object) -> int:
    """How many of the block indices are blocks; a setting is one, a list of them, or null."""
    if type(blocks) is not int:
        return 0
    indices = index if isinstance(index, list) else [index]
    return sum(type(item) is int and item < blocks for item in indices)
