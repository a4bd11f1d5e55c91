"""CER: hand-counted cases, the edges that break other tools, the interval, and the record."""

from __future__ import annotations

import builtins
import json
import math
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrcompress.accuracy.cer import (
    BUCKETS,
    CerReport,
    ErrorCounts,
    UtteranceScore,
    bucket_of,
    score_all,
    score_utterance,
)
from asrcompress.accuracy.normalisation import Normalisation, normalise
from asrcompress.errors import BadManifest, BadRun, EmptyReference, MissingExtra
from asrcompress.manifests.manifest import Utterance


def report(*pairs: tuple[str, str], durations: Sequence[float | None] = ()) -> CerReport:
    lengths = durations or [None] * len(pairs)
    return CerReport(
        utterances=tuple(
            score_utterance(f"u{i}", reference, hypothesis, duration_s=duration)
            for i, ((reference, hypothesis), duration) in enumerate(
                zip(pairs, lengths, strict=True)
            )
        )
    )


# ---------------------------------------------------------------- counting


@pytest.mark.parametrize(
    ("reference", "hypothesis", "hits", "subs", "dels", "ins"),
    [
        ("好", "好", 1, 0, 0, 0),
        ("好", "坏", 0, 1, 0, 0),  # one character: jiwer's command line drops such lines
        ("好", "", 0, 0, 1, 0),
        ("", "好的", 0, 0, 0, 2),  # nothing said, two characters heard
        ("", "", 0, 0, 0, 0),
        ("   ", "好", 0, 0, 0, 1),
        ("好", "好好好好", 1, 0, 0, 3),  # CER 3
        ("你好", "你 好", 2, 0, 0, 0),
        ("打开wifi", "打开WIFI", 2, 4, 0, 0),  # case is kept
        ("打开wifi", "打开 wifi", 6, 0, 0, 1),  # a space beside Latin text is a character
        ("play 音乐", "play 音 乐", 7, 0, 0, 0),
        ("hello  world", "hello world", 11, 0, 0, 0),
        ("hello world", "helloworld", 10, 0, 1, 0),
        ("\uff21\uff22\uff23\uff11\uff12\uff13", "ABC123", 6, 0, 0, 0),
        ("今天天气怎么样", "今天气怎样", 5, 0, 2, 0),
        ("北京", "背景", 0, 2, 0, 0),
        ("kitten", "sitting", 4, 2, 0, 1),
    ],
)
def test_hand_counted(
    reference: str, hypothesis: str, hits: int, subs: int, dels: int, ins: int
) -> None:
    got = score_utterance("u", reference, hypothesis)
    assert (got.hits, got.substitutions, got.deletions, got.insertions) == (hits, subs, dels, ins)
    assert got.edits == subs + dels + ins
    assert got.reference_chars == hits + subs + dels


def test_rate_is_pooled_and_not_a_mean() -> None:
    got = report(("好", "坏"), ("今天天气怎么样啊", "今天天气怎么样啊"))
    assert got.cer == Fraction(1, 9)


def test_one_character_lines_count() -> None:
    """jiwer 4.0.0's command line prints 0.0 for these two."""
    assert report(("好", "坏"), ("你好", "你好")).cer == Fraction(1, 3)


def test_rate_above_one_and_insertions_into_silence() -> None:
    assert report(("好", "好好好好")).cer == 3
    assert report(("好", "好"), ("", "嗯嗯")).cer == 2


def test_a_set_without_a_reference_character_has_no_rate() -> None:
    with pytest.raises(EmptyReference) as caught:
        report(("", "好"), (" ", ""))
    assert caught.value.hint
    with pytest.raises(EmptyReference):
        CerReport(utterances=())


@given(st.text(max_size=12), st.text(max_size=12))
def test_counts_always_fit_both_texts(reference: str, hypothesis: str) -> None:
    """The class itself refuses counts that do not; an independent distance agrees with them."""
    got = score_utterance("u", reference, hypothesis)
    assert got.edits == _levenshtein(got.reference, got.hypothesis)


