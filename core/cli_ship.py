"""Commands around the bundle: export, verify, transcribe, bench."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from asrcompress.cli_options import SHIP, Force, Json, Quiet, Threads
from asrcompress.cli_recipe import require_checkpoint, with_recipe
from asrcompress.console import Console
from asrcompress.errors import BadRecipe
from asrcompress.recipe import Recipe

app = typer.Typer()


@app.command(rich_help_panel=SHIP)
@with_recipe
def export(
    source: Annotated[
        Path | None,
        typer.Argument(help="run directory; a checkpoint with --precision fp32 [latest passing]"),
    ] = None,
    *,
    recipe: Recipe,
    output: Annotated[Path, typer.Option("--output", "-o", help="bundle folder")] = Path("bundle"),
    format: Annotated[str, typer.Option(help="artifact format: onnx")] = "onnx",
    precision: Annotated[str, typer.Option(help="int8, or fp32 for a checkpoint")] = "int8",
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the bundle of a run that passed its gate: the very bytes that were measured."""
    from asrcompress import render, shipping

    if format != "onnx":
        raise BadRecipe(f"--format: got {format}, expected onnx")
    if precision == "int8":
        bundle = shipping.ship_run(shipping.find_run(source, recipe), output, force=force)
    elif precision == "fp32":
        path = source or require_checkpoint(recipe)
        bundle = shipping.ship_checkpoint(
            path, recipe, output, force=force, console=Console(quiet=quiet or json)
        )
    else:
        raise BadRecipe(f"--precision: got {precision}, expected int8 or fp32")
    render.show(bundle.manifest.to_json(), render.bundle(bundle), json=json)


@app.command(rich_help_panel=SHIP)
def verify(
    bundle: Annotated[Path, typer.Argument(help="bundle folder")],
    json: Json = False,
) -> None:
    """Check every hash of a bundle, load it, and transcribe a second of silence."""
    import numpy

    from asrcompress import render
    from asrcompress.runtime import Transcriber

    transcriber = Transcriber(bundle)
    transcriber.transcribe(numpy.zeros(16_000, numpy.float32))
    checked = transcriber.bundle
    render.show(checked.manifest.to_json(), render.bundle(checked), json=json)


@app.command(rich_help_panel=SHIP)
def transcribe(
    bundle: Annotated[Path, typer.Argument(help="bundle folder")],
    audio: Annotated[list[Path], typer.Argument(help="16 kHz mono audio files")],
    threads: Threads = 1,
    beam: Annotated[int, typer.Option(min=1, help="prefixes of the beam search; 1: greedy")] = 1,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Transcribe audio files, one line each."""
    from asrcompress import render
    from asrcompress.runtime import Transcriber

    transcriber = Transcriber(bundle, threads=threads, beam=beam)
    transcripts = []
    with Console(quiet=quiet or json).progress("transcribing") as advance:
        for path, transcript in zip(audio, transcriber.transcribe_stream(audio), strict=True):
            transcripts.append((path, transcript))
            advance(len(transcripts), len(audio))
    render.show(
        {"transcripts": [{"audio": str(p), **dataclasses.asdict(t)} for p, t in transcripts]},
        "\n".join(f"{path}\t{item.text}" for path, item in transcripts),
        json=json,
    )


@app.command(rich_help_panel=SHIP)
def bench(
    bundle: Annotated[Path, typer.Argument(help="bundle folder")],
    against: Annotated[list[Path] | None, typer.Option(help="bundle to compare with")] = None,
    audio: Annotated[
        list[Path] | None, typer.Option(help="16 kHz mono audio; default: noise of 2, 5 and 10 s")
    ] = None,
    threads: Threads = 1,
    rounds: Annotated[int, typer.Option(min=3, help="interleaved rounds")] = 15,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure speed, memory, load time and size of bundles side by side."""
    from asrcompress import render
    from asrcompress.speed import compare_bundles

    with Console(quiet=quiet or json).progress("measuring") as advance:
        # The first is what speed-ups are relative to.
        comparison = compare_bundles(
            [*(against or []), bundle],
            audio or [],
            threads=threads,
            rounds=rounds,
            progress=advance,
        )
    render.show(comparison.to_json(), render.comparison(comparison), json=json)
