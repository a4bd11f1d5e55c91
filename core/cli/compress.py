"""Commands that make a smaller model: qat, ptq, prune, report."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asrcompress.cli.options import COMPRESS, Force, Json, Quiet
from asrcompress.cli.recipe_options import require_checkpoint, with_recipe
from asrcompress.console import Console
from asrcompress.errors import AsrCompressError, BadRecipe
from asrcompress.recipe import Recipe

if TYPE_CHECKING:
    from asrcompress.checkpoints.checkpoint import Checkpoint
    from asrcompress.run import Run

ExportTo = Annotated[Path | None, typer.Option(help="write the bundle here if the gate passes")]

app = typer.Typer()


@app.command(rich_help_panel=COMPRESS)
@with_recipe
def qat(
    *,
    recipe: Recipe,
    export_to: ExportTo = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Quantize with training, export, and judge the artifact by its CER."""
    if recipe.training.epochs == 0:
        raise BadRecipe("training.epochs: got 0, expected at least 1", hint="asrcompress ptq")
    _compress("qat", recipe, export_to, force=force, json=json, quiet=quiet)


@app.command(rich_help_panel=COMPRESS)
@with_recipe
def ptq(
    *,
    recipe: Recipe,
    export_to: ExportTo = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Quantize without training (calibration only), export, and judge the artifact by its CER."""
    training = dataclasses.replace(recipe.training, epochs=0)
    recipe = dataclasses.replace(recipe, training=training)
    _compress("ptq", recipe, export_to, force=force, json=json, quiet=quiet)


@app.command(rich_help_panel=COMPRESS)
@with_recipe
def prune(*, recipe: Recipe, json: Json = False, quiet: Quiet = False) -> None:
    """Remove what matters least, train what is left, and judge it; still in float.

    The result is a checkpoint like any other. Without this command, qat and ptq prune first where
    the recipe's [prune] table asks for it.
    """
    from asrcompress.cli import render
    from asrcompress.pipeline.prune import prune_model
    from asrcompress.targets import check_target

    checkpoint = checkpoint_of(recipe)
    console = Console(quiet=quiet or json)
    for warning in check_target(recipe, checkpoint):
        console.warn(warning)
    outcome = prune_model(recipe, checkpoint, console)
    if outcome is None:  # one of several training processes, and not the one that reports
        return
    for warning in outcome.verdict.warnings:
        console.warn(warning)
    render.show(outcome.to_json(), render.pruning(outcome), json=json)
    if outcome.failure is not None:
        raise outcome.failure


def checkpoint_of(recipe: Recipe) -> Checkpoint:
    """The checkpoint that a recipe names."""
    from asrcompress.checkpoints.checkpoint import read_checkpoint

    source = recipe.checkpoint
    return read_checkpoint(require_checkpoint(recipe), config=source.config, weights=source.weights)


def _compress(
    kind: str,
    recipe: Recipe,
    export_to: Path | None,
    *,
    force: bool,
    json: bool,
    quiet: bool,
) -> None:
    from asrcompress.cli import render
    from asrcompress.files import refuse_overwrite
    from asrcompress.pipeline.quantize import compress
    from asrcompress.targets import check_target

    if export_to is not None:
        refuse_overwrite(export_to, force)  # before hours of training, not after
    checkpoint = checkpoint_of(recipe)
    console = Console(quiet=quiet or json)
    for warning in check_target(recipe, checkpoint):
        console.warn(warning)
    outcome = compress(kind, recipe, checkpoint, console)
    if outcome is None:  # one of several training processes, and not the one that reports
        return
    for warning in outcome.verdict.warnings:
        console.warn(warning)
    render.show(outcome.to_json(), render.outcome(outcome), json=json)
    finish(outcome.run, outcome.failure, export_to, force=force, json=json)


def finish(
    run: Run | None,
    failure: AsrCompressError | None,
    export_to: Path | None,
    *,
    force: bool,
    json: bool,
) -> None:
    """Raise why nothing can be shipped, or ship what passed where a bundle is asked for."""
    from asrcompress.pipeline.shipping import ship_run

    if failure is not None:
        raise failure
    if export_to is not None and run is not None:
        typer.echo(ship_run(run, export_to, force=force).path, err=json)


@app.command(rich_help_panel=COMPRESS)
def report(
    run: Annotated[Path, typer.Argument(help="run directory, finished or not")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="page to write [RUN/report.html, or search.html]"),
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write one HTML page about a run: verdict, accuracy, noise by layer, how to reproduce it.

    About a search: the Pareto front, the candidate that was chosen, and why.
    """
    from asrcompress.report.page import write_report
    from asrcompress.report.search_page import write_search_report
    from asrcompress.run import read_run

    opened = read_run(run)
    searched = opened.field("run.json", "kind", kind=str) == "search"
    with Console(quiet=quiet).status("writing the report"):
        write = write_search_report if searched else write_report
        path = write(opened, output, force=force)
    typer.echo(path)
