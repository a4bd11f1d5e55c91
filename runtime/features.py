"""The front end that a `FeatureSpec` describes: samples to what the network is fed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from asrcompress.audio import to_int16
from asrcompress.features import FeatureSpec
from asrcompress.runtime.kaldi_fbank import kaldi_fbank
from asrcompress.runtime.spectrogram import LinearSpectrogram, LogMelSpectrogram, Spectrogram

_KINDS: dict[str, Callable[[FeatureSpec], Callable[[np.ndarray], np.ndarray]]] = {
    "fbank_kaldi": kaldi_fbank,
    "fbank": LogMelSpectrogram,
    "spectrogram": Spectrogram,
    "linear": LinearSpectrogram,
}
# PaddleSpeech's AudioSegment refuses to amplify by more, so digital silence; here it stays silent.
_MAX_GAIN_DB = 300.0


class Fbank:
    """Scaling, mirrored ends, the spectrum of each frame, and CMVN, one after the other."""

    def __init__(self, spec: FeatureSpec) -> None:
        self.spec = spec
        self._spectra = _KINDS[spec.kind](spec)
        self._mean = np.asarray(spec.cmvn_mean, np.float64)
        self._istd = np.asarray(spec.cmvn_istd, np.float64)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Features of one recording.

        Args:
            samples: float32, shape (n_samples,), in [-1, 1), as `asrcompress.audio` gives them.
        Returns:
            float32, shape (n_frames, width), CMVN applied where the spec has one.
        """
        scaled = self.scale(samples)
        mirrored = self.spec.mirrored_samples
        if mirrored:
            # The end sample itself is not doubled. Shorter recordings are mirrored repeatedly.
            scaled = np.pad(scaled, mirrored, mode="reflect")
        return self.of_scaled(scaled)

    def scale(self, samples: np.ndarray) -> np.ndarray:
        """Samples in the range that training read, float32 (n_samples,)."""
        spec = self.spec
        scale = np.float32(spec.sample_scale)
        if spec.target_db is not None:
            levelled = samples * np.float32(_gain(samples, spec.target_db)) * scale
            if spec.round_samples:
                levelled = np.trunc(np.clip(levelled, -32768.0, 32767.0))
            return levelled
        return to_int16(samples).astype(np.float32) if spec.round_samples else samples * scale

    def of_scaled(self, samples: np.ndarray) -> np.ndarray:
        """Features of every frame that lies in `samples` entirely.

        Args:
            samples: from `scale`, mirrored at the recording's ends where the kind wants it.
        Returns:
            float32, shape (n_frames, width).
        """
        features = self._spectra(samples)
        if self.spec.has_cmvn:
            # In float64, as PaddleSpeech's GlobalCMVN: a float32 mean costs 1e-6 here.
            features = (features - self._mean) * self._istd
        return features.astype(np.float32, copy=False)


def _gain(samples: np.ndarray, target_db: float) -> float:
    """Factor that brings the root mean square of `samples` to `target_db`; 1 for silence."""
    mean_square = np.mean(samples**2)
    if mean_square == 0.0:
        return 1.0
    gain_db = target_db - 10.0 * float(np.log10(mean_square))  # a float32 logarithm, as there
    return 1.0 if gain_db > _MAX_GAIN_DB else float(10.0 ** (gain_db / 20.0))
