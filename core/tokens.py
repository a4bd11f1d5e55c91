"""The output symbols of a network, and text to ids and back.

Two spellings exist on disk. PaddleSpeech's ``vocab.txt`` has one symbol a line, in order, with
``<blank>`` and ``<space>``; ``tokens.txt``, which sherpa-onnx and this runtime read, has ``symbol
id`` lines with ``<blk>`` and ``▁``. In memory the spelling is PaddleSpeech's.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from asrcompress.errors import AsrCompressError, BadBundle, BadCheckpoint
from asrcompress.files import reading

BLANK, UNKNOWN, SPACE, EOS = "<blank>", "<unk>", "<space>", "<eos>"
WORD_BOUNDARY = "▁"  # SentencePiece's, which sherpa-onnx prints as a space
UNIT_TYPES = ("char", "word", "spm")  # PaddleSpeech's names

# Symbols that stand for no text. <unk> is one of them: "some character, unknown which".
_SILENT = frozenset(
    {BLANK, "<blk>", "<eps>", UNKNOWN, EOS, "<sos>", "<sos/eos>", "<s>", "</s>", "<pad>", "<mask>"}
)
# A byte of UTF-8, by which sentencepiece spells characters that it has no piece for.
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_MARKS = re.compile("|".join(sorted(map(re.escape, _SILENT))))
_TO_TOKENS = {BLANK: "<blk>", SPACE: WORD_BOUNDARY}
_FROM_TOKENS = {"<blk>": BLANK, "<eps>": BLANK, WORD_BOUNDARY: SPACE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Output symbols in the order of the network's outputs.

    Attributes:
        symbols: in PaddleSpeech's spelling; exactly one is ``<blank>``.
        unit_type: what a symbol is: ``char``, ``word`` or ``spm``. ``char`` after tokens.txt was
            read, where pieces and words carry their boundaries themselves.
    Raises:
        BadCheckpoint: an empty or double symbol, or not exactly one blank.
    """

    symbols: tuple[str, ...]
    unit_type: str = field(default="char", compare=False)
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ids", {symbol: id_ for id_, symbol in enumerate(self.symbols)})
        if len(self._ids) != len(self.symbols):
            doubles = sorted({s for i, s in enumerate(self.symbols) if self._ids[s] != i})
            shown = ", ".join(doubles[:5])
            raise BadCheckpoint(
                f"vocabulary: a symbol stands twice, got {shown}, expected each once"
            )
        if "" in self._ids:
            raise BadCheckpoint(f"vocabulary: symbol {self._ids['']} is empty")
        if BLANK not in self._ids:
            raise BadCheckpoint(f"vocabulary: has no {BLANK}, got {len(self.symbols)} others")
        written = set(map(self._written, self.symbols))
        if len(written) != len(self.symbols):
            raise BadCheckpoint(
                "vocabulary: has both spellings of one symbol "
                f"({BLANK} and <blk>, or {SPACE} and {WORD_BOUNDARY}), expected one"
            )

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def blank_id(self) -> int:
        """The output that stands for "nothing here" in CTC."""
        return self._ids[BLANK]

    @staticmethod
    def from_vocab_txt(path: Path, *, unit_type: str = "char") -> Vocabulary:
        """Read PaddleSpeech's ``vocab.txt``: a symbol a line, anything after a space ignored.

        As PaddleSpeech does, ``<blank>`` is put first and ``<eos>`` last where they are missing.

        Raises:
            BadCheckpoint: not there, not UTF-8, or not a vocabulary.
        """
        symbols = [line.split(" ")[0] for line in _lines(path, BadCheckpoint)]
        if BLANK not in symbols:
            symbols.insert(0, BLANK)
        if EOS not in symbols:
            symbols.append(EOS)
        return _naming(
            path,
            BadCheckpoint,
            lambda: Vocabulary(symbols=tuple(symbols), unit_type=unit_type),
        )

    @staticmethod
    def from_tokens_txt(path: Path) -> Vocabulary:
        """Read ``tokens.txt``: ``symbol id`` lines, ids from 0 in steps of 1.

        Raises:
            BadBundle: not there, not UTF-8, or not a vocabulary.
        """
        symbols = []
        for expected, line in enumerate(_lines(path, BadBundle)):
            symbol, _, id_ = line.rpartition(" ")
            if not symbol or id_ != str(expected):
                raise BadBundle(
                    f"{path}: line {expected + 1} is wrong, got {line!r}, "
                    f"expected a symbol, a space and {expected}"
                )
            symbols.append(_FROM_TOKENS.get(symbol, symbol))
        return _naming(path, BadBundle, lambda: Vocabulary(symbols=tuple(symbols)))

    def to_tokens_txt(self) -> str:
        """The text of ``tokens.txt``."""
        written = map(self._written, self.symbols)
        return "".join(f"{symbol} {id_}\n" for id_, symbol in enumerate(written))

    def _written(self, symbol: str) -> str:
        """`symbol` as tokens.txt has it."""
        if self.unit_type == "word" and symbol not in _SILENT and symbol != SPACE:
            return WORD_BOUNDARY + symbol
        return _TO_TOKENS.get(symbol, symbol)

    def to_vocab_txt(self) -> str:
        """The text of PaddleSpeech's ``vocab.txt``."""
        return "".join(f"{symbol}\n" for symbol in self.symbols)

    def ids_to_text(self, ids: Iterable[int]) -> str:
        """Text of output ids; blank, unknown and end marks say nothing, spaces are trimmed.

        Pieces ``<0xE4>`` in a row are the bytes of UTF-8 characters; U+FFFD where they are none.
        """
        said: list[str] = []
        symbols = (self.symbols[id_] for id_ in ids)
        for are_bytes, run in itertools.groupby(symbols, lambda s: bool(_BYTE.fullmatch(s))):
            if are_bytes:
                octets = bytes(int(symbol[3:5], 16) for symbol in run)
                said.append(octets.decode("utf-8", errors="replace"))
            else:
                said += [self._text_of(symbol) for symbol in run]
        return "".join(said).strip(" ")

    def spelling(self, id_: int) -> str:
        """What one output adds to a text by itself: nothing where it is one byte of a character."""
        symbol = self.symbols[id_]
        return "" if _BYTE.fullmatch(symbol) else self._text_of(symbol)

    def _text_of(self, symbol: str) -> str:
        if symbol in _SILENT:
            return ""
        return " " if symbol == SPACE else self._written(symbol).replace(WORD_BOUNDARY, " ")

    def id_of(self, symbol: str) -> int | None:
        """The output of `symbol`, else the one of ``<unk>``, else None."""
        id_ = self._ids.get(symbol)
        if id_ is None and symbol in (SPACE, WORD_BOUNDARY):
            id_ = self._ids.get(WORD_BOUNDARY if symbol == SPACE else SPACE)
        return self._ids.get(UNKNOWN) if id_ is None else id_

    def symbols_to_ids(self, symbols: Iterable[str]) -> list[int]:
        """Output ids of `symbols`; what is not in the vocabulary is ``<unk>``.

        Raises:
            BadCheckpoint: there is such a symbol and the vocabulary has no ``<unk>``.
        """
        ids = []
        for symbol in symbols:
            id_ = self.id_of(symbol)
            if id_ is None:
                raise BadCheckpoint(f"vocabulary: has neither {symbol!r} nor {UNKNOWN}")
            ids.append(id_)
        return ids

    def text_to_ids(self, text: str) -> list[int]:
        """Output ids of `text`, one per character, or per word in a vocabulary of words.

        Sentencepiece's pieces need their model: see `asrcompress.checkpoints.tokenizer`.

        Raises:
            BadCheckpoint: as `symbols_to_ids`.
        """
        if self.unit_type == "word":
            return self.symbols_to_ids(text.split())
        return self.symbols_to_ids(SPACE if char == " " else char for char in text.strip())


def without_marks(text: str) -> str:
    """`text` without ``<unk>``, ``<eos>`` and their like, where another program prints them."""
    return _MARKS.sub("", text)


def _lines(path: Path, error: type[AsrCompressError]) -> list[str]:
    """Lines of a UTF-8 file. Only newlines end one: U+2028 and U+3000 may be symbols."""
    with reading(path, error):
        content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as wrong:
        raise error(f"{path}: is not UTF-8 at byte {wrong.start}") from wrong
    lines = text.replace("\r\n", "\n").split("\n")
    if lines[-1] == "":
        lines.pop()
    return lines


def _naming(
    path: Path, error: type[AsrCompressError], make: Callable[[], Vocabulary]
) -> Vocabulary:
    """What `make` returns; what it refuses, with the file's name."""
    try:
        return make()
    except BadCheckpoint as refused:
        raise error(f"{path}: {refused}") from refused
