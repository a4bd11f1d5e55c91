"""The widths of a U2 encoder whose blocks are not all alike, as structured pruning leaves them.

PaddleSpeech's YAML has one width for all blocks. A pruned experiment says the others under
``pruned_shape`` in the same file; everything else of it is as PaddleSpeech wants it, so only
`asrcompress.checkpoints.resize` stands between the two.
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


def pruned_shape(settings: Mapping[str, Any], *, item: str) -> EncoderShape | None:
    """The shape that a network's settings record; None where all blocks are alike.

    Args:
        item: the file, for messages.
    Raises:
        BadCheckpoint: not a shape, or not one block for each of ``num_blocks``.
    """
    if KEY not in settings:
        return None
    shape: EncoderShape = strict_json.from_json(
        EncoderShape, settings[KEY], item=f"{item}: {KEY}", error=BadCheckpoint
    )
    wanted = settings["encoder_conf"].get("num_blocks")
    if len(shape.blocks) != wanted:
        raise BadCheckpoint(
            f"{item}: {KEY} has {len(shape.blocks)} blocks, expected num_blocks {wanted}"
        )
    return shape
