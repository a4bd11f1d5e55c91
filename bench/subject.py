"""What is benchmarked: one checkpoint, the run that compressed it, and what ships of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asrcompress.bundles.bundle import read_bundle
from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.console import Console
from asrcompress.files import sha256_file
from asrcompress.manifests.manifest import Utterance, load_manifest
from asrcompress.pipeline.recognizer import checkpoint_of
from asrcompress.pipeline.shipping import ship_checkpoint, ship_run
from asrcompress.recipe import Recipe
from asrcompress.run import Run, read_run
from asrcompress.runtime.features import Fbank
from bench.inputs import Input, coloured_noise, speech_of, write_input

# quantize_static keeps every activation of its calibration data in memory.
_CALIBRATION_UTTERANCES = 40
_BUNDLE, _FP32_BUNDLE = "bundle-int8", "bundle-fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A compressed checkpoint.

    Attributes:
        name: of the shape, or of the user's run.
        trained: whether a CER means anything.
        bundle, fp32_bundle: what `asrcompress export` writes of the run and of the checkpoint.
        calibration: utterances that quantizers may look at; the run's own.
        gate: utterances that the CER is measured on.
        folder: for what is built of it; another one for every other pair of models.
    """

    name: str
    trained: bool
    run: Run
    recipe: Recipe
    checkpoint: Checkpoint
    bundle: Path
    fp32_bundle: Path
    calibration: tuple[Utterance, ...]
    gate: tuple[Utterance, ...]
    folder: Path

    @property
    def fp32(self) -> Path:
        """The checkpoint as ONNX, which every quantizer starts from."""
        return self.run.fp32_model

    @property
    def int8(self) -> Path:
        """The graph that ships."""
        return read_bundle(self.bundle, verify=False).model_path

    @property
    def fbank(self) -> Fbank:
        """The features of the checkpoint."""
        return Fbank(self.checkpoint.features)

    def inputs(self, lengths_s: Sequence[float]) -> list[Input]:
        """Recordings of some lengths: the gate's speech, or noise for random weights."""
        made = []
        for seconds in lengths_s:
            path = self.folder / "inputs" / f"{seconds:g}s"
            noise = coloured_noise(seconds, seed=7)
            samples = speech_of(self.gate, seconds) if self.trained else noise
            made.append(write_input(path, samples, self.fbank))
        return made


def subject_of_run(
    path: Path, work: Path, *, name: str, trained: bool, console: Console
) -> Subject:
    """The subject of a run whose gate passed; its bundles are written on first use.

    Raises:
        BadRun, CerGateFailed: unfinished, changed, or not good enough to be shipped.
        BadManifest: no gate or calibration manifest any more.
    """
    run = read_run(path)
    recipe = Recipe.from_dict(run.read_json("run.json")["recipe"], source="run", folder=run.path)
    checkpoint = checkpoint_of(run)
    digest = f"{sha256_file(run.fp32_model)[:8]}-{sha256_file(run.model)[:8]}"
    folder = work / name / digest
    bundle, fp32_bundle = folder / _BUNDLE, folder / _FP32_BUNDLE
    if not bundle.is_dir():
        ship_run(run, bundle)
    if not fp32_bundle.is_dir():
        ship_checkpoint(checkpoint.root, recipe, fp32_bundle, force=False, console=console)
    source = recipe.data.calibration or recipe.data.train
    assert source is not None and recipe.data.gate is not None  # a run does not begin without
    return Subject(
        name=name,
        trained=trained,
        run=run,
        recipe=recipe,
        checkpoint=checkpoint,
        bundle=bundle,
        fp32_bundle=fp32_bundle,
        calibration=tuple(_spread(load_manifest(source), _CALIBRATION_UTTERANCES)),
        gate=tuple(load_manifest(recipe.data.gate)),
        folder=folder,
    )


def _spread(utterances: list[Utterance], count: int) -> list[Utterance]:
    return utterances[:: max(1, len(utterances) // count)][:count]
