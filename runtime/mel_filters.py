"""Mel filter banks: weights of the bins of an FFT in bins that are even to the ear.

librosa's triangles lie on Slaney's scale and have equal areas (Slaney 1998, Auditory Toolbox;
``librosa.filters.mel`` with its defaults). Kaldi's lie on the scale 1127 ln(1 + Hz / 700), straight
there and not in Hz, and have equal heights. A triangle between two neighbouring FFT bins is empty.
"""

from __future__ import annotations

import numpy as np

# Slaney's scale: linear up to 1 kHz, three mels for each 200 Hz; above, 27 mels for a factor 6.4.
_HZ_PER_MEL = 200.0 / 3.0
_BEND_HZ = 1000.0
_BEND_MEL = _BEND_HZ / _HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27.0


def slaney_filters(
    *, sample_rate_hz: int, n_fft: int, n_mels: int, low_hz: float, high_hz: float
) -> np.ndarray:
    """librosa's, float32 (n_mels, n_fft // 2 + 1)."""
    edges = _hertz(np.linspace(_mel(low_hz), _mel(high_hz), n_mels + 2))
    bins = np.arange(n_fft // 2 + 1) * (sample_rate_hz / n_fft)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    areas = 2.0 / (edges[2:] - edges[:-2])
    weights: np.ndarray = (triangles * areas[:, None]).astype(np.float32)
    return weights


def _mel(hertz: float) -> float:
    if hertz < _BEND_HZ:
        return hertz / _HZ_PER_MEL
    return float(_BEND_MEL + np.log(hertz / _BEND_HZ) / _LOG_STEP)


def _hertz(mels: np.ndarray) -> np.ndarray:
    above = _BEND_HZ * np.exp(_LOG_STEP * (np.maximum(mels, _BEND_MEL) - _BEND_MEL))
    hertz: np.ndarray = np.where(mels < _BEND_MEL, mels * _HZ_PER_MEL, above)
    return hertz


def kaldi_filters(
    *, sample_rate_hz: int, n_fft: int, n_mels: int, low_hz: float, high_hz: float
) -> np.ndarray:
    """Kaldi's, float32 (n_mels, n_fft // 2 + 1); the Nyquist frequency has no weight.

    In float32, as PaddleSpeech (paddlespeech/audio/compliance/kaldi.py): an FFT bin at the very
    edge of a triangle weighs what rounding says.
    """
    low, high = (1127.0 * np.log(1.0 + hz / 700.0) for hz in (low_hz, high_hz))
    step = np.float32((high - low) / (n_mels + 1))
    left = np.float32(low) + np.arange(n_mels, dtype=np.float32)[:, None] * step
    centre = left + step
    right = centre + step
    bins_hz = np.float32(sample_rate_hz / n_fft) * np.arange(n_fft // 2, dtype=np.float32)
    bins = np.float32(1127.0) * np.log(np.float32(1.0) + bins_hz / np.float32(700.0))
    weights = np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre))
    return np.pad(np.maximum(weights, np.float32(0.0)), ((0, 0), (0, 1)))
