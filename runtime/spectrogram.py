"""Spectra as PaddleSpeech computes them with librosa and numpy, by numpy alone.

Sources: paddlespeech/audio/transform/spectrogram.py for ``fbank`` and ``spectrogram``, and
paddlespeech/s2t/frontend/featurizer/audio_featurizer.py for ``linear``. Each class takes scaled
samples, the ends mirrored already where the kind wants it, and returns every frame that lies in
them entirely. Windows and FFT are float64, as there.
"""

from __future__ import annotations

import numpy as np

from asrcompress.features import FeatureSpec
from asrcompress.runtime.frames import blocks_of_frames
from asrcompress.runtime.mel_filters import slaney_filters


class Spectrogram:
    """Magnitudes of the short-time Fourier transform, as ``librosa.stft`` has them."""

    def __init__(self, spec: FeatureSpec) -> None:
        self._spec = spec
        phases = 2 * np.pi * np.arange(spec.frame_samples) / spec.frame_samples
        before = (spec.n_fft - spec.frame_samples) // 2
        self._window = np.zeros(spec.n_fft)
        self._window[before : before + spec.frame_samples] = 0.5 - 0.5 * np.cos(phases)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """float32 (n_frames, n_fft // 2 + 1)."""
        blocks = [self._of_block(frames) for frames in blocks_of_frames(samples, self._spec)]
        return np.concatenate(blocks) if blocks else np.empty((0, self._spec.width), np.float32)

    def _of_block(self, frames: np.ndarray) -> np.ndarray:
        # complex64 before the magnitude: librosa's output type.
        spectra = np.fft.rfft(frames * self._window, axis=1).astype(np.complex64)
        magnitudes: np.ndarray = np.abs(spectra)
        return magnitudes


class LogMelSpectrogram(Spectrogram):
    """log10 of mel-weighted magnitudes: PaddleSpeech's ``LogMelSpectrogram``."""

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__(spec)
        nyquist_hz = spec.sample_rate_hz / 2
        self._filters = slaney_filters(
            sample_rate_hz=spec.sample_rate_hz,
            n_fft=spec.n_fft,
            n_mels=spec.n_mels,
            low_hz=spec.low_freq_hz,
            high_hz=spec.high_freq_hz + (nyquist_hz if spec.high_freq_hz <= 0 else 0.0),
        ).T

    def _of_block(self, frames: np.ndarray) -> np.ndarray:
        energies = super()._of_block(frames) @ self._filters
        logarithms: np.ndarray = np.log10(np.maximum(energies, np.float32(self._spec.log_floor)))
        return logarithms


class LinearSpectrogram:
    """Log of the power spectral density: PaddleSpeech's ``_compute_linear_specgram``."""

    def __init__(self, spec: FeatureSpec) -> None:
        self._spec = spec
        self._window = np.hanning(spec.frame_samples)
        # One-sided density: all bins but 0 and the last stand for two. Of an odd length too, where
        # the last is no Nyquist bin: PaddleSpeech's habit.
        self._scale = np.full(spec.width, 2.0 / (np.sum(self._window**2) * spec.sample_rate_hz))
        self._scale[[0, -1]] /= 2.0

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Natural logarithms, float64 (n_frames, frame_samples // 2 + 1)."""
        blocks = [
            np.log(self._density(frames) + self._spec.log_floor)
            for frames in blocks_of_frames(samples, self._spec)
        ]
        return np.concatenate(blocks) if blocks else np.empty((0, self._spec.width))

    def _density(self, frames: np.ndarray) -> np.ndarray:
        spectra = np.fft.rfft(frames * self._window, axis=1)
        density: np.ndarray = (spectra.real**2 + spectra.imag**2) * self._scale
        return density
