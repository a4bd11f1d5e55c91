"""The golden self-test: recordings that a bundle carries, and what the network made of them.

A bundle's digests prove that its bytes are right; these prove that this device computes with them
what was measured. A device may differ from the one that exported by

* float32 arithmetic: 1e-7 nats through a whole INT8 network, 2e-6 through FP32;
* a rounding flip: where such a difference meets the edge of an int8 step, the value takes the next
  step, others follow, and a recording is off by 0.04 to 0.08 nats (4 of 24, aarch64 against x86);
* saturating int8 sums, which x86 without VNNI can have: 0.1 to 0.25 nats in every recording;
* another weight: with the top bit of one byte of 2.6 million flipped, 0.035 to 0.13 nats in nearly
  every recording.

A recording on which nothing flips agrees to the sixth digit, so not all have to: `N_AGREEING` of
them within the tolerance, and every text. One flip is no failure, a wrong network is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asrcompress.errors import BadBundle, SelfTestFailed

# Nats. Far above what float32 arithmetic differs by, far below what a wrong weight does.
TOLERANCE_NATS = 0.01
MOST_NATS = 0.1
# Of N_CASES: on aarch64 fewer than two agree once in 300 bundles, by the share of flips above.
N_CASES, N_AGREEING = 5, 2
_STORED = np.dtype("<f2")


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenCase:
    """A recording and what is expected of it.

    Attributes:
        audio: file name of a 16 kHz mono WAV.
        log_probs: file name of the reference, float16, little-endian, (frames, vocab_size).
        frames: output frames.
        text: greedy transcript.
    """

    audio: str
    log_probs: str
    frames: int
    text: str

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise BadBundle(f"{self.audio}: frames is not allowed, got {self.frames}, expected > 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """All cases of a bundle.

    Attributes:
        tolerance_nats: most that log-probabilities may differ by where a recording agrees.
    """

    cases: tuple[GoldenCase, ...]
    tolerance_nats: float = TOLERANCE_NATS

    def __post_init__(self) -> None:
        if len(self.cases) < N_CASES:
            raise BadBundle(f"golden.cases: got {len(self.cases)}, expected at least {N_CASES}")
        if not 0 < self.tolerance_nats <= MOST_NATS:
            raise BadBundle(
                f"golden.tolerance_nats: out of range, got {self.tolerance_nats}, "
                f"expected up to {MOST_NATS}"
            )

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files that the cases need."""
        return tuple(name for case in self.cases for name in (case.audio, case.log_probs))


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """What this device made of a case.

    Attributes:
        difference_nats: mean over frames and vocabulary of |log-probability - reference|; infinite
            where the number of frames differs.
    """

    audio: str
    expected: str
    text: str
    difference_nats: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """The result of a self-test."""

    results: tuple[CaseResult, ...]
    tolerance_nats: float

    @property
    def judged_nats(self) -> float:
        """What is compared with the tolerance: the difference of the last that has to agree."""
        return sorted(item.difference_nats for item in self.results)[N_AGREEING - 1]

    @property
    def passed(self) -> bool:
        """Whether every text is right, and enough recordings agree."""
        texts = all(item.text == item.expected for item in self.results)
        return texts and self.judged_nats <= self.tolerance_nats

    def to_json(self) -> dict[str, Any]:
        """Plain data with the verdict spelled out."""
        return {**asdict(self), "judged_nats": self.judged_nats, "passed": self.passed}


def check_self_test(result: SelfTest, *, item: str) -> None:
    """The gate of the self-test.

    Raises:
        SelfTestFailed: a text or the log-probabilities are not what was measured at export.
    """
    cure = (
        "the bundle is whole, but this device does not compute what was measured: another release "
        "of onnxruntime, or a CPU that needs another target (asrcompress doctor)"
    )
    for case in result.results:
        if case.text != case.expected:
            raise SelfTestFailed(
                f"{item}: {case.audio} gives the text {case.text!r}, expected {case.expected!r}",
                hint=cure,
            )
    if not result.passed:
        raise SelfTestFailed(
            f"{item}: log-probabilities of the golden recordings are off by "
            f"{result.judged_nats:.4f} nats or more, expected at most {result.tolerance_nats:g} "
            f"on {N_AGREEING} of {len(result.results)}",
            hint=cure,
        )


def judge_case(
    case: GoldenCase, *, reference: np.ndarray, log_probs: np.ndarray, text: str
) -> CaseResult:
    """Compare what was computed with the reference.

    Args:
        reference, log_probs: (frames, vocab_size), natural log.
    """
    same = reference.shape == log_probs.shape
    # Rounded as the reference was, so that equal arithmetic gives a difference of zero.
    rounded = np.frombuffer(reference_bytes(log_probs), _STORED).reshape(log_probs.shape)
    return CaseResult(
        audio=case.audio,
        expected=case.text,
        text=text,
        difference_nats=mean_difference(reference, rounded) if same else float("inf"),
    )


def mean_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean |a - b| of log-probabilities; improbable beyond float16 counts as equally improbable."""
    lowest = float(np.finfo(np.float16).min)
    wide = [np.maximum(item.astype(np.float64), lowest) for item in (a, b)]
    return float(np.abs(wide[0] - wide[1]).mean())


def reference_bytes(log_probs: np.ndarray) -> bytes:
    """The reference as it is stored."""
    lowest = np.finfo(np.float16).min
    return np.maximum(log_probs, lowest).astype(_STORED).tobytes()


def read_references(golden: Golden, directory: Path, *, vocab_size: int) -> list[np.ndarray]:
    """References of all cases, float32 (frames, vocab_size).

    Raises:
        BadBundle: a file of another size, or with values that are no log-probabilities.
    """
    found = []
    for case in golden.cases:
        data = np.fromfile(directory / case.log_probs, _STORED)
        if data.size != case.frames * vocab_size:
            raise BadBundle(
                f"{directory / case.log_probs}: got {data.size} values, "
                f"expected {case.frames} frames of {vocab_size}"
            )
        if not np.isfinite(data).all():
            raise BadBundle(f"{directory / case.log_probs}: holds values that are not finite")
        found.append(data.reshape(case.frames, vocab_size).astype(np.float32))
    return found


def most_stable(spreads: Sequence[float], texts: Sequence[str], count: int) -> list[int]:
    """Which of some candidates to take: those that small float differences move least.

    Args:
        spreads: mean difference of each candidate under disturbance, in nats.
        texts: their transcripts; of equally stable ones, a longer text tests more.
    """
    order = sorted(range(len(spreads)), key=lambda i: (spreads[i], -len(texts[i]), i))
    return sorted(order[:count])
