"""Bootstrap over utterances: what the numbers might have been on another set of this size.

Utterances, not characters, are drawn with replacement, since the errors of one utterance hang
together (Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance
evaluation", ICASSP 2004). To compare two systems, both are taken on the same draw (Koehn,
"Statistical significance tests for machine translation evaluation", EMNLP 2004).
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np


def draw_sums(counts: np.ndarray, *, draws: int, seed: int) -> np.ndarray:
    """Sums of the columns over resampled rows; memory grows with the rows, not with the draws.

    Args:
        counts: int64, shape (n_utterances, n_columns), n_utterances >= 1. Their order is
            irrelevant.
        draws: number of resampled sets, each of n_utterances.
    Returns:
        int64, shape (draws, n_columns); the same for the same seed. 10,000 draws take 0.1 s for
        200 utterances and some 10 s for 100,000.
    """
    rows = counts[np.lexsort(counts.T)]
    generator = np.random.default_rng(seed)
    sums = np.empty((draws, counts.shape[1]), np.int64)
    for i in range(draws):
        chosen = generator.integers(len(rows), size=len(rows), dtype=np.int32)
        sums[i] = np.bincount(chosen, minlength=len(rows)) @ rows
    return sums


def upper_bound(numerators: np.ndarray, denominators: np.ndarray, level: float) -> Fraction | None:
    """The ratio that at most a share `1 - level` of the draws exceeds; None is unbounded.

    Args:
        numerators, denominators: int64, shape (draws,); denominators >= 0. Nothing over nothing
            is 0, something over nothing infinite.
    """
    n_draws = len(numerators)
    # The next draw up: with few draws the bound errs to the cautious side.
    return _ranked(numerators, denominators, min(n_draws - 1, int(np.ceil(level * n_draws))))


def lower_bound(numerators: np.ndarray, denominators: np.ndarray, level: float) -> Fraction | None:
    """The ratio that at most a share `1 - level` of the draws falls below; None is unbounded."""
    n_draws = len(numerators)
    return _ranked(numerators, denominators, max(0, int(np.floor((1 - level) * n_draws)) - 1))


def _ranked(numerators: np.ndarray, denominators: np.ndarray, rank: int) -> Fraction | None:
    """The draw of that rank, as the exact fraction that it is."""
    infinite = np.where(numerators > 0, np.inf, np.where(numerators < 0, -np.inf, 0.0))
    ratios = np.where(denominators > 0, numerators / np.maximum(denominators, 1), infinite)
    chosen = np.argsort(ratios, kind="stable")[rank]
    if denominators[chosen] == 0:
        return Fraction(0) if numerators[chosen] == 0 else None
    return Fraction(int(numerators[chosen]), int(denominators[chosen]))
