"""``asrcompress sensitivity``: what each layer minds, measured on development speech.

    calibrated.json      ranges of all layers
    importance.json      of every unit of the pruning groups, by which they are silenced
    probes.jsonl         one line per probe; what stands there is not measured again
    sensitivity.json     the measurement
    sensitivity.png      its heat map

The run directory is that of checkpoint, data and grids: another ratio or action adds probes to what
is there.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from asrcompress import strict_json
from asrcompress.accuracy.cer import CerReport, score_all
from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.checkpoints.streaming import check_streamable
from asrcompress.console import Advance, Console
from asrcompress.errors import BadCheckpoint, BadRecipe, BadRun, MissingExtra
from asrcompress.manifests.manifest import Utterance
from asrcompress.pipeline.decoder import check_decodable
from asrcompress.pipeline.quantize import Speech, load_speech, spread
from asrcompress.pipeline.recognizer import Recognizer, from_checkpoint, from_network
from asrcompress.ranges import Ranges, read_ranges
from asrcompress.recipe import Gate, Probes, Prune, Recipe
from asrcompress.report.page import write_report
from asrcompress.run import MEASURED, Run, open_run
from asrcompress.sensitivity import PRUNE, QUANTIZE, Probe, ProbeResult, Sensitivity

if TYPE_CHECKING:
    from asrcompress.compress.groups import Group

ACTIONS = (QUANTIZE, PRUNE)
RESULT, PROBES, PICTURE = "sensitivity.json", "probes.jsonl", "sensitivity.png"
_IMPORTANCE = "importance.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class SensitivityOutcome:
    """A finished measurement and where it lies."""

    run: Run
    sensitivity: Sensitivity
    report: Path | None

    @property
    def path(self) -> Path:
        """The measurement, as ``--prune-sensitivity`` and ``mixed --sensitivity`` take it."""
        return self.run.path / RESULT

    @property
    def picture(self) -> Path:
        """The heat map."""
        return self.run.path / PICTURE

    def to_json(self) -> dict[str, Any]:
        """Plain data: where everything is, and the whole measurement."""
        return {
            "run": str(self.run.path),
            "sensitivity": str(self.path),
            "picture": str(self.picture),
            "report": None if self.report is None else str(self.report),
            "measured": strict_json.to_json(self.sensitivity),
        }


def measure_sensitivity(
    recipe: Recipe,
    checkpoint: Checkpoint,
    console: Console,
    *,
    actions: Collection[str] = ACTIONS,
) -> SensitivityOutcome:
    """Make every probe that was not made yet.

    Args:
        actions: which kinds of probes, of `ACTIONS`.
    Raises:
        BadRecipe: no development manifest.
        DataLeak: it shares speech with the gate's.
        BadRun: another process is measuring.
    """
    from asrcompress.export.onnx_bundle import tool_versions

    wanted = recipe
    recipe = _what_counts(recipe)
    if recipe.data.dev is None:
        raise BadRecipe(
            "data.dev: not set, expected a manifest to measure on, other than the gate's",
            hint="--dev-manifest FILE",
        )
    check_streamable(checkpoint, recipe.streaming)
    check_decodable(checkpoint, recipe.decoding)
    run = open_run("sensitivity", recipe, checkpoint, tools=tool_versions())
    with run.lock():
        console.say(f"run {run.path}")
        speech = load_speech(recipe, console)
        stand = _Stand(run, recipe, checkpoint, speech, console)
        if QUANTIZE in actions:
            stand.quantize()
        if PRUNE in actions:
            stand.prune(wanted.sensitivity.ratios)
        found = stand.summary()
        run.write_json(RESULT, strict_json.to_json(found))
        run.update(recipe=wanted.to_dict(), status=MEASURED, finished=time.time())
        return SensitivityOutcome(run=run, sensitivity=found, report=_present(run, found, console))


def _what_counts(recipe: Recipe) -> Recipe:
    """The recipe without what a measurement does not depend on."""
    return replace(
        recipe,
        gate=Gate(),
        prune=Prune(criterion=recipe.prune.criterion, batches=recipe.prune.batches),
        sensitivity=Probes(utterances=recipe.sensitivity.utterances, ratios=()),
        quantization=replace(recipe.quantization, skip=()),
        training=replace(recipe.training, epochs=0),
    )


class _Stand:
    """Speech that was heard by the float network, and what changed networks make of it."""

    def __init__(
        self, run: Run, recipe: Recipe, checkpoint: Checkpoint, speech: Speech, console: Console
    ) -> None:
        from asrcompress.compress.sensitivity import float_network

        self._run, self._recipe, self._checkpoint = run, recipe, checkpoint
        self._speech, self._console = speech, console
        self._utterances = spread(list(speech.dev), recipe.sensitivity.utterances)
        self._float = float_network(checkpoint, recipe)
        reader = from_network(checkpoint, self._float)
        self._features = [reader.features(item) for item in self._utterances]
        with console.progress("float network") as advance:
            self._before, self._cer = self._hear(self._float, advance)
        self._done = {result.probe: result for result in _read_results(run)}

    def quantize(self) -> None:
        """Every layer alone, and all together."""
        from asrcompress.compress.sensitivity import quantize_probes, quantized_alone

        probes = quantize_probes(self._float, self._recipe)
        ranges = self._calibrated() if self._missing(probes) else None

        def change(probe: Probe) -> ProbeResult:
            assert ranges is not None
            network = quantized_alone(self._checkpoint, self._recipe, ranges, probe.target)
            return self._compare(probe, network, share=1.0)

        self._make(probes, change, "quantizing")

    def prune(self, ratios: Collection[float]) -> None:
        """Every group at every ratio, where the family has groups."""
        from asrcompress.compress.sensitivity import (
            groups_to_probe,
            prune_probes,
            silenced,
            units_to_silence,
        )

        if not ratios:
            return
        try:
            groups = {group.name: group for group in groups_to_probe(self._checkpoint)}
        except BadCheckpoint as error:
            self._console.warn(f"nothing is pruned: {error}")
            return
        probes = prune_probes(list(groups.values()), ratios)
        scores = self._importance(list(groups.values())) if self._missing(probes) else {}

        def change(probe: Probe) -> ProbeResult:
            group = groups[probe.target]
            units = units_to_silence(group, probe.ratio)
            with silenced(self._float, group, scores[group.name], units):
                return self._compare(probe, self._float, share=units / group.units)

        self._make(probes, change, "pruning")

    def summary(self) -> Sensitivity:
        """All that is in probes.jsonl."""
        return Sensitivity(
            checkpoint=self._checkpoint.name,
            checkpoint_sha256=self._checkpoint.sha256,
            dataset_sha256=_digest(self._utterances),
            utterances=len(self._utterances),
            frames=sum(len(item) for item in self._before),
            reference_chars=self._cer.reference_chars,
            edits=self._cer.edits,
            cer=float(self._cer.cer),
            criterion=self._recipe.prune.criterion,
            results=tuple(self._done.values()),
        )

    def _missing(self, probes: Sequence[Probe]) -> list[Probe]:
        return [probe for probe in probes if probe not in self._done]

    def _make(
        self, probes: Sequence[Probe], change: Callable[[Probe], ProbeResult], title: str
    ) -> None:
        with self._console.progress(title) as advance:
            for index, probe in enumerate(probes):
                if probe not in self._done:
                    result = change(probe)
                    self._run.append_json(PROBES, strict_json.to_json(result))
                    self._done[probe] = result
                advance(index + 1, len(probes))

    def _calibrated(self) -> Ranges:
        """Ranges of all layers, by the calibration of every other run."""
        from asrcompress.compress.qat import train_quantized

        if not self._run.has("calibrated.json"):
            recognizer = from_checkpoint(self._checkpoint, device=self._recipe.training.device)
            train_quantized(
                self._run,
                self._recipe,
                self._checkpoint,
                calibration=self._speech.calibration,
                train=(),
                load_features=recognizer.features,
                console=self._console,
            )
        return read_ranges(self._run.path / "calibrated.json")

    def _importance(self, groups: Sequence[Group]) -> dict[str, np.ndarray]:
        """Of every unit of every group, kept so that a resumed run silences the same ones."""
        if not self._run.has(_IMPORTANCE):
            scores = self._score(groups)
            named = {g.name: s.tolist() for g, s in zip(groups, scores, strict=True)}
            self._run.write_json(_IMPORTANCE, named)
        kept = self._run.read_json(_IMPORTANCE)
        return {name: np.asarray(scores, np.float64) for name, scores in kept.items()}

    def _score(self, groups: Sequence[Group]) -> list[np.ndarray]:
        from asrcompress.compress.batches import training_set
        from asrcompress.compress.importance import MAGNITUDES, score_magnitudes
        from asrcompress.compress.prune import score_units

        criterion, network = self._recipe.prune.criterion, self._float
        if criterion in MAGNITUDES:
            state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
            return score_magnitudes(groups, state, criterion)
        if not self._speech.train:
            raise BadRecipe(
                f"data.train: not set, expected a manifest for criterion {criterion}",
                hint="--train-manifest FILE, or --prune-criterion l2",
            )
        load = from_network(self._checkpoint, network).features
        with self._console.progress(f"importance ({criterion})") as advance:
            return score_units(
                network,
                groups,
                criterion=criterion,
                speech=training_set(
                    self._speech.train, self._recipe, self._checkpoint, network, load
                ),
                batches=self._recipe.prune.batches,
                progress=advance,
            )

    def _compare(self, probe: Probe, network: Any, *, share: float) -> ProbeResult:
        from asrcompress.compress.posteriors import divergence

        after, report = self._hear(network)
        return ProbeResult(
            probe=probe,
            share=share,
            # What is zero may come out a rounding below.
            kl=max(0.0, divergence(self._before, after)),
            edits=report.edits,
            cer=float(report.cer),
        )

    def _hear(
        self, network: Any, advance: Advance | None = None
    ) -> tuple[list[np.ndarray], CerReport]:
        """Log-probabilities of every utterance, and what the recipe's decoding makes of them."""
        recognizer = from_network(self._checkpoint, network, decoding=self._recipe.decoding)
        log_probs, texts = [], []
        for index, features in enumerate(self._features):
            log_probs_of, text = _hear_one(recognizer, features)
            log_probs.append(log_probs_of)
            texts.append(text)
            if advance:
                advance(index + 1, len(self._features))
        return log_probs, score_all(self._utterances, texts)


