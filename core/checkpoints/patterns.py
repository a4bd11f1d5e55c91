"""Zeros inside of tensors: which pattern a network was pruned to, as its experiment records it.

The zeros themselves are in the weights; the record says that they are there on purpose, so that
training and quantization keep them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asrcompress import strict_json
from asrcompress.errors import BadCheckpoint
from asrcompress.settings import SPARSE_PATTERNS

KEY = "pruned_pattern"


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroPattern:
    """How zeros lie in the weights of the encoder.

    Attributes:
        pattern: ``unstructured``, ``1xN`` or ``2:4``.
        sparsity: share of zeros that was asked for.
        block: N of ``1xN``.
        layers: parameters that have the pattern; in them, exact zeros are for good.
    """

    pattern: str
    sparsity: float
    block: int
    layers: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.pattern not in SPARSE_PATTERNS or not self.layers:
            raise BadCheckpoint(
                f"{KEY}: got {self.pattern} of {len(self.layers)} tensors, "
                f"expected one of {', '.join(SPARSE_PATTERNS)} of at least one"
            )

    def to_settings(self) -> dict[str, Any]:
        """What goes under ``pruned_pattern``."""
        tree: dict[str, Any] = strict_json.to_json(self)
        return tree


def zero_pattern(settings: Mapping[str, Any], *, item: str) -> ZeroPattern | None:
    """The pattern that a network's settings record; None where there is none.

    Raises:
        BadCheckpoint: not a pattern.
    """
    if KEY not in settings:
        return None
    found: ZeroPattern = strict_json.from_json(
        ZeroPattern, settings[KEY], item=f"{item}: {KEY}", error=BadCheckpoint
    )
    return found
