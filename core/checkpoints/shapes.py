"""The widths of a network that PaddleSpeech's YAML cannot say, as structured pruning leaves them.

PaddleSpeech's YAML has one width for all blocks of a U2 encoder, and none for the convolutions of
DeepSpeech2. A pruned experiment says them under ``pruned_shape`` in the same file; everything else
of it is as PaddleSpeech wants it, so only `asrcompress.checkpoints.resize` stands between the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from asrcompress import strict_json
from asrcompress.errors import BadCheckpoint

KEY = "pruned_shape"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockShape:
    """Widths inside one block; the width between blocks stays.

    Attributes:
        heads: of the self-attention; each keeps its width.
        feed_forward: hidden units of the feed-forward layer.
        macaron: of the one in front, None where the block has none.
        channels: of the convolution module, None where the block has none.
    """

    heads: int
    feed_forward: int
    macaron: int | None = None
    channels: int | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and value < 1:
                raise BadCheckpoint(f"{KEY}.{name}: got {value}, expected at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderShape:
    """Every block of an encoder, in order."""

    blocks: tuple[BlockShape, ...]

    def to_settings(self) -> dict[str, Any]:
        """What goes under ``pruned_shape``."""
        tree: dict[str, Any] = strict_json.to_json(self)
        return tree


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentShape:
    """Widths of a DeepSpeech2.

    Attributes:
        convolutions: channels of the two that subsample.
        hidden: units of each recurrent layer and direction, PaddleSpeech's ``rnn_layer_size``.
        dense: units of the layers behind, PaddleSpeech's ``fc_layers_size_list``.
    """

    convolutions: tuple[int, int]
    hidden: int
    dense: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for value in (*self.convolutions, self.hidden, *self.dense):
            if value < 1:
                raise BadCheckpoint(f"{KEY}: got a width of {value}, expected at least 1")

    def to_settings(self) -> dict[str, Any]:
        """What goes under ``pruned_shape``."""
        tree: dict[str, Any] = strict_json.to_json(self)
        return tree


NetworkShape = EncoderShape | RecurrentShape


def pruned_shape(settings: Mapping[str, Any], *, item: str) -> NetworkShape | None:
    """The shape that a network's settings record; None where there is none.

    Args:
        item: the file, for messages.
    Raises:
        BadCheckpoint: not a shape, or one that contradicts the other settings.
    """
    if KEY not in settings:
        return None
    where = f"{item}: {KEY}"
    shape: NetworkShape
    if "encoder_conf" in settings:
        shape = strict_json.from_json(EncoderShape, settings[KEY], item=where, error=BadCheckpoint)
    else:
        shape = strict_json.from_json(
            RecurrentShape, settings[KEY], item=where, error=BadCheckpoint
        )
    if isinstance(shape, RecurrentShape):
        dense = list(settings["fc_layers_size_list"])[: settings["num_fc_layers"]]
        wanted = (settings["rnn_layer_size"], tuple(dense))
        if (shape.hidden, shape.dense) != wanted:
            raise BadCheckpoint(
                f"{item}: {KEY} has hidden {shape.hidden} and dense {list(shape.dense)}, "
                f"expected rnn_layer_size {wanted[0]} and fc_layers_size_list {dense}"
            )
    elif len(shape.blocks) != settings["encoder_conf"].get("num_blocks"):
        raise BadCheckpoint(
            f"{item}: {KEY} has {len(shape.blocks)} blocks, "
            f"expected num_blocks {settings['encoder_conf'].get('num_blocks')}"
        )
    return shape
