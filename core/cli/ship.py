"""Commands around the bundle: export, verify, transcribe, bench."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asrcompress import strict_json
from asrcompress.cli.decoding import (
    Hotword,
    HotwordsFile,
    Lm,
    LmBonus,
    LmUnit,
    LmWeight,
    MaybeMethod,
    hotwords_of,
    language_model_of,
)
from asrcompress.cli.options import SHIP, Force, Json, Quiet, Threads
from asrcompress.cli.recipe_options import require_checkpoint, with_recipe
from asrcompress.cli.stream import hear
from asrcompress.console import Console
from asrcompress.errors import BadRecipe
from asrcompress.recipe import Recipe

if TYPE_CHECKING:
    from asrcompress.bundles.bundle import Bundle
    from asrcompress.runtime import Transcript

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
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="folder [bundle; of other formats: its model's name]"),
    ] = None,
    format: Annotated[
        str, typer.Option(help="artifact format: onnx, paddle-lite, sherpa-onnx, wenet")
    ] = "onnx",
    precision: Annotated[
        str | None, typer.Option(help="int8, or fp32 for a checkpoint [int8; x86: fp32]")
    ] = None,
    buckets: Annotated[
        str, typer.Option(help="paddle-lite: lengths of audio in seconds")
    ] = "2,4,8,16",
    python38: Annotated[
        Path | None, typer.Option(help="paddle-lite: a Python 3.8 [looked up]")
    ] = None,
    wheels: Annotated[
        Path | None, typer.Option(help="paddle-lite: install from this folder, no network")
    ] = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the bundle of a run that passed its gate: the very bytes that were measured."""
    from asrcompress.cli import render
    from asrcompress.pipeline import shipping

    if format in ("sherpa-onnx", "wenet"):
        console = Console(quiet=quiet or json)
        _export_for_others(
            format, source, recipe, output, precision, force=force, console=console, json=json
        )
        return
    output = output or Path("bundle")
    if format == "paddle-lite":
        bundle = _export_lite(
            source,
            recipe,
            output,
            precision=precision,
            buckets=buckets,
            python38=python38,
            wheels=wheels,
            force=force,
            console=Console(quiet=quiet or json),
        )
        render.show(bundle.manifest.to_json(), render.bundle(bundle), json=json)
        return
    if format != "onnx":
        raise BadRecipe(f"--format: got {format}, expected onnx, paddle-lite, sherpa-onnx or wenet")
    if precision in (None, "int8"):
        run = shipping.find_run(source, recipe)
        bundle = shipping.ship_run(run, output, target=recipe.export.target, force=force)
    elif precision == "fp32":
        path = source or require_checkpoint(recipe)
        bundle = shipping.ship_checkpoint(
            path, recipe, output, force=force, console=Console(quiet=quiet or json)
        )
    else:
        raise BadRecipe(f"--precision: got {precision}, expected int8 or fp32")
    render.show(bundle.manifest.to_json(), render.bundle(bundle), json=json)


def _export_for_others(
    format: str,
    source: Path | None,
    recipe: Recipe,
    output: Path | None,
    precision: str | None,
    *,
    force: bool,
    console: Console,
    json: bool,
) -> None:
    """Folders that are no bundles: for sherpa-onnx, and for the runtimes of WeNet."""
    from asrcompress.cli import render

    if format == "wenet":
        from asrcompress.sherpa.wenet import ship_wenet

        folder = ship_wenet(
            source, recipe, output, precision=precision, force=force, console=console
        )
        render.show({"folder": str(folder)}, str(folder), json=json)
        return
    from asrcompress.sherpa.shipping import ship_sherpa

    folder, record = ship_sherpa(
        source, recipe, output, precision=precision, force=force, console=console
    )
    tree = {"folder": str(folder), **strict_json.to_json(record)}
    render.show(tree, f"{folder}\nslot: {record.slot}", json=json)


def _export_lite(
    source: Path | None,
    recipe: Recipe,
    output: Path,
    *,
    precision: str | None,
    buckets: str,
    python38: Path | None,
    wheels: Path | None,
    force: bool,
    console: Console,
) -> Bundle:
    """The flags of ``--format paddle-lite`` as options of the library."""
    from asrcompress.lite.environment import Sidecar
    from asrcompress.lite.origin import LiteOptions
    from asrcompress.lite.shipping import ship_lite

    try:
        seconds = tuple(float(item) for item in buckets.split(","))
    except ValueError:
        raise BadRecipe(f"--buckets: got {buckets!r}, expected seconds, such as 2,4,8") from None
    options = LiteOptions(
        precision=precision, buckets_s=seconds, sidecar=Sidecar(python=python38, wheels=wheels)
    )
    return ship_lite(source, recipe, output, options, force=force, console=console)


