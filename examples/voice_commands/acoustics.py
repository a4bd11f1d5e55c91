"""From a dry voice to a recording: resampling, a room, noise, level."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

SAMPLE_RATE_HZ = 16_000
NOISES = ("white", "pink", "brown", "hum", "street")
_HALF_TAPS = 32  # input samples on each side of an output sample


@lru_cache(maxsize=4)
def _polyphase_filter(from_hz: int, to_hz: int) -> tuple[np.ndarray, int, int]:
    """Kaiser-windowed sinc, one row of taps per output phase, shape (up, 2 * _HALF_TAPS)."""
    common = math.gcd(from_hz, to_hz)
    up, down = to_hz // common, from_hz // common
    # To 16 kHz: flat to 6.5 kHz, 6 dB down at 7.4 kHz, 70 dB down from 8.3 kHz on, measured.
    cutoff = 0.92 * min(1.0, to_hz / from_hz)
    offsets = np.arange(-_HALF_TAPS + 1, _HALF_TAPS + 1)
    distance = offsets[None, :] - np.arange(up)[:, None] / up  # in input samples
    inside = np.clip(1.0 - (distance / _HALF_TAPS) ** 2, 0.0, 1.0)
    window = np.i0(9.0 * np.sqrt(inside)) / np.i0(9.0)
    taps = cutoff * np.sinc(cutoff * distance) * window
    taps /= taps.sum(axis=1, keepdims=True)  # every phase passes a constant unchanged
    return taps.astype(np.float32), up, down


def resample(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Change the sample rate with a low-pass in front of it.

    Args:
        samples: float32 (n_samples,) at ``from_hz``.
        from_hz: rate of the input.
        to_hz: rate of the output.
    Returns:
        float32 (ceil(n_samples * to_hz / from_hz),) at ``to_hz``.
    """
    taps, up, down = _polyphase_filter(from_hz, to_hz)
    n_out = -(-len(samples) * up // down)
    position = np.arange(n_out, dtype=np.int64) * down
    start, phase = position // up, position % up
    padded = np.pad(samples.astype(np.float32), (_HALF_TAPS - 1, _HALF_TAPS + 1))
    windows = sliding_window_view(padded, 2 * _HALF_TAPS)[start]
    return np.asarray(np.einsum("ij,ij->i", windows, taps[phase]), dtype=np.float32)


def reverberate(samples: np.ndarray, rng: np.random.Generator, decay_s: float) -> np.ndarray:
    """Put the voice in a room: noise that decays by 60 dB in ``decay_s`` as impulse response."""
    n_response = max(2, int(decay_s * SAMPLE_RATE_HZ))
    response = rng.standard_normal(n_response) * 10 ** (-3 * np.arange(n_response) / n_response)
    response *= 0.35 / np.sqrt(np.sum(response**2))  # reflections 9 dB under the direct sound
    response[0] = 1.0
    size = 1 << (len(samples) + n_response).bit_length()
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)
    return wet[: len(samples)].astype(np.float32)


def noise(kind: str, n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of one of ``NOISES``, float64 (n_samples,), of unit power."""
    time_s = np.arange(n_samples) / SAMPLE_RATE_HZ
    if kind == "hum":  # mains and its harmonics over a quiet hiss
        hum = sum(
            np.sin(2 * np.pi * 50 * k * time_s + rng.uniform(0, 6.28)) / k for k in range(1, 9)
        )
        sound = hum + 0.3 * rng.standard_normal(n_samples)
    else:
        slope = {"white": 0.0, "pink": 0.5, "brown": 1.0, "street": 0.7}[kind]
        spectrum = np.fft.rfft(rng.standard_normal(n_samples))
        sound = np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), 4) ** slope, n_samples)
    if kind == "street":  # comes and goes
        rate_hz, phase = rng.uniform(0.5, 3.0), rng.uniform(0, 6.28)
        sound = sound * (1.0 + 0.8 * np.sin(2 * np.pi * rate_hz * time_s + phase))
    return np.asarray(sound / np.sqrt(np.mean(sound**2)))


def add_noise(
    samples: np.ndarray, kind: str, snr_db: float, rng: np.random.Generator
) -> np.ndarray:
    """Add noise at a signal-to-noise ratio that is measured over the whole utterance."""
    power = float(np.mean(samples.astype(np.float64) ** 2))
    scale = math.sqrt(power / 10 ** (snr_db / 10))
    return (samples + scale * noise(kind, len(samples), rng)).astype(np.float32)


def set_peak(samples: np.ndarray, peak_dbfs: float) -> np.ndarray:
    """Scale so that the largest sample lies at ``peak_dbfs`` (below 0: nothing clips)."""
    peak = float(np.abs(samples).max())
    return (samples * (10 ** (peak_dbfs / 20) / peak)).astype(np.float32)
