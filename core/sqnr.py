"""What 8 bits cost, layer by layer: signal-to-quantization-noise ratios, and where they are kept.

The ratio of a tensor is 10·log10 of its energy over the energy of its error. A uniform int8 grid
that fits its tensor gives some 35 to 45 dB; below 20 dB a tenth of the amplitude is noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from asrcompress.ranges import Ranges

CEILING_DB = 120.0
"""Of float32's own rounding, and what an error of exactly zero counts as."""

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNoise:
    """One quantized layer; None where there was no signal, or it was not measured.

    Attributes:
        name: structured name of the layer.
        input: edge that it reads.
        weight_db: of its weight.
        output_db: of its output, all errors of the layers before it included.
    """

    name: str
    input: str
    weight_db: float | None
    output_db: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeNoise:
    """One quantized activation.

    Attributes:
        db: of rounding and clipping at this edge alone.
        clipped: share of the values outside the range, 0 to 1.
    """

    name: str
    db: float | None
    clipped: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseReport:
    """Every layer and edge; edges are empty, and utterances 0, where only weights were measured."""

    layers: tuple[LayerNoise, ...]
    edges: tuple[EdgeNoise, ...] = ()
    utterances: int = 0
    schema_version: int = SCHEMA_VERSION


def sqnr_db(signal: float, noise: float) -> float | None:
    """Ratio of two sums of squares in decibels, at most `CEILING_DB`; None without a signal."""
    if signal <= 0.0 or not math.isfinite(signal + noise):
        return None
    return 10.0 * math.log10(signal / max(noise, signal * 10.0 ** (-CEILING_DB / 10.0)))


def weight_noise(weights: Mapping[str, np.ndarray], ranges: Ranges) -> tuple[LayerNoise, ...]:
    """The error of rounding each weight to its int8 grid, in the order of `ranges`.

    The weights of a recurrent layer count as one; it reads no edge that has a range.

    Args:
        weights: by structured name; those that are missing get None.
    """
    parts: dict[tuple[str, str], list[tuple[str, int, tuple[float, ...]]]] = {
        (item.parameter.removesuffix(".weight"), item.input): [
            (item.parameter, item.axis, item.absmax)
        ]
        for item in ranges.weights
    }
    for recurrent in ranges.recurrent:
        key = (recurrent.layer, f"{recurrent.layer}:input")
        parts.setdefault(key, []).append((recurrent.parameter, 0, recurrent.absmax))
    return tuple(
        LayerNoise(name=name, input=edge, weight_db=_weight_db(weights, items, ranges.weight_top))
        for (name, edge), items in parts.items()
    )


def _weight_db(
    weights: Mapping[str, np.ndarray], items: list[tuple[str, int, tuple[float, ...]]], top: int
) -> float | None:
    """Of (parameter, axis of channels, absmax) together; None where a parameter is missing."""
    signal = noise = 0.0
    for parameter, axis, absmax in items:
        if parameter not in weights:
            return None
        exact = weights[parameter].astype(np.float64)
        shape = [1] * exact.ndim
        shape[axis] = -1
        scale = (np.asarray(absmax, np.float64) / top).reshape(shape)
        rounded = np.clip(np.round(exact / scale), -top, top) * scale
        signal += float((exact**2).sum())
        noise += float(((exact - rounded) ** 2).sum())
    return sqnr_db(signal, noise)
