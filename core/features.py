"""What a network was fed in training: the front end, described completely.

Four kinds exist among PaddleSpeech's recipes; docs/bundle.md gives the formulas of each.

    fbank_kaldi  Kaldi's log-mel filter bank               every recipe of 1.x, DeepSpeech2's too
    fbank        log10 of librosa's mel spectrogram        paddlespeech.audio.transform
    spectrogram  librosa's magnitude spectrogram           paddlespeech.audio.transform
    linear       log of the power spectrum, levels evened  DeepSpeech2 up to 0.2 (spectrum_type)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from asrcompress import strict_json
from asrcompress.errors import AsrCompressError, BadRecipe

# kind -> windows. Kaldi's and numpy's are symmetric, scipy's "hann" is periodic.
_WINDOWS = {
    "fbank_kaldi": ("povey", "hamming", "hanning", "rectangular"),
    "fbank": ("hann",),
    "spectrogram": ("hann",),
    "linear": ("hanning",),
}
KINDS = tuple(_WINDOWS)
_MEL_KINDS = ("fbank_kaldi", "fbank")
_CENTRED_KINDS = ("fbank", "spectrogram")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpec:
    """Features as PaddleSpeech computes them, with or without global CMVN; never any dither.

    What a kind does not use is 0 in it: mel bins and edges in a spectrum without mel filters,
    `preemphasis` beyond Kaldi, `log_floor` where no logarithm is taken.

    Attributes:
        kind: which formulas; see the module's head.
        n_mels: mel bins; `width` is the number of features of a frame, whatever the kind.
        n_fft: points of the FFT of the centred kinds, ``fbank`` and ``spectrogram``; 0 in the
            others, where the frame's length decides.
        target_db: the recording is scaled to this root mean square first, in dB of full scale;
            None: taken as it is.
        sample_scale: samples in [-1, 1) are multiplied by this.
        round_samples: then brought onto 16 bits and saturated, which is what training read;
            rounded, or cut towards zero after `target_db`, as PaddleSpeech does. It decides about
            silence: a float decoder leaves 1e-6 where a 16-bit file has 0, and the logarithm
            makes 7 nats of that.
        high_freq_hz: upper edge of the highest mel bin; 0 or below counts from Nyquist.
        log_floor: energies are raised to this before the logarithm; in ``linear``, it is added.
        cmvn_mean, cmvn_istd: ``(feature - mean) * istd`` per feature; both empty where the
            network normalises by itself.
    Raises:
        BadRecipe: a value that no front end can have.
    """

    kind: str = "fbank_kaldi"
    sample_rate_hz: int = 16000
    n_mels: int = 80
    n_fft: int = 0
    frame_length_ms: float = 25.0
    frame_shift_ms: float = 10.0
    low_freq_hz: float = 20.0
    high_freq_hz: float = 0.0
    window: str = "povey"
    preemphasis: float = 0.97
    target_db: float | None = None
    sample_scale: float = 32768.0
    round_samples: bool = True
    log_floor: float = 1e-7  # PaddleSpeech's; Kaldi's own is 1.1920929e-07
    cmvn_mean: tuple[float, ...] = ()
    cmvn_istd: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _one_of("kind", self.kind, KINDS)
        _one_of("window", self.window, _WINDOWS[self.kind])
        _expect("sample_rate_hz", self.sample_rate_hz, self.sample_rate_hz > 0, "> 0")
        _expect("frame_shift_ms", self.frame_shift_ms, self.shift_samples > 0, "> 0")
        longer = self.frame_length_ms >= self.frame_shift_ms
        _expect("frame_length_ms", self.frame_length_ms, longer, ">= frame_shift_ms")
        self._check_fft()
        self._check_mels()
        self._check_logarithm()
        self._check_samples()
        self._check_cmvn()

    def _check_fft(self) -> None:
        if not self.is_centred:
            _expect("n_fft", self.n_fft, self.n_fft == 0, f"0 in {self.kind}")
            return
        fits = self.frame_samples <= self.n_fft <= 65536 and self.n_fft % 2 == 0
        _expect("n_fft", self.n_fft, fits, f"an even number from {self.frame_samples} to 65536")

    def _check_mels(self) -> None:
        if self.kind not in _MEL_KINDS:
            for name in ("n_mels", "low_freq_hz", "high_freq_hz"):
                value = getattr(self, name)
                _expect(name, value, value == 0, f"0 in {self.kind}")
            return
        nyquist_hz = self.sample_rate_hz / 2
        high_hz = self.high_freq_hz + (nyquist_hz if self.high_freq_hz <= 0 else 0)
        _expect("n_mels", self.n_mels, 4 <= self.n_mels <= 512, "4 to 512")
        _expect("low_freq_hz", self.low_freq_hz, 0 <= self.low_freq_hz < high_hz, "0 to high_freq")
        _expect("high_freq_hz", self.high_freq_hz, 0 < high_hz <= nyquist_hz, "within Nyquist")

    def _check_logarithm(self) -> None:
        takes_none = self.kind == "spectrogram"
        fits = self.log_floor == 0 if takes_none else self.log_floor > 0
        _expect("log_floor", self.log_floor, fits, "0 in spectrogram" if takes_none else "> 0")

    def _check_samples(self) -> None:
        most = 1.0 if self.kind == "fbank_kaldi" else 0.0
        _expect("preemphasis", self.preemphasis, 0 <= self.preemphasis <= most, f"0 to {most:g}")
        _expect("sample_scale", self.sample_scale, self.sample_scale > 0, "> 0")
        fits = not self.round_samples or self.sample_scale == 32768.0
        _expect("sample_scale", self.sample_scale, fits, "32768, or round_samples = false")
        if self.target_db is not None:
            fits = -100 <= self.target_db <= 0 and not self.is_centred
            _expect("target_db", self.target_db, fits, "-100 to 0, or null in a centred kind")

    def _check_cmvn(self) -> None:
        for name in ("cmvn_mean", "cmvn_istd"):
            values = getattr(self, name)
            fits = len(values) == (self.width if self.has_cmvn else 0)
            _expect(name, f"{len(values)} values", fits, f"{self.width}, or none in both")
            finite = all(math.isfinite(value) for value in values)
            _expect(name, "a value that is not finite", finite, "finite values")
        positive = all(value > 0 for value in self.cmvn_istd)
        _expect("cmvn_istd", "a value that is not positive", positive, "> 0")

    @property
    def width(self) -> int:
        """Features per frame: mel bins, or the bins of the FFT from 0 to Nyquist."""
        return self.n_mels or (self.n_fft or self.frame_samples) // 2 + 1

    @property
    def has_cmvn(self) -> bool:
        """Whether CMVN is applied outside of the network."""
        return bool(self.cmvn_mean or self.cmvn_istd)

    @property
    def is_centred(self) -> bool:
        """Whether frame i lies around sample ``i * shift_samples``, the ends mirrored.

        Else only frames that lie in the audio entirely count, the first from sample 0 on.
        """
        return self.kind in _CENTRED_KINDS

    @property
    def is_streamable(self) -> bool:
        """Whether a frame depends on the audio near it only, and not on a whole recording."""
        return self.target_db is None

    @property
    def frame_samples(self) -> int:
        """Length of the window in samples; Kaldi and PaddleSpeech both round down."""
        return int(self.sample_rate_hz * 0.001 * self.frame_length_ms)

    @property
    def span_samples(self) -> int:
        """Samples that a frame is cut from: the window, or the FFT that it is centred in."""
        return self.n_fft if self.is_centred else self.frame_samples

    @property
    def shift_samples(self) -> int:
        """Samples from the beginning of one frame to that of the next."""
        return int(self.sample_rate_hz * 0.001 * self.frame_shift_ms)

    @property
    def mirrored_samples(self) -> int:
        """Samples that are put before the beginning and after the end, mirrored there."""
        return self.n_fft // 2 if self.is_centred else 0

    def n_frames(self, n_samples: int) -> int:
        """Number of frames in `n_samples` samples; 0 where not one fits."""
        if n_samples <= 0:
            return 0
        padded = n_samples + 2 * self.mirrored_samples
        return max(0, 1 + (padded - self.span_samples) // self.shift_samples)

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
