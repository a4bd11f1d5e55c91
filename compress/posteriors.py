"""Frame posteriors of some utterances, and how far they move when the network is changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from asrcompress.checkpoints.network import PaddleAcousticModel


def posteriors(network: Any, features: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Log-probabilities of each utterance by itself, float32 (output frames, vocabulary).

    Args:
        features: float32 (frames, mels).
    """
    model = PaddleAcousticModel(network)
    return [model.log_probs([item])[0] for item in features]


def divergence(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> float:
    """KL(before || after) of the frame posteriors, in nats per frame, 0 or more."""
    total = sum(_distance(a, b) for a, b in zip(before, after, strict=True))
    return total / sum(len(item) for item in before)


def _distance(before: np.ndarray, after: np.ndarray) -> float:
    """KL summed over frames.

    Written as the sum of p·log(p/q) - p + q, no term of which is negative: the posteriors are
    float32 and add up to 1 within 1e-7 only, which without the last two would hide a small KL.
    """
    a, b = before.astype(np.float64), after.astype(np.float64)
    return float((np.exp(a) * (a - b - 1.0) + np.exp(b)).sum())
