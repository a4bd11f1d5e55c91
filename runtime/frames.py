"""Samples cut into overlapping frames."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from asrcompress.features import FeatureSpec

# Frames that are transformed at once: half an hour at once would take 2 GB in float64.
_BLOCK = 2000


def blocks_of_frames(samples: np.ndarray, spec: FeatureSpec) -> Iterator[np.ndarray]:
    """Frames that lie in `samples` entirely, in order.

    Yields:
        views, shape (up to 2000, span_samples).
    """
    if len(samples) < spec.span_samples:
        return
    windows = np.lib.stride_tricks.sliding_window_view(samples, spec.span_samples)
    frames = windows[:: spec.shift_samples]
    for start in range(0, len(frames), _BLOCK):
        yield frames[start : start + _BLOCK]
