"""Recording the golden part of a bundle: which signals, and what the network makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from asrcompress.bundles.golden import (
    N_CASES,
    Golden,
    GoldenCase,
    mean_difference,
    most_stable,
    reference_bytes,
)
from asrcompress.bundles.golden_signals import N_SIGNALS, golden_signal, wav_bytes
from asrcompress.errors import ExportFailed
from asrcompress.files import write_atomically
from asrcompress.pipeline.recognizer import Recognizer

# Disturbance of the features, in nats (after CMVN: standard deviations), and how often it is tried.
_JITTER = 1e-5
_TRIALS = 6


def record_golden(recognizer: Recognizer, folder: Path) -> Golden:
    """Write recordings and references into `folder`, computed by the artifact that is shipped.

    Of `N_SIGNALS` signals those are taken whose log-probabilities move least when the features are
    disturbed as another CPU disturbs them: the others lie next to the edge of a rounding.

    Raises:
        ExportFailed: too few signals fit into the audio that the network takes.
    """
    spec, most = recognizer.fbank.spec, recognizer.max_frames
    signals = [golden_signal(index) for index in range(N_SIGNALS)]
    fitting = [s for s in signals if most is None or spec.n_frames(len(s)) <= most]
    if len(fitting) < N_CASES:
        raise ExportFailed(
            f"{recognizer.name}: takes {most} frames only, expected enough for a second of audio",
            hint="a larger export.max_seconds",
        )
    log_probs, spreads = [], []
    for samples in fitting:
        features = recognizer.fbank(samples / np.float32(32768))
        exact = recognizer.model.log_probs([features])[0]
        log_probs.append(exact)
        spreads.append(_spread(recognizer, features, exact))
    texts = [recognizer.text(item) for item in log_probs]
    cases = []
    for number, index in enumerate(most_stable(spreads, texts, N_CASES), start=1):
        audio, reference = f"golden-{number}.wav", f"golden-{number}.f16"
        write_atomically(folder / audio, wav_bytes(fitting[index]))
        write_atomically(folder / reference, reference_bytes(log_probs[index]))
        cases.append(
            GoldenCase(
                audio=audio, log_probs=reference, frames=len(log_probs[index]), text=texts[index]
            )
        )
    return Golden(cases=tuple(cases))


def _spread(recognizer: Recognizer, features: np.ndarray, exact: np.ndarray) -> float:
    """Mean difference in nats over some disturbances; infinite where one changes the text."""
    rng, text = np.random.default_rng(0), recognizer.text(exact)
    total = 0.0
    for _ in range(_TRIALS):
        noise = np.float32(_JITTER) * rng.standard_normal(features.shape, np.float32)
        disturbed = recognizer.model.log_probs([features + noise])[0]
        if recognizer.text(disturbed) != text:
            return float("inf")
        total += mean_difference(exact, disturbed) / _TRIALS
    return total
