"""CTC decoding: log-probabilities to token ids, greedily or by prefix beam search.

Scores are natural logarithms throughout; nothing is exponentiated but differences of scores, so
that recordings of any length keep full precision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Prefix = tuple[int, ...]
_IMPOSSIBLE = -math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """A sequence of token ids, and the log-probability of all its alignments that were kept."""

    tokens: Prefix
    score: float


def greedy(log_probs: np.ndarray, blank: int = 0) -> list[int]:
    """The best token of every frame, repetitions merged, blanks dropped.

    Args:
        log_probs: shape (n_frames, vocab_size).
        blank: id of CTC's blank.
    """
    if not len(log_probs):
        return []
    best = log_probs.argmax(axis=1)
    starts = np.empty(len(best), bool)
    starts[0] = True
    np.not_equal(best[1:], best[:-1], out=starts[1:])
    ids: list[int] = best[starts & (best != blank)].tolist()
    return ids


def greedy_score(log_probs: np.ndarray) -> float:
    """Log-probability of the one alignment that `greedy` reads off."""
    return float(log_probs.max(axis=1).sum(dtype=np.float64)) if len(log_probs) else 0.0


def prefix_beam(
    log_probs: np.ndarray, beam: int = 10, blank: int = 0, *, top_k: int | None = None
) -> list[Hypothesis]:
    """CTC prefix beam search (Hannun et al. 2014, arXiv:1408.2873), without a language model.

    A prefix's alignments that end in a blank and those that end in its last token are summed
    apart: only the former can be followed by the same token again.

    Args:
        log_probs: shape (n_frames, vocab_size), natural log.
        beam: prefixes that are kept after each frame.
        blank: id of CTC's blank.
        top_k: tokens that are tried in each frame beside the blank; `beam` where None, because
            no token below the beam-th of its frame can often be in the beam-th prefix.
    Returns:
        at most `beam` hypotheses, the most probable first; equal scores in order of tokens.
    """
    candidates = _candidates(log_probs, top_k or beam, blank)
    # prefix -> log-probability of its alignments that end in a blank, and of those that do not
    beams: dict[Prefix, tuple[float, float]] = {(): (0.0, _IMPOSSIBLE)}
    for frame, tried in zip(log_probs, candidates, strict=True):
        scores = frame[tried].astype(np.float64).tolist()
        extended = _extend(beams, list(zip(tried.tolist(), scores, strict=True)), blank)
        best = sorted(extended.items(), key=_by_score)[:beam]
        beams = {prefix: (ends[0], ends[1]) for prefix, ends in best}
    return [Hypothesis(tokens=prefix, score=_add(*ends)) for prefix, ends in beams.items()]


def _extend(
    beams: dict[Prefix, tuple[float, float]], tokens: list[tuple[int, float]], blank: int
) -> dict[Prefix, list[float]]:
    """All prefixes after one more frame, each with its two scores."""
    extended: dict[Prefix, list[float]] = {}
    for prefix, (with_blank, without) in beams.items():
        total = _add(with_blank, without)
        last = prefix[-1] if prefix else None
        same = extended.setdefault(prefix, [_IMPOSSIBLE, _IMPOSSIBLE])
        for token, score in tokens:
            if token == blank:
                same[0] = _add(same[0], total + score)
                continue
            before = total
            if token == last:
                # The same token again continues it; only after a blank does it begin anew.
                same[1] = _add(same[1], without + score)
                before = with_blank
            if before + score > _IMPOSSIBLE:
                longer = extended.setdefault((*prefix, token), [_IMPOSSIBLE, _IMPOSSIBLE])
                longer[1] = _add(longer[1], before + score)
    return extended


def _candidates(log_probs: np.ndarray, top_k: int, blank: int) -> np.ndarray:
    """Ids to try in each frame, shape (n_frames, k), ascending: the `top_k` best and the blank."""
    n_frames, vocab_size = log_probs.shape
    if top_k + 1 >= vocab_size:
        return np.broadcast_to(np.arange(vocab_size), (n_frames, vocab_size))
    # The blank is made the best of its frame, so that it is always among the top_k + 1.
    ranked = log_probs.copy()
    ranked[:, blank] = np.inf
    best = np.argpartition(ranked, -top_k - 1, axis=1)[:, -top_k - 1 :]
    return np.sort(best, axis=1)


def _by_score(item: tuple[Prefix, list[float]]) -> tuple[float, Prefix]:
    prefix, (with_blank, without) = item
    return -_add(with_blank, without), prefix


def _add(a: float, b: float) -> float:
    """log(exp(a) + exp(b)), also where both are impossible."""
    if a < b:
        a, b = b, a
    if b == _IMPOSSIBLE:
        return a
    return a + math.log1p(math.exp(b - a))
