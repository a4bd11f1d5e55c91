"""What a search tried and what came of it: ``search.json``.

All CERs of candidates are of the search set, a part of ``data.dev``. The gate's manifest appears
in `Verification` only: of many candidates that one set was asked about, the best looks better on
it than it is, so another set has the last word.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from asrcompress import strict_json
from asrcompress.errors import BadRecipe, BadRun
from asrcompress.files import reading
from asrcompress.search_settings import PREFERENCES

SCHEMA_VERSION = 1
RESULT, PAGE = "search.json", "search.html"
MEASURED, STOPPED, FAILED = "measured", "stopped", "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One point of the space.

    Attributes:
        observer: that calibration uses.
        epochs: of quantization-aware training; 0 is none.
        prune_amount: share of the encoder that pruning takes away.
        float_layers: how many of the most sensitive layers stay in float.
    """

    observer: str
    epochs: int
    prune_amount: float
    float_layers: int

    @property
    def words(self) -> str:
        """``QAT 3, mse, 40 % pruned, 2 layers in float``."""
        parts = [f"QAT {self.epochs}" if self.epochs else "PTQ", self.observer]
        if self.prune_amount:
            parts.append(f"{100 * self.prune_amount:g} % pruned")
        if self.float_layers:
            parts.append(f"{self.float_layers} layers in float")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a candidate has to keep; a budget of None is none.

    Attributes:
        max_cer_increase: of the upper bound, as in the gate; `relative` as there.
        prefer: what decides among those that keep it all.
    """

    max_cer_increase: float
    relative: bool
    min_integer_share: float
    max_size_mb: float | None
    max_rtf: float | None
    max_memory_mb: float | None
    prefer: str

    def __post_init__(self) -> None:
        if self.prefer not in PREFERENCES:
            raise BadRecipe(f"prefer: got {self.prefer!r}, expected {', '.join(PREFERENCES)}")
        for name in ("max_size_mb", "max_rtf", "max_memory_mb"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise BadRecipe(f"{name}: got {value}, expected more than 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """One stage of a candidate, with the seconds that it took; less where it was found done."""

    name: str
    seconds: float
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """Size, speed and memory of a bundle.

    Attributes:
        size_mb: everything in the bundle, millions of bytes.
        rtf: seconds per second of audio on one thread: FP32's, times the ratio of the two in
            interleaved rounds.
        speedup: that ratio, the other way round; 1 for FP32 itself.
        memory_mb: most memory of a process that did nothing but transcribe with it.
    """

    size_mb: float
    rtf: float
    speedup: float
    memory_mb: float

    def __post_init__(self) -> None:
        for name in ("size_mb", "rtf", "speedup", "memory_mb"):
            if not 0 < getattr(self, name) < math.inf:
                raise BadRecipe(f"{name}: got {getattr(self, name)}, expected more than 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A candidate on the search set, or on the beginning of it, against the checkpoint.

    Attributes:
        upper, lower: one-sided 95 % bounds of the increase; None where there is none.
        keeps: whether the gate's rule, applied to this set, passes.
        reason: of that rule, in words.
    """

    utterances: int
    cer: float
    increase: float | None
    lower: float | None
    upper: float | None
    keeps: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One trial.

    Attributes:
        number: of the trial in the database.
        run: name of its run directory.
        state: `MEASURED`, `STOPPED` where it was hopeless before the end, or `FAILED`.
        note: why it stopped or failed.
        float_names: layers that stay in float because of their sensitivity.
        removed: share of the encoder's parameters that pruning really took.
    """

    number: int
    run: str
    state: str
    choice: Choice
    note: str = ""
    heard: Heard | None = None
    integer_share: float | None = None
    weight: Weight | None = None
    removed: float | None = None
    float_names: tuple[str, ...] = ()
    stages: tuple[StageCost, ...] = ()

    def __post_init__(self) -> None:
        if self.state not in (MEASURED, STOPPED, FAILED):
            raise BadRecipe(f"state: got {self.state!r}, expected measured, stopped or failed")
        known = (self.heard, self.weight, self.integer_share)
        if self.state == MEASURED and None in known:
            raise BadRecipe(f"candidate {self.number}: is measured, but not all of it")

    @property
    def kind(self) -> str:
        """Command that makes it: ``qat`` or ``ptq``."""
        return "qat" if self.choice.epochs else "ptq"

    @property
    def seconds(self) -> float:
        """What it took."""
        return sum(stage.seconds for stage in self.stages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """A limit that a candidate breaks.

    Attributes:
        name: of the limit.
        excess: share of the limit by which it is missed.
        text: ``size 4.10 MB, at most 3.00``.
    """

    name: str
    excess: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What the gate said of a candidate, in the order in which it was asked."""

    number: int
    passed: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """All of a search.

    Attributes:
        checkpoint, checkpoint_sha256: what was compressed.
        utterances: of the search set.
        cer: of the checkpoint on it.
        reference: the checkpoint in FP32.
        cpu: where speed was measured.
        chosen: number of the candidate that keeps every limit and passed the gate.
        why: it was chosen, or none was.
    """

    checkpoint: str
    checkpoint_sha256: str
    utterances: int
    cer: float
    goal: Goal
    reference: Weight
    cpu: str
    candidates: tuple[Candidate, ...]
    verified: tuple[Verification, ...]
    chosen: int | None
    why: str
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise BadRecipe(f"schema_version: got {self.schema_version}, expected {SCHEMA_VERSION}")
        numbers = [item.number for item in self.candidates]
        if len(set(numbers)) != len(numbers):
            raise BadRecipe("candidates: a number stands twice")
        if self.chosen is not None and self.chosen not in (
            item.number for item in self.verified if item.passed
        ):
            raise BadRecipe(f"chosen: got {self.chosen}, which did not pass the gate")

    @property
    def best(self) -> Candidate | None:
        """The chosen candidate."""
        return next((item for item in self.candidates if item.number == self.chosen), None)


def read_search(path: Path) -> SearchResult:
    """A search.json.

    Raises:
        BadRun: missing, not one, of another version, or edited so that it contradicts itself.
    """
    with reading(path, BadRun):
        text = path.read_text(encoding="utf-8", errors="replace")
    try:
        tree = strict_json.parse(text)
    except ValueError as error:
        raise BadRun(f"{path}: is not JSON, {error}") from error
    return strict_json.from_json(SearchResult, tree, item=str(path), error=BadRun)
