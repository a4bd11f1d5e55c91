"""``asrcompress mixed``: the fewest layers in float with which the artifact passes its gates.

Layers are taken in the order of their sensitivity. Each step is a whole ``ptq`` run: calibrated,
exported, measured and judged; what was made once is found again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from asrcompress import strict_json
from asrcompress.accuracy.verdict import GateVerdict
from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.console import Console
from asrcompress.errors import AsrCompressError, BadRecipe, CerGateFailed, IntegerGateFailed
from asrcompress.files import write_atomically
from asrcompress.mixed_precision import MixedPrecision, MixedStep, fewest
from asrcompress.pipeline.quantize import Outcome, compress
from asrcompress.pipeline.sensitivity import RESULT, measure_sensitivity
from asrcompress.recipe import Recipe
from asrcompress.report.page import write_report
from asrcompress.run import FAILED, PASSED, Run, open_run
from asrcompress.sensitivity import QUANTIZE, Sensitivity, check_subject, read_sensitivity

RECORD = "mixed.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedOutcome:
    """How a search ended.

    Attributes:
        run: of the search itself; each step has its own.
        chosen: the ``ptq`` run of the fewest layers; None where no step passed.
        failure: None exactly where `chosen` passed everything.
    """

    run: Run
    found: MixedPrecision
    chosen: Run | None
    failure: AsrCompressError | None
    report: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data: what stays in float, what that costs, and every step."""
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
        }


def find_mixed_precision(
    recipe: Recipe, checkpoint: Checkpoint, console: Console, *, sensitivity: Path | None = None
) -> MixedOutcome:
    """Search; goes on where an interrupted search was.

    Args:
        sensitivity: a sensitivity.json of this checkpoint; None measures what is missing first.
    Returns:
        outcome; a failed gate is in it, not raised, so that the steps can be shown first.
    Raises:
        BadRecipe: the recipe prunes, too.
        BadSensitivity: `sensitivity` is of another checkpoint.
        AsrCompressError: anything that stops a step before its verdict.
    """
    from asrcompress.export.onnx_bundle import tool_versions

    if recipe.prune.wanted:
        raise BadRecipe(
            "prune: got something to remove, expected nothing: each step would prune anew",
            hint="asrcompress prune first, then mixed with the checkpoint that it leaves",
        )
    recipe = replace(recipe, training=replace(recipe.training, epochs=0))
    if sensitivity is None:
        source = measure_sensitivity(recipe, checkpoint, console, actions=(QUANTIZE,)).path
    else:
        source = sensitivity
    measured = read_sensitivity(source)
    check_subject(measured, checkpoint.sha256, item=str(source))
    run = open_run("mixed", recipe, checkpoint, tools=tool_versions())
    with run.lock():
        write_atomically(run.path / RESULT, source.read_bytes())
        search = _Search(run, recipe, checkpoint, candidates(measured, recipe), console)
        return _conclude(run, recipe, search, search.run_all(), console)


def candidates(measured: Sensitivity, recipe: Recipe) -> tuple[str, ...]:
    """Layers that may be kept in float, the most sensitive first; those kept anyway left out."""
    from asrcompress.compress.edges import skipped

    names = [item.probe.target for item in measured.most_sensitive_layers()]
    return tuple(name for name in names if not skipped(name, recipe.quantization.skip))


