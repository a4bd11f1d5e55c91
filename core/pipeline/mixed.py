"""``asrcompress mixed``: the fewest layers in float with which the artifact passes its gates.

    before.json       what the checkpoint made of the search set
    sensitivity.json  which orders the layers
    mixed.json        every step, every look at the gate, and what was chosen

Layers are taken in the order of their sensitivity. How many is found on ``data.dev``: each step is
the artifact of a ``ptq`` run, calibrated, exported and heard without any of the gate's speech. Only
what was chosen is judged on the gate's manifest, in full, and is then a run like any other. Where
the gate refuses it, larger sets are asked about.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from asrcompress import mixed_text, strict_json
from asrcompress.accuracy.verdict import GateVerdict
from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.checkpoints.streaming import check_streamable
from asrcompress.console import Console
from asrcompress.errors import AsrCompressError, BadRecipe, BadRun
from asrcompress.files import write_atomically
from asrcompress.mixed_precision import GateLook, MixedPrecision, MixedStep, fewest, growing
from asrcompress.pipeline.audition import Audition, check_dev, open_audition
from asrcompress.pipeline.decoder import check_decodable
from asrcompress.pipeline.measurement import share_before
from asrcompress.pipeline.quantize import Outcome, compress
from asrcompress.pipeline.reporting import report_on
from asrcompress.pipeline.sensitivity import RESULT, measure_sensitivity
from asrcompress.recipe import Recipe
from asrcompress.report.page import write_report
from asrcompress.run import MEASURED, Run, open_run
from asrcompress.search_settings import Search
from asrcompress.sensitivity import QUANTIZE, Sensitivity, check_subject, read_sensitivity

RECORD = "mixed.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedOutcome:
    """How a search ended.

    Attributes:
        run: of the search itself; each step has its own.
        chosen: the ``ptq`` run that passed the gate; None where none did.
        failure: None exactly where there is a `chosen` one.
    """

    run: Run
    found: MixedPrecision
    chosen: Run | None
    failure: AsrCompressError | None
    report: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data: what stays in float, what that costs, every step and every look."""
        best = self.found.best
        return {
            "run": str(self.run.path),
            "chosen": None if self.chosen is None else str(self.chosen.path),
            "report": None if self.report is None else str(self.report),
            "passed": self.failure is None,
            "failure": None if self.failure is None else str(self.failure),
            "skip": None if best is None else list(self.found.kept),
            "best": None if best is None else strict_json.to_json(best),
            "steps": strict_json.to_json(self.found.steps),
            "looks": strict_json.to_json(self.found.looks),
        }


def find_mixed_precision(
    recipe: Recipe, checkpoint: Checkpoint, console: Console, *, sensitivity: Path | None = None
) -> MixedOutcome:
    """Search on data.dev, then ask the gate; goes on where an interrupted search was.

    Args:
        sensitivity: a sensitivity.json of this checkpoint; None measures what is missing first.
    Returns:
        outcome; a failed gate is in it, not raised, so that the steps can be shown first.
    Raises:
        BadRecipe: the recipe prunes, too; no development manifest, or one that is too small.
        DataLeak: it shares speech with the gate's.
        BadSensitivity: `sensitivity` is of another checkpoint.
        AsrCompressError: anything that stops a step before its verdict.
    """
    from asrcompress.export.onnx_bundle import tool_versions

    if recipe.prune.wanted:
        raise BadRecipe(
            "prune: got something to remove, expected nothing: each step would prune anew",
            hint="asrcompress prune first, then mixed with the checkpoint that it leaves",
        )
    check_dev(recipe)
    check_streamable(checkpoint, recipe.streaming)
    check_decodable(checkpoint, recipe.decoding)
    if sensitivity is not None:  # refuse the wrong one before anything is heard
        _measured(sensitivity, checkpoint)
    recipe = replace(recipe, training=replace(recipe.training, epochs=0))
    run = open_run("mixed", _what_counts(recipe), checkpoint, tools=tool_versions())
    with run.lock():
        console.say(f"run {run.path}")
        audition = open_audition(run, recipe, checkpoint, console, streams=True)
        source = sensitivity or (
            measure_sensitivity(recipe, checkpoint, console, actions=(QUANTIZE,)).path
        )
        order = candidates(_measured(source, checkpoint), recipe)
        write_atomically(run.path / RESULT, source.read_bytes())
        search = _Search(run, recipe, audition, order)
        return _conclude(search, search.run_all(), console)


