"""Hotwords against a count of the words in the finished text."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrcompress.errors import BadRecipe
from asrcompress.runtime.decode import prefix_beam
from asrcompress.runtime.hotwords import Hotwords, parse_hotword, read_hotwords
from asrcompress.tokens import Vocabulary

CHARS = Vocabulary(
    symbols=("<blank>", "<unk>", "语", "音", "雨", "英", "a", "b", "<space>", "<eos>")
)
PIECES = Vocabulary(
    symbols=("<blank>", "<unk>", "▁par", "ty", "▁art", "▁", "a", "rt", "s", "<eos>")
)


def bonus_of(hotwords: Hotwords, tokens: list[int]) -> float:
    """The bonus of a finished text, token by token as the search adds it up."""
    state, total = hotwords.start(), 0.0
    for token in tokens:
        state, gain = hotwords.extend(state, token)
        total += gain
    return total + hotwords.finish(state)


@given(
    tokens=st.lists(st.sampled_from(range(2, 6)), max_size=8),
    phrases=st.dictionaries(
        st.text("语音雨英", min_size=1, max_size=4), st.floats(0.1, 9.0), min_size=1, max_size=4
    ),
)
def test_the_bonus_is_the_sum_over_the_words_that_are_there(
    tokens: list[int], phrases: dict[str, float]
) -> None:
    text = CHARS.ids_to_text(tokens)
    starts = range(len(text))
    expected = sum(
        boost for phrase, boost in phrases.items() for at in starts if text.startswith(phrase, at)
    )
    assert bonus_of(Hotwords(phrases, CHARS), tokens) == pytest.approx(expected, abs=1e-9)


def test_a_word_on_its_way_holds_its_share_and_gives_it_back() -> None:
    hotwords = Hotwords({"语音": 4.0}, CHARS)
    state, first = hotwords.extend(hotwords.start(), 2)
    assert first == 2.0
    assert hotwords.extend(state, 3)[1] == 2.0
    assert hotwords.extend(state, 5)[1] == -2.0
    assert hotwords.finish(state) == -2.0


@pytest.mark.parametrize(
    ("tokens", "bonus"),
    [
        ([4], 3.0),  # ▁art
        ([5, 6, 7], 3.0),  # ▁ a rt
        ([2, 7, 3], 0.0),  # ▁par rt ty
        ([4, 8], 0.0),  # ▁arts
        ([4, 4], 6.0),
        ([2, 3, 4], 3.0),  # party art
    ],
)
def test_words_of_letters_end_at_spaces_however_they_are_cut(
    tokens: list[int], bonus: float
) -> None:
    assert bonus_of(Hotwords({"Art": 3.0}, PIECES), tokens) == pytest.approx(bonus)


def test_letters_and_characters_meet_without_a_space() -> None:
    hotwords = Hotwords({"语 ab": 2.0}, CHARS)
    assert bonus_of(hotwords, [2, 6, 7]) == bonus_of(hotwords, [2, 8, 6, 7, 3]) == 2.0
    assert bonus_of(hotwords, [2, 6, 7, 7]) == 0.0


def near_pair() -> np.ndarray:
    """雨音, with 语音 close behind; then 英."""
    log_probs = np.full((6, len(CHARS)), -12.0, np.float32)
    for frame, best in enumerate((4, 0, 3, 0, 5, 0)):
        log_probs[frame, best] = -0.1
    log_probs[0, 2] = -2.4
    return log_probs


def test_a_near_pair_flips_and_nothing_else_changes() -> None:
    plain = prefix_beam(near_pair(), 20)
    assert CHARS.ids_to_text(plain[0].tokens) == "雨音英"
    boosted = prefix_beam(near_pair(), 20, scorers=[Hotwords({"语音": 3.0}, CHARS)])
    assert CHARS.ids_to_text(boosted[0].tokens) == "语音英"
    too_weak = prefix_beam(near_pair(), 20, scorers=[Hotwords({"语音": 2.0}, CHARS)])
    absent = prefix_beam(near_pair(), 20, scorers=[Hotwords({"英雨": 3.0}, CHARS)])
    for found in (too_weak, absent):
        assert found[0].tokens == plain[0].tokens
        assert found[0].score == pytest.approx(plain[0].score, abs=1e-4)  # the beam's edge differs
    rest = {h.tokens: h.score for h in plain}
    for hypothesis in boosted:
        gain = 3.0 if "语音" in CHARS.ids_to_text(hypothesis.tokens) else 0.0
        if hypothesis.tokens in rest:
            assert hypothesis.score == pytest.approx(rest[hypothesis.tokens] + gain, abs=1e-3)


def test_a_negative_boost_makes_a_word_rarer() -> None:
    found = prefix_beam(near_pair(), 20, scorers=[Hotwords({"雨音": -5.0}, CHARS)])
    assert CHARS.ids_to_text(found[0].tokens) == "语音英"


@pytest.mark.parametrize(
    ("boosts", "message"),
    [
        ({"语龘": 3.0}, "can never be heard, got 龘"),
        ({" ": 3.0}, "got nothing"),
        ({"语": 0.0}, "boost out of range, got 0"),
        ({"语": float("nan")}, "got nan"),
        ({"语": 1e6}, "expected at most 100"),
    ],
)
def test_words_that_cannot_work_are_refused(boosts: dict[str, float], message: str) -> None:
    with pytest.raises(BadRecipe, match=message):
        Hotwords(boosts, CHARS)


def test_files_of_hotwords(tmp_path: Path) -> None:
    path = tmp_path / "hotwords.txt"
    path.write_text("# of a shop\n语音:4.5\n\n英\n", encoding="utf-8")
    assert read_hotwords(path) == {"语音": 4.5, "英": 3.0}
    assert parse_hotword("12:30:2") == ("12:30", 2.0)
    for content, message in (
        ("语:x\n", "line 1: got"),
        ("语\n语:2\n", "line 2: '语' stands twice"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(BadRecipe, match=message):
            read_hotwords(path)
    path.write_bytes(b"\xff\n")
    with pytest.raises(BadRecipe, match="is not UTF-8 at byte 0"):
        read_hotwords(path)
    with pytest.raises(BadRecipe, match="cannot be read"):
        read_hotwords(tmp_path / "none.txt")


def test_overlapping_words_count_each() -> None:
    hotwords = Hotwords({"语音": 1.0, "语音雨": 2.0, "音雨": 4.0}, CHARS)
    assert bonus_of(hotwords, [2, 3, 4]) == pytest.approx(7.0)
    for tokens in itertools.product((2, 3), repeat=3):
        bonus = bonus_of(hotwords, list(tokens))
        assert bonus == pytest.approx(CHARS.ids_to_text(tokens).count("语音"))
