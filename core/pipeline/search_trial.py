"""One candidate of a search: made by the stages of every run, then heard and weighed.

Nothing here has the gate's utterances: see `asrcompress.pipeline.audition`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from asrcompress.accuracy.verdict import GateVerdict
from asrcompress.checkpoints.subject import PRUNED_FOLDER
from asrcompress.pipeline.audition import Audition
from asrcompress.pipeline.footprint import Scales
from asrcompress.pipeline.pruning import RECORD
from asrcompress.pipeline.quantize import prune_subject
from asrcompress.pipeline.search_space import Space
from asrcompress.recipe import Recipe
from asrcompress.run import Run, open_run
from asrcompress.search import MEASURED, STOPPED, Candidate, Choice, Heard, StageCost


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """What every candidate meets."""

    space: Space
    audition: Audition
    scales: Scales

    def run_of(self, choice: Choice) -> Run:
        """The run directory of a choice, as ``qat`` or ``ptq`` finds it again."""
        return _open("qat" if choice.epochs else "ptq", self.space.recipe_of(choice), self)

    def measure(self, number: int, choice: Choice) -> Candidate:
        """Make, hear and weigh a candidate; goes on where an interrupted one was.

        Args:
            number: of its trial.
        Raises:
            AsrCompressError: it cannot be made.
        """
        run, recipe, clock = self.run_of(choice), self.space.recipe_of(choice), _Clock()
        with run.lock():
            share = self._make(run, recipe, choice, clock)
            found = Candidate(
                number=number,
                run=run.name,
                state=STOPPED,
                choice=choice,
                integer_share=share,
                removed=_removed(run),
                float_names=self.space.skipped(choice),
            )
            with clock.stage("CER on the search set"):
                (verdict,) = self.audition.hear(run, recipe)
            heard, every = _heard(verdict), len(self.audition.utterances)
            if heard.utterances < every:
                note = f"hopeless after {heard.utterances} of {every} utterances"
                return replace(found, note=note, heard=heard, stages=tuple(clock.stages))
            with clock.stage("size, speed, memory"):
                weight = self.scales.weigh(run, recipe, self.audition.console)
        return replace(
            found, state=MEASURED, heard=heard, weight=weight, stages=tuple(clock.stages)
        )

    def _make(self, run: Run, recipe: Recipe, choice: Choice, clock: _Clock) -> float:
        if recipe.prune.wanted:
            with clock.stage("pruning and recovery"):
                self._prune(run, choice)
        name = "calibration and training" if choice.epochs else "calibration"
        with clock.stage(f"{name}, export"):
            return self.audition.make(run, recipe)

    def _prune(self, run: Run, choice: Choice) -> None:
        """Take the pruned network from a run of its own, which all candidates share."""
        from asrcompress.compress.workers import join_workers

        if run.has(RECORD):
            return
        recipe, audition = self.space.pruning_of(choice), self.audition
        common = _open("prune", recipe, self)
        with common.lock(wait=True):
            prune_subject(
                common,
                recipe,
                audition.checkpoint,
                audition.speech,
                audition.console,
                join_workers(),
            )
        shutil.rmtree(run.path / PRUNED_FOLDER, ignore_errors=True)
        shutil.copytree(common.path / PRUNED_FOLDER, run.path / PRUNED_FOLDER)
        run.write_json(RECORD, common.read_json(RECORD))  # last: it says that all is there


@dataclass(frozen=True, slots=True)
class _Clock:
    """Seconds of each stage, in order."""

    stages: list[StageCost] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.stages.append(StageCost(name=name, seconds=time.perf_counter() - start))


def _open(kind: str, recipe: Recipe, stand: Stand) -> Run:
    from asrcompress.export.onnx_bundle import tool_versions

    return open_run(kind, recipe, stand.audition.checkpoint, tools=tool_versions())


def _heard(verdict: GateVerdict) -> Heard:
    increase, lower, upper = (
        None if value is None else float(value)
        for value in (verdict.increase, verdict.lower_bound, verdict.upper_bound)
    )
    return Heard(
        utterances=verdict.utterances,
        cer=float(verdict.after_cer),
        increase=increase,
        lower=lower,
        upper=upper,
        keeps=verdict.passed,
        reason=verdict.reason,
    )


def _removed(run: Run) -> float | None:
    """Share of the encoder's parameters that pruning took."""
    if not run.has(RECORD):
        return None
    record = run.read_json(RECORD)
    parameters = record.get("parameters")
    if not parameters:
        return None
    before, after = parameters
    return 1.0 - float(after) / float(before)
