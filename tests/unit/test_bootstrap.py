"""Bounds of a rate: exact where they can be, equal to another BCa, right as often as claimed."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from asrcompress.accuracy.bootstrap import rate_bounds


def counts(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_without_spread_the_bounds_are_the_rate_exactly() -> None:
    got = rate_bounds(counts(1, 1, 1), counts(3, 3, 3), level=0.95, draws=200, seed=0)
    assert got == (Fraction(1, 3), Fraction(1, 3))


def test_bounds_hold_the_rate_and_widen_with_the_level() -> None:
    rng = np.random.default_rng(0)
    chars = rng.integers(5, 20, 150)
    edits = rng.binomial(chars, 0.1)
    rate = Fraction(int(edits.sum()), int(chars.sum()))
    narrow = rate_bounds(edits, chars, level=0.9, draws=2000, seed=0)
    wide = rate_bounds(edits, chars, level=0.99, draws=2000, seed=0)
    assert narrow[0] is not None and narrow[1] is not None
    assert wide[0] is not None and wide[1] is not None
    assert wide[0] < narrow[0] < rate < narrow[1] < wide[1]


def test_order_is_irrelevant_and_the_seed_is_not() -> None:
    edits, chars = np.arange(50) % 3, np.arange(50) % 7 + 1
    turn = np.random.default_rng(0).permutation(50)
    first = rate_bounds(edits, chars, level=0.95, draws=500, seed=5)
    assert first == rate_bounds(edits[turn], chars[turn], level=0.95, draws=500, seed=5)
    assert first != rate_bounds(edits, chars, level=0.95, draws=500, seed=6)


def test_empty_references_among_others() -> None:
    """Nothing over nothing is 0; something over nothing has no bound."""
    edits, chars = counts(2, 0, 0), counts(0, 5, 5)
    low, high = rate_bounds(edits, chars, level=0.95, draws=500, seed=0)
    assert low == 0
    assert high is None
    low, high = rate_bounds(counts(0, 0), counts(0, 5), level=0.95, draws=500, seed=0)
    assert (low, high) == (0, 0)


def test_one_utterance() -> None:
    got = rate_bounds(counts(3), counts(4), level=0.95, draws=100, seed=0)
    assert got == (Fraction(3, 4), Fraction(3, 4))


@pytest.mark.parametrize("skewed", [False, True])
def test_bounds_agree_with_an_independent_bca(skewed: bool) -> None:
    """SciPy's takes the same bootstrap another way: an exact jackknife, other draws."""
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    chars = rng.integers(5, 20, 200)
    lost = np.where(rng.random(200) < 0.05, chars, 0)
    edits = lost if skewed else rng.binomial(chars, 0.1)
    oracle = stats.bootstrap(
        (edits, chars),
        lambda e, c, axis=-1: e.sum(axis=axis) / c.sum(axis=axis),
        paired=True,
        confidence_level=0.9,
        n_resamples=10_000,
        method="BCa",
        random_state=2,
    ).confidence_interval
    low, high = rate_bounds(edits, chars, level=0.95, draws=10_000, seed=3)
    assert low is not None and high is not None
    width = oracle.high - oracle.low
    assert abs(float(low) - oracle.low) < 0.05 * width
    assert abs(float(high) - oracle.high) < 0.05 * width


@pytest.mark.parametrize("kind", ["errors everywhere", "few bad utterances"])
def test_the_upper_bound_is_too_low_as_rarely_as_it_says(kind: str) -> None:
    """One in twenty. Of the few bad utterances, plain percentiles would be wrong 34 times."""
    rng = np.random.default_rng(5)
    wrong = 0
    for trial in range(300):
        chars = rng.integers(5, 20, 100)
        if kind == "errors everywhere":
            edits, truth = rng.binomial(chars, 0.02), 0.02
        else:
            edits = np.where(rng.random(100) < 0.04, chars // 2, 0)
            truth = 0.04 * float(np.mean([n // 2 for n in range(5, 20)])) / 12
        high = rate_bounds(edits, chars, level=0.95, draws=400, seed=trial)[1]
        assert high is not None
        wrong += high < truth
    assert wrong <= 28  # 15 expected of an exact bound, and 4 its standard deviation


def test_a_hundred_thousand_utterances_fit_in_memory() -> None:
    """Draws times rows in one array would be 80 MB here, and 8 GB with the default draws."""
    import tracemalloc

    edits, chars = np.arange(100_000) % 3, np.full(100_000, 12)
    tracemalloc.start()
    rate_bounds(edits, chars, level=0.95, draws=100, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
