"""From a run that passed its gate to the bundle that ships, byte for byte."""

from __future__ import annotations

import tempfile
from pathlib import Path

from asrcompress.bundle import Bundle, write_bundle
from asrcompress.cer import CerReport
from asrcompress.checkpoint import read_checkpoint
from asrcompress.console import Console
from asrcompress.errors import BadRecipe, BadRun, CerGateFailed
from asrcompress.files import refuse_overwrite, sha256_file
from asrcompress.recipe import Recipe
from asrcompress.recognizer import checkpoint_of
from asrcompress.run import FAILED, PASSED, Run, latest_passing_run, read_run


def find_run(path: Path | None, recipe: Recipe) -> Run:
    """The run at `path`, or the one that passed last.

    Raises:
        BadRun: there is none.
    """
    return read_run(path) if path is not None else latest_passing_run(recipe.runs)


def ship_run(run: Run, output: Path, *, force: bool = False) -> Bundle:
    """Write the bundle of a run whose gate passed.

    Raises:
        CerGateFailed: the run failed its gate; nothing is written.
        BadRun: unfinished, or its model is not the one that was measured.
        OutputExists: there is something at `output`.
    """
    from asrcompress.export.onnx_bundle import describe

    refuse_overwrite(output, force)
    status = run.status()
    if status == FAILED:
        raise CerGateFailed(
            f"{run.path}: failed its gate, nothing is exported",
            hint=f"{run.path / 'verdict.json'} says why",
        )
    if status != PASSED:
        raise BadRun(f"{run.path}: is {status}", hint="repeat the command that started it")
    if sha256_file(run.model) != run.field("run.json", "model_sha256", kind=str):
        raise BadRun(f"{run.model}: was changed after the gate measured it")
    recipe = Recipe.from_dict(
        run.field("run.json", "recipe", kind=dict), source=str(run.path), folder=run.path
    )
    checkpoint = checkpoint_of(run)
    manifest = describe(
        run.model,
        checkpoint,
        precision="int8",
        subsampling=run.field("run.json", "subsampling", kind=int),
        max_frames=run.field("run.json", "max_frames", kind=int),
        integer_share=run.field("integer_share.json", "share", kind=float),
        quality=_quality(run, recipe),
    )
    return write_bundle(
        output, manifest, model=run.model, vocabulary=checkpoint.vocabulary, force=force
    )


def ship_checkpoint(
    path: Path, recipe: Recipe, output: Path, *, force: bool, console: Console
) -> Bundle:
    """Write an FP32 bundle of a checkpoint, for comparison. Nothing is measured or promised.

    Raises:
        BadCheckpoint, ExportFailed, OutputExists: with what is wrong.
    """
    from asrcompress.export.onnx_bundle import describe
    from asrcompress.export.onnx_graph import save_graph
    from asrcompress.pipeline import export_checkpoint, max_frames

    refuse_overwrite(output, force)
    source = recipe.checkpoint
    same = source.path is not None and source.path.resolve() == path.resolve()
    checkpoint = read_checkpoint(
        path,
        config=source.config if same else None,
        weights=source.weights if same else None,
    )
    with tempfile.TemporaryDirectory(prefix="asrcompress-") as folder:
        model = Path(folder) / "model.onnx"
        with console.status("exporting FP32"):
            graph, subsampling = export_checkpoint(checkpoint, recipe)
            save_graph(graph, model)
        manifest = describe(
            model,
            checkpoint,
            precision="fp32",
            subsampling=subsampling,
            max_frames=max_frames(checkpoint, recipe),
            integer_share=0.0,
            quality=None,
        )
        return write_bundle(
            output, manifest, model=model, vocabulary=checkpoint.vocabulary, force=force
        )


def _quality(run: Run, recipe: Recipe) -> dict[str, object]:
    """CER with intervals and the verdict, for ``bundle.json``."""
    reports = {
        side: CerReport.from_json(
            run.field(f"{side}.json", "cer", kind=dict), item=str(run.path / f"{side}.json")
        )
        for side in ("before", "after")
    }
    if recipe.data.gate is None:
        raise BadRecipe(f"{run.path}: names no gate manifest")
    verdict = run.read_json("verdict.json")
    quality: dict[str, object] = {
        "gate_manifest": recipe.data.gate.name,
        "utterances": len(reports["after"].utterances),
        "verdict": verdict,
    }
    for side, report in reports.items():
        low, high = report.interval()
        quality[f"cer_{side}"] = float(report.cer)
        quality[f"cer_{side}_interval_95"] = [float(low), float(high)]
    return quality
