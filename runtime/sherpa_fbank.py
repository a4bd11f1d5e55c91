"""The features that sherpa-onnx computes for its wenet_ctc slots, and how training's lie in them.

Other than in training: mel bins end 400 Hz below Nyquist, frames lie around their middles with the
audio mirrored at its ends (``snip_edges=false``), and the floor is Kaldi's. sherpa-onnx also adds
dither to whole recordings, which is left out here (``features.cc``, ``offline-stream.cc``).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from asrcompress.features import FeatureSpec
from asrcompress.runtime.features import Fbank
from asrcompress.runtime.mel_filters import kaldi_filters

HIGH_HZ = -400.0
_KALDI_FLOOR = 1.1920928955078125e-07
# A triangle whose highest weight is less lies between two bins of the FFT.
_EMPTY = 1e-3
_SWEEPS = 200


class SherpaFbank(Fbank):
    """Features without CMVN, as the wenet_ctc slots get them.

    Args:
        spec: what the network was trained on.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__(sherpa_spec(spec))

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Features of one recording, float32 (n_frames, width); see `Fbank`."""
        spec = self.spec
        n_frames = (len(samples) + spec.shift_samples // 2) // spec.shift_samples
        before = (spec.frame_samples - spec.shift_samples) // 2
        needed = (n_frames - 1) * spec.shift_samples + spec.frame_samples
        after = max(0, needed - before - len(samples))
        # The end sample itself is doubled, other than in librosa's mirror.
        mirrored = np.pad(samples * np.float32(32768), (before, after), mode="symmetric")
        return self.of_scaled(mirrored[:needed])


def sherpa_spec(spec: FeatureSpec) -> FeatureSpec:
    """`spec` with sherpa-onnx's bins and floor, and without CMVN."""
    return replace(
        spec,
        high_freq_hz=HIGH_HZ,
        log_floor=_KALDI_FLOOR,
        round_samples=False,
        cmvn_mean=(),
        cmvn_istd=(),
    )


def mel_conversion(spec: FeatureSpec) -> np.ndarray:
    """Training's mel bins as sums of sherpa-onnx's, float32 (width, width), nothing negative.

    Both banks are triangles on the same scale, a little apart: each of training's is the
    non-negative combination of sherpa-onnx's that is nearest to it in the weights of the FFT's
    bins. What lies above 7600 Hz cannot be had, and an empty triangle is an empty row.
    """
    wanted, given = _filters(spec), _filters(sherpa_spec(spec))
    rows = [_combination(row, given).astype(np.float32) for row in wanted]
    return np.stack(rows)


def is_empty(spec: FeatureSpec) -> np.ndarray:
    """Which mel bins of training have no FFT bin, so that they are always the floor; bool."""
    empty: np.ndarray = _filters(spec).max(axis=1) <= _EMPTY
    return empty


def _filters(spec: FeatureSpec) -> np.ndarray:
    nyquist_hz = spec.sample_rate_hz / 2
    return kaldi_filters(
        sample_rate_hz=spec.sample_rate_hz,
        n_fft=1 << (spec.frame_samples - 1).bit_length(),
        n_mels=spec.n_mels,
        low_hz=spec.low_freq_hz,
        high_hz=spec.high_freq_hz + (nyquist_hz if spec.high_freq_hz <= 0 else 0.0),
    ).astype(np.float64)


def _combination(wanted: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Non-negative least squares by coordinate descent; a flat spectrum keeps its energy."""
    weights = np.zeros(len(given))
    overlapping = np.flatnonzero(given @ wanted)
    if wanted.max() <= _EMPTY:
        return weights
    if not len(overlapping):  # none of sherpa-onnx's has these FFT bins: the nearest one
        centre = np.average(np.arange(len(wanted)), weights=wanted)
        alive = np.flatnonzero(given.max(axis=1) > _EMPTY)
        centres = given[alive] @ np.arange(len(wanted)) / given[alive].sum(axis=1)
        weights[alive[np.abs(centres - centre).argmin()]] = 1.0
    rest = wanted - weights @ given
    for _ in range(_SWEEPS):
        for index in overlapping:
            row = given[index]
            step = max(rest @ row / (row @ row), -weights[index])
            weights[index] += step
            rest -= step * row
    kept: np.ndarray = weights * (wanted.sum() / (weights @ given).sum())
    return kept
