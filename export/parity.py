"""Parity certificate: the same audio through every form of the model, error per stage.

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
# Least share of frames on which two forms of the same quantized network agree. Seen: 1.000 on
# trained networks, 0.979 on a random one, whose best symbols are hardly better than the rest.
MIN_AGREEMENT = 0.95
# Log-probabilities below this are e-9 or less: no decoder can tell them apart.
_FLOOR = -20.0


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
    """All steps, and what each form made of each utterance."""

    steps: tuple[StepParity, ...]
    texts: Mapping[str, Mapping[str, str]]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def compare_forms(
    log_probs: Mapping[str, Sequence[np.ndarray]],
    texts: Mapping[str, Sequence[str]],
    *,
    utterances: Sequence[str],
) -> ParityReport:
    """Parity of neighbouring forms.

    Args:
        log_probs: form -> one (frames, vocabulary) array per utterance, in the order to compare.
        texts: form -> transcripts.
        utterances: their ids.
    Raises:
        ParityFailed: two forms give different numbers of frames.
    """
    forms = list(log_probs)
    steps = tuple(_step(a, b, log_probs, texts) for a, b in itertools.pairwise(forms))
    table = {
        utt: {form: texts[form][index] for form in forms} for index, utt in enumerate(utterances)
    }
    return ParityReport(steps=steps, texts=table)


def check_parity(report: ParityReport) -> None:
    """Refuse an export that is not the model it came from.

    Raises:
        ParityFailed: names the step, what was seen and what is allowed.
    """
    for step in report.steps:
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
