"""CTC alignments against hand-made ones, all paths tried one by one, and PaddleSpeech's own."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from asrcompress.errors import BadAudio
from asrcompress.runtime.alignment import Span, forced_alignment
from asrcompress.runtime.decode import greedy, prefix_beam


def certain(path: list[int], *, vocab_size: int = 4) -> np.ndarray:
    """Log-probabilities with `path` as the most probable one, shape (len(path), vocab_size)."""
    logits = np.zeros((len(path), vocab_size))
    logits[np.arange(len(path)), path] = 5.0
    return log_softmax(logits)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def collapsed(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(label for label, _ in itertools.groupby(path) if label != 0)


def best_path(log_probs: np.ndarray, tokens: list[int]) -> tuple[int, ...]:
    """The most probable of all paths that collapse to `tokens`, by trying each."""
    n_frames, vocab_size = log_probs.shape
    paths = itertools.product(range(vocab_size), repeat=n_frames)
    fitting = [path for path in paths if collapsed(path) == tuple(tokens)]
    return max(fitting, key=lambda path: sum(log_probs[np.arange(n_frames), path]))


def spans_of(path: tuple[int, ...]) -> list[Span]:
    spans, start = [], 0
    for label, run in itertools.groupby(path):
        stop = start + len(list(run))
        if label != 0:
            spans.append(Span(start=start, stop=stop))
        start = stop
    return spans


@pytest.mark.parametrize(
    ("path", "tokens", "spans"),
    [
        ([0, 0, 1, 1, 1, 0, 2, 0], [1, 2], [(2, 5), (6, 7)]),
        ([1, 2, 3], [1, 2, 3], [(0, 1), (1, 2), (2, 3)]),
        ([1, 1, 0, 1], [1, 1], [(0, 2), (3, 4)]),
        ([0, 2, 2, 0, 0, 2, 0, 2], [2, 2, 2], [(1, 3), (5, 6), (7, 8)]),
        ([3], [3], [(0, 1)]),
        ([0, 0], [], []),
        # Two tokens want the one frame that speaks for them; the other takes what is beside it.
        ([0, 1, 0, 0], [1, 1], [(1, 2), (3, 4)]),
    ],
)
def test_alignments_by_hand(
    path: list[int], tokens: list[int], spans: list[tuple[int, int]]
) -> None:
    found = forced_alignment(certain(path), tokens)
    assert [(span.start, span.stop) for span in found] == spans


@pytest.mark.parametrize("seed", range(20))
def test_no_path_is_better(seed: int) -> None:
    rng = np.random.default_rng(seed)
    log_probs = log_softmax(2 * rng.standard_normal((6, 3)))
    for tokens in ([1], [2, 1], [1, 1], [2, 2, 1], [1, 2, 1, 2]):
        assert forced_alignment(log_probs, tokens) == spans_of(best_path(log_probs, tokens))


@pytest.mark.parametrize("seed", range(5))
def test_greedy_tokens_get_the_greedy_path(seed: int) -> None:
    rng = np.random.default_rng(seed)
    log_probs = log_softmax(3 * rng.standard_normal((60, 8))).astype(np.float32)
    path = tuple(log_probs.argmax(axis=1).tolist())
    assert forced_alignment(log_probs, greedy(log_probs)) == spans_of(path)


def test_what_a_beam_finds_can_be_aligned() -> None:
    log_probs = log_softmax(np.random.default_rng(3).standard_normal((30, 6)))
    for found in prefix_beam(log_probs, 8):
        spans = forced_alignment(log_probs, found.tokens)
        assert len(spans) == len(found.tokens)
        edges = [edge for span in spans for edge in (span.start, span.stop)]
        assert edges == sorted(edges) and edges[-1] <= 30


def test_another_blank() -> None:
    log_probs = certain([3, 0, 0, 3, 1])
    assert forced_alignment(log_probs, [0, 1], blank=3) == [
        Span(start=1, stop=3),
        Span(start=4, stop=5),
    ]


@pytest.mark.parametrize(("frames", "tokens", "least"), [(2, [1, 2, 3], 3), (2, [1, 1], 3)])
def test_more_tokens_than_frames(frames: int, tokens: list[int], least: int) -> None:
    with pytest.raises(BadAudio, match=f"got {frames}, expected at least {least}"):
        forced_alignment(certain([0] * frames), tokens)


def test_what_has_no_probability() -> None:
    log_probs = certain([0, 1, 0])
    log_probs[:, 2] = -np.inf
    with pytest.raises(BadAudio, match="every alignment has probability 0"):
        forced_alignment(log_probs, [1, 2])


@pytest.mark.paddle
def test_as_paddlespeech_aligns() -> None:
    """Its ``forced_align`` lets the first blank follow the last one (index -1), and then may say
    the text twice: such alignments are no reference. Of 12 that are, all agree."""
    pytest.importorskip("paddlespeech")
    from asrcompress.paddle_imports import import_paddle, import_u2

    paddle = import_paddle()
    import_u2()  # PaddleSpeech patches Paddle on import
    from paddlespeech.s2t.utils.ctc_utils import forced_align

    rng = np.random.default_rng(0)
    compared = 0
    for _ in range(16):
        log_probs = log_softmax(2 * rng.standard_normal((12, 5))).astype(np.float32)
        tokens = rng.integers(1, 5, rng.integers(1, 6)).tolist()
        theirs = forced_align(paddle.to_tensor(log_probs), np.array(tokens))
        path = tuple(int(label) for label in theirs)
        if collapsed(path) == tuple(tokens):
            assert forced_alignment(log_probs, tokens) == spans_of(path)
            compared += 1
    assert compared >= 8
