"""From a run that passed its gate to the bundle that ships, byte for byte."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from asrcompress.accuracy.cer import CerReport
from asrcompress.bundles.bundle import (
    Bundle,
    BundleManifest,
    DecoderModel,
    StreamingModel,
    write_bundle,
)
from asrcompress.checkpoints.checkpoint import Checkpoint, read_checkpoint
from asrcompress.checkpoints.streaming import check_streamable
from asrcompress.console import Console
from asrcompress.errors import BadRecipe, BadRun, CerGateFailed
from asrcompress.files import refuse_overwrite, sha256_file, writing
from asrcompress.pipeline.decoder import check_decodable
from asrcompress.pipeline.golden_recording import record_golden
from asrcompress.pipeline.recognizer import checkpoint_of, from_onnx
from asrcompress.ranges import read_ranges
from asrcompress.recipe import Recipe
from asrcompress.run import FAILED, PASSED, Run, latest_passing_run, read_run
from asrcompress.targets import Target, find_target
from asrcompress.tokens import Vocabulary


def find_run(path: Path | None, recipe: Recipe) -> Run:
    """The run at `path`, or the one that passed last.

    Raises:
        BadRun: there is none.
    """
    return read_run(path) if path is not None else latest_passing_run(recipe.runs)


def ship_run(run: Run, output: Path, *, target: str = "int8", force: bool = False) -> Bundle:
    """Write the bundle of a run whose gate passed.

    Args:
        target: contract to ship to; ``int8`` is whatever the run was trained for.
    Raises:
        BadRecipe: the run's weights do not keep the target's contract.
        CerGateFailed: the run failed its gate; nothing is written.
        BadRun: unfinished, or its model is not the one that was measured.
        OutputExists: there is something at `output`.
    """
    refuse_overwrite(output, force)
    recipe = require_passed(run)
    contract = contract_of(run, recipe, target)
    streaming = None
    if recipe.streaming.wanted:
        _check_unchanged(run, run.streaming_model, "streaming_sha256")
        streaming = run.streaming_spec()
    return _write_run(
        run,
        recipe,
        output,
        streaming=streaming,
        quality=_quality(run, recipe),
        contract=contract,
        force=force,
    )


def weigh_run(run: Run, recipe: Recipe, output: Path) -> Bundle:
    """The bundle that a run would ship as, before any gate: to be measured, and thrown away.

    It has no quality statement, and lacks the streaming graph, which only the gate's stages make.

    Raises:
        BadRun: the run has no artifact yet.
    """
    contract = find_target(recipe.export.target)
    return _write_run(
        run, recipe, output, streaming=None, quality=None, contract=contract, force=False
    )


def _write_run(
    run: Run,
    recipe: Recipe,
    output: Path,
    *,
    streaming: StreamingModel | None,
    quality: dict[str, object] | None,
    contract: Target,
    force: bool,
) -> Bundle:
    """Write the artifact of a run as a bundle."""
    from asrcompress.export.onnx_bundle import describe

    checkpoint = checkpoint_of(run)
    decoder = None
    if recipe.decoding.uses_decoder:
        _check_unchanged(run, run.decoder_model, "decoder_sha256")
        share = run.field("integer_share-decoder.json", "share", kind=float)
        decoder = replace(run.decoder_spec(), model=run.decoder_model.name, integer_share=share)
    manifest = describe(
        run.model,
        checkpoint,
        precision="int8",
        subsampling=run.field("run.json", "subsampling", kind=int),
        max_frames=run.field("run.json", "max_frames", kind=int),
        integer_share=run.field("integer_share.json", "share", kind=float),
        quality=quality,
        streaming=streaming,
        decoder=decoder,
    )
    parts = [run.path / part.model for part in (streaming, decoder) if part is not None]
    return _write(
        output,
        replace(manifest, target=contract.name),
        model=run.model,
        vocabulary=checkpoint.vocabulary,
        extra=parts,
        force=force,
    )


def require_passed(run: Run) -> Recipe:
    """The recipe of a run whose gate passed, and whose model is the one that passed it.

    Raises:
        CerGateFailed: the run failed its gate.
        BadRun: unfinished, or its model is not the one that was measured.
    """
    status = run.status()
    if status == FAILED:
        raise CerGateFailed(
            f"{run.path}: failed its gate, nothing is exported",
            hint=f"{run.path / 'verdict.json'} says why",
        )
    if status != PASSED:
        raise BadRun(f"{run.path}: is {status}", hint="repeat the command that started it")
    _check_unchanged(run, run.model, "model_sha256")
    return Recipe.from_dict(
        run.field("run.json", "recipe", kind=dict), source=str(run.path), folder=run.path
    )


def _check_unchanged(run: Run, path: Path, recorded: str) -> None:
    if sha256_file(path) != run.field("run.json", recorded, kind=str):
        raise BadRun(f"{path}: was changed after the gate measured it")


def ship_checkpoint(
    path: Path, recipe: Recipe, output: Path, *, force: bool, console: Console
) -> Bundle:
    """Write an FP32 bundle of a checkpoint, for comparison. Nothing is measured or promised.

    Raises:
        BadCheckpoint, ExportFailed, OutputExists: with what is wrong.
    """
    from asrcompress.export.onnx_bundle import describe
    from asrcompress.export.onnx_graph import save_graph
    from asrcompress.pipeline.quantize import export_checkpoint, max_frames

    refuse_overwrite(output, force)
    checkpoint = named_checkpoint(path, recipe)
    check_streamable(checkpoint, recipe.streaming)
    check_decodable(checkpoint, recipe.decoding)
    with tempfile.TemporaryDirectory(prefix="asrcompress-") as folder:
        model, streaming, decoder = Path(folder) / "model.onnx", None, None
        with console.status("exporting FP32"):
            graph, subsampling = export_checkpoint(checkpoint, recipe)
            save_graph(graph, model)
            if recipe.streaming.wanted:
                streaming = _save_chunks(checkpoint, recipe, model)
            if recipe.decoding.uses_decoder:
                decoder = _save_decoder(checkpoint, recipe, model.parent)
        manifest = describe(
            model,
            checkpoint,
            precision="fp32",
            subsampling=subsampling,
            max_frames=max_frames(checkpoint, recipe),
            integer_share=0.0,
            quality=None,
            streaming=streaming,
            decoder=decoder,
        )
        parts = [model.parent / part.model for part in (streaming, decoder) if part is not None]
        return _write(
            output,
            manifest,
            model=model,
            vocabulary=checkpoint.vocabulary,
            extra=parts,
            force=force,
        )


def named_checkpoint(path: Path, recipe: Recipe) -> Checkpoint:
    """The checkpoint at `path`; with the files that the recipe names, if it is the recipe's.

    Raises:
        BadCheckpoint: it cannot be read.
    """
    source = recipe.checkpoint
    same = source.path is not None and source.path.resolve() == path.resolve()
    return read_checkpoint(
        path,
        config=source.config if same else None,
        weights=source.weights if same else None,
    )


def _save_decoder(checkpoint: Checkpoint, recipe: Recipe, folder: Path) -> DecoderModel:
    """Write the FP32 attention decoder into `folder`."""
    from asrcompress.export.onnx_graph import save_graph
    from asrcompress.pipeline.decoder import export_decoder_of

    graph, described = export_decoder_of(checkpoint, recipe)
    save_graph(graph, folder / described.model)
    return replace(described, integer_share=0.0)


def _save_chunks(checkpoint: Checkpoint, recipe: Recipe, model: Path) -> StreamingModel:
    """Write the FP32 streaming graph beside `model`, whose weights it reads."""
    from asrcompress.export.onnx_graph import save_graph
    from asrcompress.export.shared_weights import share_weights
    from asrcompress.pipeline.quantize import max_frames
    from asrcompress.pipeline.streaming import export_chunks_of

    name = "model-streaming.onnx"
    graph, spec = export_chunks_of(
        checkpoint, recipe, name=name, max_frames=max_frames(checkpoint, recipe)
    )
    share_weights(graph, model)
    save_graph(graph, model.parent / name)
    return spec


def contract_of(run: Run, recipe: Recipe, wanted: str) -> Target:
    """The contract to ship to, which the run's weights keep.

    Raises:
        BadRecipe: they do not.
    """
    trained = find_target(recipe.export.target)
    contract = trained if wanted == "int8" else find_target(wanted)
    top = read_ranges(run.ranges).weight_top if contract.reduce_range else 0
    if top > contract.weight_top:
        raise BadRecipe(
            f"{run.path}: was trained for {trained.name}, whose weights reach {top}; "
            f"{contract.name} takes at most {contract.weight_top}",
            hint=f"asrcompress qat --target {contract.name}",
        )
    return contract


def _write(
    output: Path,
    manifest: BundleManifest,
    *,
    model: Path,
    vocabulary: Vocabulary,
    extra: Sequence[Path] = (),
    force: bool,
) -> Bundle:
    """Write a bundle with the recordings of its self-test, made by the very model that ships."""
    recognizer = from_onnx(
        model,
        name=manifest.model,
        features=manifest.features,
        vocabulary=vocabulary,
        max_frames=manifest.max_frames,
    )
    with writing(output), tempfile.TemporaryDirectory(prefix="asrcompress-") as folder:
        golden = record_golden(recognizer, Path(folder))
        return write_bundle(
            output,
            replace(manifest, golden=golden),
            model=model,
            vocabulary=vocabulary,
            extra=[*extra, *(Path(folder) / name for name in golden.files)],
            force=force,
        )


def _quality(run: Run, recipe: Recipe) -> dict[str, object]:
    """CER with intervals and the verdict, for ``bundle.json``; of streams under ``streaming``."""
    if recipe.data.gate is None:
        raise BadRecipe(f"{run.path}: names no gate manifest")
    quality = {"gate_manifest": recipe.data.gate.name, **_measured(run, "")}
    if recipe.streaming.wanted:
        share = run.field("integer_share-streaming.json", "share", kind=float)
        quality["streaming"] = {"integer_share": share, **_measured(run, "-streaming")}
    return quality


def _measured(run: Run, suffix: str) -> dict[str, object]:
    names = {side: f"{side}{suffix}.json" for side in ("before", "after")}
    reports = {
        side: CerReport.from_json(run.field(name, "cer", kind=dict), item=str(run.path / name))
        for side, name in names.items()
    }
    return described(reports, run.read_json(f"verdict{suffix}.json"))


def described(reports: Mapping[str, CerReport], verdict: dict[str, Any]) -> dict[str, object]:
    """CER of each side with its interval, and the verdict, as ``bundle.json`` has them.

    Args:
        reports: ``before`` and ``after``.
    """
    found: dict[str, object] = {
        "utterances": len(reports["after"].utterances),
        "verdict": verdict,
    }
    for side, report in reports.items():
        low, high = report.interval()
        found[f"cer_{side}"] = float(report.cer)
        found[f"cer_{side}_interval_95"] = [float(low), float(high)]
    return found
