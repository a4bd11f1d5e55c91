"""What the gate says to a person: sentences made of a verdict's numbers."""

from __future__ import annotations

from fractions import Fraction

from asrcompress.accuracy.verdict import BucketVerdict, GateVerdict


def summary(verdict: GateVerdict) -> str:
    """From what to what, the bound, and the limit."""
    rates = f"The CER went from {_percent(verdict.before_cer)} to {_percent(verdict.after_cer)}"
    if verdict.increase is None or verdict.upper_bound is None:
        return f"{rates}; the increase relative to it has no upper bound."
    unit = _unit(verdict)
    bound, limit = _distinct(verdict.upper_bound, verdict.max_increase)
    return (
        f"{rates} ({_signed(verdict.increase)} {unit}); with "
        f"{verdict.confidence:.0%} confidence the increase is at most {bound} {unit}, "
        f"allowed are {limit}."
    )


def bound_exceeded(verdict: GateVerdict) -> str:
    """Why the bound is too high: too many errors, or too few utterances to rule them out."""
    if verdict.relative and not verdict.before.edits:
        return (
            "The model before made no error, so that any error is an infinite relative increase: "
            "give max_increase as an absolute CER."
        )
    if verdict.increase is None or verdict.increase > verdict.max_increase:
        return f"The CER rose by more than is allowed, {_shift(verdict)}."
    return (
        f"The measured increase is within the limit, but {verdict.utterances} utterances cannot "
        "show that the true one is: gate on more speech, or allow more."
    )


def too_few(utterances: int, needed: int) -> str:
    """Too few utterances for a verdict."""
    return (
        f"The gate manifest has {utterances} utterances, expected at least {needed}: "
        "a bootstrap over fewer claims more than it knows."
    )


def small_set(utterances: int, comfortable: int) -> str:
    """A set that passes for enough, and could be larger."""
    return (
        f"the gate has {utterances} utterances, fewer than {comfortable}: a fault that hits less "
        f"than one utterance in {utterances // 3} may go unseen"
    )


def bucket_broken(bucket: BucketVerdict, allowed: Fraction) -> str:
    """A range of durations in which the model is proven worse than is allowed overall."""
    return (
        f"Audio of {bucket.label} is broken: its CER went from {_percent(bucket.before.cer)} to "
        f"{_percent(bucket.after.cer)} on {bucket.utterances} utterances, at 99% confidence by "
        f"more than the {_points(allowed)} points that are allowed."
    )


def bucket_unproven(bucket: BucketVerdict) -> str:
    """A range of durations that got worse on too few utterances to say."""
    return (
        f"audio of {bucket.label}: the CER went from {_percent(bucket.before.cer)} to "
        f"{_percent(bucket.after.cer)}, on {bucket.utterances} utterances, too few to judge"
    )


def _shift(verdict: GateVerdict) -> str:
    """The kind of error that grew most; deletions are how quantization mostly fails."""
    names = ("substitutions", "deletions", "insertions")
    kinds = [(name, getattr(verdict.before, name), getattr(verdict.after, name)) for name in names]
    name, before, after = max(kinds, key=lambda kind: kind[2] - kind[1])
    return f"mostly by {name} ({before} before, {after} after)"


def _unit(verdict: GateVerdict) -> str:
    return "% of itself" if verdict.relative else "points"


def _percent(value: Fraction | None) -> str:
    return "none" if value is None else f"{_points(value)} %"


def _points(value: Fraction, digits: int = 2) -> str:
    return f"{float(100 * value):.{digits}f}"


def _signed(value: Fraction) -> str:
    return f"{float(100 * value):+.2f}"


def _distinct(bound: Fraction, limit: Fraction) -> tuple[str, str]:
    """Both numbers with as many digits as it takes to tell them apart."""
    for digits in range(2, 9):
        shown = _points(bound, digits), _points(limit, digits)
        if bound == limit or shown[0] != shown[1]:
            return shown
    return shown
