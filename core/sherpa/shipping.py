"""From a run or a checkpoint to a folder that sherpa-onnx loads unmodified.

First the bundle is made as ever, with the run's gate and every check that it has; then its graph
gets the form of one of sherpa-onnx's slots. Where that slot hears other features than training
did, or the gate judged another decoding than sherpa-onnx's greedy one, the gate is held once more,
in sherpa-onnx itself, before anything is written.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asrcompress.accuracy.cer import CerReport
from asrcompress.accuracy.gate import judge
from asrcompress.bundles.bundle import Bundle, BundleManifest
from asrcompress.console import Console
from asrcompress.errors import BadRecipe, CerGateFailed, MissingExtra, SelfTestFailed
from asrcompress.manifests.manifest import load_manifest
from asrcompress.pipeline.shipping import (
    described,
    find_run,
    require_passed,
    ship_checkpoint,
    ship_run,
)
from asrcompress.recipe import Recipe
from asrcompress.run import Run
from asrcompress.sherpa.check import hear_wavs, measure_in_sherpa
from asrcompress.sherpa.forms import (
    Listener,
    bundle_graph,
    folder_name,
    model_name,
    slot_of,
    write_form,
)
from asrcompress.sherpa.process import require_sherpa
from asrcompress.sherpa.readme import readme
from asrcompress.sherpa.record import (
    TOKENS,
    WAVS,
    WENET_STREAM,
    SherpaModel,
    SherpaRecord,
    read_sherpa_folder,
    refuse_replacing,
    write_sherpa_folder,
)
from asrcompress.targets import find_target

_STREAMING_SUFFIX = "-streaming"
_FP32_STREAM = "model-streaming.fp32.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """The verified graphs, by precision, and the bundle that describes them."""

    bundle: Bundle
    graphs: dict[str, Path]
    recipe: Recipe
    run: Run | None = None


def ship_sherpa(
    source: Path | None,
    recipe: Recipe,
    output: Path | None,
    *,
    precision: str | None,
    force: bool,
    console: Console,
) -> tuple[Path, SherpaRecord]:
    """Write the folder.

    Args:
        source: a run directory, or for FP32 a checkpoint; None is the run that passed last, or
            the recipe's checkpoint.
        output: None is ``sherpa-onnx-<network>-<language>-<date>`` here.
        precision: ``int8``, which brings the checkpoint in FP32 along, or ``fp32`` alone.
    Returns:
        the folder, and what it says of itself.
    Raises:
        BadRecipe, BadRun, BadCheckpoint, CerGateFailed: see `asrcompress.pipeline.shipping`.
        MissingExtra: the gate has to be held in sherpa-onnx, which is not installed.
        SherpaFailed, SelfTestFailed: sherpa-onnx does not load it, or hears something else.
        OutputExists: there is something at `output`.
    """
    if output is not None:
        refuse_replacing(output, force=force)
    with tempfile.TemporaryDirectory(prefix="asrcompress-") as scratch:
        origin = _origin(source, recipe, precision, Path(scratch) / "bundle", console)
        streaming = _is_stream(origin.bundle.manifest, recipe)
        slot = slot_of(origin.bundle.manifest, streaming=streaming)
        origin = _with_graphs(origin, slot)
        draft = Path(scratch) / "sherpa"
        with console.status("writing the form for sherpa-onnx"):
            record = _write(draft, origin, slot)
        record = _checked(draft, record, origin, console)
        (draft / "README.md").write_text(readme(record), encoding="utf-8")
        folder = output or folder_name(origin.bundle.manifest, slot, origin.bundle.tokens)
        write_sherpa_folder(draft, folder, record, force=force)
    return folder, read_sherpa_folder(folder)


def _origin(
    source: Path | None, recipe: Recipe, precision: str | None, folder: Path, console: Console
) -> _Origin:
    if precision not in (None, "int8", "fp32"):
        raise BadRecipe(f"--precision: got {precision}, expected int8 or fp32")
    if precision == "fp32":
        path = source or recipe.checkpoint.path
        if path is None:
            raise BadRecipe("checkpoint: not set, expected a checkpoint", hint="--checkpoint DIR")
        bundle = ship_checkpoint(path, recipe, folder, force=False, console=console)
        return _Origin(bundle=bundle, graphs={}, recipe=recipe)
    run = find_run(source, recipe)
    trained = require_passed(run)
    target = recipe.export.target
    if target == "int8":  # not chosen: what is right on every machine that sherpa-onnx runs on
        target = "sherpa-stream" if trained.streaming.wanted else "sherpa-offline"
    bundle = ship_run(run, folder, target=target)
    return _Origin(bundle=bundle, graphs={}, recipe=trained, run=run)


def _is_stream(manifest: BundleManifest, recipe: Recipe) -> bool:
    """Whether the graph for streams is meant, of a bundle that has both."""
    target = find_target(recipe.export.target)
    if manifest.streaming is None or target.name == "sherpa-offline":
        return False
    return manifest.streaming.kind == "u2"


def _with_graphs(origin: _Origin, slot: str) -> _Origin:
    graph = bundle_graph(origin.bundle, slot)
    if origin.run is None:
        return replace(origin, graphs={"fp32": graph})
    run = origin.run
    exact = run.path / _FP32_STREAM if slot == WENET_STREAM else run.fp32_model
    return replace(origin, graphs={"int8": graph, "fp32": exact})


def _write(draft: Path, origin: _Origin, slot: str) -> SherpaRecord:
    """Models, tokens and test recordings, and what they say by our own runtime."""
    manifest, tokens = origin.bundle.manifest, origin.bundle.tokens
    (draft / WAVS).mkdir(parents=True)
    shutil.copyfile(origin.bundle.path / manifest.tokens, draft / TOKENS)
    audio = {}
    for number, case in enumerate(manifest.golden.cases if manifest.golden else ()):
        audio[f"{number}.wav"] = draft / WAVS / f"{number}.wav"
        shutil.copyfile(origin.bundle.path / case.audio, audio[f"{number}.wav"])
    models = {}
    for precision, graph in origin.graphs.items():
        name = model_name(slot, precision)
        digest = write_form(draft / name, graph, manifest, slot, vocabulary=len(tokens))
        models[precision] = SherpaModel(file=name, origin_sha256=digest)
    record = SherpaRecord(
        slot=slot,
        family=manifest.family,
        models=models,
        features=manifest.features,
        subsampling_factor=manifest.subsampling_factor,
        min_frames=manifest.min_frames,
        max_frames=manifest.max_frames,
        streaming=manifest.streaming if slot == WENET_STREAM else None,
        target=manifest.target,
        source=manifest.source,
        tools=manifest.tools,
        quality=manifest.quality,
    )
    for precision in models:
        listener = Listener(folder=draft, record=record, precision=precision, vocabulary=tokens)
        texts = {name: listener.text(path) for name, path in audio.items()}
        record = _with_model(record, precision, texts=texts)
    return record


def _with_model(record: SherpaRecord, precision: str, **changes: Any) -> SherpaRecord:
    changed = replace(record.models[precision], **changes)
    return replace(record, models={**record.models, precision: changed})


def _checked(draft: Path, record: SherpaRecord, origin: _Origin, console: Console) -> SherpaRecord:
    """Loaded in sherpa-onnx, and where the run's gate does not speak for it, gated there."""
    gated = origin.run is not None and (
        not record.hears_training_features or origin.recipe.decoding.method != "greedy"
    )
    try:
        require_sherpa()
    except MissingExtra:
        if gated:
            raise
        console.warn(
            "sherpa-onnx is not installed: the folder was not loaded in it "
            "(pip install 'asrcompress[sherpa]', asrcompress verify FOLDER --with sherpa-onnx)"
        )
        return record
    for precision in record.models:
        hearing = hear_wavs(draft, record, precision, console)
        if hearing.same_texts < hearing.needed:
            raise SelfTestFailed(
                f"{hearing.file}: sherpa-onnx gives another text than asrcompress on "
                f"{hearing.recordings - hearing.same_texts} of {hearing.recordings} recordings"
            )
    if gated and origin.run is not None:
        quality = _gate(draft, record, origin.run, origin.recipe, console)
        record = _with_model(record, "int8", quality=quality)
    return record


