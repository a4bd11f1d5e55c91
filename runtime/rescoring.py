"""Decoding with an attention decoder: judging CTC's hypotheses, or searching by itself.

Both as PaddleSpeech's U2 does them (``attention_rescoring`` and ``recognize``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from asrcompress.checkpoints.attention_decoder import AttentionDecoder, behind_sos
from asrcompress.runtime.decode import Hypothesis


def rescore(
    hypotheses: Sequence[Hypothesis],
    hidden: np.ndarray,
    decoder: AttentionDecoder,
    *,
    ctc_weight: float,
    reverse_weight: float = 0.0,
) -> list[Hypothesis]:
    """The second pass of U2 (arXiv:2012.05481) and, with both directions, U2++ (2106.05642).

    score = (1 - reverse_weight) · left-to-right + reverse_weight · right-to-left
    + ctc_weight · score before; the decoders' scores include the end of the text.

    Args:
        hypotheses: of a prefix beam search.
        hidden: of the same utterance, float32 (frames, width).
    Returns:
        the same texts with new scores, the best first; of equal ones, the one that was better.
    """
    if not hypotheses:
        return []
    texts = [item.tokens for item in hypotheses]
    tokens = behind_sos(decoder, texts)
    back = behind_sos(decoder, texts, backwards=True) if reverse_weight > 0 else None
    left, right = decoder.log_probs(hidden, tokens, back)
    scores = _totals(left, tokens, texts, decoder.eos)
    if right is not None and back is not None:
        backwards = _totals(right, back, texts, decoder.eos)
        scores = (1.0 - reverse_weight) * scores + reverse_weight * backwards
    judged = [
        replace(item, score=float(score) + ctc_weight * item.score)
        for item, score in zip(hypotheses, scores, strict=True)
    ]
    return sorted(judged, key=lambda item: -item.score)


def _totals(
    log_probs: np.ndarray, tokens: np.ndarray, texts: Sequence[Sequence[int]], eos: int
) -> np.ndarray:
    """Log-probability of each row's text and its end, float64 (texts,)."""
    # What follows each token; the padding is eos, so that every text is followed by its end.
    following = np.concatenate([tokens[:, 1:], np.full((len(tokens), 1), eos)], axis=1)
    picked = np.take_along_axis(log_probs, following[:, :, None], axis=2)[:, :, 0]
    lengths = np.array([len(text) for text in texts])
    inside = np.arange(tokens.shape[1]) <= lengths[:, None]
    totals: np.ndarray = np.where(inside, picked, 0.0).sum(1, dtype=np.float64)
    return totals


def attention_beam(
    hidden: np.ndarray, decoder: AttentionDecoder, *, beam: int = 10
) -> list[Hypothesis]:
    """Beam search with the decoder alone, token by token; at most one token per frame.

    Args:
        hidden: of one utterance, float32 (frames, width).
        beam: texts that are followed; one that has ended keeps its place and its score.
    Returns:
        at most `beam` hypotheses, the best first. Scores are not normalised by length.
    """
    rows = np.full((1, 1), decoder.sos, np.int64)
    scores, ended = np.zeros(1), np.zeros(1, bool)
    for _ in range(len(hidden)):
        if ended.all():
            break
        last = decoder.log_probs(hidden, rows)[0][:, -1].astype(np.float64)
        # What has ended goes on with another end, which costs nothing.
        last[ended] = -np.inf
        last[ended, decoder.eos] = 0.0
        total = scores[:, None] + last
        best = np.argsort(-total, axis=None, kind="stable")[:beam]
        row, token = np.unravel_index(best, total.shape)
        scores = total[row, token]
        rows = np.concatenate([rows[row], token[:, None]], axis=1)
        ended = token == decoder.eos
    found = [
        Hypothesis(tokens=tuple(t for t in text if t != decoder.eos), score=float(score))
        for text, score in zip(rows[:, 1:].tolist(), scores, strict=True)
        if np.isfinite(score)
    ]
    return sorted(found, key=lambda item: -item.score)
