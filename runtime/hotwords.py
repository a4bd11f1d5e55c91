"""Words to listen for: a bonus in the beam search for texts that hold them.

The words are matched on characters, not on tokens, by an Aho-Corasick automaton (Aho & Corasick
1975), so that any segmentation into tokens counts. A prefix that may still become a hotword holds
a share of its bonus, or it would be pruned before it is complete; what does not become one gives
its share back. A text's bonus is therefore the sum over the hotwords in it, nothing else.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from asrcompress.errors import BadRecipe
from asrcompress.files import reading
from asrcompress.tokens import Vocabulary

DEFAULT_BOOST = 3.0
MAX_BOOST = 100.0
_EDGE = " "  # stands at both ends of a run of letters: "art" is not in "party"
# Kana to the CJK ideographs with their compatibility forms and extensions: no spaces between words.
_UNSPACED = ((0x2E80, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF))


@dataclass(slots=True)
class _Node:
    """A prefix of some hotword.

    Attributes:
        held: share of the bonus that this prefix may still become.
        earned: bonuses of all hotwords that end here.
    """

    next: dict[str, _Node] = field(default_factory=dict)
    fallback: _Node | None = None
    held: float = 0.0
    earned: float = 0.0


@dataclass(frozen=True, slots=True)
class _State:
    """Where a text stands: in the automaton, and what its last character was."""

    node: _Node
    in_letters: bool = False
    at_edge: bool = False


class Hotwords:
    """A `PrefixScorer` that prefers texts with certain words in them."""

    def __init__(self, boosts: Mapping[str, float], vocabulary: Vocabulary) -> None:
        """Build the automaton.

        Args:
            boosts: phrase -> how much its log-probability is raised, each time it is said;
                negative values make it rarer.
            vocabulary: of the network; each phrase must be spellable with it.
        Raises:
            BadRecipe: a phrase that can never match, or a boost out of range.
        """
        self._texts = [vocabulary.spelling(id_).casefold() for id_ in range(len(vocabulary))]
        known = set("".join(self._texts)) | {" "}
        self._root = _Node()
        for phrase, boost in boosts.items():
            self._add(phrase, boost, known)
        self._link()

    def start(self) -> _State:
        """State of the empty text."""
        return _State(self._root)

    def extend(self, state: _State, token: int) -> tuple[_State, float]:
        """State after the token, and the change of the bonus; an unfinished word has a share."""
        return self._read(state, self._texts[token])

    def finish(self, state: _State) -> float:
        """The end of the text ends a word; a hotword that is unfinished gives its share back."""
        end, gain = self._read(state, _EDGE)
        return gain - end.node.held

    def _read(self, state: _State, text: str) -> tuple[_State, float]:
        before, earned = state.node.held, 0.0
        node, in_letters, at_edge = state.node, state.in_letters, state.at_edge
        for char in text:
            symbols, in_letters, at_edge = _symbols(char, in_letters, at_edge)
            for symbol in symbols:
                node = self._follow(node, symbol)
                earned += node.earned
        return _State(node, in_letters, at_edge), earned + node.held - before

    def _follow(self, node: _Node, symbol: str) -> _Node:
        while symbol not in node.next:
            if node.fallback is None:
                return node
            node = node.fallback
        return node.next[symbol]

    def _add(self, phrase: str, boost: float, known: set[str]) -> None:
        if not math.isfinite(boost) or boost == 0 or abs(boost) > MAX_BOOST:
            raise BadRecipe(
                f"hotword {phrase!r}: boost out of range, got {boost}, "
                f"expected at most {MAX_BOOST:g} and not 0"
            )
        text = " ".join(phrase.casefold().split())
        strange = sorted(set(text) - known)
        if not text or strange:
            seen = ", ".join(strange) or "nothing"
            raise BadRecipe(
                f"hotword {phrase!r}: can never be heard, got {seen}, expected characters that "
                "the network can write"
            )
        path: list[str] = []
        in_letters = at_edge = False
        for char in [*text, _EDGE]:
            symbols, in_letters, at_edge = _symbols(char, in_letters, at_edge)
            path += symbols
        node = self._root
        for depth, symbol in enumerate(path, start=1):
            node = node.next.setdefault(symbol, _Node())
            if depth < len(path):
                # A prefix of several hotwords holds the best of their shares.
                node.held = max(node.held, boost * depth / len(path))
        node.earned += boost

    def _link(self) -> None:
        """Fallbacks, breadth first: the longest other prefix that a prefix ends in."""
        queue = deque([self._root])
        while queue:
            node = queue.popleft()
            for symbol, child in node.next.items():
                fallback = node.fallback
                while fallback is not None and symbol not in fallback.next:
                    fallback = fallback.fallback
                child.fallback = self._root if fallback is None else fallback.next[symbol]
                child.held = max(child.held, child.fallback.held)
                child.earned += child.fallback.earned
                queue.append(child)


def _symbols(char: str, in_letters: bool, at_edge: bool) -> tuple[str, bool, bool]:
    """What the automaton reads for a character, and how the text stands after it."""
    if char.isspace():
        return (_EDGE, False, True) if in_letters else ("", False, at_edge)
    if any(low <= ord(char) <= high for low, high in _UNSPACED):
        return (_EDGE + char if in_letters else char), False, False
    return (char if in_letters or at_edge else _EDGE + char), True, False


def read_hotwords(path: Path) -> dict[str, float]:
    """Hotwords of a file: ``phrase`` or ``phrase:boost`` lines; empty lines and ``#`` are skipped.

    Raises:
        BadRecipe: not readable, a boost that is no number, or a phrase that stands twice.
    """
    with reading(path, BadRecipe):
        content = path.read_bytes()
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise BadRecipe(f"{path}: is not UTF-8 at byte {error.start}") from error
    found: dict[str, float] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        phrase, boost = parse_hotword(line.strip(), source=f"{path}: line {number}")
        if phrase in found:
            raise BadRecipe(f"{path}: line {number}: {phrase!r} stands twice, expected once")
        found[phrase] = boost
    return found


def parse_hotword(text: str, *, source: str = "hotword") -> tuple[str, float]:
    """``phrase`` or ``phrase:boost``.

    Raises:
        BadRecipe: a boost that is no number.
    """
    phrase, colon, boost = text.rpartition(":")
    if not colon:
        return text, DEFAULT_BOOST
    try:
        return phrase.strip(), float(boost)
    except ValueError as error:
        raise BadRecipe(f"{source}: got {text!r}, expected PHRASE or PHRASE:BOOST") from error
