"""CTC decoding: log-probabilities to token ids, greedily or by prefix beam search.

Scores are natural logarithms throughout; nothing is exponentiated but differences of scores, so
that recordings of any length keep full precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Prefix = tuple[int, ...]
_IMPOSSIBLE = -math.inf
_ROOT = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """A sequence of token ids, and its score.

    Attributes:
        score: natural log of the probability of all its alignments that were kept, plus what the
            scorers of the search think of it.
    """

    tokens: Prefix
    score: float


class PrefixScorer(Protocol):
    """An opinion on texts beside the network's: a language model, or words to listen for.

    The states are opaque to the search; a prefix's score is the sum along its tokens.
    """

    def start(self) -> Any:
        """State of the empty prefix."""

    def extend(self, state: Any, token: int) -> tuple[Any, float]:
        """State after one more token, and what it adds to the score, natural log."""

    def finish(self, state: Any) -> float:
        """What is added where the text ends here."""


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
    log_probs: np.ndarray,
    beam: int = 10,
    blank: int = 0,
    *,
    top_k: int | None = None,
    scorers: Sequence[PrefixScorer] = (),
) -> list[Hypothesis]:
    """CTC prefix beam search (Hannun et al. 2014, arXiv:1408.2873), as PaddleSpeech's U2 does it.

    A prefix's alignments that end in a blank and those that end in its last token are summed
    apart: only the former can be followed by the same token again.

    Args:
        log_probs: shape (n_frames, vocab_size), natural log.
        beam: prefixes that are kept after each frame.
        blank: id of CTC's blank.
        top_k: tokens that are tried in each frame, the blank being one like the others; `beam`
            where None, because no token below the beam-th of its frame can often be in the
            beam-th prefix.
        scorers: are fused into every pruning decision (shallow fusion).
    Returns:
        at most `beam` hypotheses, the best first; equal scores in order of tokens.
    """
    search = PrefixBeam(beam, blank, vocab_size=log_probs.shape[1], top_k=top_k, scorers=scorers)
    search.accept(log_probs)
    return search.hypotheses()


class GreedySearch:
    """`greedy`, fed piece by piece."""

    def __init__(self, blank: int = 0) -> None:
        self._blank, self._last = blank, -1
        self._tokens: list[int] = []
        self._score = 0.0

    def accept(self, log_probs: np.ndarray) -> None:
        """Take further frames into account, shape (n_frames, vocab_size)."""
        if len(log_probs):
            best = log_probs.argmax(axis=1)
            starts = np.concatenate([[self._last], best[:-1]]) != best
            self._tokens += best[starts & (best != self._blank)].tolist()
            self._score += greedy_score(log_probs)
            self._last = int(best[-1])

    def hypotheses(self) -> list[Hypothesis]:
        """The one there is."""
        return [Hypothesis(tokens=tuple(self._tokens), score=self._score)]


class PrefixBeam:
    """`prefix_beam`, fed piece by piece."""

    def __init__(
        self,
        beam: int = 10,
        blank: int = 0,
        *,
        vocab_size: int,
        top_k: int | None = None,
        scorers: Sequence[PrefixScorer] = (),
    ) -> None:
        self._tree, self._top_k = _PrefixTree(scorers), top_k or beam
        self._search = _Search(self._tree, beam, blank, vocab_size=vocab_size)

    def accept(self, log_probs: np.ndarray) -> None:
        """Take further frames into account, shape (n_frames, vocab_size)."""
        candidates = _candidates(log_probs, self._top_k)
        scores = np.take_along_axis(log_probs, candidates, axis=1).astype(np.float64)
        for tokens, frame in zip(candidates, scores, strict=True):
            self._search.step(tokens, frame)

    def hypotheses(self) -> list[Hypothesis]:
        """What is in the beam, the best first, as if the recording ended here."""
        tree, search = self._tree, self._search
        found = [
            Hypothesis(tokens=tree.prefix(node), score=float(score) + tree.finish(node))
            for node, score in zip(search.nodes.tolist(), search.scores(), strict=True)
        ]
        return sorted(found, key=lambda item: (-item.score, item.tokens))


class _PrefixTree:
    """Every prefix that was ever in the beam, as a node; node 0 is the empty one."""

    def __init__(self, scorers: Sequence[PrefixScorer]) -> None:
        self.scorers = scorers
        self.parents, self.tokens, self.bonuses = [-1], [-1], [0.0]
        self._states = [[scorer.start() for scorer in scorers]]
        self._children: dict[tuple[int, int], int] = {}

    def child(self, node: int, token: int) -> int:
        """The prefix with one more token."""
        found = self._children.get((node, token))
        if found is not None:
            return found
        bonus, states = self.bonuses[node], []
        for scorer, state in zip(self.scorers, self._states[node], strict=True):
            following, gain = scorer.extend(state, token)
            states.append(following)
            bonus += gain
        self.parents.append(node)
        self.tokens.append(token)
        self.bonuses.append(bonus)
        self._states.append(states)
        self._children[node, token] = len(self.parents) - 1
        return len(self.parents) - 1

    def prefix(self, node: int) -> Prefix:
        """Token ids of a node."""
        reverse = []
        while node != _ROOT:
            reverse.append(self.tokens[node])
            node = self.parents[node]
        return tuple(reversed(reverse))

    def finish(self, node: int) -> float:
        """What the scorers add where the text ends with this node."""
        pairs = zip(self.scorers, self._states[node], strict=True)
        return sum(scorer.finish(state) for scorer, state in pairs)


class _Search:
    """The beam: parallel arrays with one element per prefix.

    Attributes:
        nodes: of the tree.
        with_blank, without: log-probability of the alignments that end in a blank, and do not.
    """

    def __init__(self, tree: _PrefixTree, beam: int, blank: int, *, vocab_size: int) -> None:
        self._tree, self._beam, self._blank = tree, beam, blank
        self.nodes = np.array([_ROOT])
        self.with_blank, self.without = np.zeros(1), np.full(1, _IMPOSSIBLE)
        self._place_of = np.full(vocab_size + 1, -1)  # the last one stands for "no token"

    def scores(self) -> np.ndarray:
        """Fused score of every prefix in the beam."""
        bonuses = np.array([self._tree.bonuses[node] for node in self.nodes.tolist()])
        fused: np.ndarray = np.logaddexp(self.with_blank, self.without) + bonuses
        return fused

    def step(self, tokens: np.ndarray, frame: np.ndarray) -> None:
        """Take one frame into account.

        Args:
            tokens: ids to try, ascending, shape (k,).
            frame: their log-probabilities.
        """
        tree, nodes = self._tree, self.nodes.tolist()
        self._place_of[tokens] = np.arange(len(tokens))
        last = np.array([tree.tokens[node] for node in nodes])  # -1 reads "no token"
        again, blank = self._place_of[last], int(self._place_of[self._blank])
        total = np.logaddexp(self.with_blank, self.without)
        # One more token: after an own last token only where a blank was between.
        longer = total[:, None] + frame[None, :]
        rows = np.flatnonzero(again >= 0)
        longer[rows, again[rows]] = self.with_blank[rows] + frame[again[rows]]
        # The same prefix: by a blank, or its last token going on.
        with_blank = np.full(len(nodes), _IMPOSSIBLE)
        if blank >= 0:
            with_blank = total + frame[blank]
            longer[:, blank] = _IMPOSSIBLE
        without = np.full(len(nodes), _IMPOSSIBLE)
        without[rows] = self.without[rows] + frame[again[rows]]
        self._merge(nodes, again, longer, without)
        self._place_of[tokens] = -1
        self._keep_best(nodes, tokens, longer, with_blank, without)

    def _merge(
        self, nodes: list[int], again: np.ndarray, longer: np.ndarray, without: np.ndarray
    ) -> None:
        """What grows into a prefix that is in the beam already is added to it."""
        parents = np.array([self._tree.parents[node] for node in nodes])
        grown, from_ = np.nonzero(parents[:, None] == self.nodes[None, :])
        tried = again[grown] >= 0
        grown, from_ = grown[tried], from_[tried]
        by = again[grown]
        without[grown] = np.logaddexp(without[grown], longer[from_, by])
        longer[from_, by] = _IMPOSSIBLE

    def _keep_best(
        self,
        nodes: list[int],
        tokens: np.ndarray,
        longer: np.ndarray,
        with_blank: np.ndarray,
        without: np.ndarray,
    ) -> None:
        tree = self._tree
        bonuses = np.array([tree.bonuses[node] for node in nodes])
        same = np.logaddexp(with_blank, without) + bonuses
        fused = longer + bonuses[:, None]
        if tree.scorers:
            ids = tokens.tolist()
            for row, column in np.argwhere(longer > _IMPOSSIBLE).tolist():
                child = tree.child(nodes[row], ids[column])
                fused[row, column] = longer[row, column] + tree.bonuses[child]
        every = np.concatenate([same, fused.ravel()])
        best = np.argsort(-every, kind="stable")[: self._beam]
        best = best[every[best] > _IMPOSSIBLE]
        old, new = best[best < len(nodes)], best[best >= len(nodes)] - len(nodes)
        row, column = np.divmod(new, len(tokens))
        children = [tree.child(nodes[r], int(t)) for r, t in zip(row, tokens[column], strict=True)]
        self.nodes = np.array([*self.nodes[old], *children], int)
        silent = np.full(len(new), _IMPOSSIBLE)
        self.with_blank = np.concatenate([with_blank[old], silent])
        self.without = np.concatenate([without[old], longer[row, column]])


def _candidates(log_probs: np.ndarray, top_k: int) -> np.ndarray:
    """Ids to try in each frame, shape (n_frames, k), ascending: the `top_k` best."""
    n_frames, vocab_size = log_probs.shape
    if top_k >= vocab_size:
        return np.tile(np.arange(vocab_size), (n_frames, 1))
    best = np.argpartition(log_probs, -top_k, axis=1)[:, -top_k:]
    return np.sort(best, axis=1)
