"""The gate: what passes, what must not, and that its words and its record say the same."""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction

import numpy as np
import pytest

from asrcompress.accuracy.cer import CerReport, score_utterance
from asrcompress.accuracy.gate import MIN_UTTERANCES, GateVerdict, judge
from asrcompress.accuracy.normalisation import Normalisation
from asrcompress.errors import BadManifest, BadRecipe, BadRun, CerGateFailed

CHARS = "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会"
DRAWS = 1000


def report(
    references: list[str], hypotheses: list[str], durations: list[float] | None = None
) -> CerReport:
    lengths = durations or [3.0] * len(references)
    return CerReport(
        utterances=tuple(
            score_utterance(f"u{i:04d}", reference, hypothesis, duration_s=duration)
            for i, (reference, hypothesis, duration) in enumerate(
                zip(references, hypotheses, lengths, strict=True)
            )
        )
    )


def speech(n: int, *, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list(CHARS), rng.integers(4, 16))) for _ in range(n)]


def damaged(texts: list[str], rate: float, *, seed: int) -> list[str]:
    """Each character is replaced with probability `rate`."""
    rng = np.random.default_rng(seed)
    return ["".join("X" if rng.random() < rate else c for c in text) for text in texts]


# 300 utterances at 5 % CER: an honest model before compression.
REFERENCES = speech(300)
BEFORE_TEXTS = damaged(REFERENCES, 0.05, seed=1)
BEFORE = report(REFERENCES, BEFORE_TEXTS)


def judged(after: CerReport, max_increase: float = 0.02, **options: object) -> GateVerdict:
    return judge(BEFORE, after, max_increase=max_increase, draws=DRAWS, **options)  # type: ignore[arg-type]


# ---------------------------------------------------------------- passing


def test_no_difference_passes_with_a_bound_of_zero() -> None:
    got = judged(BEFORE, 0.0)
    assert got.passed
    assert (got.increase, got.lower_bound, got.upper_bound) == (0, 0, 0)
    assert got.warnings == ()
    got.require_passed()


def test_a_little_worse_passes_within_the_tolerance() -> None:
    got = judged(report(REFERENCES, damaged(BEFORE_TEXTS, 0.005, seed=2)))
    assert got.passed
    assert got.increase is not None and got.upper_bound is not None
    assert 0 < got.increase < got.upper_bound <= Fraction(2, 100)
    assert got.lower_bound is not None and got.lower_bound <= got.increase


def test_better_passes_with_a_negative_increase() -> None:
    got = judged(report(REFERENCES, REFERENCES), 0.0)
    assert got.passed
    assert got.increase == -BEFORE.cer
    assert got.upper_bound is not None and got.upper_bound < 0


def test_the_order_of_utterances_is_irrelevant() -> None:
    after = report(REFERENCES, damaged(BEFORE_TEXTS, 0.01, seed=3))
    turned = CerReport(utterances=after.utterances[::-1])
    assert judged(turned) == judged(after)


def test_the_verdict_repeats_and_the_seed_matters() -> None:
    after = report(REFERENCES, damaged(BEFORE_TEXTS, 0.01, seed=3))
    assert judged(after) == judged(after)
    assert judged(after, seed=1).upper_bound != judged(after).upper_bound


# ---------------------------------------------------------------- exact limits


def uniform(n: int, chars: int, wrong: int) -> CerReport:
    """Utterances that are all alike: the bootstrap has no spread, and bounds are exact."""
    return report(["a" * chars] * n, ["b" * wrong + "a" * (chars - wrong)] * n)


def test_ten_percent_and_two_points_is_twelve_percent() -> None:
    """0.10 + 0.02 <= 0.12 is False in floats."""
    before, after = uniform(40, 50, 5), uniform(40, 50, 6)
    assert 0.10 + 0.02 > 0.12
    got = judge(before, after, max_increase=0.02, draws=DRAWS)
    assert got.passed
    assert got.upper_bound == got.increase == got.max_increase == Fraction(1, 50)
    for stricter in (Fraction(1, 50) - Fraction(1, 10**12), 0.0199999, "0.0199999"):
        assert not judge(before, after, max_increase=stricter, draws=DRAWS).passed


def test_relative_limits_are_exact_too() -> None:
    before, after = uniform(40, 50, 10), uniform(40, 50, 11)
    got = judge(before, after, max_increase=0.1, relative=True, draws=DRAWS)
    assert got.passed
    assert got.increase == got.upper_bound == Fraction(1, 10)
    assert got.allowed_increase == Fraction(1, 50)
    assert not judge(before, after, max_increase=0.0999, relative=True, draws=DRAWS).passed


@pytest.mark.parametrize("value", [-0.001, 1.001, float("nan"), float("inf"), "1/0", "a lot"])
def test_tolerances_out_of_range(value: float | str) -> None:
    with pytest.raises(BadRecipe, match="max_increase"):
        judge(BEFORE, BEFORE, max_increase=value)


