"""Transcripts to ids and back, for each kind of unit, as PaddleSpeech's TextFeaturizer does it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asrcompress.checkpoints.checkpoint import read_checkpoint
from asrcompress.checkpoints.tokenizer import Tokenizer
from asrcompress.errors import BadCheckpoint
from asrcompress.tokens import Vocabulary

ENGLISH = [
    "the quick brown fox jumps over the lazy dog",
    "she sells sea shells by the sea shore",
    "how much wood would a woodchuck chuck",
    "peter piper picked a peck of pickled peppers",
    "the rain in spain stays mainly in the plain",
]
MANDARIN = ["打开客厅的灯", "关上卧室的空调", "今天天气怎么样", "把声音调大一点", "播放一首歌"]
# Upper case, full width, letters that no piece has, digits, spaces in rows and at the ends.
TEXTS = [
    *ENGLISH,
    *MANDARIN,
    "The QUICK fox",
    "".join(chr(ord(char) + 0xFEE0) for char in "fullwidth"),
    "a\u3000wide space",
    "打开 wifi",
    "naïve café 42",
    "  two  spaces ",
    "龘",
    "",
]


def sentencepiece_model(folder: Path, **options: Any) -> Path:
    """A sentencepiece model of a few hundred bytes of text, and PaddleSpeech's vocab.txt of it."""
    spm = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter([*ENGLISH, *MANDARIN] * 3),
        model_writer=model,
        character_coverage=1.0,
        minloglevel=2,
        **{"model_type": "unigram", "vocab_size": 80, **options},
    )
    (folder / "bpe.model").write_bytes(model.getvalue())
    processor = spm.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    pieces = [piece for piece in pieces if piece not in ("<unk>", "<s>", "</s>")]
    return write_vocabulary(folder, pieces)


def write_vocabulary(folder: Path, symbols: list[str]) -> Path:
    path = folder / "vocab.txt"
    path.write_text("\n".join(["<blank>", "<unk>", *symbols, "<eos>", ""]), encoding="utf-8")
    return path


def tokenizer(path: Path, unit_type: str) -> Tokenizer:
    return Tokenizer(
        vocabulary=Vocabulary.from_vocab_txt(path, unit_type=unit_type),
        spm_model=path.parent / "bpe.model" if unit_type == "spm" else None,
    )


def vocabulary_of(folder: Path, unit_type: str) -> Path:
    if unit_type == "spm":
        return sentencepiece_model(folder)
    if unit_type == "word":
        return write_vocabulary(folder, sorted({w for text in ENGLISH for w in text.split()}))
    letters = sorted({char for text in [*ENGLISH, *MANDARIN] for char in text if char != " "})
    return write_vocabulary(folder, [*letters, "<space>"])


@pytest.mark.paddle
@pytest.mark.parametrize("unit_type", ["char", "word", "spm"])
def test_as_paddlespeech(tmp_path: Path, unit_type: str) -> None:
    pytest.importorskip("paddlespeech")
    from asrcompress.paddle_imports import import_u2

    import_u2()
    from paddlespeech.s2t.frontend.featurizer.text_featurizer import TextFeaturizer

    path = vocabulary_of(tmp_path, unit_type)
    ours = tokenizer(path, unit_type)
    theirs = TextFeaturizer(unit_type, str(path), str(tmp_path / "bpe"))
    for text in TEXTS:
        # Of no text it makes None in sentencepiece, and fails.
        expected = theirs.featurize(text) if text else []
        found = ours.text_to_ids(text)
        assert found == expected, text
        known = [id_ for id_ in found if id_ != theirs.unk_id]
        said = theirs.defeaturize(known).strip(" ") if known else ""
        assert ours.vocabulary.ids_to_text(known) == said, text


@pytest.mark.parametrize("unit_type", ["char", "word", "spm"])
def test_a_bundles_tokens_give_the_same_text(tmp_path: Path, unit_type: str) -> None:
    """tokens.txt alone, without the kind of unit and without sentencepiece."""
    ours = tokenizer(vocabulary_of(tmp_path, unit_type), unit_type)
    shipped = tmp_path / "tokens.txt"
    shipped.write_text(ours.vocabulary.to_tokens_txt(), encoding="utf-8")
    read = Vocabulary.from_tokens_txt(shipped)
    for text in ENGLISH:
        ids = ours.text_to_ids(text)
        assert 1 not in ids
        assert read.ids_to_text(ids) == ours.vocabulary.ids_to_text(ids) == text


