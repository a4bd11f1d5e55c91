"""Log-mel features as PaddleSpeech's ``fbank_kaldi`` computes them, by kaldi-native-fbank.

What made the two differ, and what is left (tests/numerics/test_features.py measures all of it):

* The floor under the logarithm: PaddleSpeech has 1e-7, Kaldi FLT_EPSILON = 1.19e-7. Every bin of
  a digitally silent frame differed by ln 1.19 = 0.176. So the energies are taken from
  kaldi-native-fbank before the logarithm and the floor is applied here; its own option for that
  is missing from older releases (1.21 has none).
* Samples between two 16-bit values. PaddleSpeech trains on int16, and so the floats of a lossy
  decoder are rounded to it; where they stand for digital silence they differ by 8 nats.
* What is left is float32: DC removal, window and FFT, summed in another order. On 634 clips of
  real speech (32 million values) that is 7e-6 nats on average; 0.01 % of the values differ by
  more than 1e-3, nearly all in the 16 lowest mel bins, where an almost empty bin beside a strong
  voice holds the rounding noise of the FFT. The largest is 0.13 nats, 0.02 standard deviations
  after CMVN. Against the same formulas in float64 PaddleSpeech is off by 4e-6 and
  kaldi-native-fbank by 5e-6 on average; where they differ by more than 1e-3,
  kaldi-native-fbank is the nearer one in 52 %. Neither is right, no option brings them closer,
  and none of 240 texts changed.

kaldi-native-fbank refuses more mel bins than the FFT resolves: DeepSpeech2's 161 of 512 points,
where three triangles below 200 Hz lie between two FFT bins. PaddleSpeech leaves them empty, so that
they always are the floor's logarithm. There the same is computed with numpy.
"""

from __future__ import annotations

import kaldi_native_fbank
import numpy as np

from asrcompress.features import FeatureSpec
from asrcompress.runtime.mel_filters import kaldi_filters

# Samples that are handed over at once.
_PIECE = 16_384
# Frames that are transformed at once: what is computed of them stays in a core's cache.
_BLOCK = 128
# A mel bin in which no FFT bin weighs as much is as good as empty.
_EMPTY = 1e-3


def kaldi_fbank(spec: FeatureSpec) -> KaldiFbank | UnresolvedKaldiFbank:
    """Kaldi's filter bank by kaldi-native-fbank, or where that refuses it, by numpy."""
    resolved = _filters(spec).max(axis=1).min() > _EMPTY
    return KaldiFbank(spec) if resolved else UnresolvedKaldiFbank(spec)


class KaldiFbank:
    """Log-mel energies of every frame that lies in the samples entirely."""

    def __init__(self, spec: FeatureSpec) -> None:
        self._spec = spec
        self._options = kaldi_options(spec)
        self._floor = np.float32(spec.log_floor)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Natural logarithms, float32 (n_frames, n_mels), of scaled float32 samples."""
        extractor = kaldi_native_fbank.OnlineFbank(self._options)
        for start in range(0, len(samples), _PIECE):
            # The binding copies a list in half the time of an array, whose samples it asks for one
            # by one; in pieces, since a list takes eight times the memory.
            piece = samples[start : start + _PIECE].tolist()
            extractor.accept_waveform(self._spec.sample_rate_hz, piece)
        extractor.input_finished()
        energies = np.empty((extractor.num_frames_ready, self._spec.n_mels), np.float32)
        for index, row in enumerate(energies):
            row[:] = extractor.get_frame(index)
        logarithms: np.ndarray = np.log(np.maximum(energies, self._floor))
        return logarithms


class UnresolvedKaldiFbank:
    """The same by numpy, for filter banks with empty bins."""

    def __init__(self, spec: FeatureSpec) -> None:
        self._spec = spec
        self._filters = _filters(spec).T.astype(np.float64)
        self._n_fft = _n_fft(spec)
        self._window = _window(spec.window, spec.frame_samples)
        # What pre-emphasis leaves of a constant: of the mean, and of each frame's first sample.
        self._constant = (1.0 - spec.preemphasis) * self._window
        self._floor = np.float32(spec.log_floor)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """As `KaldiFbank`."""
        span, shift = self._spec.frame_samples, self._spec.shift_samples
        count = max(0, 1 + (len(samples) - span) // shift)
        energies = np.empty((count, self._spec.n_mels), np.float32)
        for start in range(0, count, _BLOCK):
            rows = energies[start : start + _BLOCK]
            first = start * shift
            rows[:] = self._of_block(samples[first : first + (len(rows) - 1) * shift + span])
        logarithms: np.ndarray = np.log(np.maximum(energies, self._floor))
        return logarithms

    def _of_block(self, samples: np.ndarray) -> np.ndarray:
        """Energies of all frames in some samples, float64 (n_frames, n_mels).

        The mean of each frame is removed behind the pre-emphasis, which runs once over the samples
        and not over every frame: the same in real numbers.
        """
        samples = samples.astype(np.float64)
        emphasised = samples.copy()
        emphasised[1:] -= self._spec.preemphasis * samples[:-1]
        frames, shaped = self._frames(samples), self._frames(emphasised) * self._window
        shaped[:, 0] = frames[:, 0] * self._constant[0]
        shaped -= frames.mean(axis=1)[:, None] * self._constant
        spectra = np.fft.rfft(shaped, self._n_fft, axis=1)
        energies: np.ndarray = (spectra.real**2 + spectra.imag**2) @ self._filters
        return energies

    def _frames(self, samples: np.ndarray) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(samples, self._spec.frame_samples)
        return windows[:: self._spec.shift_samples]


def _n_fft(spec: FeatureSpec) -> int:
    """The next power of two."""
    return 1 << (spec.frame_samples - 1).bit_length()


def _filters(spec: FeatureSpec) -> np.ndarray:
    nyquist_hz = spec.sample_rate_hz / 2
    return kaldi_filters(
        sample_rate_hz=spec.sample_rate_hz,
        n_fft=_n_fft(spec),
        n_mels=spec.n_mels,
        low_hz=spec.low_freq_hz,
        high_hz=spec.high_freq_hz + (nyquist_hz if spec.high_freq_hz <= 0 else 0.0),
    )


def _window(name: str, length: int) -> np.ndarray:
    """Kaldi's windows, which all are symmetric."""
    if name == "hamming":
        return np.hamming(length)
    hanning = np.hanning(length)
    powers = {"povey": 0.85, "hanning": 1.0, "rectangular": 0.0}
    window: np.ndarray = hanning ** powers[name]
    return window


def kaldi_options(spec: FeatureSpec) -> kaldi_native_fbank.FbankOptions:
    """A front end in kaldi-native-fbank's terms; energies, not their logarithms."""
    options = kaldi_native_fbank.FbankOptions()
    options.use_log_fbank = False
    options.use_energy = False
    options.frame_opts.samp_freq = spec.sample_rate_hz
    options.frame_opts.frame_length_ms = spec.frame_length_ms
    options.frame_opts.frame_shift_ms = spec.frame_shift_ms
    options.frame_opts.window_type = spec.window
    options.frame_opts.preemph_coeff = spec.preemphasis
    options.frame_opts.dither = 0.0
    options.frame_opts.snip_edges = True
    options.mel_opts.num_bins = spec.n_mels
    options.mel_opts.low_freq = spec.low_freq_hz
    options.mel_opts.high_freq = spec.high_freq_hz
    return options
