"""N-gram language models, and their fusion into the beam search.

ARPA text files (Doug Paul's format, as SRILM and KenLM write it) are read here; KenLM's binary
files by the ``kenlm`` package. Files hold logarithms to base 10; everything here is natural.
"""

from __future__ import annotations

import gzip
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from asrcompress.errors import BadLanguageModel, BadRecipe, MissingExtra
from asrcompress.files import reading
from asrcompress.tokens import Vocabulary

UNITS = ("token", "word")
BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
_LN10 = math.log(10.0)
# What KenLM gives a word that a model without <unk> does not know.
_NO_UNKNOWN = -100.0 * _LN10
# Fewest of the network's symbols that a model over tokens must know.
_MIN_KNOWN = 0.1
_BINARY_SUFFIXES = (".bin", ".binary", ".klm", ".mmap", ".trie")

Words = tuple[str, ...]


class NgramModel(Protocol):
    """Probabilities of words after words. States are opaque."""

    def start(self) -> Any:
        """State at the beginning of a sentence."""

    def score(self, state: Any, word: str) -> tuple[Any, float]:
        """State after `word`, and its natural log-probability."""

    def knows(self, word: str) -> bool:
        """Whether `word` is in the vocabulary."""


class ArpaModel:
    """A back-off model (Katz 1987) in memory.

    Attributes:
        order: longest n-gram.
    """

    def __init__(self, ngrams: dict[Words, tuple[float, float]], order: int) -> None:
        """Take n-grams over.

        Args:
            ngrams: words -> natural log-probability of the last one, and back-off weight.
        """
        self._ngrams, self.order = ngrams, order

    def start(self) -> Words:
        """State at the beginning of a sentence."""
        return (BEGIN,) if self.order > 1 and (BEGIN,) in self._ngrams else ()

    def knows(self, word: str) -> bool:
        """Whether `word` is in the vocabulary."""
        return (word,) in self._ngrams

    def score(self, state: Words, word: str) -> tuple[Words, float]:
        """p(w | h) is the longest n-gram's, times the back-off of each context that had none."""
        if not self.knows(word):
            word = UNKNOWN
        context, backed_off = state, 0.0
        while (found := self._ngrams.get((*context, word))) is None:
            if not context:
                return (), backed_off + _NO_UNKNOWN
            backed_off += self._ngrams.get(context, (0.0, 0.0))[1]
            context = context[1:]
        following = (*context, word)
        return following[max(0, len(following) - self.order + 1) :], backed_off + found[0]


class KenlmModel:
    """A model in KenLM's own format, by its Python package."""

    def __init__(self, path: Path) -> None:
        """Load it.

        Raises:
            MissingExtra: the package is not installed.
            BadLanguageModel: not a model.
        """
        try:
            import kenlm
        except ImportError as error:
            raise MissingExtra("kenlm", "lm") from error
        self._state = kenlm.State
        try:
            self._model = kenlm.Model(str(path))
        except (OSError, RuntimeError) as error:
            raise BadLanguageModel(f"{path}: KenLM refuses it, {error}") from error

    def start(self) -> Any:
        """State at the beginning of a sentence."""
        state = self._state()
        self._model.BeginSentenceWrite(state)
        return state

    def knows(self, word: str) -> bool:
        """Whether `word` is in the vocabulary."""
        return word in self._model

    def score(self, state: Any, word: str) -> tuple[Any, float]:
        """State after `word`, and its natural log-probability."""
        following = self._state()
        return following, float(self._model.BaseScore(state, word, following)) * _LN10


@dataclass(frozen=True, slots=True)
class _Text:
    """A text so far: the model's state, and the letters of a word that may still grow."""

    state: Any
    letters: str = ""


