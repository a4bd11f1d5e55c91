"""What the gate decided, and all that it decided on, as a record that can be kept."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from asrcompress import strict_json
from asrcompress.accuracy.cer import ErrorCounts
from asrcompress.errors import BadRun, CerGateFailed

SCHEMA_VERSION = 1
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketVerdict:
    """A range of durations, before and after.

    Attributes:
        lower_bound: the absolute CER increase is at least this, with 99 % confidence; None where
            there are fewer than ten utterances, or no reference character.
        broken: `lower_bound` is above what is allowed overall.
    """

    label: str
    utterances: int
    before: ErrorCounts
    after: ErrorCounts
    lower_bound: Fraction | None
    broken: bool

    @property
    def increase(self) -> Fraction | None:
        """Of the CER, absolute; None where there is no reference character."""
        chars = self.before.reference_chars
        return Fraction(self.after.edits - self.before.edits, chars) if chars else None


@dataclass(frozen=True, slots=True, kw_only=True)
class GateVerdict:
    """What the gate decided and all that it decided on.

    Attributes:
        reason: a sentence or more for a person, whether it passed or not.
        before, after: edits over the whole set.
        increase: of the CER, measured. Like the bounds and `max_increase` it is absolute (0.005 is
            half a point), or, if `relative`, a share of the CER before (0.05 is a twentieth).
        upper_bound: the increase is at most this, with 95 % confidence. It and `increase` are None
            if `relative` and the CER before is 0, or nearly: no bound exists.
        lower_bound: the increase is at least this, with 95 % confidence.
        buckets: by duration, shortest first.
        warnings: what a person should know even if the gate passed.
    """

    passed: bool
    reason: str
    utterances: int
    before: ErrorCounts
    after: ErrorCounts
    increase: Fraction | None
    lower_bound: Fraction | None
    upper_bound: Fraction | None
    max_increase: Fraction
    relative: bool
    draws: int
    seed: int
    confidence: float = CONFIDENCE
    buckets: tuple[BucketVerdict, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def before_cer(self) -> Fraction:
        """CER of the model before compression."""
        return Fraction(self.before.edits, self.before.reference_chars)

    @property
    def after_cer(self) -> Fraction:
        """CER of the compressed artifact."""
        return Fraction(self.after.edits, self.after.reference_chars)

    @property
    def allowed_increase(self) -> Fraction:
        """The largest absolute CER increase that is allowed."""
        return self.max_increase * (self.before_cer if self.relative else 1)

    def require_passed(self) -> None:
        """Raise `CerGateFailed` with the reason, unless the gate passed."""
        if not self.passed:
            raise CerGateFailed(
                f"CER gate: {self.reason}",
                hint="train longer (--epochs), or leave sensitive layers in float (--skip)",
            )

    def to_json(self) -> dict[str, Any]:
        """Everything, for `json.dumps`: fractions as text (`1/200`), and the CERs as numbers."""
        tree = _fractions_to_text(strict_json.to_json(self))
        rates = {"before_cer": float(self.before_cer), "after_cer": float(self.after_cer)}
        return {"schema_version": SCHEMA_VERSION, **tree, **rates}

    @staticmethod
    def from_json(tree: object, *, item: str = "gate verdict") -> GateVerdict:
        """The inverse of `to_json`.

        Raises:
            BadRun: not a verdict, of another version, or its CERs contradict its counts.
        """
        if not isinstance(tree, dict) or tree.get("schema_version") != SCHEMA_VERSION:
            raise BadRun(f"{item}: not a gate verdict of schema_version {SCHEMA_VERSION}")
        derived = {"schema_version", "before_cer", "after_cer"}
        stored = {key: value for key, value in tree.items() if key not in derived}
        verdict = strict_json.from_json(
            GateVerdict, _text_to_fractions(stored, item), item=item, error=BadRun
        )
        if not (verdict.before.reference_chars and verdict.after.reference_chars):
            raise BadRun(f"{item}: got no reference characters, expected some")
        rates = [float(verdict.before_cer), float(verdict.after_cer)]
        if [tree.get("before_cer"), tree.get("after_cer")] != rates:
            raise BadRun(f"{item}: the CERs contradict the counts, it was edited")
        return verdict


def _fractions_to_text(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _fractions_to_text(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_fractions_to_text(value) for value in tree]
    return str(tree) if isinstance(tree, Fraction) else tree


def _text_to_fractions(tree: dict[str, Any], item: str) -> dict[str, Any]:
    """The verdict's and its buckets' fractions, back from text."""
    found = dict(tree)
    for name in ("increase", "lower_bound", "upper_bound", "max_increase"):
        if isinstance(found.get(name), str):
            try:
                found[name] = Fraction(found[name])
            except (ValueError, ZeroDivisionError) as error:
                raise BadRun(f"{item}: {name}: got {found[name]!r}, expected p/q") from error
    if isinstance(found.get("buckets"), list):
        found["buckets"] = [
            _text_to_fractions(one, item) if isinstance(one, dict) else one
            for one in found["buckets"]
        ]
    return found
