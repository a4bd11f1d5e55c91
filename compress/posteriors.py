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
    """KL(before || after) of the frame posteriors, in nats per frame."""
    total = sum(float((np.exp(a) * (a - b)).sum()) for a, b in zip(before, after, strict=True))
    return total / sum(len(item) for item in before)
