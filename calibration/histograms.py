"""Histograms of the activations while calibration runs, beside whichever observer sets the range.

PaddleSlim's observers keep a histogram only where their own method needs one, and each its own
way; these are the same for all of them and cost a hundredth of the forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from asrcompress.histogram import Histogram

BINS = 64
# Values counted per edge and utterance; the shape needs no more, the maximum is taken of all.
_SAMPLE = 8192


class RunningHistogram:
    """Counts over [-limit, limit], where limit is a power of two that doubles when it must.

    Doubling merges pairs of bins, so no value is ever counted in a wrong bin.
    """

    def __init__(self) -> None:
        self.limit = 0.0
        self.absmax = 0.0
        self.counts = np.zeros(BINS, np.int64)

    def add(self, values: np.ndarray) -> None:
        """Count a sample of `values`, any shape; what is not finite is left out."""
        flat = values.reshape(-1)
        largest = float(np.abs(flat).max(initial=0.0))
        if not math.isfinite(largest):
            flat = flat[np.isfinite(flat)]
            largest = float(np.abs(flat).max(initial=0.0))
        if largest == 0.0:
            return
        self.absmax = max(self.absmax, largest)
        self._widen(largest)
        sample = flat[:: max(1, flat.size // _SAMPLE)].astype(np.float64)
        bins = ((sample / self.limit + 1.0) * (BINS / 2)).astype(np.int64)
        self.counts += np.bincount(np.minimum(bins, BINS - 1), minlength=BINS)

    def _widen(self, largest: float) -> None:
        if self.limit == 0.0:
            self.limit = 2.0 ** math.ceil(math.log2(largest))
        while self.limit < largest:
            merged = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.pad(merged, BINS // 4)
            self.limit *= 2.0


class Recording:
    """What `record` sees, edge by edge."""

    def __init__(self) -> None:
        self._found: dict[str, RunningHistogram] = {}

    def add(self, edge: str, values: np.ndarray) -> None:
        """Count values of an edge."""
        self._found.setdefault(edge, RunningHistogram()).add(values)

    def histograms(self) -> list[Histogram]:
        """One per edge that had a value other than zero, in the order they were first seen."""
        return [
            Histogram(
                edge=edge,
                limit=item.limit,
                absmax=item.absmax,
                counts=tuple(int(count) for count in item.counts),
            )
            for edge, item in self._found.items()
            if item.absmax > 0.0
        ]


@contextmanager
def record(edges: Mapping[str, Any]) -> Iterator[Recording]:
    """Watch what enters each of `edges`, Paddle layers by name, while the block runs."""
    recording = Recording()
    hooks = []
    for name, layer in edges.items():

        def watch(_: Any, inputs: Any, edge: str = name) -> None:
            recording.add(edge, inputs[0].detach().numpy())

        hooks.append(layer.register_forward_pre_hook(watch))
    try:
        yield recording
    finally:
        for hook in hooks:
            hook.remove()