class _Search:
    """Steps of a search, each made once."""

    def __init__(
        self,
        run: Run,
        recipe: Recipe,
        checkpoint: Checkpoint,
        order: Sequence[str],
        console: Console,
    ) -> None:
        self._run, self._recipe, self._checkpoint = run, recipe, checkpoint
        self._order, self._console = tuple(order), console
        self._steps: dict[int, MixedStep] = {}
        self.outcomes: dict[int, Outcome] = {}

    def run_all(self) -> MixedPrecision:
        """The whole search."""
        if not self._order:
            raise BadRecipe("quantization.skip: leaves nothing to choose from, expected less")
        return self._write(fewest(len(self._order), self._passes, self._too_much_float))

    def _passes(self, count: int) -> bool:
        if count not in self._steps:
            self._console.say(f"{count} of {len(self._order)} layers in float")
            self._steps[count] = self._step(count)
            self._write(None)
        return self._steps[count].passed

    def _too_much_float(self, count: int) -> bool:
        return self._steps[count].integer_share < self._recipe.gate.min_integer_share

    def _step(self, count: int) -> MixedStep:
        quantization = self._recipe.quantization
        skip = (*quantization.skip, *self._order[:count])
        recipe = replace(self._recipe, quantization=replace(quantization, skip=skip))
        self._share_float_results(recipe)
        outcome = compress("ptq", recipe, self._checkpoint, self._console)
        assert outcome is not None  # one process, which leads
        self.outcomes[count] = outcome
        return _step_of(count, outcome)

    def _share_float_results(self, recipe: Recipe) -> None:
        """What the float checkpoint does on the gate's speech is the same in every step."""
        from asrcompress.export.onnx_bundle import tool_versions

        if not self.outcomes:
            return
        first = next(iter(self.outcomes.values())).run
        run = open_run("ptq", recipe, self._checkpoint, tools=tool_versions())
        for path in first.path.glob("before*.json"):
            if not run.has(path.name):
                write_atomically(run.path / path.name, path.read_bytes())

    def _write(self, chosen: int | None) -> MixedPrecision:
        found = MixedPrecision(order=self._order, steps=tuple(self._steps.values()), chosen=chosen)
        self._run.write_json(RECORD, strict_json.to_json(found))
        return found


def _step_of(count: int, outcome: Outcome) -> MixedStep:
    """What a run measured, all its forms of use taken together."""
    verdicts = [outcome.verdict]
    if outcome.streaming is not None:
        verdicts.append(outcome.streaming.verdict)
    worst = max(verdicts, key=_excess)
    macs = outcome.run.field("integer_share.json", "macs", kind=int)
    share = outcome.run.field("integer_share.json", "share", kind=float)
    sizes = outcome.run.field("integer_share.json", "bytes_by_dtype", kind=dict)
    return MixedStep(
        kept_float=count,
        run=outcome.run.name,
        passed=all(verdict.passed for verdict in verdicts),
        before_cer=float(worst.before_cer),
        after_cer=float(worst.after_cer),
        upper_bound=None if worst.upper_bound is None else float(worst.upper_bound),
        integer_share=share,
        float_macs=round((1.0 - share) * macs),
        float_bytes=int(sizes.get("float32", 0)),
        model_bytes=outcome.run.model.stat().st_size,
    )


def _excess(verdict: GateVerdict) -> tuple[bool, Fraction]:
    """What orders verdicts: failed ones last, then by the bound."""
    return not verdict.passed, Fraction(0) if verdict.upper_bound is None else verdict.upper_bound


def _conclude(
    run: Run, recipe: Recipe, search: _Search, found: MixedPrecision, console: Console
) -> MixedOutcome:
    """Judge the step that was chosen, and leave with it why it is as it is."""
    failure = _failure(recipe, search, found)
    run.update(status=FAILED if failure else PASSED, finished=time.time())
    if found.chosen is None:
        return MixedOutcome(run=run, found=found, chosen=None, failure=failure)
    chosen = search.outcomes[found.chosen].run
    for name in (RESULT, RECORD):
        write_atomically(chosen.path / name, (run.path / name).read_bytes())
    report = None
    try:
        report = write_report(chosen)
    except AsrCompressError as error:
        console.warn(f"no report: {error}")
    return MixedOutcome(run=run, found=found, chosen=chosen, failure=failure, report=report)


def _failure(recipe: Recipe, search: _Search, found: MixedPrecision) -> AsrCompressError | None:
    """Why nothing can be shipped; None where something can."""
    if found.chosen is None:
        most, every = max(search.outcomes), len(found.order)
        reason = search.outcomes[most].verdict.reason
        if most == every:
            return CerGateFailed(
                f"CER gate: fails even with all {every} layers in float: {reason}",
                hint="gate on more speech, the interval is too wide (--gate-manifest), or allow "
                "more (--max-cer-increase)",
            )
        return CerGateFailed(
            f"CER gate: fails with {most} of {every} layers in float, and more would leave too "
            f"little on integers: {reason}",
            hint="allow less on integers (--min-integer-share), or train (asrcompress qat)",
        )
    failure = search.outcomes[found.chosen].failure
    if isinstance(failure, IntegerGateFailed):
        return IntegerGateFailed(
            f"{failure}: the CER gate needs {found.chosen} layers in float, and that is too many",
            hint="allow less on integers (--min-integer-share), or train (asrcompress qat)",
        )
    return failure