def _measured(source: Path, checkpoint: Checkpoint) -> Sensitivity:
    found = read_sensitivity(source)
    check_subject(found, checkpoint.sha256, item=str(source))
    return found


def _what_counts(recipe: Recipe) -> Recipe:
    """The recipe with no more of [search] than the steps depend on: how often to ask may change."""
    kept = Search(utterances=recipe.search.utterances, seed=recipe.search.seed)
    return replace(recipe, search=kept)


def candidates(measured: Sensitivity, recipe: Recipe) -> tuple[str, ...]:
    """Layers that may be kept in float, the most sensitive first; those kept anyway left out."""
    from asrcompress.compress.edges import skipped

    names = [item.probe.target for item in measured.most_sensitive_layers()]
    return tuple(name for name in names if not skipped(name, recipe.quantization.skip))


class _Search:
    """Steps on the search set, each made and heard once, and looks at the gate."""

    def __init__(self, run: Run, recipe: Recipe, audition: Audition, order: Sequence[str]) -> None:
        self.run, self.recipe, self._order = run, recipe, tuple(order)
        self._audition, self._console = audition, audition.console
        self._steps = {step.kept_float: step for step in self._recorded()}
        self._looks: list[GateLook] = []
        self.outcomes: dict[int, Outcome] = {}

    def run_all(self) -> MixedPrecision:
        """Bisect on the search set, then ask the gate."""
        if not self._order:
            raise BadRecipe("quantization.skip: leaves nothing to choose from, expected less")
        for step in self._steps.values():  # found again
            self._say(step.kept_float, mixed_text.step(step))
        every = len(self._order)
        count = fewest(every, self._passes, self.too_much_float)
        return self._write(None if count is None else self._ask(count, every))

    def _ask(self, count: int, every: int) -> int | None:
        """The first of growing counts that the gate passes, of those that data.dev lets pass."""
        for larger in growing(count, every):
            if len(self._looks) == self.recipe.search.gate_tries:
                break
            passes = self._passes(larger)
            if self.too_much_float(larger):
                break
            if passes and self._look(larger).passed:
                return larger
        return None

    def _passes(self, count: int) -> bool:
        if count not in self._steps:
            self._say(count)
            self._steps[count] = self._step(count)
            self._say(count, mixed_text.step(self._steps[count]))
            self._write(None)
        return self._steps[count].passed

    def too_much_float(self, count: int) -> bool:
        """Whether this step and larger ones leave too little on integers, whatever they hear."""
        return self._steps[count].integer_share < self.recipe.gate.min_integer_share

    def _step(self, count: int) -> MixedStep:
        run, recipe, start = self._run_of(count), self._recipe_of(count), time.perf_counter()
        with run.lock():
            share = self._audition.make(run, recipe)
            verdicts = self._audition.hear(run, recipe)
        seconds = time.perf_counter() - start
        return _step_of(count, run, share, verdicts, seconds)

    def _look(self, count: int) -> GateLook:
        """The gate's word on a count: the stages that its run has not had, with its speech."""
        self._say(count, "before the gate")
        if self.outcomes:
            first = next(iter(self.outcomes.values()))
            share_before(first.run.path, self._run_of(count).path)
        recipe, checkpoint = self._recipe_of(count), self._audition.checkpoint
        outcome = compress("ptq", recipe, checkpoint, self._console)
        assert outcome is not None  # one process, which leads
        self.outcomes[count] = outcome
        self._looks.append(_look_of(count, outcome))
        self._write(None)
        return self._looks[-1]

    def _recipe_of(self, count: int) -> Recipe:
        """The recipe of a count, as ``ptq`` takes it."""
        quantization = self.recipe.quantization
        skip = (*quantization.skip, *self._order[:count])
        return replace(self.recipe, search=Search(), quantization=replace(quantization, skip=skip))

    def _run_of(self, count: int) -> Run:
        from asrcompress.export.onnx_bundle import tool_versions

        checkpoint = self._audition.checkpoint
        return open_run("ptq", self._recipe_of(count), checkpoint, tools=tool_versions())

    def _recorded(self) -> list[MixedStep]:
        """Steps of an earlier process, without those of another order of layers."""
        if not self.run.has(RECORD):
            return []
        item, tree = str(self.run.path / RECORD), self.run.read_json(RECORD)
        found = strict_json.from_json(MixedPrecision, tree, item=item, error=BadRun)
        return [
            step
            for step in found.steps
            if found.order[: step.kept_float] == self._order[: step.kept_float]
        ]

    def _say(self, count: int, what: str = "") -> None:
        colon = ": " if what else ""
        self._console.say(f"{count} of {len(self._order)} layers in float{colon}{what}")

    def _write(self, chosen: int | None) -> MixedPrecision:
        found = MixedPrecision(
            order=self._order,
            utterances=len(self._audition.utterances),
            steps=tuple(self._steps.values()),
            looks=tuple(self._looks),
            chosen=chosen,
        )
        self.run.write_json(RECORD, strict_json.to_json(found))
        return found