def _hear_one(recognizer: Recognizer, features: np.ndarray) -> tuple[np.ndarray, str]:
    encoded = recognizer.model.encode([features])[0]
    assert recognizer.decoder is not None  # `from_network` always gives one
    best = recognizer.decoder.decode(encoded)
    return encoded.log_probs, recognizer.vocabulary.ids_to_text(best.tokens)


def _read_results(run: Run) -> list[ProbeResult]:
    """What was measured before; of a probe that stands twice, the first.

    Raises:
        BadRun: a line that is no result.
    """
    item = str(run.path / PROBES)
    found: dict[Probe, ProbeResult] = {}
    for line in run.read_json_lines(PROBES):
        result = strict_json.from_json(ProbeResult, line, item=item, error=BadRun)
        found.setdefault(result.probe, result)
    return list(found.values())


def _digest(utterances: Sequence[Utterance]) -> str:
    """Of what was heard: ids, spans and transcripts; where the files lie does not count."""
    lines = [[item.utt, item.start_s, item.end_s, item.text] for item in utterances]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def _present(run: Run, found: Sensitivity, console: Console) -> Path | None:
    """The heat map and the page; a measurement that cannot be drawn is no less finished."""
    try:
        from asrcompress.report.sensitivity import write_picture

        with console.status("drawing"):
            write_picture(found, run.path / PICTURE)
            return write_report(run)
    except (MissingExtra, ImportError) as error:
        console.warn(f"no heat map: {error}")
        return None
