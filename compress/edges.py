"""What is quantized, in words that hold for every family: layers, and the edges between them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from asrcompress.errors import BadRecipe


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerEdges:
    """A weighted layer and the edges around it.

    Attributes:
        name: structured name, ``encoder.encoders.0.feed_forward.w_1``.
        layer: the Paddle layer.
        axis: output channels of its weight.
        input: edge it reads.
        input_unsigned: the input is the output of a ReLU.
        input_lowest: lowest value of the input where it is known, as behind Swish.
        output: edge it writes, where its integer kernel needs an output range.
        output_unsigned: a ReLU follows, which the unsigned grid performs by itself.
    """

    name: str
    layer: Any
    axis: int
    input: str
    input_unsigned: bool = False
    input_lowest: float | None = None
    output: str | None = None
    output_unsigned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SwishEdges:
    """A Swish between two quantized layers.

    Attributes:
        owner: the layer that has it as its ``activation``.
        before: name of the layer whose output it reads, edge ``<before>:output``.
        after: name of the layer that reads its output.
    """

    owner: Any
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionEdges:
    """An attention layer whose products are quantized; edges are ``<name>:<operand>``."""

    name: str
    layer: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentEdges:
    """An LSTM or GRU; ONNX Runtime quantizes its activations as they come, so it has no edges."""

    name: str
    layer: Any


def skipped(name: str, skip: tuple[str, ...]) -> bool:
    """Whether a layer name matches one of the shell patterns."""
    return any(fnmatchcase(name, pattern) for pattern in skip)


def check_skip(skip: tuple[str, ...], names: Iterable[str]) -> None:
    """Refuse patterns that leave nothing in float.

    Raises:
        BadRecipe: a pattern that matches no layer.
    """
    known = list(names)
    for pattern in skip:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise BadRecipe(
                f"skip: {pattern!r} matches no layer",
                hint="asrcompress inspect CHECKPOINT --layers lists them",
            )
