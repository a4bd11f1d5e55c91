"""Parity certificate: the same audio through every form of the model, error per stage.

    features      PaddleSpeech's front end against the runtime's
    paddle_fp32   PaddleSpeech's own forward on the checkpoint
    onnx_fp32     the exported graph of the checkpoint          (export fidelity)
    paddle_qat    the trained network with fake quantization
    onnx_int8     the artifact in the runtime                   (quantizer fidelity)

Between ``paddle_fp32`` and ``onnx_fp32`` only the order of summation differs, so the error is
bounded. Between ``paddle_qat`` and ``onnx_int8`` a value that falls on the border of two integer
codes may round either way, and one such flip spreads through the network; so that step is judged
by how many frames keep their best symbol, and by the text.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from asrcompress.errors import ParityFailed

# Largest difference of a log-probability between two float forms, seen: 2e-5.
FLOAT_TOLERANCE = 1e-3
# Largest mean difference of features, in standard deviations; seen on real speech: 1.4e-6.
FEATURE_TOLERANCE = 1e-4
# Least share of frames on which two forms of the same quantized network agree. Seen: 1.000 on
# trained networks, 0.979 on a random one, whose best symbols are hardly better than the rest.
MIN_AGREEMENT = 0.95
# Log-probabilities below this are e-9 or less: no decoder can tell them apart.
_FLOOR = -20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureParity:
    """PaddleSpeech's features against the runtime's, over all utterances.

    Attributes:
        largest, mean: absolute difference after CMVN, in standard deviations.
    """

    largest: float
    mean: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepParity:
    """Two neighbouring forms, over all utterances.

    Attributes:
        largest, mean: absolute difference of the log-probabilities above e^-20.
        agreement: share of frames with the same best symbol.
        same_texts: utterances with the same transcript.
    """

    first: str
    second: str
    largest: float
    mean: float
    agreement: float
    same_texts: int
    utterances: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """Features, all steps, and what each form made of each utterance."""

    features: FeatureParity
    steps: tuple[StepParity, ...]
    texts: Mapping[str, Mapping[str, str]]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def compare_forms(
    log_probs: Mapping[str, Sequence[np.ndarray]],
    texts: Mapping[str, Sequence[str]],
    *,
    features: FeatureParity,
    utterances: Sequence[str],
) -> ParityReport:
    """Parity of neighbouring forms.

    Args:
        features: as `compare_features` gives it.
        log_probs: form -> one (frames, vocabulary) array per utterance, in the order to compare.
        texts: form -> transcripts.
        utterances: their ids.
    Raises:
        ParityFailed: two forms give different numbers of frames.
    """
    table = {
        utt: {form: texts[form][index] for form in log_probs}
        for index, utt in enumerate(utterances)
    }
    steps = compare_steps(log_probs, texts)
    return ParityReport(features=features, steps=steps, texts=table)


def compare_steps(
    log_probs: Mapping[str, Sequence[np.ndarray]], texts: Mapping[str, Sequence[str]]
) -> tuple[StepParity, ...]:
    """Parity of neighbouring forms; arguments as for `compare_forms`."""
    pairs = itertools.pairwise(log_probs)
    return tuple(_step(first, second, log_probs, texts) for first, second in pairs)


def compare_features(
    reference: Sequence[np.ndarray], runtime: Sequence[np.ndarray]
) -> FeatureParity:
    """Parity of two front ends.

    Args:
        reference, runtime: (frames, mels) arrays of the same utterances.
    Raises:
        ParityFailed: different numbers of frames or mels.
    """
    gaps = []
    for a, b in zip(reference, runtime, strict=True):
        if a.shape != b.shape:
            raise ParityFailed(f"features: {b.shape} in the runtime, expected {a.shape}")
        gaps.append(np.abs(a - b).ravel())
    joined = np.concatenate(gaps)
    return FeatureParity(largest=float(joined.max()), mean=float(joined.mean()))


def check_parity(report: ParityReport) -> None:
    """Refuse an export that is not the model it came from.

    Raises:
        ParityFailed: names the step, what was seen and what is allowed.
    """
    if report.features.mean > FEATURE_TOLERANCE:
        raise ParityFailed(
            f"features: mean difference {report.features.mean:.2g} standard deviations from "
            f"PaddleSpeech's, expected at most {FEATURE_TOLERANCE:g}",
            hint="conf/preprocess.yaml asks for something that the runtime does differently",
        )
    check_steps(report.steps)


def check_steps(steps: Sequence[StepParity]) -> None:
    """As `check_parity`, of the steps alone."""
    for step in steps:
        floats = {step.first, step.second} == {"paddle_fp32", "onnx_fp32"}
        if floats and (step.largest > FLOAT_TOLERANCE or step.same_texts < step.utterances):
            raise ParityFailed(
                f"{step.first} -> {step.second}: largest difference {step.largest:.2g} and "
                f"{step.same_texts} of {step.utterances} texts equal, expected at most "
                f"{FLOAT_TOLERANCE:g} and all"
            )
        quantized = {step.first, step.second} == {"paddle_qat", "onnx_int8"}
        if quantized and step.agreement < MIN_AGREEMENT:
            raise ParityFailed(
                f"{step.first} -> {step.second}: {step.agreement:.3f} of the frames agree, "
                f"expected at least {MIN_AGREEMENT}"
            )


def _step(
    first: str,
    second: str,
    log_probs: Mapping[str, Sequence[np.ndarray]],
    texts: Mapping[str, Sequence[str]],
) -> StepParity:
    agreed, frames, count = 0, 0, 0
    largest, total = 0.0, 0.0
    for a, b in zip(log_probs[first], log_probs[second], strict=True):
        if a.shape != b.shape:
            raise ParityFailed(f"{first} -> {second}: {a.shape} and {b.shape}, expected the same")
        gap = np.abs(np.maximum(a, _FLOOR) - np.maximum(b, _FLOOR))
        largest, total = max(largest, float(gap.max())), total + float(gap.sum())
        count += gap.size
        agreed += int((a.argmax(-1) == b.argmax(-1)).sum())
        frames += len(a)
    same = sum(a == b for a, b in zip(texts[first], texts[second], strict=True))
    return StepParity(
        first=first,
        second=second,
        largest=largest,
        mean=total / count,
        agreement=agreed / frames,
        same_texts=same,
        utterances=len(texts[first]),
    )
