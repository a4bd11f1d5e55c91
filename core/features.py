"""What a network was fed in training: the front end, described completely."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from asrcompress import strict_json
from asrcompress.errors import AsrCompressError, BadRecipe

KINDS = ("fbank_kaldi",)
WINDOWS = ("povey", "hamming", "hanning", "rectangular")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpec:
    """Log-mel features of PaddleSpeech's ``fbank_kaldi``, with or without global CMVN.

    Only frames that lie in the audio entirely count (``snip_edges``), each frame's mean is
    removed first, the spectrum is the power spectrum, and no dither is added.

    Attributes:
        sample_scale: samples in [-1, 1) are multiplied by this.
        round_samples: then rounded and saturated to 16 bits, which is what training read. It
            decides about silence: a float decoder leaves 1e-6 where a 16-bit file has 0, and the
            logarithm makes 7 nats of that.
        high_freq_hz: upper edge of the highest mel bin; 0 or below counts from Nyquist.
        log_floor: energies are raised to this before the logarithm.
        cmvn_mean, cmvn_istd: ``(log_mel - mean) * istd`` per mel bin; both empty where the
            network normalises by itself.
    Raises:
        BadRecipe: a value that no front end can have.
    """

    kind: str = "fbank_kaldi"
    sample_rate_hz: int = 16000
    n_mels: int = 80
    frame_length_ms: float = 25.0
    frame_shift_ms: float = 10.0
    low_freq_hz: float = 20.0
    high_freq_hz: float = 0.0
    window: str = "povey"
    preemphasis: float = 0.97
    sample_scale: float = 32768.0
    round_samples: bool = True
    log_floor: float = 1e-7  # PaddleSpeech's; Kaldi's own is 1.1920929e-07
    cmvn_mean: tuple[float, ...] = ()
    cmvn_istd: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _one_of("kind", self.kind, KINDS)
        _one_of("window", self.window, WINDOWS)
        nyquist_hz = self.sample_rate_hz / 2
        high_hz = self.high_freq_hz + (nyquist_hz if self.high_freq_hz <= 0 else 0)
        _expect("sample_rate_hz", self.sample_rate_hz, self.sample_rate_hz > 0, "> 0")
        _expect("n_mels", self.n_mels, 4 <= self.n_mels <= 512, "4 to 512")
        _expect("frame_shift_ms", self.frame_shift_ms, self.frame_shift_ms > 0, "> 0")
        longer = self.frame_length_ms >= self.frame_shift_ms
        _expect("frame_length_ms", self.frame_length_ms, longer, ">= frame_shift_ms")
        _expect("low_freq_hz", self.low_freq_hz, 0 <= self.low_freq_hz < high_hz, "0 to high_freq")
        _expect("high_freq_hz", self.high_freq_hz, 0 < high_hz <= nyquist_hz, "within Nyquist")
        _expect("preemphasis", self.preemphasis, 0 <= self.preemphasis <= 1, "0 to 1")
        _expect("sample_scale", self.sample_scale, self.sample_scale > 0, "> 0")
        _expect("log_floor", self.log_floor, self.log_floor > 0, "> 0")
        self._check_rounding()
        self._check_cmvn()

    def _check_rounding(self) -> None:
        fits = not self.round_samples or self.sample_scale == 32768.0
        _expect("sample_scale", self.sample_scale, fits, "32768, or round_samples = false")

    def _check_cmvn(self) -> None:
        for name in ("cmvn_mean", "cmvn_istd"):
            values = getattr(self, name)
            fits = len(values) == (self.n_mels if self.has_cmvn else 0)
            _expect(name, f"{len(values)} values", fits, f"{self.n_mels}, or none in both")
            finite = all(math.isfinite(value) for value in values)
            _expect(name, "a value that is not finite", finite, "finite values")
        positive = all(value > 0 for value in self.cmvn_istd)
        _expect("cmvn_istd", "a value that is not positive", positive, "> 0")

    @property
    def has_cmvn(self) -> bool:
        """Whether CMVN is applied outside of the network."""
        return bool(self.cmvn_mean or self.cmvn_istd)

    @property
    def frame_samples(self) -> int:
        """Length of a frame in samples; Kaldi and PaddleSpeech both round down."""
        return int(self.sample_rate_hz * 0.001 * self.frame_length_ms)

    @property
    def shift_samples(self) -> int:
        """Samples from the beginning of one frame to that of the next."""
        return int(self.sample_rate_hz * 0.001 * self.frame_shift_ms)

    def n_frames(self, n_samples: int) -> int:
        """Number of frames in `n_samples` samples; 0 where not one fits."""
        return max(0, 1 + (n_samples - self.frame_samples) // self.shift_samples)

    def to_json(self) -> dict[str, Any]:
        """All fields, as JSON has them."""
        tree: dict[str, Any] = strict_json.to_json(self)
        return tree

    @staticmethod
    def from_json(
        tree: object, *, item: str = "features", error: type[AsrCompressError] = BadRecipe
    ) -> FeatureSpec:
        """The inverse of `to_json`; raises `error` for anything else."""
        return strict_json.from_json(FeatureSpec, tree, item=item, error=error)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    _expect(name, repr(value), value in allowed, f"one of {', '.join(allowed)}")


def _expect(name: str, seen: object, holds: bool, allowed: str) -> None:
    if not holds:
        raise BadRecipe(f"features.{name}: out of range, got {seen}, expected {allowed}")
