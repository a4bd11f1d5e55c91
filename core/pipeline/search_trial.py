"""One candidate of a search: made by the stages of every run, then heard and weighed.

Nothing here has the gate's utterances: `Speech.gate` is empty. The candidate is heard on a
beginning of the search set first, and on more of it only while it is not hopeless.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from asrcompress.accuracy.cer import CerReport, UtteranceScore
from asrcompress.accuracy.gate import MIN_UTTERANCES, judge
from asrcompress.accuracy.verdict import GateVerdict
from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.checkpoints.subject import PRUNED_FOLDER
from asrcompress.console import Console
from asrcompress.manifests.manifest import Utterance
from asrcompress.pipeline.decoder import decoder_stages
from asrcompress.pipeline.evaluation import evaluate
from asrcompress.pipeline.footprint import Scales
from asrcompress.pipeline.pruning import RECORD
from asrcompress.pipeline.quantize import Speech, make_artifact, prune_subject
from asrcompress.pipeline.recognizer import from_run
from asrcompress.pipeline.search_space import Space
from asrcompress.recipe import Gate, Recipe
from asrcompress.run import Run, open_run
from asrcompress.search import MEASURED, STOPPED, Candidate, Choice, Heard, StageCost


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """What every candidate meets.

    Attributes:
        speech: without the gate's.
        utterances: the search set in the order in which it is heard.
        before: what the checkpoint made of it, in the same order.
    """

    space: Space
    checkpoint: Checkpoint
    speech: Speech
    utterances: tuple[Utterance, ...]
    before: CerReport
    scales: Scales
    console: Console

    def __post_init__(self) -> None:
        if self.speech.gate:
            raise RuntimeError("a candidate must not see the gate's utterances")

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
                heard = self._hear(run, recipe)
            if heard.utterances < len(self.utterances):
                note = f"hopeless after {heard.utterances} of {len(self.utterances)} utterances"
                return replace(found, note=note, heard=heard, stages=tuple(clock.stages))
            with clock.stage("size, speed, memory"):
                weight = self.scales.weigh(run, recipe, self.console)
        return replace(
            found, state=MEASURED, heard=heard, weight=weight, stages=tuple(clock.stages)
        )

    def _make(self, run: Run, recipe: Recipe, choice: Choice, clock: _Clock) -> float:
        from asrcompress.compress.workers import join_workers

        workers = join_workers()
        if recipe.prune.wanted:
            with clock.stage("pruning and recovery"):
                self._prune(run, choice)
        name = "calibration and training" if choice.epochs else "calibration"
        with clock.stage(f"{name}, export"):
            share = make_artifact(run, recipe, self.checkpoint, self.speech, self.console, workers)
            decoder = decoder_stages(run, recipe, self.checkpoint, self.speech.dev, self.console)
        return share if decoder is None else min(share, decoder)

    def _prune(self, run: Run, choice: Choice) -> None:
        """Take the pruned network from a run of its own, which all candidates share."""
        from asrcompress.compress.workers import join_workers

        if run.has(RECORD):
            return
        recipe = self.space.pruning_of(choice)
        common = _open("prune", recipe, self)
        with common.lock(wait=True):
            prune_subject(
                common, recipe, self.checkpoint, self.speech, self.console, join_workers()
            )
        shutil.rmtree(run.path / PRUNED_FOLDER, ignore_errors=True)
        shutil.copytree(common.path / PRUNED_FOLDER, run.path / PRUNED_FOLDER)
        run.write_json(RECORD, common.read_json(RECORD))  # last: it says that all is there

    def _hear(self, run: Run, recipe: Recipe) -> Heard:
        """CER on growing parts of the search set, until it is proven to be too high."""
        recognizer = from_run(run, self.checkpoint, decoding=recipe.decoding)
        scores: tuple[UtteranceScore, ...] = ()
        for end in rungs(len(self.utterances)):
            part = evaluate(
                recognizer,
                self.utterances[len(scores) : end],
                console=self.console,
                title=f"search set, {len(scores) + 1} to {end}",
            ).cer
            scores += part.utterances
            after = replace(part, utterances=scores)
            verdict = _judge(self.before, after, recipe.gate)
            if verdict.lower_bound is not None and verdict.lower_bound > verdict.max_increase:
                break
        return _heard(verdict, float(after.cer))


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

    return open_run(kind, recipe, stand.checkpoint, tools=tool_versions())


def rungs(count: int) -> list[int]:
    """How many utterances are heard before each look: doubled from the gate's least, then all."""
    sizes, size = list[int](), MIN_UTTERANCES
    while size < count:
        sizes.append(size)
        size *= 2
    return [*sizes, count]


def _judge(before: CerReport, after: CerReport, gate: Gate) -> GateVerdict:
    """The gate's rule on the utterances that `after` has, which are the first of `before`."""
    first = replace(before, utterances=before.utterances[: len(after.utterances)])
    return judge(
        first,
        after,
        max_increase=gate.max_cer_increase,
        relative=gate.relative,
        draws=gate.draws,
    )


def _heard(verdict: GateVerdict, cer: float) -> Heard:
    increase, lower, upper = (
        None if value is None else float(value)
        for value in (verdict.increase, verdict.lower_bound, verdict.upper_bound)
    )
    return Heard(
        utterances=verdict.utterances,
        cer=cer,
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