def _step_of(
    count: int, run: Run, share: float, verdicts: Sequence[GateVerdict], seconds: float
) -> MixedStep:
    """What was measured on the search set, all forms of use taken together."""
    worst = max(verdicts, key=_excess)
    macs = run.field("integer_share.json", "macs", kind=int)
    integer = run.field("integer_share.json", "share", kind=float)
    sizes = run.field("integer_share.json", "bytes_by_dtype", kind=dict)
    return MixedStep(
        kept_float=count,
        run=run.name,
        utterances=worst.utterances,
        passed=worst.passed,
        reason=worst.reason,
        before_cer=float(worst.before_cer),
        after_cer=float(worst.after_cer),
        upper_bound=None if worst.upper_bound is None else float(worst.upper_bound),
        integer_share=share,
        float_macs=round((1.0 - integer) * macs),
        float_bytes=int(sizes.get("float32", 0)),
        model_bytes=run.model.stat().st_size,
        seconds=seconds,
    )


def _look_of(count: int, outcome: Outcome) -> GateLook:
    """What the gate said, of the form of use that is worse off."""
    verdicts = [outcome.verdict]
    if outcome.streaming is not None:
        verdicts.append(outcome.streaming.verdict)
    worst = max(verdicts, key=_excess)
    return GateLook(
        kept_float=count,
        run=outcome.run.name,
        passed=outcome.failure is None,
        reason=worst.reason if outcome.failure is None else str(outcome.failure),
        before_cer=float(worst.before_cer),
        after_cer=float(worst.after_cer),
        upper_bound=None if worst.upper_bound is None else float(worst.upper_bound),
    )


def _excess(verdict: GateVerdict) -> tuple[bool, Fraction]:
    """What orders verdicts: failed ones last, then by the bound."""
    return not verdict.passed, Fraction(0) if verdict.upper_bound is None else verdict.upper_bound


def _conclude(search: _Search, found: MixedPrecision, console: Console) -> MixedOutcome:
    """Leave with what was chosen why it is as it is."""
    run, least = search.run, search.recipe.gate.min_integer_share
    failure = mixed_text.failure(found, min_integer_share=least)
    run.update(status=MEASURED, finished=time.time())  # the gate judged other runs
    if found.chosen is None:
        return MixedOutcome(run=run, found=found, chosen=None, failure=failure)
    chosen = search.outcomes[found.chosen].run
    for name in (RESULT, RECORD):
        write_atomically(chosen.path / name, (run.path / name).read_bytes())
    report = report_on(chosen, write_report, console)
    return MixedOutcome(run=run, found=found, chosen=chosen, failure=failure, report=report)