def test_words_carry_their_boundary_in_tokens_txt() -> None:
    vocabulary = Vocabulary(symbols=("<blank>", "<unk>", "hi", "<eos>"), unit_type="word")
    assert vocabulary.to_tokens_txt() == "<blk> 0\n<unk> 1\n▁hi 2\n<eos> 3\n"
    assert vocabulary.to_vocab_txt() == "<blank>\n<unk>\nhi\n<eos>\n"


@pytest.mark.paddle
def test_bytes_of_letters_that_no_piece_has(tmp_path: Path) -> None:
    spm = pytest.importorskip("sentencepiece")
    path = sentencepiece_model(tmp_path, byte_fallback=True, vocab_size=360, model_type="bpe")
    ours = tokenizer(path, "spm")
    processor = spm.SentencePieceProcessor(str(tmp_path / "bpe.model"))
    for text in ("café 龘", "🎉 the fox", "naïve"):
        ids = ours.text_to_ids(text)
        pieces = [ours.vocabulary.symbols[id_] for id_ in ids]
        assert any(piece.startswith("<0x") for piece in pieces)
        assert ours.vocabulary.ids_to_text(ids) == processor.DecodePieces(pieces) == text


def test_bytes_that_are_no_letter() -> None:
    vocabulary = Vocabulary(symbols=("<blank>", "<0xE9>", "<0xBE>", "<0x98>", "a", "<unk>"))
    assert vocabulary.ids_to_text([1, 2, 3]) == "龘"
    assert vocabulary.ids_to_text([4, 1, 2, 4]) == "a\ufffda"
    assert vocabulary.ids_to_text([1, 5, 2]) == "\ufffd\ufffd"


def test_an_experiment_with_pieces(
    make_plain_experiment: Callable[..., Path], tmp_path: Path
) -> None:
    """The model beside vocab.txt, as released tarballs have it; nothing but training opens it."""
    settings = {"unit_type": "spm", "spm_model_prefix": "data/lang_char/bpe"}
    folder = make_plain_experiment(tmp_path / "asr1", settings=settings)
    sentencepiece_model(folder / "data")
    checkpoint = read_checkpoint(folder)
    assert checkpoint.vocabulary.unit_type == "spm"
    ids = checkpoint.tokenizer.text_to_ids(ENGLISH[0])
    assert checkpoint.vocabulary.ids_to_text(ids) == ENGLISH[0]
    (folder / "data/bpe.model").unlink()
    checkpoint = read_checkpoint(folder)
    with pytest.raises(BadCheckpoint, match=r"data/lang_char/bpe\.model: cannot be read"):
        checkpoint.tokenizer.text_to_ids("a")


def test_an_experiment_with_words(
    make_plain_experiment: Callable[..., Path], tmp_path: Path
) -> None:
    symbols = ("<blank>", "<unk>", "lights", "on", "<eos>")
    folder = make_plain_experiment(tmp_path, symbols=symbols, settings={"unit_type": "word"})
    checkpoint = read_checkpoint(folder)
    assert checkpoint.tokenizer.text_to_ids(" lights  on please") == [2, 3, 1]
    assert checkpoint.vocabulary.ids_to_text([2, 3]) == "lights on"


def test_a_damaged_model(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    path = write_vocabulary(tmp_path, ["▁a"])
    (tmp_path / "bpe.model").write_bytes(b"no model")
    with pytest.raises(BadCheckpoint, match=r"bpe\.model: is not a sentencepiece model"):
        tokenizer(path, "spm").text_to_ids("a")


def test_no_model_at_all() -> None:
    pieces = Tokenizer(vocabulary=Vocabulary(symbols=("<blank>", "▁a"), unit_type="spm"))
    with pytest.raises(BadCheckpoint, match="spm_model_prefix: is missing"):
        pieces.text_to_ids("a")
