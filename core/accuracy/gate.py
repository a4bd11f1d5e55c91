"""The gate: has compression cost more CER than is allowed, as far as the data can tell?

Both models are scored on the same utterances, and the *difference* is bootstrapped over utterances
with both taken on the same draw (see `asrcompress.accuracy.bootstrap`). The verdict passes if

1. the one-sided 95 % upper bound of the CER increase is at most `max_increase`, and the measured
   increase is as well (a bound below the measurement is raised to it);
2. no range of durations is broken: none whose increase is proven, at 99 %, to exceed what is
   allowed overall. Int8 that fails on long audio only would drown in the average;
3. there are enough utterances for any of this to mean something.

Fractions are exact: 0.10 + 0.02 is at most 0.12. Limits: utterances are taken as independent, so
a set with few speakers, or with a sentence many times, is surer of itself than it should be; and
a fault that hits fewer than 3/n of all speech is absent from a set of n utterances once in twenty.
"""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np

from asrcompress.accuracy import gate_text
from asrcompress.accuracy.bootstrap import rate_bounds
from asrcompress.accuracy.cer import BUCKETS, CerReport, ErrorCounts, UtteranceScore, bucket_of
from asrcompress.accuracy.verdict import CONFIDENCE, BucketVerdict, GateVerdict
from asrcompress.errors import BadManifest, BadRecipe
from asrcompress.manifests.lines import seen

__all__ = ["MIN_UTTERANCES", "BucketVerdict", "GateVerdict", "judge"]

# The bound keeps its promise from about 30 utterances on where errors are everywhere, and from 100
# on where few utterances hold them (see `asrcompress.accuracy.bootstrap`); sets below 100 are
# warned of.
MIN_UTTERANCES = 30
COMFORTABLE_UTTERANCES = 100
# A bucket fails the gate only on strong evidence: of buckets exactly at the limit, 3 in 100 with
# 10 utterances, and 1 in 200 with 120 (600 simulated sets each).
BUCKET_CONFIDENCE = 0.99
MIN_BUCKET_UTTERANCES = 10
MIN_DRAWS = 100


def judge(
    before: CerReport,
    after: CerReport,
    *,
    max_increase: Fraction | float | str,
    relative: bool = False,
    draws: int = 10_000,
    seed: int = 0,
    min_utterances: int = MIN_UTTERANCES,
) -> GateVerdict:
    """Decide whether `after` is good enough, given `before`.

    Args:
        before, after: scores of the same utterances with the same references, in any order.
        max_increase: 0 to 1; a float is taken as the decimal that it prints as.
        relative: `max_increase` is a share of the CER before, not an absolute CER.
        draws: of the bootstrap, at least 100.
        min_utterances: with fewer, the verdict is a failure, whatever the numbers.
    Raises:
        BadManifest: the reports are not of the same utterances, references and normalisation.
        BadRecipe: `max_increase` or `draws` out of range.
    """
    tolerance = _tolerance(max_increase)
    pairs = _pair(before, after)
    increase, low, high = _bounds(pairs, relative=relative, draws=draws, seed=seed)
    allowed = tolerance * (before.cer if relative else 1)
    measured = GateVerdict(
        passed=False,
        reason="",
        utterances=len(pairs),
        before=before.counts,
        after=after.counts,
        increase=increase,
        lower_bound=low,
        upper_bound=high,
        max_increase=tolerance,
        relative=relative,
        draws=draws,
        seed=seed,
        buckets=_judge_buckets(pairs, allowed, draws=draws, seed=seed),
    )
    return _decide(measured, min_utterances)


_Pair = tuple[UtteranceScore, UtteranceScore]


def _decide(measured: GateVerdict, min_utterances: int) -> GateVerdict:
    """The verdict on what was measured: the three conditions, and their wording."""
    high = measured.upper_bound
    faults = []
    if measured.utterances < min_utterances:
        faults.append(gate_text.too_few(measured.utterances, min_utterances))
    if high is None or high > measured.max_increase:
        faults.append(gate_text.bound_exceeded(measured))
    broken = [item for item in measured.buckets if item.broken]
    if len(measured.buckets) > 1:  # a single one is the whole set
        faults += [gate_text.bucket_broken(item, measured.allowed_increase) for item in broken]
    warnings = [
        gate_text.bucket_unproven(item)
        for item in measured.buckets
        if item.lower_bound is None and (item.increase or 0) > measured.allowed_increase
    ]
    if min_utterances <= measured.utterances < COMFORTABLE_UTTERANCES:
        warnings.append(gate_text.small_set(measured.utterances, COMFORTABLE_UTTERANCES))
    summary = gate_text.summary(measured)
    reason = " ".join([*faults, summary]) if faults else summary
    return dataclasses.replace(measured, passed=not faults, reason=reason, warnings=tuple(warnings))