@app.command(rich_help_panel=SHIP)
def verify(
    bundle: Annotated[Path, typer.Argument(help="bundle folder, or one for sherpa-onnx")],
    public_key: Annotated[
        Path | None, typer.Option(help="insist on a signature by this Ed25519 key (PEM)")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option("--with", help="another runtime to load it in: sherpa-onnx")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="with sherpa-onnx: CER on this speech [its recordings]")
    ] = None,
    max_cer_increase: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="with sherpa-onnx: absolute, 0.005 is half a point"),
    ] = 0.005,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check every hash and the signature of a bundle, and run its golden self-test here."""
    if runtime is not None:
        _verify_elsewhere(
            bundle, runtime, manifest, max_cer_increase, Console(quiet=quiet or json), json=json
        )
        return
    import numpy

    from asrcompress.bundles.golden import check_self_test
    from asrcompress.cli import render
    from asrcompress.runtime import Transcriber

    transcriber = Transcriber(bundle, public_key=public_key)
    silence = numpy.zeros(16_000, numpy.float32)
    transcriber.transcribe(silence)
    shipped = transcriber.bundle.manifest.decoder
    if shipped is not None:  # which greedy decoding does not load
        Transcriber(bundle, public_key=public_key, method=shipped.method).transcribe(silence)
    result = transcriber.self_test()
    verification = render.Verification(
        bundle=transcriber.bundle, self_test=result, signed=public_key is not None
    )
    render.show(verification.to_json(), render.verification(verification), json=json)
    if result is not None:
        check_self_test(result, item=str(bundle))


def _verify_elsewhere(
    folder: Path,
    runtime: str,
    manifest: Path | None,
    tolerance: float,
    console: Console,
    *,
    json: bool,
) -> None:
    """``--with``: in another program's runtime."""
    from asrcompress.cli import render
    from asrcompress.sherpa.check import verify_in_sherpa

    if runtime != "sherpa-onnx":
        raise BadRecipe(f"--with: got {runtime}, expected sherpa-onnx")
    found = verify_in_sherpa(folder, manifest=manifest, tolerance=tolerance, console=console)
    render.show(found.to_json(), render.sherpa_verification(found), json=json)
    found.require_passed()


@app.command(rich_help_panel=SHIP)
def sign(
    bundle: Annotated[Path, typer.Argument(help="bundle folder")],
    key: Annotated[Path, typer.Option(help="private Ed25519 key (PEM)")],
    new_key: Annotated[
        bool, typer.Option("--new-key", help="make the key first, and .pub beside it")
    ] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Sign a bundle with Ed25519, after checking every hash of it."""
    from asrcompress.bundles.bundle import sign_bundle
    from asrcompress.bundles.signature import new_key as make_key
    from asrcompress.cli import render

    public_key = make_key(key) if new_key else None
    path = sign_bundle(bundle, key, force=force)
    made = {"signature": str(path), "public_key": None if public_key is None else str(public_key)}
    lines = [str(path)] if public_key is None else [str(path), f"public key: {public_key}"]
    render.show(made, "\n".join(lines), json=json)


@app.command(rich_help_panel=SHIP)
def transcribe(
    bundle: Annotated[Path, typer.Argument(help="bundle folder")],
    audio: Annotated[
        list[Path], typer.Argument(help="16 kHz mono audio files; - with --stream: stdin")
    ],
    threads: Threads = 1,
    decoding: MaybeMethod = None,
    beam: Annotated[
        int | None, typer.Option(min=1, help="hypotheses of a search [10; without one, 1: greedy]")
    ] = None,
    ctc_weight: Annotated[
        float | None, typer.Option(min=0.0, help="weight of CTC's score [as the bundle was judged]")
    ] = None,
    reverse_weight: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="share of U2++'s right-to-left decoder [likewise]"),
    ] = None,
    hotword: Hotword = None,
    hotwords_file: HotwordsFile = None,
    lm: Lm = None,
    lm_weight: LmWeight = 0.5,
    lm_bonus: LmBonus = 0.0,
    lm_unit: LmUnit = "token",
    timestamps: Annotated[
        bool, typer.Option("--timestamps", help="when each word was said, in seconds")
    ] = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="hear in chunks, as it is said; a line per utterance")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Transcribe audio files, one line each; with --stream also samples (s16le) from stdin."""
    from asrcompress.cli import render
    from asrcompress.runtime import Transcriber

    transcriber = Transcriber(
        bundle,
        threads=threads,
        beam=beam,
        timestamps=timestamps,
        method=decoding,
        ctc_weight=ctc_weight,
        reverse_weight=reverse_weight,
        hotwords=hotwords_of(hotword, hotwords_file),
        language_model=language_model_of(lm, lm_weight, lm_bonus, lm_unit),
        streams_only=stream,
    )
    if stream:
        hear(transcriber, audio, console=Console(quiet=quiet or json), json=json)
        return
    transcripts = []
    with Console(quiet=quiet or json).progress("transcribing") as advance:
        for path, transcript in zip(audio, transcriber.transcribe_stream(audio), strict=True):
            transcripts.append((path, transcript))
            advance(len(transcripts), len(audio))
    render.show(
        {"transcripts": [{"audio": str(p), **dataclasses.asdict(t)} for p, t in transcripts]},
        "\n".join(_lines(path, item) for path, item in transcripts),
        json=json,
    )


def _lines(path: Path, transcript: Transcript) -> str:
    """The text of a file, and below it a line for each word whose times are known."""
    words = (f"\t{word.start_s:.2f}\t{word.end_s:.2f}\t{word.text}" for word in transcript.words)
    return "\n".join([f"{path}\t{transcript.text}", *words])


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
    from asrcompress.cli import render
    from asrcompress.pipeline.speed import compare_bundles

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