def test_too_few_draws() -> None:
    with pytest.raises(BadRecipe, match="draws"):
        judge(BEFORE, BEFORE, max_increase=0.01, draws=99)


# ---------------------------------------------------------------- sabotage


def test_a_model_that_only_deletes_fails_and_is_named() -> None:
    texts = [t[::2] if i % 3 == 0 else t for i, t in enumerate(BEFORE_TEXTS)]
    got = judged(report(REFERENCES, texts))
    assert not got.passed
    assert "mostly by deletions" in got.reason
    assert got.after.deletions > got.before.deletions
    assert got.after.substitutions <= got.before.substitutions


def test_an_empty_model_fails() -> None:
    got = judged(report(REFERENCES, [""] * 300), 0.9)
    assert not got.passed
    assert got.after_cer == 1


def test_a_model_that_babbles_fails() -> None:
    got = judged(report(REFERENCES, [t * 3 for t in BEFORE_TEXTS]), 1.0)
    assert not got.passed
    assert got.after_cer > 1
    assert "insertions" in got.reason


def test_swapped_hypotheses_fail() -> None:
    texts = [*BEFORE_TEXTS[1:], BEFORE_TEXTS[0]]
    assert not judged(report(REFERENCES, texts), 0.3).passed


def test_one_percent_of_utterances_lost_fails_a_tight_gate() -> None:
    texts = [t if i % 100 else "" for i, t in enumerate(BEFORE_TEXTS)]
    got = judged(report(REFERENCES, texts), 0.01)
    assert not got.passed


