"""Frames to seconds, and tokens to words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from asrcompress.bundles.bundle import Bundle
from asrcompress.runtime import Transcriber
from asrcompress.runtime.alignment import Span
from asrcompress.runtime.timestamps import Timestamp, time_tokens, time_words
from asrcompress.tokens import Vocabulary

FRAME_S = 0.04


def spans(count: int) -> list[Span]:
    """Tokens of one frame, every third frame: 0.00, 0.12, 0.24 s, .."""
    return [Span(start=3 * i, stop=3 * i + 1) for i in range(count)]


def words(
    symbols: tuple[str, ...], ids: list[int], **others: str
) -> list[tuple[float, float, str]]:
    vocabulary = Vocabulary(symbols=("<blank>", "<unk>", *symbols), **others)
    timed = time_words(ids, spans(len(ids)), vocabulary, frame_s=FRAME_S)
    return [(word.start_s, word.end_s, word.text) for word in timed]


def test_tokens() -> None:
    vocabulary = Vocabulary(symbols=("<blank>", "开", "灯"))
    found = time_tokens(
        [2, 1], [Span(start=2, stop=5), Span(start=27, stop=28)], vocabulary, frame_s=FRAME_S
    )
    assert found == (
        Timestamp(text="灯", start_s=0.08, end_s=0.2),
        Timestamp(text="开", start_s=1.08, end_s=1.12),
    )


def test_pieces_of_words() -> None:
    symbols = ("▁the", "re", "▁is", "▁", "<0xC3>", "<0xA9>")
    assert words(symbols, [2, 3, 4]) == [(0.0, 0.16, "there"), (0.24, 0.28, "is")]
    assert words(symbols, [4, 5, 3]) == [(0.0, 0.04, "is"), (0.24, 0.28, "re")]
    assert words(symbols, [2, 6, 7]) == [(0.0, 0.28, "theé")]


def test_letters_and_spaces() -> None:
    assert words(("a", "b", "<space>"), [2, 3, 4, 3]) == [(0.0, 0.16, "ab"), (0.36, 0.4, "b")]


def test_chinese_characters_are_words() -> None:
    found = words(("开", "灯", "o", "k"), [2, 4, 5, 3])
    assert found == [(0.0, 0.04, "开"), (0.12, 0.28, "ok"), (0.36, 0.4, "灯")]


def test_whole_words() -> None:
    assert words(("hi", "all"), [2, 3], unit_type="word") == [
        (0.0, 0.04, "hi"),
        (0.12, 0.16, "all"),
    ]


def test_what_is_no_text_is_no_word() -> None:
    assert words(("a", "<space>"), [1, 3, 2]) == [(0.24, 0.28, "a")]


@pytest.mark.parametrize("beam", [1, 4])
def test_a_transcript(
    make_bundle: Callable[..., Bundle], speech: Callable[..., np.ndarray], beam: int
) -> None:
    bundle = make_bundle()
    plain = Transcriber(bundle.path, beam=beam).transcribe(speech(2.0))
    assert plain.timestamps == plain.words == ()
    timed = Transcriber(bundle.path, beam=beam, timestamps=True).transcribe(speech(2.0))
    assert dataclasses.replace(timed, timestamps=(), words=()) == plain
    assert tuple(item.text for item in timed.timestamps) == timed.tokens
    edges = [edge for item in timed.timestamps for edge in (item.start_s, item.end_s)]
    assert edges == sorted(edges)
    assert edges[0] >= 0 and edges[-1] <= timed.duration_s
    joined = "".join(word.text for word in timed.words)
    assert joined == timed.text.replace(" ", "")