def _tolerance(value: Fraction | float | str) -> Fraction:
    """The exact number that was written: `Fraction(0.1)` is not a tenth, `Fraction("0.1")` is."""
    try:
        exact = value if isinstance(value, Fraction) else Fraction(str(value))
    except (ValueError, ZeroDivisionError) as error:
        raise BadRecipe(f"max_increase: got {seen(value)}, expected a number, 0 to 1") from error
    if not 0 <= exact <= 1:
        raise BadRecipe(
            f"max_increase: out of range, got {value}, expected 0 to 1",
            hint="0.005 is half a percentage point",
        )
    return exact


def _pair(before: CerReport, after: CerReport) -> list[_Pair]:
    """Each utterance's two scores, in the order of `before`.

    Raises:
        BadManifest: a difference between unlike things would be measured.
    """
    if before.normalisation != after.normalisation:
        raise BadManifest(
            "reports: normalised differently, "
            f"got {before.normalisation} before and {after.normalisation} after"
        )
    first = {item.utt: item for item in before.utterances}
    second = {item.utt: item for item in after.utterances}
    for kind, odd in (
        ("utterances only before", sorted(first.keys() - second.keys())),
        ("utterances only after", sorted(second.keys() - first.keys())),
        (
            "references that differ",
            sorted(
                utt
                for utt in first.keys() & second.keys()
                if first[utt].reference != second[utt].reference
            ),
        ),
    ):
        if odd:
            examples = ", ".join(map(seen, odd[:3]))
            raise BadManifest(
                f"reports: not of the same set, got {len(odd)} {kind}, such as {examples}",
                hint="evaluate both models on the same manifest",
            )
    return [(item, second[utt]) for utt, item in first.items()]


def _bounds(
    pairs: list[_Pair], *, relative: bool, draws: int, seed: int
) -> tuple[Fraction | None, Fraction | None, Fraction | None]:
    """Measured increase and its lower and upper bound."""
    if draws < MIN_DRAWS:
        raise BadRecipe(f"draws: out of range, got {draws}, expected {MIN_DRAWS} or more")
    gained, base = _columns(pairs, relative=relative)
    gain, total = int(gained.sum()), int(base.sum())
    if total == 0:  # relative to a CER of 0
        return (None, None, None) if gain else (Fraction(0), Fraction(0), Fraction(0))
    increase = Fraction(gain, total)
    low, high = rate_bounds(gained, base, level=CONFIDENCE, draws=draws, seed=seed)
    return (
        increase,
        None if low is None else min(low, increase),
        None if high is None else max(high, increase),
    )


def _columns(pairs: list[_Pair], *, relative: bool) -> tuple[np.ndarray, np.ndarray]:
    """Edits gained, and what they are counted against: edits before, or reference characters.

    Both int64, shape (n_utterances,).
    """
    gained = [after.edits - before.edits for before, after in pairs]
    base = [before.edits if relative else before.reference_chars for before, _ in pairs]
    return np.array(gained, np.int64), np.array(base, np.int64)


def _judge_buckets(
    pairs: list[_Pair], allowed: Fraction, *, draws: int, seed: int
) -> tuple[BucketVerdict, ...]:
    by_label: dict[str, list[_Pair]] = {label: [] for label in BUCKETS}
    for pair in pairs:
        by_label[bucket_of(pair[0].duration_s)].append(pair)
    verdicts = []
    for label, inside in by_label.items():
        if not inside:
            continue
        before = ErrorCounts.total(b for b, _ in inside)
        low = None
        if len(inside) >= MIN_BUCKET_UTTERANCES and before.reference_chars:
            gained, chars = _columns(inside, relative=False)
            low, _ = rate_bounds(gained, chars, level=BUCKET_CONFIDENCE, draws=draws, seed=seed)
        verdicts.append(
            BucketVerdict(
                label=label,
                utterances=len(inside),
                before=before,
                after=ErrorCounts.total(a for _, a in inside),
                lower_bound=low,
                broken=low is not None and low > allowed,
            )
        )
    return tuple(verdicts)
