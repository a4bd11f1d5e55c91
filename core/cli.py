"""The command line: one verb per stage of the user's journey.

Exit codes: 0 ok, 1 a bug, 2 wrong usage, 3 an error of the user's input or environment, 4 a gate
failed, 130 interrupted by Ctrl-C. Results go to stdout, everything else to stderr; ``--json``
prints one object.
"""

from __future__ import annotations

import dataclasses
import functools
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from asrcompress.cli_recipe import require_checkpoint, with_recipe
from asrcompress.console import Console
from asrcompress.errors import AsrCompressError, BadRecipe, MissingExtra
from asrcompress.files import refused
from asrcompress.recipe import FILE_NAME, Recipe

_PREPARE, _COMPRESS, _SHIP = "1. Prepare", "2. Compress", "3. Ship and run"


class _Commands(typer.core.TyperGroup):
    """Turns our errors into their exit code; anything else is a bug and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except AsrCompressError as error:
            code = self._report(error)
            if isinstance(error, MissingExtra):
                _name_suspects()
            raise code from error
        except ImportError as error:
            if (error.name or "").partition(".")[0] == "asrcompress":  # a bug
                raise
            typer.echo(f"error: {error}", err=True)
            _name_suspects()
            raise typer.Exit(AsrCompressError.exit_code) from error
        except OSError as error:
            if error.filename is None:  # a closed pipe, or a bug
                raise
            raise self._report(refused(error, str(error.filename), "used")) from error

    @staticmethod
    def _report(error: AsrCompressError) -> typer.Exit:
        typer.echo(f"error: {error}", err=True)
        if error.hint:
            typer.echo(f"hint: {error.hint}", err=True)
        return typer.Exit(error.exit_code)


def _name_suspects() -> None:
    """What the doctor has against this environment, after an import failed."""
    from asrcompress import doctor

    for line in doctor.lines(doctor.suspects()):
        typer.echo(line, err=True)
    typer.echo("hint: asrcompress doctor looks at everything", err=True)


app = typer.Typer(
    cls=_Commands,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compress a trained PaddleSpeech model to INT8, prove its accuracy, and ship it.",
)

Json = Annotated[bool, typer.Option("--json", help="print one JSON object")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress on stderr")]
Force = Annotated[bool, typer.Option("--force", help="overwrite what is there")]
Threads = Annotated[int, typer.Option(min=1, help="threads of ONNX Runtime")]
Config = Annotated[Path | None, typer.Option(help="the network's YAML, where there are several")]
Weights = Annotated[Path | None, typer.Option(help="the .pdparams file, where there are several")]
Target = Annotated[str, typer.Option(help="what to compress to: int8")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"asrcompress {version('asrcompress')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="print the version"),
    ] = False,
) -> None:
    pass


@app.command(rich_help_panel=_PREPARE)
def doctor(json: Json = False, quiet: Quiet = False) -> None:
    """Check versions, traps, CPU, GPU, memory and disk; each with a verdict and a cure."""
    from asrcompress import render
    from asrcompress.doctor import examine

    with Console(quiet=quiet or json).status("examining"):
        diagnosis = examine(Path.cwd())
    render.show(diagnosis.to_json(), render.diagnosis(diagnosis), json=json)
    if not diagnosis.usable:
        raise typer.Exit(AsrCompressError.exit_code)


@app.command(rich_help_panel=_PREPARE)
def init(
    checkpoint: Annotated[Path, typer.Argument(help="PaddleSpeech experiment folder")],
    train_manifest: Annotated[Path | None, typer.Option(help="manifest to train on")] = None,
    gate_manifest: Annotated[Path | None, typer.Option(help="manifest of the CER gate")] = None,
    config: Config = None,
    weights: Weights = None,
    force: Force = False,
) -> None:
    """Write an asrcompress.toml for a checkpoint into the current folder."""
    from asrcompress.starter import write_starter

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


@app.command(rich_help_panel=_PREPARE)
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
    from asrcompress import render
    from asrcompress.checkpoint import read_checkpoint
    from asrcompress.compress.anatomy import dissect

    with Console(quiet=quiet or json).status("counting operations"):
        anatomy = dissect(
            read_checkpoint(checkpoint, config=config, weights=weights), seconds=seconds
        )
    render.show(anatomy.to_json(), render.anatomy(anatomy, layers=layers), json=json)


@app.command(rich_help_panel=_PREPARE)
def evaluate(
    model: Annotated[Path, typer.Argument(help="checkpoint, run directory, or bundle")],
    manifest: Annotated[Path, typer.Option(help="manifest of speech with transcripts")],
    config: Config = None,
    weights: Weights = None,
    threads: Threads = 1,
    processes: Annotated[int, typer.Option(min=1, help="processes to spread it over")] = 1,
    worst: Annotated[int, typer.Option(min=0, help="worst utterances to show")] = 5,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure the character error rate, with its interval, and the real-time factor."""
    from asrcompress import evaluation, render
    from asrcompress.manifest import load_manifest
    from asrcompress.recognizer import open_recognizer

    utterances = load_manifest(manifest)
    opener = functools.partial(
        open_recognizer, model, config=config, weights=weights, threads=threads
    )
    console = Console(quiet=quiet or json)
    if processes == 1:
        result = evaluation.evaluate(opener(), utterances, console=console)
    else:
        result = evaluation.evaluate_in_processes(
            opener, utterances, processes=processes, console=console
        )
    render.show(result.to_json(), render.evaluation(result, worst=worst), json=json)


