"""Is a model for Paddle Lite what it should be? Compared with its reference, and gated on CER."""

from __future__ import annotations

import numpy as np

from asrcompress.accuracy.cer import CerReport
from asrcompress.accuracy.gate import judge
from asrcompress.console import Console
from asrcompress.errors import BadRecipe, CerGateFailed, ParityFailed
from asrcompress.lite.manifest import LiteBucket, LiteModel
from asrcompress.lite.origin import Origin
from asrcompress.manifests.manifest import load_manifest
from asrcompress.pipeline.evaluation import evaluate
from asrcompress.pipeline.recognizer import AcousticModel, Recognizer
from asrcompress.pipeline.shipping import described

# Largest difference of FP32 log-probabilities, relative to the largest of them; seen: 4e-7.
FLOAT_TOLERANCE = 1e-5
# Of INT8 kernels from the simulation of the same grids: single roundings fall the other way.
# Seen: 1.000 and 0.03 nats on noise through a trained network.
MIN_AGREEMENT, MOST_MEAN_NATS = 0.95, 0.1
# Log-probabilities below this are e-9 or less: no decoder can tell them apart.
_FLOOR = -20.0


def compare(
    model: AcousticModel, reference: AcousticModel, lite: LiteModel, origin: Origin
) -> float:
    """Largest relative difference on noise, a full and a shorter utterance of each length.

    Of DeepSpeech2 also one that is longer than the longest, whose pieces hand their states on.

    Raises:
        ParityFailed: too large.
    """
    rng = np.random.default_rng(0)
    worst = 0.0
    trials = [(b, n) for b in lite.buckets for n in (b.frames, _shorter(b))]
    if lite.kind == "deepspeech2":
        longest = lite.buckets[-1]
        trials.append((longest, longest.frames * 5 // 2))
    for bucket, frames in trials:
        width = origin.checkpoint.features.width
        features = rng.standard_normal((frames, width)).astype(np.float32)
        seen, expected = (m.log_probs([features])[0] for m in (model, reference))
        if seen.shape != expected.shape:
            raise ParityFailed(f"{bucket.file}: gave {seen.shape}, expected {expected.shape}")
        gap = np.abs(seen - expected)
        worst = max(worst, float(gap.max() / np.abs(expected).max()))
        if origin.precision == "int8":
            _check_agreement(bucket, seen, expected)
    if origin.precision == "fp32" and worst > FLOAT_TOLERANCE:
        raise ParityFailed(
            f"Paddle Lite: relative difference {worst:.2g} from {lite.reference}, "
            f"expected at most {FLOAT_TOLERANCE:g}"
        )
    return worst


def _shorter(bucket: LiteBucket) -> int:
    """Feature frames of an utterance that does not fill the length."""
    return min(bucket.frames, max(bucket.frames * 2 // 3, 16))


def _check_agreement(bucket: LiteBucket, seen: np.ndarray, expected: np.ndarray) -> None:
    agreement = float((seen.argmax(-1) == expected.argmax(-1)).mean())
    mean = float(np.abs(np.maximum(seen, _FLOOR) - np.maximum(expected, _FLOOR)).mean())
    if agreement < MIN_AGREEMENT or mean > MOST_MEAN_NATS:
        raise ParityFailed(
            f"{bucket.file}: {agreement:.3f} of the frames agree with the simulation, {mean:.2g} "
            f"nats apart on average, expected at least {MIN_AGREEMENT} and at most {MOST_MEAN_NATS}"
        )


def gate_cer_of(
    recognizer: Recognizer, origin: Origin, console: Console
) -> dict[str, object] | None:
    """CER of the form that is shipped, held against the run's own gate; None for FP32.

    Raises:
        CerGateFailed: not good enough.
    """
    if origin.run is None:
        return None
    settings, gate = origin.recipe.gate, origin.recipe.data.gate
    if gate is None:
        raise BadRecipe(f"{origin.run.path}: names no gate manifest")
    path = origin.run.path / "before.json"
    before = CerReport.from_json(origin.run.field("before.json", "cer", kind=dict), item=str(path))
    after = evaluate(recognizer, load_manifest(gate), console=console, title="gate").cer
    verdict = judge(
        before,
        after,
        max_increase=settings.max_cer_increase,
        relative=settings.relative,
        draws=settings.draws,
    )
    if not verdict.passed:
        raise CerGateFailed(
            f"CER gate on {recognizer.backend}: {verdict.reason}",
            hint=f"the run passed on ONNX Runtime; {origin.contract.name} has coarser grids: "
            f"train for it (asrcompress qat --target {origin.contract.name}), or ship FP32",
        )
    reports = {"before": before, "after": after}
    measured_on = {"gate_manifest": gate.name, "measured_on": recognizer.backend}
    return {**measured_on, **described(reports, verdict.to_json())}
