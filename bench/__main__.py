"""Command line of the benchmark: `python -m bench`, or `make bench`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from asrcompress.bundles.bundle import read_bundle
from asrcompress.console import Console
from asrcompress.errors import AsrCompressError
from bench.artifact import Settings
from bench.contenders import Contender, chosen
from bench.goals import goals_of
from bench.parts import runtime_import_s
from bench.random_shapes import DEFAULT, SHAPES, STREAM, compress_shape
from bench.report import Report, machine, write_report
from bench.roofline import measure_peaks
from bench.stream import StreamResult, stream_in_process
from bench.subject import Subject, subject_of_run
from bench.suite import Effort, measure

_WORK = Path(__file__).resolve().parent / "work"
_QUICK = Effort(lengths_s=(2.0, 10.0), threads=(1,), rounds=(11, 7))
_STREAM_WINDOWS = 6


def main() -> None:
    """Measure, write the tables, say where they are."""
    arguments = _parser().parse_args()
    try:
        effort = _effort(arguments)
        contenders = chosen(arguments.only)
    except ValueError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    began, busy = time.monotonic(), os.getloadavg()[0]
    try:
        for report in _measured(arguments, effort, contenders, busy):
            page, data = write_report(report, arguments.output)  # what is done is not lost
    except AsrCompressError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(3) from None
    print(page.read_text(encoding="utf-8"))
    _say(f"{(time.monotonic() - began) / 60:.1f} minutes; {page}, {data}")


def _measured(
    arguments: argparse.Namespace, effort: Effort, contenders: Sequence[Contender], busy: float
) -> Iterator[Report]:
    """The report as far as it is known, after each subject and after the stream."""
    settings = Settings(
        work=arguments.work, lengths_s=effort.lengths_s, python38=arguments.python38
    )
    _say("roofline")
    peaks = measure_peaks(arguments.work / "roofline", arguments.work, effort.threads)
    report = Report(machine=machine(), busy=busy, peaks=tuple(peaks))
    import_s = runtime_import_s()
    for subject in _subjects(arguments):
        result = measure(subject, contenders, effort, settings, _say)
        results = (*report.results, result)
        goals = tuple(goals_of(results, import_s, None))
        report = replace(report, results=results, goals=goals)
        yield report
    if arguments.stream_minutes:
        stream = _stream(arguments)
        goals = tuple(goals_of(report.results, import_s, stream))
        yield replace(report, stream=stream, goals=goals)


def _subjects(arguments: argparse.Namespace) -> Iterator[Subject]:
    console = Console(quiet=True)
    for path in arguments.run:
        name = path.resolve().name
        yield subject_of_run(path, arguments.work, name=name, trained=True, console=console)
    for name in arguments.shape or ([] if arguments.run else DEFAULT):
        _say(f"{name}: compressing")
        run = compress_shape(
            SHAPES[name], arguments.work, fresh=arguments.fresh, reuse=arguments.reuse
        )
        yield subject_of_run(run, arguments.work, name=name, trained=False, console=console)


def _stream(arguments: argparse.Namespace) -> StreamResult:
    _say(f"stream of {arguments.stream_minutes:g} minutes")
    run = compress_shape(
        SHAPES[STREAM], arguments.work, fresh=arguments.fresh, reuse=arguments.reuse
    )
    subject = subject_of_run(
        run, arguments.work, name=STREAM, trained=False, console=Console(quiet=True)
    )
    assert read_bundle(subject.bundle).manifest.streaming is not None
    return stream_in_process(
        subject.bundle, minutes=arguments.stream_minutes, windows=_STREAM_WINDOWS, subject=STREAM
    )


def _effort(arguments: argparse.Namespace) -> Effort:
    plain = _QUICK if arguments.quick else Effort()
    lengths = tuple(arguments.seconds or plain.lengths_s)
    rounds = plain.rounds[: len(lengths)]
    if arguments.rounds:
        rounds = (arguments.rounds,) * len(lengths)
    elif len(rounds) < len(lengths) or arguments.seconds:
        rounds = tuple(max(5, round(60 / (1 + seconds))) for seconds in lengths)
    return Effort(
        lengths_s=lengths,
        threads=tuple(arguments.threads or plain.threads),
        rounds=rounds,
        utterances=arguments.utterances,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench", description="every contender from the same checkpoint, side by side"
    )
    parser.add_argument("--quick", action="store_true", help="2 and 10 s, one thread, few rounds")
    parser.add_argument(
        "--run", type=Path, nargs="+", default=[], help="a run of your own, with its CER"
    )
    parser.add_argument("--shape", action="append", choices=sorted(SHAPES), help="random weights")
    parser.add_argument("--seconds", type=float, nargs="+", help="lengths of audio, ascending")
    parser.add_argument("--threads", type=int, nargs="+")
    parser.add_argument("--rounds", type=int, default=0, help="of every length")
    parser.add_argument("--only", nargs="+", default=[], help="contenders, as shell patterns")
    parser.add_argument("--utterances", type=int, default=0, help="for the CER; 0: all of the gate")
    parser.add_argument(
        "--stream-minutes", type=float, default=60.0, help="of the long stream; 0: none"
    )
    parser.add_argument("--python38", type=Path, help="for Paddle Lite")
    parser.add_argument("--fresh", action="store_true", help="compress the shapes anew")
    parser.add_argument(
        "--reuse", action="store_true", help="take the shapes as they are, though code has changed"
    )
    parser.add_argument("--work", type=Path, default=_WORK, help="what is built and kept")
    parser.add_argument("--output", type=Path, default=_WORK, help="for results.md and .json")
    return parser


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