def test_a_broken_duration_range_fails_though_the_average_passes() -> None:
    durations = [25.0 if i < 12 else 3.0 for i in range(300)]
    before = report(REFERENCES, BEFORE_TEXTS, durations)
    texts = [t[: len(t) // 2] if i < 12 else t for i, t in enumerate(BEFORE_TEXTS)]
    after = report(REFERENCES, texts, durations)
    got = judge(before, after, max_increase=0.05, draws=DRAWS)
    assert got.upper_bound is not None and got.upper_bound <= got.max_increase
    assert not got.passed
    assert "Audio of >= 20 s is broken" in got.reason
    assert [item.label for item in got.buckets if item.broken] == [">= 20 s"]
    assert [item.label for item in got.buckets] == ["2-5 s", ">= 20 s"]
    # The same damage spread over all durations is within the limit.
    assert judged(report(REFERENCES, texts), 0.05).passed


def test_a_range_that_is_too_small_to_judge_is_a_warning() -> None:
    durations = [25.0 if i < 3 else 3.0 for i in range(300)]
    before = report(REFERENCES, BEFORE_TEXTS, durations)
    texts = ["" if i < 3 else t for i, t in enumerate(BEFORE_TEXTS)]
    got = judge(before, report(REFERENCES, texts, durations), max_increase=0.05, draws=DRAWS)
    assert got.passed
    assert len(got.warnings) == 1
    assert ">= 20 s" in got.warnings[0] and "3 utterances" in got.warnings[0]
    assert got.buckets[-1].lower_bound is None
    assert got.buckets[-1].increase is not None and got.buckets[-1].increase > Fraction(1, 2)


def test_chance_in_small_ranges_breaks_nothing() -> None:
    """Same error rate before and after, fresh errors: no bucket may be called broken."""
    durations = [(1.0, 3.0, 7.0, 15.0, 25.0)[i % 5] for i in range(300)]
    before = report(REFERENCES, BEFORE_TEXTS, durations)
    broken = 0
    for seed in range(10):
        after = report(REFERENCES, damaged(REFERENCES, 0.05, seed=100 + seed), durations)
        got = judge(before, after, max_increase=0.005, draws=DRAWS)
        broken += sum(item.broken for item in got.buckets)
    assert broken <= 1  # of 50, each with a chance below one in a hundred


def test_within_the_limit_but_not_proven_fails_and_says_so() -> None:
    references = REFERENCES[:40]
    texts = ["" if i in (3, 17, 31) else t for i, t in enumerate(references)]
    got = judge(
        report(references, references), report(references, texts), max_increase=0.09, draws=DRAWS
    )
    assert got.increase is not None and got.increase <= got.max_increase
    assert not got.passed
    assert "40 utterances cannot" in got.reason


# ---------------------------------------------------------------- sets that prove nothing


@pytest.mark.parametrize("n", [1, 9, MIN_UTTERANCES - 1])
def test_too_few_utterances_fail_whatever_the_numbers(n: int) -> None:
    before = report(REFERENCES[:n], REFERENCES[:n])
    got = judge(before, before, max_increase=1.0, draws=DRAWS)
    assert not got.passed
    assert f"has {n} utterances, expected at least {MIN_UTTERANCES}" in got.reason
    assert got.upper_bound == 0


def test_the_least_number_of_utterances_passes_with_a_warning() -> None:
    before = report(REFERENCES[:MIN_UTTERANCES], REFERENCES[:MIN_UTTERANCES])
    got = judge(before, before, max_increase=0.0, draws=DRAWS)
    assert got.passed
    assert "one utterance in 10 may go unseen" in got.warnings[0]


def test_the_least_number_can_be_set() -> None:
    before = report(REFERENCES[:5], REFERENCES[:5])
    assert judge(before, before, max_increase=0.0, draws=DRAWS, min_utterances=5).passed


# ---------------------------------------------------------------- relative to nothing


def test_a_perfect_model_has_no_relative_increase() -> None:
    perfect = report(REFERENCES, REFERENCES)
    got = judge(perfect, BEFORE, max_increase=0.5, relative=True, draws=DRAWS)
    assert not got.passed
    assert got.increase is None and got.upper_bound is None
    assert "infinite relative increase" in got.reason
    assert GateVerdict.from_json(json.loads(json.dumps(got.to_json()))) == got


def test_a_perfect_model_that_stays_perfect_passes_relative() -> None:
    perfect = report(REFERENCES, REFERENCES)
    got = judge(perfect, perfect, max_increase=0.0, relative=True, draws=DRAWS)
    assert got.passed and got.upper_bound == 0


def test_a_nearly_perfect_model_has_no_relative_bound() -> None:
    before = report(REFERENCES, [f"X{REFERENCES[0][1:]}", *REFERENCES[1:]])
    after = report(REFERENCES, [*before_texts(before)[:-1], "X"])
    got = judge(before, after, max_increase=1.0, relative=True, draws=DRAWS)
    assert not got.passed
    assert got.increase is not None and got.upper_bound is None


def before_texts(of: CerReport) -> list[str]:
    return [item.hypothesis for item in of.utterances]


# ---------------------------------------------------------------- unlike sets


def test_other_utterances_are_refused() -> None:
    shorter = report(REFERENCES[:-2], BEFORE_TEXTS[:-2])
    with pytest.raises(BadManifest, match="got 2 utterances only before, such as 'u0298'"):
        judged(shorter)
    with pytest.raises(BadManifest, match="got 2 utterances only after"):
        judge(shorter, BEFORE, max_increase=0.01)


def test_other_references_are_refused() -> None:
    other = report(["你好", *REFERENCES[1:]], BEFORE_TEXTS)
    with pytest.raises(BadManifest, match="got 1 references that differ, such as 'u0000'") as error:
        judged(other)
    assert error.value.hint


def test_another_normalisation_is_refused() -> None:
    other = dataclasses.replace(BEFORE, normalisation=Normalisation(fold_case=True))
    with pytest.raises(BadManifest, match="normalised differently"):
        judged(other)


# ---------------------------------------------------------------- words and record


def test_the_reason_states_the_numbers() -> None:
    got = judge(uniform(40, 50, 5), uniform(40, 50, 6), max_increase=0.02, draws=DRAWS)
    assert got.reason == (
        "The CER went from 10.00 % to 12.00 % (+2.00 points); with 95% confidence the increase is "
        "at most 2.00 points, allowed are 2.00."
    )


def test_a_close_call_shows_enough_digits_to_be_understood() -> None:
    got = judge(uniform(40, 50, 5), uniform(40, 50, 6), max_increase=0.019999, draws=DRAWS)
    assert "at most 2.0000 points, allowed are 1.9999" in got.reason


def test_a_failure_raises_with_the_reason() -> None:
    got = judged(report(REFERENCES, [""] * 300))
    with pytest.raises(CerGateFailed) as caught:
        got.require_passed()
    assert caught.value.exit_code == 4
    assert got.reason in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("relative", [False, True])
def test_json_loses_nothing(relative: bool) -> None:
    durations = [1.0 + i % 30 for i in range(300)]
    before = report(REFERENCES, BEFORE_TEXTS, durations)
    after = report(REFERENCES, damaged(BEFORE_TEXTS, 0.01, seed=3), durations)
    got = judge(before, after, max_increase="1/3", relative=relative, draws=DRAWS, seed=7)
    tree = json.loads(json.dumps(got.to_json(), allow_nan=False))
    assert GateVerdict.from_json(tree) == got
    assert tree["max_increase"] == "1/3"
    assert tree["after_cer"] == float(after.cer)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": 9}, "schema_version"),
        ({"increase": "1/0"}, "increase"),
        ({"upper_bound": 0.1}, "upper_bound"),
        ({"passed": 1}, "passed"),
        ({"extra": 1}, "extra"),
        ({"after_cer": 0.0}, "edited"),
        ({"buckets": [3]}, "buckets"),
    ],
)
def test_records_that_were_tampered_with(change: dict[str, object], said: str) -> None:
    with pytest.raises(BadRun, match=said):
        GateVerdict.from_json(judged(BEFORE).to_json() | change)
