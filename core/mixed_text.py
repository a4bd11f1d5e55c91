"""A search for mixed precision in words: one step, and why nothing can be shipped."""

from __future__ import annotations

from asrcompress.errors import AsrCompressError, CerGateFailed, IntegerGateFailed
from asrcompress.mixed_precision import MixedPrecision, MixedStep

_LESS_FLOAT = "allow less on integers (--min-integer-share), or train (asrcompress qat)"


def step(item: MixedStep) -> str:
    """``CER 5.61% on 60 utterances of data.dev (increase up to +0.50): passed; ...``."""
    bound = "" if item.upper_bound is None else f" (increase up to {100 * item.upper_bound:+.2f})"
    return (
        f"CER {item.after_cer:.2%} on {item.utterances} utterances of data.dev{bound}: "
        f"{'passed' if item.passed else 'failed'}; {item.integer_share:.1%} on integers, "
        f"{item.seconds:.0f} s"
    )


def failure(found: MixedPrecision, *, min_integer_share: float) -> AsrCompressError | None:
    """Why nothing of a finished search can be shipped; None where something can."""
    if found.chosen is not None:
        return None
    if found.looks:
        return _refused(found)
    every, passing = len(found.order), [item for item in found.steps if item.passed]
    if passing:
        best = min(passing, key=lambda item: item.kept_float)
        return IntegerGateFailed(
            f"integer share: got {best.integer_share:.3f}, expected at least "
            f"{min_integer_share:.3f}, with the {best.kept_float} of {every} layers in float that "
            "data.dev asks for",
            hint=_LESS_FLOAT,
        )
    most = max(found.steps, key=lambda item: item.kept_float)
    if most.kept_float == every:
        return CerGateFailed(
            f"CER on data.dev: fails even with all {every} layers in float: {most.reason}",
            hint="choose by more speech, the interval is too wide (--dev-manifest), or allow "
            "more (--max-cer-increase)",
        )
    return CerGateFailed(
        f"CER on data.dev: fails with {most.kept_float} of {every} layers in float, and more would "
        f"leave too little on integers: {most.reason}",
        hint=_LESS_FLOAT,
    )


def _refused(found: MixedPrecision) -> CerGateFailed:
    lines = [f"  {look.kept_float} layers in float: {look.reason}" for look in found.looks]
    return CerGateFailed(
        "\n".join([f"CER gate: refuses what data.dev lets pass, asked {asked(found)}", *lines]),
        hint="a larger data.dev to choose by, or --gate-tries; report the gate's looks honestly",
    )


def asked(found: MixedPrecision) -> str:
    """``once``, ``3 times``: how often the gate was."""
    return "once" if len(found.looks) == 1 else f"{len(found.looks)} times"
