"""Candidates on development speech: made and heard without a word of the gate's.

What chose on a set cannot be judged on it. So ``search`` and ``mixed`` make their candidates here,
by the stages of every run, and hear them on ``data.dev`` by the gate's own rule; the gate's
manifest is for what was chosen. A candidate is heard on a beginning of the search set first, and
on more of it only while it is not hopeless.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from asrcompress.accuracy.cer import CerReport, UtteranceScore
from asrcompress.accuracy.gate import MIN_UTTERANCES, judge
from asrcompress.accuracy.verdict import GateVerdict
from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.checkpoints.streaming import chunk_context
from asrcompress.console import Console
from asrcompress.errors import BadRecipe
from asrcompress.manifests.manifest import Utterance
from asrcompress.pipeline.decoder import decoder_stages
from asrcompress.pipeline.evaluation import evaluate
from asrcompress.pipeline.measurement import measured_cer
from asrcompress.pipeline.quantize import Speech, load_speech, make_artifact, spread
from asrcompress.pipeline.recognizer import Recognizer, from_checkpoint, from_run
from asrcompress.pipeline.streaming import SUFFIX, make_stream
from asrcompress.recipe import Gate, Recipe
from asrcompress.run import Run
from asrcompress.search_settings import Search


@dataclass(frozen=True, slots=True, kw_only=True)
class Audition:
    """What every candidate is made with and heard on.

    Attributes:
        speech: without the gate's.
        utterances: the search set in the order in which it is heard.
        before: what the checkpoint made of it, in the same order.
        before_streaming: the same in chunks; None where only whole utterances are heard.
    """

    checkpoint: Checkpoint
    speech: Speech
    utterances: tuple[Utterance, ...]
    before: CerReport
    console: Console
    before_streaming: CerReport | None = None

    def __post_init__(self) -> None:
        if self.speech.gate:
            raise RuntimeError("a candidate must not see the gate's utterances")

    def make(self, run: Run, recipe: Recipe) -> float:
        """The stages up to the graphs; goes on where an interrupted candidate was.

        Args:
            run: held by this process.
        Returns:
            share of the multiply-accumulates on integers, of the graph that has least.
        Raises:
            AsrCompressError: it cannot be made.
        """
        from asrcompress.compress.workers import join_workers

        checkpoint, console = self.checkpoint, self.console
        shares = [make_artifact(run, recipe, checkpoint, self.speech, console, join_workers())]
        decoder = decoder_stages(run, recipe, checkpoint, self.speech.dev, console)
        if decoder is not None:
            shares.append(decoder)
        if self.before_streaming is not None:
            shares.append(make_stream(run, recipe, checkpoint, console))
        return min(shares)

    def hear(self, run: Run, recipe: Recipe) -> tuple[GateVerdict, ...]:
        """The gate's rule on the search set, for each form of use that is heard."""
        whole = from_run(run, self.checkpoint, decoding=recipe.decoding)
        verdicts = [self._hear(whole, self.before, recipe.gate, "search set")]
        if self.before_streaming is not None:
            chunks = from_run(
                run, self.checkpoint, streaming=recipe.streaming, decoding=recipe.decoding
            )
            title = "search set in chunks"
            verdicts.append(self._hear(chunks, self.before_streaming, recipe.gate, title))
        return tuple(verdicts)

    def _hear(
        self, recognizer: Recognizer, before: CerReport, gate: Gate, title: str
    ) -> GateVerdict:
        """Hear growing parts of the search set, until the CER is proven to be too high."""
        scores: tuple[UtteranceScore, ...] = ()
        for end in rungs(len(self.utterances)):
            part = evaluate(
                recognizer,
                self.utterances[len(scores) : end],
                console=self.console,
                title=f"{title}, {len(scores) + 1} to {end}",
            ).cer
            scores += part.utterances
            verdict = judge(
                replace(before, utterances=before.utterances[:end]),
                replace(part, utterances=scores),
                max_increase=gate.max_cer_increase,
                relative=gate.relative,
                draws=gate.draws,
            )
            if verdict.lower_bound is not None and verdict.lower_bound > verdict.max_increase:
                break
        return verdict


def check_dev(recipe: Recipe) -> None:
    """Refuse to choose by nothing.

    Raises:
        BadRecipe: no development manifest.
    """
    if recipe.data.dev is None:
        raise BadRecipe(
            "data.dev: not set, expected a manifest to choose by, other than the gate's",
            hint="--dev-manifest FILE",
        )


def open_audition(
    run: Run, recipe: Recipe, checkpoint: Checkpoint, console: Console, *, streams: bool = False
) -> Audition:
    """Load the speech and hear the checkpoint on the search set; writes before.json into `run`.

    Args:
        streams: hear candidates in chunks as well, where the recipe wants streaming.
    Raises:
        BadRecipe: a search set that is too small, or a manifest is missing.
        DataLeak: the development or training manifest shares speech with the gate's.
    """
    check_dev(recipe)
    speech = load_speech(recipe, console)
    utterances = search_set(speech.dev, recipe.search)
    whole = measured_cer(
        run,
        "before.json",
        lambda: from_checkpoint(checkpoint, decoding=recipe.decoding),
        utterances,
        console,
    )
    chunks = None
    if streams and recipe.streaming.wanted:
        chunks = measured_cer(
            run,
            f"before{SUFFIX}.json",
            lambda: from_checkpoint(
                checkpoint, context=chunk_context(recipe.streaming), decoding=recipe.decoding
            ),
            utterances,
            console,
        )
    return Audition(
        checkpoint=checkpoint,
        speech=replace(speech, gate=()),
        utterances=utterances,
        before=whole,
        before_streaming=chunks,
        console=console,
    )


def search_set(dev: Sequence[Utterance], settings: Search) -> tuple[Utterance, ...]:
    """The utterances that candidates are chosen by, in an order of which any beginning is fair.

    Raises:
        BadRecipe: there are fewer than any verdict needs.
    """
    chosen = spread(list(dev), settings.utterances or len(dev))
    if len(chosen) < MIN_UTTERANCES:
        raise BadRecipe(
            f"data.dev: got {len(chosen)} utterances to choose by, expected at least "
            f"{MIN_UTTERANCES}",
            hint="a larger data.dev, or more of it (--search-utterances)",
        )
    random.Random(settings.seed).shuffle(chosen)
    return tuple(chosen)


def rungs(count: int) -> list[int]:
    """How many utterances are heard before each look: doubled from the gate's least, then all."""
    sizes, size = list[int](), MIN_UTTERANCES
    while size < count:
        sizes.append(size)
        size *= 2
    return [*sizes, count]