class LanguageModelFusion:
    """A `PrefixScorer`: weight · log p(text) + bonus · units, as in PaddleSpeech's decoders.

    A unit is a token (the characters of Mandarin), or a word: letters between spaces, scored when
    the space, or the end of the text, shows that it is complete.
    """

    def __init__(
        self,
        model: NgramModel,
        vocabulary: Vocabulary,
        *,
        weight: float,
        bonus: float = 0.0,
        unit: str = "token",
    ) -> None:
        """Fuse `model` with the outputs of a network.

        Args:
            weight: of the model's log-probability, alpha.
            bonus: for each unit, beta; makes up for the model's taste for short texts.
            unit: of the model, one of `UNITS`.
        Raises:
            BadLanguageModel: the model knows next to none of the network's tokens.
        """
        self._model, self._weight, self._bonus, self._unit = model, weight, bonus, unit
        self._symbols = vocabulary.symbols
        self._spellings = [vocabulary.spelling(id_) for id_ in range(len(vocabulary))]
        said = [symbol for symbol, text in zip(self._symbols, self._spellings, strict=True) if text]
        known = sum(model.knows(symbol) for symbol in said)
        if unit == "token" and known < _MIN_KNOWN * len(said):
            raise BadLanguageModel(
                f"language model: knows {known} of the network's {len(said)} tokens, "
                f"expected at least {_MIN_KNOWN:.0%}",
                hint="--lm-unit word, if it is a model of words",
            )

    def start(self) -> _Text:
        """State of the empty text."""
        return _Text(self._model.start())

    def extend(self, text: _Text, token: int) -> tuple[_Text, float]:
        """State after the token, and what it adds."""
        spelling = self._spellings[token]
        if not spelling:
            return text, 0.0
        if self._unit == "token":
            return self._say(text.state, self._symbols[token])
        total = 0.0
        for char in spelling:
            if char == " ":
                text, gain = self._complete(text)
                total += gain
            else:
                text = _Text(text.state, text.letters + char)
        return text, total

    def finish(self, text: _Text) -> float:
        """The last word, and the end of the sentence, which is no unit."""
        text, gain = self._complete(text)
        return gain + self._weight * self._model.score(text.state, END)[1]

    def _complete(self, text: _Text) -> tuple[_Text, float]:
        return self._say(text.state, text.letters) if text.letters else (text, 0.0)

    def _say(self, state: Any, word: str) -> tuple[_Text, float]:
        following, log_prob = self._model.score(state, word)
        return _Text(following), self._weight * log_prob + self._bonus


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModel:
    """A model to fuse into the search, and how strongly.

    Attributes:
        path: ARPA text, plain or ``.gz``, or KenLM's binary format.
        weight: of its natural log-probability.
        bonus: for each unit of the text.
        unit: of the model: ``token`` (what the network writes; characters of Mandarin) or ``word``.
    Raises:
        BadRecipe: a value that makes no sense.
    """

    path: Path
    weight: float = 0.5
    bonus: float = 0.0
    unit: str = "token"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise BadRecipe(f"lm_unit: got {self.unit!r}, expected one of {', '.join(UNITS)}")
        if not (math.isfinite(self.weight) and self.weight >= 0 and math.isfinite(self.bonus)):
            raise BadRecipe(
                f"language model: got weight {self.weight} and bonus {self.bonus}, "
                "expected finite numbers and a weight of at least 0"
            )

    def fuse(self, vocabulary: Vocabulary) -> LanguageModelFusion:
        """Read the model, for a network with these outputs.

        Raises:
            BadLanguageModel, MissingExtra: see `read_language_model` and `LanguageModelFusion`.
        """
        return LanguageModelFusion(
            read_language_model(Path(self.path)),
            vocabulary,
            weight=self.weight,
            bonus=self.bonus,
            unit=self.unit,
        )


def read_language_model(path: Path) -> NgramModel:
    """A model from an ARPA file (``.gz`` too), or from KenLM's binary format by its suffix.

    Raises:
        BadLanguageModel: not readable, or not what its name says.
        MissingExtra: a binary file, and KenLM is not installed.
    """
    if path.suffix in _BINARY_SUFFIXES:
        with reading(path, BadLanguageModel), path.open("rb"):
            pass  # KenLM's message for a missing file is three lines of C++
        return KenlmModel(path)
    with reading(path, BadLanguageModel):
        raw = path.read_bytes()
    try:
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except (ValueError, EOFError, gzip.BadGzipFile) as error:
        raise BadLanguageModel(f"{path}: is not an ARPA file, {error}") from error
    return parse_arpa(text, source=str(path))


def parse_arpa(text: str, *, source: str) -> ArpaModel:
    """A model from the text of an ARPA file.

    Raises:
        BadLanguageModel: names the line that is wrong, or the count that does not hold.
    """
    declared: list[int] = []
    ngrams: dict[Words, tuple[float, float]] = {}
    order = -1  # before \data\ anything may stand, then counts, then n-grams by order
    for number, line in _lines(text):
        if order < 0:
            order = 0 if line == "\\data\\" else -1
        elif line == "\\end\\":
            _check_counts(ngrams, declared, source)
            return ArpaModel(ngrams, len(declared))
        elif line.startswith("\\"):
            order += 1
            if line != f"\\{order}-grams:" or order > len(declared):
                raise _wrong(source, number, line, "the n-grams of the next order, or \\end\\")
        elif order == 0:
            name, _, count = line.partition("=")
            if name.strip() != f"ngram {len(declared) + 1}" or not count.strip().isdecimal():
                raise _wrong(source, number, line, f"ngram {len(declared) + 1}=COUNT")
            declared.append(int(count))
        else:
            words, values = _entry(source, number, line, order)
            ngrams[words] = values
    raise BadLanguageModel(f"{source}: ends without \\end\\, expected a whole ARPA file")


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines that are not empty, with their numbers; only newlines end one."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line := line.strip(" \t\r"):
            yield number, line


def _entry(source: str, number: int, line: str, order: int) -> tuple[Words, tuple[float, float]]:
    """``log10-probability word... [log10-back-off]``."""
    first, *rest = line.replace("\t", " ").split(" ")
    rest = [part for part in rest if part]  # not split(): U+3000 may be a word
    try:
        values = float(first), float(rest[order]) if len(rest) > order else 0.0
    except ValueError:
        values = math.nan, math.nan
    if len(rest) not in (order, order + 1) or not all(map(math.isfinite, values)):
        raise _wrong(source, number, line, f"a number, {order} words and a back-off")
    return tuple(rest[:order]), (values[0] * _LN10, values[1] * _LN10)


def _check_counts(ngrams: dict[Words, Any], declared: list[int], source: str) -> None:
    found = Counter(map(len, ngrams))
    seen = [found[order] for order in range(1, len(declared) + 1)]
    if not declared or seen != declared:
        raise BadLanguageModel(f"{source}: has {seen} n-grams, expected {declared}")


def _wrong(source: str, number: int, line: str, expected: str) -> BadLanguageModel:
    shown = line if len(line) <= 60 else f"{line[:57]}..."
    return BadLanguageModel(f"{source}: line {number}: got {shown!r}, expected {expected}")