def _levenshtein(one: str, two: str) -> int:
    row = list(range(len(two) + 1))
    for i, a in enumerate(one, start=1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(two, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


@pytest.mark.parametrize("counts", [(1, 0, 0, 1), (3, 0, -1, 0), (0, 0, 2, 0), (2, 0, 1, 0)])
def test_counts_that_do_not_fit_the_texts_are_refused(counts: tuple[int, ...]) -> None:
    hits, subs, dels, ins = counts
    with pytest.raises(BadRun, match="do not fit"):
        UtteranceScore(
            utt="u", reference="你好", hypothesis="你好",
            hits=hits, substitutions=subs, deletions=dels, insertions=ins,
        )  # fmt: skip


def test_duplicate_ids_are_refused() -> None:
    one = score_utterance("u", "好", "好")
    with pytest.raises(BadManifest, match="twice"):
        CerReport(utterances=(one, one))


def test_without_jiwer(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name == "jiwer":
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra) as caught:
        score_utterance("u", "好", "好")
    assert "asrcompress[evaluate]" in caught.value.hint


# ---------------------------------------------------------------- normalisation


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  你 好\t世 界\n", "你好世界"),
        ("你好 world 你 好", "你好 world 你好"),
        ("a  b\u3000c", "a b c"),
        ("你\u3000好", "你好"),
        ("ﬁnal ｶﾞ", "final ガ"),
        ("\uff21，\uff22。", "A,B。"),
        ("你好 。 再见", "你好。再见"),
        ("한국 말", "한국 말"),
        ("か\u3099 き", "がき"),
        ("Wi-Fi", "Wi-Fi"),
        ("", ""),
        (" \u3000\n", ""),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("options", "text", "expected"),
    [
        (Normalisation(nfkc=False), "\uff21 你 好", "\uff21 你好"),
        (Normalisation(fold_case=True), "WiFi Straße", "wifi strasse"),
        (Normalisation(drop_punctuation=True), "“你好”, it's 5 %!", "你好 its 5"),
        (Normalisation(drop_punctuation=True), "你 ， 好", "你好"),
        (Normalisation(drop_cjk_spaces=False), "你  好", "你 好"),
    ],
)
def test_normalise_with_options(options: Normalisation, text: str, expected: str) -> None:
    assert normalise(text, options) == expected


OPTIONS = st.builds(
    Normalisation,
    nfkc=st.booleans(),
    fold_case=st.booleans(),
    drop_punctuation=st.booleans(),
    drop_cjk_spaces=st.booleans(),
)
# Letters, spaces and marks that combine, next to each other more often than by chance.
TRICKY = st.text(
    st.sampled_from(" \u3000\t你か\u3099\u309b\u00b4a.,。ﬁİß\u0345") | st.characters(), max_size=10
)


@given(TRICKY, OPTIONS)
def test_normalising_twice_changes_nothing(text: str, options: Normalisation) -> None:
    once = normalise(text, options)
    assert normalise(once, options) == once
    if options.nfkc:
        assert unicodedata.is_normalized("NFKC", once)


# ---------------------------------------------------------------- the report


def test_kaldi_line() -> None:
    got = report(("今天天气", "今天气气啊"), ("hello", "hell"))
    assert got.kaldi_line() == "Overall -> 33.33 % N=9 C=7 S=1 D=1 I=1"


def test_worst_has_the_most_edits_first_and_only_wrong_ones() -> None:
    got = report(("好", "坏"), ("你好", "你好"), ("abcd", "xyzd"), ("abcdefgh", "xyzdefgh"))
    assert [item.utt for item in got.worst(10)] == ["u2", "u3", "u0"]
    assert [item.utt for item in got.worst(1)] == ["u2"]
    assert got.worst(0) == ()


@pytest.mark.parametrize(
    ("duration_s", "label"),
    [
        (0.1, "< 2 s"), (1.999, "< 2 s"), (2.0, "2-5 s"), (5.0, "5-10 s"), (10.0, "10-20 s"),
        (19.99, "10-20 s"), (20.0, ">= 20 s"), (500.0, ">= 20 s"), (None, "unknown"),
    ],
)  # fmt: skip
def test_bucket_borders(duration_s: float | None, label: str) -> None:
    assert bucket_of(duration_s) == label
    assert label in BUCKETS


def test_buckets_partition_the_set() -> None:
    got = report(
        ("好", "坏"), ("你好", "你"), ("", "嗯"), ("abc", "abc"), durations=(25, 1, 1.5, None)
    )
    first, second, third = got.buckets()
    assert [b.label for b in (first, second, third)] == ["< 2 s", ">= 20 s", "unknown"]
    assert (first.utterances, first.counts.edits, first.counts.cer) == (2, 2, Fraction(1))
    assert (second.counts.cer, third.counts.cer) == (1, 0)
    assert ErrorCounts.total(b.counts for b in got.buckets()) == got.counts


def test_a_bucket_of_silence_has_no_rate() -> None:
    got = report(("好", "好"), ("", "嗯"), durations=(1, 3))
    assert got.buckets()[1].counts.cer is None
    assert got.buckets()[1].counts.edits == 1


def manifest(*texts: str) -> list[Utterance]:
    return [
        Utterance(utt=f"u{i}", audio=Path("a.wav"), text=text, duration_s=float(i + 1))
        for i, text in enumerate(texts)
    ]


def test_score_all_takes_durations_measured_or_stated() -> None:
    stated = score_all(manifest("好", "你好"), ["好", "你"])
    assert [item.duration_s for item in stated.utterances] == [1.0, 2.0]
    assert stated.cer == Fraction(1, 3)
    measured = score_all(manifest("好", "你好"), ["好", "你"], [7.0, 8.0])
    assert [item.duration_s for item in measured.utterances] == [7.0, 8.0]


def test_score_all_normalises_as_told() -> None:
    options = Normalisation(fold_case=True)
    got = score_all(manifest("HELLO"), ["hello"], normalisation=options)
    assert got.cer == 0
    assert got.normalisation == options


@pytest.mark.parametrize(("hypotheses", "durations"), [(["好"], None), (["好", "好"], [1.0])])
def test_score_all_wants_one_for_each(hypotheses: list[str], durations: list[float] | None) -> None:
    with pytest.raises(BadManifest, match="got 1, expected one for each of 2"):
        score_all(manifest("好", "你好"), hypotheses, durations)


# ---------------------------------------------------------------- interval


def test_interval_holds_the_rate_and_is_the_same_each_time() -> None:
    rng = np.random.default_rng(3)
    got = report(*[("x" * 20, "x" * int(20 - k)) for k in rng.binomial(20, 0.1, 200)])
    low, high = got.interval(draws=2000)
    assert low < float(got.cer) < high
    assert (low, high) == got.interval(draws=2000)
    assert (low, high) != got.interval(draws=2000, seed=1)
    wide = got.interval(0.99, draws=2000)
    assert wide[0] < low < high < wide[1]


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        chars = rng.integers(5, 20, 100)
        edits = rng.binomial(chars, 0.08)
        pairs = [("x" * n, "x" * (n - k)) for n, k in zip(chars, edits, strict=True)]
        low, high = report(*pairs).interval(draws=500)
        covered += low <= 0.08 <= high
    assert covered >= 88  # 95 expected, of a binomial with a deviation of 2


def test_interval_agrees_with_the_normal_approximation() -> None:
    rng = np.random.default_rng(1)
    edits = rng.binomial(20, 0.1, 2000)
    low, high = report(*[("x" * 20, "x" * int(20 - k)) for k in edits]).interval(draws=4000)
    half = 1.96 * edits.std() / 20 / math.sqrt(len(edits))
    assert (high - low) / 2 == pytest.approx(half, rel=0.06)


def test_interval_of_a_perfect_set_and_of_one_utterance() -> None:
    assert report(("好", "好"), ("你好", "你好")).interval(draws=200) == (0.0, 0.0)
    assert report(("好", "坏")).interval(draws=200) == (1.0, 1.0)


# ---------------------------------------------------------------- the record


def test_json_loses_nothing() -> None:
    got = CerReport(
        utterances=(
            score_utterance("u1", "你好", "你坏", duration_s=0.1),
            score_utterance("ü 2", "", '"\n', duration_s=None),
        ),
        normalisation=Normalisation(drop_punctuation=True),
    )
    tree = json.loads(json.dumps(got.to_json(), allow_nan=False))
    assert CerReport.from_json(tree) == got
    assert tree["summary"]["cer"] == 1.0


@given(st.lists(st.tuples(TRICKY, TRICKY, st.none() | st.floats(0, 1e4)), min_size=1, max_size=4))
def test_json_loses_nothing_of_any_report(items: list[tuple[str, str, float | None]]) -> None:
    scores = [
        score_utterance(f"u{i}", r, h, duration_s=d) for i, (r, h, d) in enumerate(items)
    ]  # fmt: skip
    got = CerReport(utterances=(*scores, score_utterance("last", "a", "b")))
    assert CerReport.from_json(json.loads(json.dumps(got.to_json()))) == got


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"utterances": []}, "not one character"),
        ({"utterances": None}, "not a CER report"),
        ({"normalisation": {"nfkc": 1}}, "nfkc"),
        ({"summary": {"cer": 0.0}}, "edited"),
    ],
)
def test_records_that_were_tampered_with(change: dict[str, object], said: str) -> None:
    tree = report(("你好", "你坏")).to_json() | change
    with pytest.raises(BadRun, match=said):
        CerReport.from_json(tree)


def test_a_record_with_counts_edited_is_refused() -> None:
    tree = report(("你好", "你坏")).to_json()
    tree["utterances"][0] |= {"hits": 2, "substitutions": 0}
    with pytest.raises(BadRun, match="edited"):
        CerReport.from_json(tree)
    with pytest.raises(BadRun, match="not a CER report"):
        CerReport.from_json([1])
