"""A reference and what was recognised before and after, character under character."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from asrcompress.accuracy.cer import CerReport, UtteranceScore
from asrcompress.errors import MissingExtra

OK, SUBSTITUTED, DELETED, INSERTED, NOTHING = "ok", "sub", "del", "ins", "none"
# Longer texts are cut: a page holds many of them.
_LONGEST = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One character of a hypothesis against the reference.

    Attributes:
        kind: one of `OK`, `SUBSTITUTED`, `DELETED`, `INSERTED`, or `NOTHING` where the other
            hypothesis has inserted something and this one has not.
    """

    text: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One position; `reference` is empty where a hypothesis has inserted a character."""

    reference: str
    before: Cell
    after: Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One utterance before and after compression, aligned."""

    before: UtteranceScore
    after: UtteranceScore
    columns: tuple[Column, ...]
    cut: bool

    @property
    def difference(self) -> int:
        """Edits that compression added."""
        return self.after.edits - self.before.edits


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Utterances worth reading, and how many there are of each kind."""

    worse: tuple[Change, ...]
    better: tuple[Change, ...]
    worst: tuple[Change, ...]
    n_worse: int
    n_better: int
    n_other: int
    n_same: int


def find_changes(before: CerReport, after: CerReport, *, most: int) -> Changes:
    """What compression broke, what it mended, and what was the worst already.

    Args:
        most: utterances of each kind.
    """
    first = {item.utt: item for item in before.utterances}
    pairs = [(first[item.utt], item) for item in after.utterances if item.utt in first]
    worse = [(b, a) for b, a in pairs if a.edits > b.edits]
    better = [(b, a) for b, a in pairs if a.edits < b.edits]
    other = [(b, a) for b, a in pairs if a.edits == b.edits and a.hypothesis != b.hypothesis]
    moved = {a.utt for _, a in worse + better}
    worst = [(b, a) for b, a in pairs if a.edits and a.utt not in moved]
    worse.sort(key=lambda pair: (pair[0].edits - pair[1].edits, pair[1].utt))
    better.sort(key=lambda pair: (pair[1].edits - pair[0].edits, pair[1].utt))
    worst.sort(key=lambda pair: (-pair[1].edits, pair[1].utt))
    return Changes(
        worse=tuple(align(b, a) for b, a in worse[:most]),
        better=tuple(align(b, a) for b, a in better[:most]),
        worst=tuple(align(b, a) for b, a in worst[:most]),
        n_worse=len(worse),
        n_better=len(better),
        n_other=len(other),
        n_same=len(pairs) - len(worse) - len(better) - len(other),
    )


def align(before: UtteranceScore, after: UtteranceScore) -> Change:
    """Both hypotheses under the same reference, by jiwer's alignments."""
    reference = after.reference
    first, second = _place(reference, before.hypothesis), _place(reference, after.hypothesis)
    columns: list[Column] = []
    for index in range(len(reference) + 1):
        extra, other = first.inserted[index], second.inserted[index]
        for at in range(max(len(extra), len(other))):
            columns.append(Column(reference="", before=_extra(extra, at), after=_extra(other, at)))
        if index < len(reference):
            columns.append(
                Column(
                    reference=reference[index],
                    before=_cell(reference[index], first.matched[index]),
                    after=_cell(reference[index], second.matched[index]),
                )
            )
    return Change(
        before=before,
        after=after,
        columns=tuple(columns[:_LONGEST]),
        cut=len(columns) > _LONGEST,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placed:
    """A hypothesis by positions of the reference.

    Attributes:
        matched: what stands for each reference character; empty where it was deleted.
        inserted: what stands before each reference character, and after the last.
    """

    matched: Sequence[str]
    inserted: Sequence[str]


def _place(reference: str, hypothesis: str) -> _Placed:
    matched, inserted = [""] * len(reference), [""] * (len(reference) + 1)
    if not reference or not hypothesis:  # jiwer aligns no empty text
        inserted[0] = hypothesis
        return _Placed(matched=matched, inserted=inserted)
    try:
        import jiwer
    except ImportError as error:
        raise MissingExtra("jiwer", "evaluate") from error
    # As in asrcompress.accuracy.cer: the default transform strips what has been normalised already.
    chars = jiwer.ReduceToListOfListOfChars()
    aligned = jiwer.process_characters(
        [reference], [hypothesis], reference_transform=chars, hypothesis_transform=chars
    )
    for chunk in aligned.alignments[0]:
        heard = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "insert":
            inserted[chunk.ref_start_idx] += heard
        elif chunk.type != "delete":
            for offset, char in enumerate(heard):
                matched[chunk.ref_start_idx + offset] = char
    return _Placed(matched=matched, inserted=inserted)


def _cell(reference: str, heard: str) -> Cell:
    if not heard:
        return Cell(text="", kind=DELETED)
    return Cell(text=heard, kind=OK if heard == reference else SUBSTITUTED)


def _extra(inserted: str, at: int) -> Cell:
    if at < len(inserted):
        return Cell(text=inserted[at], kind=INSERTED)
    return Cell(text="", kind=NOTHING)