def _gate(
    draft: Path, record: SherpaRecord, run: Run, recipe: Recipe, console: Console
) -> dict[str, object]:
    """CER of the INT8 model in sherpa-onnx against the checkpoint's in PaddleSpeech.

    Raises:
        CerGateFailed: not good enough.
    """
    gate = recipe.data.gate
    if gate is None:
        raise BadRecipe(f"{run.path}: names no gate manifest")
    name = f"before{_STREAMING_SUFFIX if record.streaming is not None else ''}.json"
    before = CerReport.from_json(run.field(name, "cer", kind=dict), item=str(run.path / name))
    after, marked = measure_in_sherpa(draft, record, "int8", load_manifest(gate), console)
    verdict = judge(
        before,
        after,
        max_increase=recipe.gate.max_cer_increase,
        relative=recipe.gate.relative,
        draws=recipe.gate.draws,
    )
    if not verdict.passed:
        raise CerGateFailed(
            f"CER gate in sherpa-onnx: {verdict.reason}",
            hint="the run passed in asrcompress; sherpa-onnx computes other features than training "
            "did (docs/sherpa-onnx.md): ship it as onnx, or train with a larger --max-cer-increase",
        )
    console.say(f"CER in sherpa-onnx: {float(after.cer):.2%}, before: {float(before.cer):.2%}")
    reports = {"before": before, "after": after}
    if marked:
        console.warn(f"sherpa-onnx prints <unk> or <eos> in {marked} of {verdict.utterances} texts")
    measured_on = {"gate_manifest": gate.name, "measured_on": "sherpa-onnx", "marked": marked}
    return {**measured_on, **described(reports, verdict.to_json())}
