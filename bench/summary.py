"""What is computed of times and texts. Pure functions."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One contender on one recording with some threads, warm.

    Attributes:
        p50_s, p95_s: latency over the rounds.
        rtf: median latency over the duration of the audio.
        speedup: median over the rounds of (baseline's time / this one's).
    """

    threads: int
    audio_s: float
    p50_s: float
    p95_s: float
    rtf: float
    speedup: float

    def __post_init__(self) -> None:
        if not 0 < self.p50_s <= self.p95_s:
            raise ValueError(f"latency: got p50 {self.p50_s} and p95 {self.p95_s}")


def timing(
    own: Sequence[float], baseline: Sequence[float], *, threads: int, audio_s: float
) -> Timing:
    """Of seconds per round; both begin with the same round."""
    p50 = float(np.percentile(own, 50))
    return Timing(
        threads=threads,
        audio_s=audio_s,
        p50_s=p50,
        p95_s=float(np.percentile(own, 95)),
        rtf=p50 / audio_s,
        speedup=ratio(own, baseline),
    )


def ratio(own: Sequence[float], baseline: Sequence[float]) -> float:
    """How many times faster: the median of the ratios within a round, of those that both have."""
    return statistics.median(b / a for a, b in zip(own, baseline, strict=False))


def agreement(symbols: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> float:
    """Share of the frames with the same best symbol; frames that one has not got are wrong."""
    same = total = 0
    for own, expected in zip(symbols, reference, strict=True):
        length = min(len(own), len(expected))
        same += int((own[:length] == expected[:length]).sum())
        total += max(len(own), len(expected))
    return same / total if total else 0.0


def relative_error(log_probs: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> float:
    """Root mean square of the difference over that of the reference around its mean.

    Near 0: the same network. From 1 on: nothing to do with it. Frames that one has not got count
    as wrong altogether.
    """
    noise = signal = 0.0
    for own, expected in zip(log_probs, reference, strict=True):
        length = min(len(own), len(expected))
        centred = expected - expected.mean(axis=-1, keepdims=True)
        signal += float(np.square(centred).sum())
        noise += float(np.square(own[:length] - expected[:length]).sum())
        noise += float(np.square(centred[length:]).sum())
    return float(np.sqrt(noise / signal)) if signal else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """Multiply-accumulates per second of this core, the best that any library here reaches.

    Attributes:
        float_, integer: of products of large matrices.
        float_row, integer_row: of one row times a matrix, as a recurrent layer has them.
    """

    float_: float
    integer: float
    float_row: float
    integer_row: float

    def limit_s(self, *, macs: int, integer_share: float, serial_share: float) -> float:
        """Least time for some work: every product at its peak, everything else for nothing.

        Args:
            integer_share: of the work.
            serial_share: of the work that has one row only; taken to be as integer as the rest.
        """
        parts = (
            (integer_share * (1 - serial_share), self.integer),
            (integer_share * serial_share, self.integer_row),
            ((1 - integer_share) * (1 - serial_share), self.float_),
            ((1 - integer_share) * serial_share, self.float_row),
        )
        return sum(macs * share / peak for share, peak in parts)
