"""Steps per second of quantization-aware training: ours against the straight PaddleSlim path.

    python bench/qat.py                               (the demo's checkpoint, synthetic speech)
    python bench/qat.py --checkpoint EXP --manifest train.jsonl --batch-frames 6000 --blocks 6

The straight path is what a user writes by hand: ``paddleslim.QAT`` with its stock quanters around
PaddleSpeech's model, PaddleSpeech's own forward and loss, AdamW; batches of utterances drawn at
random, features made when they are needed. It quantizes less (Linear and Conv2D only). The rows
between it and ours add one thing after the other:

* our batches: utterances of like length together, features kept in memory;
* our kernels: the hint that Paddle's matrix products need on processors that are not Intel's;
* asrcompress without its teacher: the same loss as the rows above, so its curve is comparable;
* asrcompress as it is: with the FP32 teacher's forward in every step.

Every contender is a process of its own. They take turns, a block of steps each, so that a busy
machine slows them all alike; ratios are medians over the blocks. CPU seconds are given beside the
wall clock, since on a shared machine they are the steadier of the two.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_DEMO = Path(__file__).resolve().parent.parent / "examples" / "voice_commands"
_WORKER = Path(__file__).with_name("qat_worker.py")
# What a user's shell may have set, and what is part of a contender here.
_ENVIRONMENT = ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way to train."""

    name: str
    ours: bool = False
    bucketed: bool = True
    quick_kernels: bool = True
    distillation: float = 0.0


CONTENDERS = (
    Contender(name="paddleslim", bucketed=False, quick_kernels=False),
    Contender(name="paddleslim, our batches", quick_kernels=False),
    Contender(name="paddleslim, our batches and kernels"),
    Contender(name="asrcompress, no teacher", ours=True),
    Contender(name="asrcompress", ours=True, distillation=0.5),
)


@dataclass(slots=True, kw_only=True)
class Measured:
    """What a contender did, block by block.

    Attributes:
        seconds, cpu_seconds: per step.
        frames: feature frames per second, padding not counted.
        losses: the checkpoint's own loss of every step, teacher not counted.
    """

    name: str
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    frames: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


@contextmanager
def started(contender: Contender, options: argparse.Namespace) -> Iterator[Any]:
    """The contender's process, ready to train."""
    environment = {name: value for name, value in os.environ.items() if name not in _ENVIRONMENT}
    if contender.ours and options.threads == 1:
        environment["OMP_NUM_THREADS"] = "1"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(_WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    job = {
        **asdict(contender),
        "checkpoint": str(options.checkpoint.resolve()),
        "manifest": str(options.manifest.resolve()),
        "utterances": options.utterances,
        "batch_frames": options.batch_frames,
        "threads": options.threads,
    }
    try:
        ask(process, job)
        yield process
    finally:
        process.kill()
        process.wait()


def ask(process: Any, question: Any) -> dict[str, Any]:
    """One line to a worker, one line back; ends the benchmark where it has died."""
    try:
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        line = ""
    if not line:
        sys.exit(f"worker ended with {process.wait()}, its last words are above")
    answer: dict[str, Any] = json.loads(line)
    return answer


def measure(options: argparse.Namespace) -> list[Measured]:
    """All contenders, in turn; the first block warms up and counts for the losses only."""
    wanted = [item for item in CONTENDERS if item.name in (options.only or [item.name])]
    results = [Measured(name=item.name) for item in wanted]
    with ExitStack() as stack:
        workers = [stack.enter_context(started(item, options)) for item in wanted]
        for block in range(options.blocks + 1):
            for worker, result in zip(workers, results, strict=True):
                answer = ask(worker, options.steps)
                result.losses += answer["losses"]
                if block:
                    result.seconds.append(answer["seconds"] / options.steps)
                    result.cpu_seconds.append(answer["cpu_seconds"] / options.steps)
                    result.frames.append(answer["frames"] / answer["seconds"])
    return results


def ratio(first: list[float], other: list[float]) -> float:
    """How many times faster `other` is, by the median of the blocks."""
    return statistics.median(a / b for a, b in zip(first, other, strict=True))


def show(results: list[Measured]) -> None:
    """Print speeds, and the curves of the losses."""
    first, console = results[0], Console()
    table = Table()
    table.add_column("")
    for column in ("steps/s", "x", "x by CPU time", "frames/s", "x", "loss, block by block"):
        table.add_column(column, justify="right")
    blocks = len(first.seconds) + 1
    for item in results:
        size = len(item.losses) // blocks
        means = [statistics.mean(item.losses[i * size : (i + 1) * size]) for i in range(blocks)]
        table.add_row(
            item.name,
            f"{1 / statistics.median(item.seconds):.3f}",
            f"{ratio(first.seconds, item.seconds):.2f}",
            f"{ratio(first.cpu_seconds, item.cpu_seconds):.2f}",
            f"{statistics.median(item.frames):.0f}",
            f"{1 / ratio(first.frames, item.frames):.2f}",
            " ".join(f"{mean:.2f}" for mean in means),
        )
    console.print(table)


def demo_speech(folder: Path, count: int) -> Path:
    """The demo's training manifest: the one that is there, or a new one in `folder`."""
    made = _DEMO / "work" / "data" / "train.jsonl"
    if made.is_file():
        return made
    sys.path.insert(0, str(_DEMO))
    from synthesize import synthesize

    manifest: Path = synthesize(folder, "train", count, jobs=min(2, os.cpu_count() or 1))
    return manifest


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=_DEMO / "checkpoint")
    parser.add_argument("--manifest", type=Path, help="to train on; default: the demo's")
    parser.add_argument("--utterances", type=int, default=200)
    parser.add_argument("--batch-frames", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=4, help="of a block")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of ours; Paddle by itself takes 1")
    names = [item.name for item in CONTENDERS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help="of these rows")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.manifest is None:
            options.manifest = demo_speech(Path(folder), options.utterances)
        results = measure(options)
    if options.json:
        print(json.dumps([asdict(item) for item in results], indent=1))
    else:
        show(results)


if __name__ == "__main__":
    main()
