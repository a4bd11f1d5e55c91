"""Commands that look at what there is: doctor, init, inspect, evaluate."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from asrcompress.cli.decoding import DecodingMethod
from asrcompress.cli.options import PREPARE, Config, Force, Json, Quiet, Threads, Weights
from asrcompress.console import Console
from asrcompress.errors import AsrCompressError
from asrcompress.recipe import FILE_NAME

app = typer.Typer()


@app.command(rich_help_panel=PREPARE)
def doctor(json: Json = False, quiet: Quiet = False) -> None:
    """Check versions, traps, CPU, GPU, memory and disk; each with a verdict and a cure."""
    from asrcompress.cli import render
    from asrcompress.doctor.diagnosis import examine

    with Console(quiet=quiet or json).status("examining"):
        diagnosis = examine(Path.cwd())
    render.show(diagnosis.to_json(), render.diagnosis(diagnosis), json=json)
    if not diagnosis.usable:
        raise typer.Exit(AsrCompressError.exit_code)


@app.command(rich_help_panel=PREPARE)
def init(
    checkpoint: Annotated[Path, typer.Argument(help="PaddleSpeech experiment folder")],
    train_manifest: Annotated[Path | None, typer.Option(help="manifest to train on")] = None,
    gate_manifest: Annotated[Path | None, typer.Option(help="manifest of the CER gate")] = None,
    config: Config = None,
    weights: Weights = None,
    force: Force = False,
) -> None:
    """Write an asrcompress.toml for a checkpoint into the current folder."""
    from asrcompress.cli.starter import write_starter

    path = write_starter(
        Path(FILE_NAME),
        checkpoint,
        train=train_manifest,
        gate=gate_manifest,
        config=config,
        weights=weights,
        force=force,
    )
    typer.echo(path)


@app.command(rich_help_panel=PREPARE)
def inspect(
    checkpoint: Annotated[Path, typer.Argument(help="PaddleSpeech experiment folder")],
    config: Config = None,
    weights: Weights = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="audio to count operations for")] = 10.0,
    layers: Annotated[bool, typer.Option("--layers", help="list every layer by name")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show a checkpoint: family, parameters and operations per block, what can be INT8."""
    from asrcompress.checkpoints.checkpoint import read_checkpoint
    from asrcompress.cli import render
    from asrcompress.compress.anatomy import dissect

    with Console(quiet=quiet or json).status("counting operations"):
        anatomy = dissect(
            read_checkpoint(checkpoint, config=config, weights=weights), seconds=seconds
        )
    render.show(anatomy.to_json(), render.anatomy(anatomy, layers=layers), json=json)


@app.command(rich_help_panel=PREPARE)
def evaluate(
    model: Annotated[Path, typer.Argument(help="checkpoint, run directory, or bundle")],
    manifest: Annotated[Path, typer.Option(help="manifest of speech with transcripts")],
    config: Config = None,
    weights: Weights = None,
    threads: Threads = 1,
    processes: Annotated[int, typer.Option(min=1, help="processes to spread it over")] = 1,
    chunk_size: Annotated[
        int, typer.Option(min=0, help="hear in chunks of N output frames; 0: whole utterances")
    ] = 0,
    left_chunks: Annotated[
        int, typer.Option(min=-1, help="chunks of history that attention sees; -1: all")
    ] = -1,
    decoding: DecodingMethod = "greedy",
    beam: Annotated[int, typer.Option(min=1, help="hypotheses of every method but greedy")] = 10,
    ctc_weight: Annotated[
        float, typer.Option(min=0.0, help="weight of CTC's score (rescoring)")
    ] = 0.5,
    reverse_weight: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="share of U2++'s right-to-left decoder")
    ] = 0.0,
    worst: Annotated[int, typer.Option(min=0, help="worst utterances to show")] = 5,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure the character error rate, with its interval, and the real-time factor."""
    from asrcompress.cli import render
    from asrcompress.manifests.manifest import load_manifest
    from asrcompress.pipeline import evaluation
    from asrcompress.pipeline.recognizer import open_recognizer
    from asrcompress.recipe import Decoding, Streaming, check_settings

    utterances = load_manifest(manifest)
    streaming = Streaming(chunk_size=chunk_size, left_chunks=left_chunks) if chunk_size else None
    opener = functools.partial(
        open_recognizer,
        model,
        config=config,
        weights=weights,
        threads=threads,
        streaming=streaming,
        decoding=check_settings(
            "decoding",
            Decoding(
                method=decoding, beam=beam, ctc_weight=ctc_weight, reverse_weight=reverse_weight
            ),
        ),
    )
    console = Console(quiet=quiet or json)
    if processes == 1:
        result = evaluation.evaluate(opener(), utterances, console=console)
    else:
        result = evaluation.evaluate_in_processes(
            opener, utterances, processes=processes, console=console
        )
    render.show(result.to_json(), render.evaluation(result, worst=worst), json=json)
