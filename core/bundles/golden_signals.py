"""Recordings that nobody spoke: voiced sounds with moving formants, made by arithmetic.

They go into every bundle for its self-test, so no speech of anybody's may be among them.
"""

from __future__ import annotations

import io
import wave

import numpy as np

from asrcompress.audio import SAMPLE_RATE_HZ

N_SIGNALS = 24
# First three formants in Hz, after Peterson and Barney (1952), male speakers: i, a, u, ae, er.
_VOWELS = (
    (270, 2290, 3010),
    (730, 1090, 2440),
    (300, 870, 2240),
    (660, 1720, 2410),
    (490, 1350, 1690),
)
_BANDWIDTHS_HZ = (60.0, 90.0, 150.0)
_HARMONICS = 30


def golden_signal(index: int) -> np.ndarray:
    """Signal number `index`, 0 to `N_SIGNALS` - 1.

    Returns:
        int16, 0.6 to 0.83 s at 16 kHz: three syllables, each a glide between two vowels, and a
        noise burst before each.
    """
    rng = np.random.default_rng(1952 + index)
    n_samples = SAMPLE_RATE_HZ * (60 + index) // 100
    t = np.arange(n_samples) / SAMPLE_RATE_HZ
    syllables = 3
    # Where in the sequence of vowels each sample is; tone and loudness move with it.
    place = np.linspace(0, syllables, n_samples, endpoint=False)
    order = rng.permutation(len(_VOWELS))[: syllables + 1]
    formants = np.array([_VOWELS[vowel] for vowel in order], np.float64)
    tracks = [np.interp(place, np.arange(syllables + 1), formants[:, k]) for k in range(3)]
    pitch_hz = rng.uniform(110, 190) * (1 + 0.2 * np.sin(2 * np.pi * (0.8 * t + rng.uniform())))
    phase = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE_HZ
    voice = np.zeros(n_samples)
    for harmonic in range(1, _HARMONICS + 1):
        hz = harmonic * pitch_hz
        gain = sum(
            1 / (1 + ((hz - track) / width) ** 2)
            for track, width in zip(tracks, _BANDWIDTHS_HZ, strict=True)
        )
        voice += np.where(hz < 7000, gain, 0) * np.sin(harmonic * phase) / np.sqrt(harmonic)
    within = place % 1
    loudness = np.sin(np.pi * np.clip((within - 0.15) / 0.85, 0, 1)) ** 0.5
    burst = np.where(within < 0.15, 0.15, 0.0) * rng.standard_normal(n_samples)
    signal = loudness * voice + burst + 0.002 * rng.standard_normal(n_samples)
    rounded: np.ndarray = np.round(signal * (9000 / np.abs(signal).max())).astype(np.int16)
    return rounded


def wav_bytes(samples: np.ndarray) -> bytes:
    """`samples`, int16 at 16 kHz, as a mono WAV file."""
    stream = io.BytesIO()
    with wave.open(stream, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(SAMPLE_RATE_HZ)
        writer.writeframes(samples.astype("<i2").tobytes())
    return stream.getvalue()
