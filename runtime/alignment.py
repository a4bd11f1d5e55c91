"""Which output frames a token was said in: the CTC alignment of a text.

A CTC network says a token in few frames, often in one, and blanks before and after. A span is the
frames in which it says the token, without the blanks: where the network is sure of it, not where a
phonetician would cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asrcompress.errors import BadAudio


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Output frames from `start` to before `stop`."""

    start: int
    stop: int


def forced_alignment(log_probs: np.ndarray, tokens: Sequence[int], blank: int = 0) -> list[Span]:
    """Span of each of `tokens` on the most probable alignment with them.

    Of the greedy search's tokens that is the alignment that it read them off. Viterbi over the
    states blank, t1, blank, t2, .., blank (Graves et al. 2006, Connectionist
    Temporal Classification; as WeNet's ``force_align``). Equally probable alignments: the token or
    blank that is being said lasts.

    Args:
        log_probs: shape (n_frames, vocab_size), natural log.
        tokens: ids, without blanks.
    Raises:
        BadAudio: no alignment exists, since the frames are too few or the probability is 0.
    """
    if not len(tokens):
        return []
    labels = np.full(2 * len(tokens) + 1, blank)
    labels[1::2] = tokens
    repeats = int(np.count_nonzero(labels[3::2] == labels[1:-2:2]))
    if len(log_probs) < len(tokens) + repeats:
        raise BadAudio(
            f"alignment: too few output frames for {len(tokens)} tokens, "
            f"got {len(log_probs)}, expected at least {len(tokens) + repeats}"
        )
    states = _best_states(log_probs[:, labels].astype(np.float64), labels)
    return _runs(states, states % 2 == 1)


def _best_states(emitted: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """State of each frame, from log-probabilities of the states' labels (n_frames, n_states)."""
    n_frames, n_states = emitted.shape
    # Over a blank only from one token to another one.
    skips = np.zeros(n_states, bool)
    skips[3::2] = labels[3::2] != labels[1:-2:2]
    before = np.full((3, n_states), -np.inf)  # by how many states back
    steps = np.empty((n_frames, n_states), np.int8)
    score = np.full(n_states, -np.inf)
    score[:2] = emitted[0, :2]
    for frame in range(1, n_frames):
        before[0] = score
        before[1, 1:] = score[:-1]
        before[2, 2:] = np.where(skips[2:], score[:-2], -np.inf)
        steps[frame] = before.argmax(axis=0)
        score = before.max(axis=0) + emitted[frame]
    state = n_states - 1 if score[-1] >= score[-2] else n_states - 2
    if score[state] == -np.inf:
        raise BadAudio("alignment: every alignment has probability 0, expected one above 0")
    states = np.empty(n_frames, np.int64)
    for frame in range(n_frames - 1, -1, -1):
        states[frame] = state
        if frame:
            state -= int(steps[frame, state])
    return states


def _runs(labels: np.ndarray, wanted: np.ndarray) -> list[Span]:
    """Runs of equal labels, those that are wanted."""
    starts = np.flatnonzero(np.concatenate([[True], labels[1:] != labels[:-1]]))
    stops = np.append(starts[1:], len(labels))
    return [
        Span(start=start, stop=stop)
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
        if wanted[start]
    ]
