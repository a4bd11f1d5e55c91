"""Character error rate: edits of each utterance by jiwer, pooled over the set, as integers.

The CER is the sum of edits over the sum of reference characters, not the mean of the utterances'
rates; it can exceed 1. Characters are code points after `asrcompress.accuracy.normalisation`.
An empty reference is an utterance like any other: what was heard in it are insertions. Only a set
without a single reference character has no CER.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from asrcompress import strict_json
from asrcompress.accuracy.bootstrap import rate_bounds
from asrcompress.accuracy.normalisation import DEFAULT, Normalisation, normalise
from asrcompress.errors import BadManifest, BadRun, EmptyReference, MissingExtra
from asrcompress.manifests.manifest import Utterance

__all__ = [
    "BUCKETS",
    "Bucket",
    "CerReport",
    "ErrorCounts",
    "Normalisation",
    "UtteranceScore",
    "bucket_of",
    "normalise",
    "score_all",
    "score_utterance",
]

SCHEMA_VERSION = 1
# Label and upper end in seconds, which is not part of it: int8 has been seen to break on audio
# above 20 s only.
_BUCKET_ENDS = (("< 2 s", 2.0), ("2-5 s", 5.0), ("5-10 s", 10.0), ("10-20 s", 20.0))
_LONGEST = ">= 20 s"
_UNKNOWN = "unknown"
BUCKETS = (*(label for label, _ in _BUCKET_ENDS), _LONGEST, _UNKNOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorCounts:
    """Edits that turn references into hypotheses, summed over some utterances."""

    hits: int
    substitutions: int
    deletions: int
    insertions: int

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value < 0:
                raise BadRun(f"error counts: {item.name}: got {value}, expected 0 or more")

    @property
    def edits(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def reference_chars(self) -> int:
        """Characters of the references."""
        return self.hits + self.substitutions + self.deletions

    @property
    def cer(self) -> Fraction | None:
        """Edits per reference character; None where there is no reference character."""
        return Fraction(self.edits, self.reference_chars) if self.reference_chars else None

    @classmethod
    def total(cls, parts: Iterable[ErrorCounts | UtteranceScore]) -> ErrorCounts:
        """The sum of counts, or of the counts of utterances."""
        hits = substitutions = deletions = insertions = 0
        for part in parts:
            hits += part.hits
            substitutions += part.substitutions
            deletions += part.deletions
            insertions += part.insertions
        return cls(
            hits=hits, substitutions=substitutions, deletions=deletions, insertions=insertions
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UtteranceScore:
    """One utterance: both texts as compared, and the edits between them.

    Attributes:
        duration_s: of the audio, in seconds; None where unknown.
    """

    utt: str
    reference: str
    hypothesis: str
    hits: int
    substitutions: int
    deletions: int
    insertions: int
    duration_s: float | None = None

    def __post_init__(self) -> None:
        matched = self.hits + self.substitutions
        lengths = (matched + self.deletions, matched + self.insertions)
        expected = (len(self.reference), len(self.hypothesis))
        counts = (self.hits, self.substitutions, self.deletions, self.insertions)
        if lengths != expected or min(counts) < 0:
            raise BadRun(
                f"{self.utt!r}: hits, substitutions, deletions and insertions do not fit the "
                f"texts, got {counts}, expected them to sum to {expected[0]} and {expected[1]}"
            )

    @property
    def edits(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def reference_chars(self) -> int:
        """Characters of the reference; may be 0."""
        return len(self.reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """The utterances of a range of durations."""

    label: str
    utterances: int
    counts: ErrorCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class CerReport:
    """A set of utterances, scored.

    Raises:
        EmptyReference: not one reference character in the whole set.
        BadManifest: an utterance id that occurs twice.
    """

    utterances: tuple[UtteranceScore, ...]
    normalisation: Normalisation = DEFAULT
    counts: ErrorCounts = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len({item.utt for item in self.utterances}) != len(self.utterances):
            raise BadManifest("cer report: an utterance id occurs twice, expected unique ids")
        object.__setattr__(self, "counts", ErrorCounts.total(self.utterances))
        if not self.counts.reference_chars:
            raise EmptyReference(
                f"references: not one character, got {len(self.utterances)} utterances, "
                "expected transcripts to measure a character error rate on",
                hint="check the text field of the manifest",
            )

    @property
    def edits(self) -> int:
        """Substitutions, deletions and insertions over all utterances."""
        return self.counts.edits

    @property
    def reference_chars(self) -> int:
        """Characters of all references, at least 1."""
        return self.counts.reference_chars

    @property
    def cer(self) -> Fraction:
        """Edits per reference character, exact; a fraction, not a percentage."""
        return Fraction(self.edits, self.reference_chars)

    def kaldi_line(self) -> str:
        """Kaldi's and WeNet's summary, which scripts grep for."""
        c = self.counts
        return (
            f"Overall -> {float(100 * self.cer):.2f} % N={c.reference_chars} C={c.hits} "
            f"S={c.substitutions} D={c.deletions} I={c.insertions}"
        )

    def interval(
        self, level: float = 0.95, *, draws: int = 10_000, seed: int = 0
    ) -> tuple[float, float]:
        """Confidence interval of the CER by bootstrap over utterances.

        Args:
            level: two-sided, between 0 and 1.
        Returns:
            lower and upper end, as fractions. Too narrow below some 30 utterances.
        """
        low, high = rate_bounds(
            np.array([item.edits for item in self.utterances], np.int64),
            np.array([item.reference_chars for item in self.utterances], np.int64),
            level=(1.0 + level) / 2.0,
            draws=draws,
            seed=seed,
        )
        infinite = float("inf")  # most references are empty: no upper end, or neither
        return (
            infinite if low is None else float(low),
            infinite if high is None else float(high),
        )

    def worst(self, n: int) -> tuple[UtteranceScore, ...]:
        """Up to `n` utterances with the most edits; of equals, the shorter reference first."""
        wrong = [item for item in self.utterances if item.edits]
        wrong.sort(key=lambda item: (-item.edits, item.reference_chars, item.utt))
        return tuple(wrong[:n])

    def buckets(self) -> tuple[Bucket, ...]:
        """Scores by duration, shortest first; ranges without an utterance are left out."""
        found: dict[str, list[UtteranceScore]] = {label: [] for label in BUCKETS}
        for item in self.utterances:
            found[bucket_of(item.duration_s)].append(item)
        return tuple(
            Bucket(label=label, utterances=len(items), counts=ErrorCounts.total(items))
            for label, items in found.items()
            if items
        )

    def to_json(self) -> dict[str, Any]:
        """Everything, for `json.dumps`, with a summary for readers; see `from_json`."""
        return {
            "schema_version": SCHEMA_VERSION,
            "summary": self._summary(),
            "normalisation": strict_json.to_json(self.normalisation),
            "utterances": [strict_json.to_json(item) for item in self.utterances],
        }

    @staticmethod
    def from_json(tree: object, *, item: str = "cer report") -> CerReport:
        """The inverse of `to_json`.

        Raises:
            BadRun: not a report, of another version, or its summary contradicts its utterances.
        """
        if not isinstance(tree, dict) or not isinstance(tree.get("utterances"), list):
            raise BadRun(f"{item}: not a CER report, expected an object with utterances")
        if tree.get("schema_version") != SCHEMA_VERSION:
            seen = tree.get("schema_version")
            raise BadRun(f"{item}: schema_version, got {seen!r}, expected {SCHEMA_VERSION}")
        options = strict_json.from_json(
            Normalisation, tree.get("normalisation"), item=f"{item}: normalisation", error=BadRun
        )
        scores = tuple(
            strict_json.from_json(UtteranceScore, one, item=f"{item}: utterance {i}", error=BadRun)
            for i, one in enumerate(tree["utterances"])
        )
        try:
            report = CerReport(utterances=scores, normalisation=options)
        except BadManifest as error:
            raise BadRun(f"{item}: {error}") from error
        if tree.get("summary") != report._summary():
            raise BadRun(f"{item}: the summary contradicts the utterances, it was edited")
        return report

    def _summary(self) -> dict[str, Any]:
        counts = strict_json.to_json(self.counts)
        return {"cer": float(self.cer), "reference_chars": self.reference_chars, **counts}


def score_all(
    utterances: Sequence[Utterance],
    hypotheses: Sequence[str],
    durations_s: Sequence[float] | None = None,
    normalisation: Normalisation = DEFAULT,
) -> CerReport:
    """Score what was recognised against a manifest.

    Args:
        hypotheses: text for each utterance, in the manifest's order; empty where nothing was heard.
        durations_s: of the audio in seconds, where measured; else what the manifest states.
    Raises:
        BadManifest: not as many hypotheses, or durations, as utterances.
        EmptyReference: no reference has a character.
        MissingExtra: jiwer is not installed.
    """
    if durations_s is None:
        durations: Sequence[float | None] = [item.duration_s for item in utterances]
    else:
        durations = durations_s
    for name, values in (("hypotheses", hypotheses), ("durations", durations)):
        if len(values) != len(utterances):
            raise BadManifest(
                f"{name}: got {len(values)}, expected one for each of {len(utterances)} utterances"
            )
    scores = tuple(
        score_utterance(
            item.utt, item.text, hypothesis, duration_s=duration_s, normalisation=normalisation
        )
        for item, hypothesis, duration_s in zip(utterances, hypotheses, durations, strict=True)
    )
    return CerReport(utterances=scores, normalisation=normalisation)


def score_utterance(
    utt: str,
    reference: str,
    hypothesis: str,
    *,
    duration_s: float | None = None,
    normalisation: Normalisation = DEFAULT,
) -> UtteranceScore:
    """Normalise two texts and count the edits between them.

    Raises:
        MissingExtra: jiwer is not installed.
    """
    reference = normalise(reference, normalisation)
    hypothesis = normalise(hypothesis, normalisation)
    counts = _count(reference, hypothesis)
    return UtteranceScore(
        utt=utt,
        reference=reference,
        hypothesis=hypothesis,
        hits=counts.hits,
        substitutions=counts.substitutions,
        deletions=counts.deletions,
        insertions=counts.insertions,
        duration_s=duration_s,
    )


def bucket_of(duration_s: float | None) -> str:
    """The label of the duration range that a duration belongs to."""
    if duration_s is None:
        return _UNKNOWN
    return next((label for label, end_s in _BUCKET_ENDS if duration_s < end_s), _LONGEST)


def _count(reference: str, hypothesis: str) -> ErrorCounts:
    """Edits between two normalised texts. Empty texts need no alignment, and jiwer before 4
    refused them; its command line drops lines of one character, so only the library is used."""
    try:
        import jiwer  # lazily: the runtime on a device measures no CER
    except ImportError as error:
        raise MissingExtra("jiwer", "evaluate") from error
    if not reference or not hypothesis:
        return ErrorCounts(
            hits=0, substitutions=0, deletions=len(reference), insertions=len(hypothesis)
        )
    # Not jiwer's default transform, which strips: the texts are normalised already.
    chars = jiwer.ReduceToListOfListOfChars()
    aligned = jiwer.process_characters(
        [reference], [hypothesis], reference_transform=chars, hypothesis_transform=chars
    )
    return ErrorCounts(
        hits=aligned.hits,
        substitutions=aligned.substitutions,
        deletions=aligned.deletions,
        insertions=aligned.insertions,
    )
