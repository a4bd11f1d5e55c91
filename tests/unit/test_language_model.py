"""N-gram models against probabilities worked out by hand."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest

from asrcompress.errors import BadLanguageModel, MissingExtra
from asrcompress.runtime.decode import prefix_beam
from asrcompress.runtime.language_model import (
    KenlmModel,
    LanguageModelFusion,
    NgramModel,
    parse_arpa,
    read_language_model,
)
from asrcompress.tokens import Vocabulary

ARPA = """\
made by hand

\\data\\
ngram 1=6
ngram 2=4
ngram 3=1

\\1-grams:
-1.0\t<unk>
-99\t<s>\t-0.5
-0.8\t</s>
-0.6\t开\t-0.2
-0.7\t关\t-0.1
-0.9\t灯\t-0.3

\\2-grams:
-0.2\t<s> 开\t-0.05
-0.3\t开 灯\t-0.15
-0.1\t灯 </s>
-0.4\t关 灯

\\3-grams:
-0.01\t<s> 开 灯

\\end\\
"""
VOCABULARY = Vocabulary(symbols=("<blank>", "<unk>", "开", "关", "灯", "热", "<space>", "<eos>"))
WORDS = Vocabulary(symbols=("<blank>", "<unk>", "▁开", "关", "▁灯", "灯", "▁", "<eos>"))


def log10_of(model: NgramModel, *words: str) -> float:
    state, total = model.start(), 0.0
    for word in (*words, "</s>"):
        state, log_prob = model.score(state, word)
        total += log_prob
    return total / math.log(10)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        # p(开|<s>) p(灯|<s> 开), then back-off of (开 灯) to p(</s>|灯)
        (("开", "灯"), -0.2 - 0.01 - 0.15 - 0.1),
        # <s> 关 is unseen: back-off of <s>; (<s> 关) has no back-off; p(灯|关); p(</s>|灯)
        (("关", "灯"), (-0.5 - 0.7) - 0.4 - 0.1),
        # p(开|<s>); back-off (<s> 开), then of 开, to p(关); back-off of 关 to p(</s>)
        (("开", "关"), -0.2 + (-0.05 - 0.2 - 0.7) + (-0.1 - 0.8)),
        # an unknown word: back-off of <s>, p(<unk>); nothing is known after it
        (("热",), (-0.5 - 1.0) - 0.8),
        ((), -0.5 - 0.8),
    ],
)
def test_sentences_by_hand(words: tuple[str, ...], expected: float) -> None:
    assert log10_of(parse_arpa(ARPA, source="m"), *words) == pytest.approx(expected)


def test_the_same_from_a_file_a_packed_one_and_one_with_spaces(tmp_path: Path) -> None:
    (tmp_path / "m.arpa").write_text(ARPA.replace("\t", " "), encoding="utf-8")
    (tmp_path / "m.arpa.gz").write_bytes(gzip.compress(ARPA.replace("\n", "\r\n").encode()))
    for name in ("m.arpa", "m.arpa.gz"):
        model = read_language_model(tmp_path / name)
        assert log10_of(model, "开", "灯") == pytest.approx(-0.46)


def test_without_unk_an_unknown_word_is_next_to_impossible() -> None:
    model = parse_arpa(ARPA.replace("1=6", "1=5").replace("-1.0\t<unk>\n", ""), source="m")
    assert log10_of(model, "热") == pytest.approx(-0.5 - 100 - 0.8)


def test_kenlm_agrees_with_our_reader(tmp_path: Path) -> None:
    kenlm = pytest.importorskip("kenlm", reason="needs the [lm] extra")
    # KenLM takes no remark in front of the data.
    (tmp_path / "m.arpa").write_text(ARPA[ARPA.index("\\data") :], encoding="utf-8")
    reference = kenlm.Model(str(tmp_path / "m.arpa"))
    model = parse_arpa(ARPA, source="m")
    for text in ("开 灯", "关 灯", "开 关", "热", "", "开 热 灯 关 开 开 灯"):
        wanted = pytest.approx(reference.score(text), abs=1e-5)
        assert log10_of(model, *text.split()) == wanted
        assert log10_of(KenlmModel(tmp_path / "m.arpa"), *text.split()) == wanted


def test_a_binary_without_kenlm_names_the_extra(tmp_path: Path) -> None:
    path = tmp_path / "m.klm"
    with pytest.raises(BadLanguageModel, match="cannot be read"):
        read_language_model(path)
    path.write_bytes(b"no model")
    with pytest.raises((MissingExtra, BadLanguageModel), match=r"kenlm|KenLM") as caught:
        read_language_model(path)
    if isinstance(caught.value, MissingExtra):
        assert "asrcompress[lm]" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("ngram 2=4", "ngram 2=5"), r"has \[6, 4, 1\] n-grams, expected \[6, 5, 1\]"),
        (("\\end\\", ""), r"ends without \\end"),
        (("\\2-grams:", "\\3-grams:"), r"line 16: got '\\\\3-grams:'"),
        (("-0.3\t开 灯\t-0.15", "-0.3\t开"), "line 18: got '-0.3"),
        (("-0.3\t开 灯", "x\t开 灯"), "expected a number, 2 words and a back-off"),
        (("-0.3\t开 灯", "nan\t开 灯"), "expected a number"),
        (("ngram 1=6", "1=6"), "line 4: got '1=6', expected ngram 1=COUNT"),
        (("\\data\\", ""), "ends without"),
    ],
)
def test_broken_files_are_refused_by_line(change: tuple[str, str], message: str) -> None:
    with pytest.raises(BadLanguageModel, match=message):
        parse_arpa(ARPA.replace(*change), source="m")


def fused(tokens: list[int], vocabulary: Vocabulary, **settings: object) -> float:
    fusion = LanguageModelFusion(parse_arpa(ARPA, source="m"), vocabulary, **settings)  # type: ignore[arg-type]
    state, total = fusion.start(), 0.0
    for token in tokens:
        state, gain = fusion.extend(state, token)
        total += gain
    return total + fusion.finish(state)


def test_fusion_is_weight_times_the_model_and_a_bonus_for_each_unit() -> None:
    expected = 0.5 * math.log(10) * -0.46 + 2 * 1.25
    assert fused([2, 4], VOCABULARY, weight=0.5, bonus=1.25) == pytest.approx(expected)
    # <unk> and <eos> write nothing, so they are no units
    assert fused([2, 1, 4, 7], VOCABULARY, weight=0.5, bonus=1.25) == pytest.approx(expected)


@pytest.mark.parametrize("tokens", [[2, 4], [2, 6, 5], [6, 2, 6, 6, 5, 6]])
def test_words_are_scored_when_they_are_complete(tokens: list[int]) -> None:
    """开 灯 in pieces: however many spaces stand where, two words."""
    expected = 0.5 * math.log(10) * -0.46 + 2 * 1.25
    assert fused(tokens, WORDS, weight=0.5, bonus=1.25, unit="word") == pytest.approx(expected)
    assert fused([2, 3], WORDS, weight=1.0, unit="word") == pytest.approx(
        math.log(10) * ((-0.5 - 1.0) - 0.8)  # 开关 is one word, and unknown
    )


def test_the_search_finds_what_fusion_prefers() -> None:
    log_probs = np.full((4, len(VOCABULARY)), -12.0, np.float32)
    log_probs[:, 0] = -0.5
    log_probs[0, [0, 2, 3]] = (-12.0, -1.0, -0.6)  # 关 sounds better than 开
    log_probs[2, 4] = -0.2
    assert VOCABULARY.ids_to_text(prefix_beam(log_probs, 8)[0].tokens) == "关灯"
    fusion = LanguageModelFusion(parse_arpa(ARPA, source="m"), VOCABULARY, weight=0.6, bonus=0.5)
    found = prefix_beam(log_probs, 8, scorers=[fusion])
    assert VOCABULARY.ids_to_text(found[0].tokens) == "开灯"
    plain = {h.tokens: h.score for h in prefix_beam(log_probs, 5000, top_k=8)}
    for hypothesis in prefix_beam(log_probs, 5000, top_k=8, scorers=[fusion]):
        gain = fused(list(hypothesis.tokens), VOCABULARY, weight=0.6, bonus=0.5)
        assert hypothesis.score == pytest.approx(plain[hypothesis.tokens] + gain)


def test_a_model_of_other_units_is_refused() -> None:
    latin = Vocabulary(symbols=("<blank>", "<unk>", "a", "b", "c", "<eos>"))
    with pytest.raises(BadLanguageModel, match="knows 0 of the network's 3 tokens") as caught:
        LanguageModelFusion(parse_arpa(ARPA, source="m"), latin, weight=0.5)
    assert "--lm-unit word" in caught.value.hint