@app.command(rich_help_panel=_COMPRESS)
@with_recipe
def qat(
    *,
    recipe: Recipe,
    target: Target = "int8",
    export_to: Annotated[
        Path | None, typer.Option(help="write the bundle here if the gate passes")
    ] = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Quantize with training, export, and judge the artifact by its CER."""
    if recipe.training.epochs == 0:
        raise BadRecipe("training.epochs: got 0, expected at least 1", hint="asrcompress ptq")
    _compress("qat", recipe, target, export_to, force=force, json=json, quiet=quiet)


@app.command(rich_help_panel=_COMPRESS)
@with_recipe
def ptq(
    *,
    recipe: Recipe,
    target: Target = "int8",
    export_to: Annotated[
        Path | None, typer.Option(help="write the bundle here if the gate passes")
    ] = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Quantize without training (calibration only), export, and judge the artifact by its CER."""
    training = dataclasses.replace(recipe.training, epochs=0)
    recipe = dataclasses.replace(recipe, training=training)
    _compress("ptq", recipe, target, export_to, force=force, json=json, quiet=quiet)


def _compress(
    kind: str,
    recipe: Recipe,
    target: str,
    export_to: Path | None,
    *,
    force: bool,
    json: bool,
    quiet: bool,
) -> None:
    from asrcompress import render
    from asrcompress.checkpoint import read_checkpoint
    from asrcompress.files import refuse_overwrite
    from asrcompress.pipeline import compress
    from asrcompress.shipping import ship_run

    if target != "int8":
        raise BadRecipe(f"--target: got {target}, expected int8")
    if export_to is not None:
        refuse_overwrite(export_to, force)  # before hours of training, not after
    source = recipe.checkpoint
    path = require_checkpoint(recipe)
    checkpoint = read_checkpoint(path, config=source.config, weights=source.weights)
    console = Console(quiet=quiet or json)
    outcome = compress(kind, recipe, checkpoint, console)
    if outcome is None:  # one of several training processes, and not the one that reports
        return
    for warning in outcome.verdict.warnings:
        console.warn(warning)
    render.show(outcome.to_json(), render.outcome(outcome), json=json)
    if outcome.failure is not None:
        raise outcome.failure
    if export_to is not None:
        typer.echo(ship_run(outcome.run, export_to, force=force).path, err=json)


@app.command(rich_help_panel=_COMPRESS)
def report(
    run: Annotated[Path, typer.Argument(help="run directory, finished or not")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="page to write [RUN/report.html]")
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write one HTML page about a run: verdict, accuracy, noise by layer, how to reproduce it."""
    from asrcompress.report import write_report
    from asrcompress.run import read_run

    with Console(quiet=quiet).status("writing the report"):
        path = write_report(read_run(run), output, force=force)
    typer.echo(path)


@app.command(rich_help_panel=_SHIP)
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


@app.command(rich_help_panel=_SHIP)
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


@app.command(rich_help_panel=_SHIP)
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


@app.command(rich_help_panel=_SHIP)
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


def main() -> None:
    """Entry point of the ``asrcompress`` script."""
    app()
