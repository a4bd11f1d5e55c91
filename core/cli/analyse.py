"""Commands that find out what a model can bear: sensitivity, mixed."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from asrcompress.cli.compress import ExportTo, checkpoint_of, finish
from asrcompress.cli.options import COMPRESS, Force, Json, Quiet
from asrcompress.cli.recipe_options import with_recipe
from asrcompress.console import Console
from asrcompress.recipe import Recipe

app = typer.Typer()


class Action(str, Enum):
    """Kinds of probes; their values are those of `asrcompress.sensitivity`."""

    quantize = "quantize"
    prune = "prune"


@app.command(rich_help_panel=COMPRESS)
@with_recipe
def sensitivity(
    *,
    recipe: Recipe,
    only: Annotated[Action | None, typer.Option(help="one kind of probe [default: both]")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure what each layer minds: quantized alone, or partly pruned, one at a time.

    On data.dev, which may share nothing with the gate's manifest. Goes on where it was interrupted.
    """
    from asrcompress.cli import render, render_analysis
    from asrcompress.pipeline.sensitivity import ACTIONS, measure_sensitivity

    checkpoint = checkpoint_of(recipe)
    outcome = measure_sensitivity(
        recipe,
        checkpoint,
        Console(quiet=quiet or json),
        actions=ACTIONS if only is None else (only.value,),
    )
    render.show(outcome.to_json(), render_analysis.sensitivity(outcome), json=json)


@app.command(rich_help_panel=COMPRESS)
@with_recipe
def mixed(
    *,
    recipe: Recipe,
    sensitivity: Annotated[
        Path | None,
        typer.Option(help="sensitivity.json of this checkpoint [default: measured first]"),
    ] = None,
    export_to: ExportTo = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Quantize without training, with as few layers in float as the CER asks for.

    The most sensitive layers stay in float, and bisection on data.dev finds how many: every step
    exports an artifact and hears it. The gate judges what was chosen, and if it refuses, a few
    larger sets (--gate-tries).
    """
    from asrcompress.cli import render, render_analysis
    from asrcompress.files import refuse_overwrite
    from asrcompress.pipeline.mixed import find_mixed_precision

    if export_to is not None:
        refuse_overwrite(export_to, force)
    checkpoint = checkpoint_of(recipe)
    console = Console(quiet=quiet or json)
    outcome = find_mixed_precision(recipe, checkpoint, console, sensitivity=sensitivity)
    render.show(outcome.to_json(), render_analysis.mixed(outcome), json=json)
    finish(outcome.chosen, outcome.failure, export_to, force=force, json=json)
