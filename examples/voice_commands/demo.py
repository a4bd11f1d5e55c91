"""The whole journey on synthetic speech: evaluate, quantize, gate, export, bench, transcribe.

    python demo.py                 (or `make demo` in the root of the repository)

Makes its own data from espeak-ng voices, compresses the checkpoint beside this file, and ends in a
table of FP32 against INT8. Everything is written to the folder `work` beside this file; each line
that starts with $ can be typed there by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from synthesize import synthesize

HERE = Path(__file__).resolve().parent
CHECKPOINT = HERE / "checkpoint"
console = Console(highlight=False)


def run(work: Path, *arguments: str, quiet: bool = False) -> str:
    """One asrcompress command in the folder `work`; its stdout, which is also shown.

    Ends the demo with the command's own exit code where that is not 0.
    """
    console.print(f"\n[bold]$ asrcompress {shlex.join(arguments)}[/bold]", soft_wrap=True)
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "asrcompress", *arguments],
        cwd=work,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if not quiet:
        console.print(done.stdout.rstrip(), markup=False, soft_wrap=True)
    if done.returncode != 0:
        sys.exit(done.returncode)
    console.print(f"[dim]{time.monotonic() - started:.0f} s[/dim]")
    return done.stdout


def make_speech(work: Path, train: int, gate: int) -> None:
    """The data, at most two processes at a time: the demo is meant for small machines."""
    started = time.monotonic()
    jobs = min(2, os.cpu_count() or 1)
    for split, count in (("train", train), ("gate", gate)):
        manifest = synthesize(work / "data", split, count, jobs=jobs)
        console.print(f"{manifest.relative_to(work)}: {count} utterances")
    console.print(f"[dim]{time.monotonic() - started:.0f} s[/dim]")


def recordings(work: Path, count: int) -> list[tuple[str, str]]:
    """(path from `work`, what was said) of the first recordings of the gate."""
    lines = (work / "data" / "gate.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    entries = [json.loads(line) for line in lines]
    return [(f"data/{entry['audio']}", entry["text"]) for entry in entries]


def journey(work: Path, options: argparse.Namespace) -> Table:
    """Every command in order; returns the closing table."""
    checkpoint = os.path.relpath(options.checkpoint.resolve(), work)
    manifests = ["--train-manifest", "data/train.jsonl", "--gate-manifest", "data/gate.jsonl"]
    run(work, "init", checkpoint, *manifests)
    run(work, "inspect", checkpoint)
    run(work, "evaluate", checkpoint, "--manifest", "data/gate.jsonl", "--worst", "3")
    run(work, "qat", "--target", "int8", "--epochs", str(options.epochs))
    run(work, "export", "--format", "onnx", "-o", "bundle")
    run(work, "export", "--precision", "fp32", "-o", "bundle-fp32")
    run(work, "verify", "bundle")
    spoken = recordings(work, 8)
    audio = [word for path, _ in spoken for word in ("--audio", path)]
    measured = run(
        work, "bench", "bundle", "--against", "bundle-fp32", *audio, "--json", quiet=True
    )
    run(work, "transcribe", "bundle", *(path for path, _ in spoken[:4]))
    for path, text in spoken[:4]:
        console.print(f"[dim]{path}\t{text} (what was said)[/dim]", soft_wrap=True)
    manifest = json.loads((work / "bundle" / "bundle.json").read_text(encoding="utf-8"))
    return closing_table(manifest, json.loads(measured))


def closing_table(manifest: dict[str, Any], comparison: dict[str, Any]) -> Table:
    """FP32 against INT8: accuracy from the bundle, speed from the benchmark."""
    fp32, int8 = comparison["measurements"]
    quality = manifest["quality"]
    table = Table(title="The same model on unseen voices", title_justify="left")
    table.add_column("")
    for name in ("FP32", "INT8", ""):
        table.add_column(name, justify="right")
    before, after = quality["cer_before"], quality["cer_after"]
    change = f"{100 * (after - before):+.2f} points"
    table.add_row("CER", f"{before:.2%}", f"{after:.2%}", change)
    table.add_row("  95 % interval", _interval(quality, "before"), _interval(quality, "after"), "")
    sizes = fp32["size_bytes"], int8["size_bytes"]
    table.add_row(
        "size", *(f"{size / 1e6:.2f} MB" for size in sizes), f"{sizes[0] / sizes[1]:.2f}x smaller"
    )
    table.add_row(
        f"RTF, {comparison['threads']} thread",
        f"{fp32['rtf']:.4f}",
        f"{int8['rtf']:.4f}",
        f"{fp32['rtf'] / int8['rtf']:.2f}x faster",
    )
    table.add_row("integer MACs", "0.0%", f"{manifest['integer_share']:.1%}", "")
    return table


def _interval(quality: dict[str, Any], side: str) -> str:
    low, high = quality[f"cer_{side}_interval_95"]
    return f"{low:.2%} to {high:.2%}"


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description="Compress the voice-command checkpoint.")
    parser.add_argument("--work", type=Path, default=HERE / "work", help="folder, made anew")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--train", type=int, default=600, help="training utterances")
    parser.add_argument("--gate", type=int, default=280, help="gate utterances")
    parser.add_argument("--epochs", type=int, default=1)
    options = parser.parse_args()
    started = time.monotonic()
    work: Path = options.work.resolve()
    # Only what an earlier demo wrote is removed: --work may name a folder with other things in it.
    for name in ("data", "runs", "bundle", "bundle-fp32"):
        shutil.rmtree(work / name, ignore_errors=True)
    (work / "asrcompress.toml").unlink(missing_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    console.print(f"[bold]Synthetic speech[/bold] in {work}", soft_wrap=True)
    make_speech(work, options.train, options.gate)
    table = journey(work, options)
    console.print()
    console.print(table)
    console.print(f"The demo took {(time.monotonic() - started) / 60:.1f} minutes.")


if __name__ == "__main__":
    main()
