"""Two spellings of one vocabulary, and text to ids and back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrcompress.errors import BadBundle, BadCheckpoint
from asrcompress.tokens import Vocabulary

VOCAB = "<blank>\n<unk>\nA\n<space>\n语\n<eos>\n"
TOKENS = "<blk> 0\n<unk> 1\nA 2\n▁ 3\n语 4\n<eos> 5\n"


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_vocab_txt_becomes_tokens_txt_and_back(tmp_path: Path) -> None:
    vocabulary = Vocabulary.from_vocab_txt(write(tmp_path / "vocab.txt", VOCAB))
    assert vocabulary.symbols == ("<blank>", "<unk>", "A", "<space>", "语", "<eos>")
    assert (len(vocabulary), vocabulary.blank_id) == (6, 0)
    assert vocabulary.to_tokens_txt() == TOKENS
    assert Vocabulary.from_tokens_txt(write(tmp_path / "tokens.txt", TOKENS)) == vocabulary
    assert vocabulary.to_vocab_txt() == VOCAB


def test_vocab_txt_as_paddlespeech_reads_it(tmp_path: Path) -> None:
    """Ids after a space, missing blank and eos, Windows newlines; also no newline at the end."""
    path = write(tmp_path / "vocab.txt", "<unk> 1\r\n语 2\r\n言 3")
    assert Vocabulary.from_vocab_txt(path).symbols == ("<blank>", "<unk>", "语", "言", "<eos>")


def test_only_newlines_end_a_symbol(tmp_path: Path) -> None:
    path = write(tmp_path / "vocab.txt", "<blank>\n\u2028\n\u3000\n\x85\n<eos>\n")
    vocabulary = Vocabulary.from_vocab_txt(path)
    assert vocabulary.symbols[1:4] == ("\u2028", "\u3000", "\x85")
    tokens = write(tmp_path / "tokens.txt", vocabulary.to_tokens_txt())
    assert Vocabulary.from_tokens_txt(tokens) == vocabulary


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<blank>\nA\nA\n<eos>\n", "A, expected each once"),
        ("<blank>\n\nA\n<eos>\n", "symbol 1 is empty"),
        ("<blank>\n<blk>\n", "both spellings"),
        ("<blank>\n<space>\n▁\n", "both spellings"),
        (b"<blank>\n\xff\n", "is not UTF-8 at byte 8"),
    ],
)
def test_refuses_bad_vocab_txt(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = write(tmp_path / "vocab.txt", text)
    with pytest.raises(BadCheckpoint, match=rf"vocab\.txt.*{message}"):
        Vocabulary.from_vocab_txt(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<blk> 0\nA 2\n", "line 2 is wrong, got 'A 2', expected a symbol, a space and 1"),
        ("<blk> 0\nA\n", "line 2 is wrong"),
        ("<blk> 0\nA 01\n", "line 2 is wrong"),
        ("<blk> 0\n 1\n", "line 2 is wrong"),
        ("<blk> 0\nA 1\n\n", "line 3 is wrong"),
        ("A 0\nB 1\n", "has no <blank>"),
        ("<blk> 0\nA 1\nA 2\n", "stands twice"),
        (b"<blk> 0\n\xff 1\n", "is not UTF-8"),
    ],
)
def test_refuses_bad_tokens_txt(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = write(tmp_path / "tokens.txt", text)
    with pytest.raises(BadBundle, match=rf"tokens\.txt.*{message}"):
        Vocabulary.from_tokens_txt(path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"vocab\.txt: cannot be read, No such file"):
        Vocabulary.from_vocab_txt(tmp_path / "vocab.txt")
    with pytest.raises(BadBundle, match=r"tokens\.txt: cannot be read, No such file"):
        Vocabulary.from_tokens_txt(tmp_path / "tokens.txt")


def test_text_and_ids() -> None:
    vocabulary = Vocabulary(symbols=("<blank>", "<unk>", "A", "<space>", "语", "<eos>"))
    assert vocabulary.text_to_ids("A 语言") == [2, 3, 4, 1]
    assert vocabulary.ids_to_text([2, 3, 4]) == "A 语"
    assert vocabulary.ids_to_text([]) == ""
    silent = Vocabulary(symbols=("<blank>", "A"))
    with pytest.raises(BadCheckpoint, match="neither 'B' nor <unk>"):
        silent.text_to_ids("AB")


@pytest.mark.parametrize(
    "special", ["<unk>", "<eos>", "<sos/eos>", "<sos>", "<s>", "</s>", "<pad>", "<mask>"]
)
def test_special_symbols_never_are_text(special: str) -> None:
    vocabulary = Vocabulary(symbols=("<blank>", special, "A", "<x>"))
    assert vocabulary.ids_to_text([0, 2, 1, 2, 0, 1, 3]) == "AA<x>"


def test_word_pieces_become_words() -> None:
    vocabulary = Vocabulary(symbols=("<blank>", "▁the", "re", "▁is"))
    assert vocabulary.ids_to_text([1, 2, 3]) == "there is"


@given(st.text(alphabet="A语 ", max_size=20))
def test_known_text_survives(text: str) -> None:
    vocabulary = Vocabulary(symbols=("<blank>", "<unk>", "A", "<space>", "语", "<eos>"))
    assert vocabulary.ids_to_text(vocabulary.text_to_ids(text)) == text.strip(" ")
