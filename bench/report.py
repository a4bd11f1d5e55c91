"""The results as tables in Markdown and as JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.contenders import AUDIO, FEATURES
from bench.goals import Goal
from bench.roofline import Peak, best_of
from bench.stream import StreamResult
from bench.suite import Result, Row

_TASKS = (FEATURES, AUDIO)  # in this order


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that was measured.

    Attributes:
        machine: what it was measured on, by name.
        busy: load average of the machine when it began; the tables say so.
    """

    machine: dict[str, str]
    busy: float
    peaks: tuple[Peak, ...]
    results: tuple[Result, ...] = ()
    stream: StreamResult | None = None
    goals: tuple[Goal, ...] = ()


def write_report(report: Report, folder: Path) -> tuple[Path, Path]:
    """``results.md`` and ``results.json`` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    page, data = folder / "results.md", folder / "results.json"
    page.write_text(markdown(report), encoding="utf-8")
    tree = json.dumps(dataclasses.asdict(report), indent=1, ensure_ascii=False, allow_nan=False)
    data.write_text(tree + "\n", encoding="utf-8")
    return page, data


def markdown(report: Report) -> str:
    """All tables."""
    parts = [_machine(report)]
    if report.peaks:
        parts.append(_roofline(report.peaks))
    for result in report.results:
        parts.append(_subject(result, report.peaks))
    if report.stream is not None:
        parts.append(_stream(report.stream))
    parts.append(_goals(report.goals))
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown: the first column to the left, the others to the right.

    Raises:
        ValueError: a row of another length than the head.
    """
    lines = [f"| {' | '.join(head)} |", f"|---|{'--:|' * (len(head) - 1)}"]
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"table: got {len(row)} cells, expected {len(head)}: {row}")
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |")
    return "\n".join(lines)


def _machine(report: Report) -> str:
    facts = "; ".join(f"{key} {value}" for key, value in report.machine.items())
    return f"Machine: {facts}. Load average when it began: {report.busy:.2f}."


def _roofline(peaks: Sequence[Peak]) -> str:
    threads = sorted({item.threads for item in peaks})
    found: dict[tuple[str, str, str], dict[int, Peak]] = {}
    for item in peaks:
        found.setdefault((item.library, item.work, item.precision), {})[item.threads] = item
    names = {"gemm": "large product", "row": "one row"}
    rows = [
        [
            f"{library}, {names[work]}, {precision}",
            *(f"{by[count].gmacs:.1f}" for count in threads),
            "×".join(map(str, by[threads[0]].shape)),
        ]
        for (library, work, precision), by in found.items()
    ]
    head = ["peak, 10⁹ MAC/s", *(f"{count} thread(s)" for count in threads), "shape"]
    return "## Roofline\n\n" + table(head, rows)


def _subject(result: Result, peaks: Sequence[Peak]) -> str:
    weights = "trained weights" if result.trained else "random weights"
    macs = ", ".join(
        f"{macs / 1e9:.2f} at {seconds:g} s"
        for macs, seconds in zip(result.macs, result.effort.lengths_s, strict=True)
    )
    parts = result.parts
    lines = [
        f"## {result.subject}",
        f"{result.family}, {weights}. 10⁹ multiply-accumulates: {macs}; "
        f"{result.serial_share:.0%} of them with one row.",
        f"Our time on {parts.audio_s:g} s: features {1000 * parts.features_s:.2f} ms, network "
        f"{1000 * parts.network_s:.2f} ms, decoding {1000 * parts.decoding_s:.2f} ms.",
        "### Files, loading, memory",
        _files(result),
    ]
    for seconds in result.effort.lengths_s:
        lines += [f"### {seconds:g} s of audio", _times(result, seconds, peaks)]
    return "\n\n".join([*lines, *_excuses(result)])


def _files(result: Result) -> str:
    rows = []
    for row in _run(result):
        cer = "" if row.cer is None else f"{row.cer[0]:.2%} ({row.cer[1]:.2%} to {row.cer[2]:.2%})"
        rows.append(
            [
                row.name,
                f"{row.size_bytes / 1e6:.1f}",
                f"{row.integer_share:.3f}",
                f"{1000 * row.load_s:.0f}",
                *(f"{cold.peak_rss_bytes / 1e6:.0f}" for cold in row.cold),
                "" if row.agreement is None else f"{row.agreement:.1%}",
                "" if row.error is None else f"{row.error:.4f}",
                *([cer] if result.trained else []),
            ]
        )
    memory = [f"peak MB, {seconds:g} s" for seconds in result.effort.lengths_s]
    head = [
        "contender",
        "MB",
        "integer share",
        "load ms",
        *memory,
        "agrees with FP32",
        "error",
        *(["CER (95 % interval)"] if result.trained else []),
    ]
    return table(head, rows)


def _times(result: Result, seconds: float, peaks: Sequence[Peak]) -> str:
    threads = result.effort.threads
    index = result.effort.lengths_s.index(seconds)
    rows = []
    for row in _run(result):
        cells = [row.name, f"{1000 * row.cold[index].first_s:.1f}"]
        for count in threads:
            found = row.timing(count, seconds)
            if found is None:
                cells += [""] * 5
                continue
            limit = ""
            if peaks:
                least = best_of(peaks, count).limit_s(
                    macs=result.macs[index],
                    integer_share=row.integer_share,
                    serial_share=result.serial_share,
                )
                limit = f"{least / found.p50_s:.0%}"
            cells += [
                f"{1000 * found.p50_s:.1f}",
                f"{1000 * found.p95_s:.1f}",
                f"{found.rtf:.4f}",
                f"{found.speedup:.2f}",
                limit,
            ]
        rows.append(cells)
    head = ["contender", "cold ms"]
    for count in threads:
        head += [f"{name} ({count})" for name in ("p50 ms", "p95 ms", "RTF", "×", "of limit")]
    return table(head, rows)


def _excuses(result: Result) -> Iterator[str]:
    missing = [row for row in result.rows if row.not_run]
    noted = [row for row in result.rows if row.note]
    if missing:
        yield "\n".join(f"- {row.name}: **not run**: {row.not_run}" for row in missing)
    if noted:
        yield "\n".join(f"- {row.name}: {row.note}." for row in noted)


def _run(result: Result) -> list[Row]:
    rows = [row for row in result.rows if not row.not_run]
    return sorted(rows, key=lambda row: _TASKS.index(row.task))


def _stream(stream: StreamResult) -> str:
    rows = [
        [
            f"{number * stream.minutes / len(stream.windows):g} min",
            f"{item.rtf:.4f}",
            f"{item.rtf_p50:.4f}",
            f"{item.rtf_p95:.4f}",
            f"{item.rss_bytes / 1e6:.1f}",
            str(item.utterances),
        ]
        for number, item in enumerate(stream.windows, start=1)
    ]
    head = ["until", "RTF", "per chunk, p50", "p95", "memory MB", "utterances"]
    title = f"## Stream of {stream.minutes:g} minutes: {stream.subject}"
    return f"{title}\n\n{table(head, rows)}"


def _goals(goals: Sequence[Goal]) -> str:
    rows = [
        [f"{goal.subject}: {goal.what}".removeprefix(": "), goal.wanted, goal.seen,
         "met" if goal.met else "**missed**"]
        for goal in goals
    ]  # fmt: skip
    return "## Goals\n\n" + table(["goal, one thread where not said", "wanted", "seen", ""], rows)


def machine() -> dict[str, str]:
    """Names of what was measured on, as the tables need them."""
    import numpy
    import onnxruntime

    from asrcompress.runtime.benchmark import cpu_name

    return {
        "CPU": f"{cpu_name()}, {os.cpu_count()} cores",
        "VNNI": "yes" if "avx512_vnni" in _flags() or "avx_vnni" in _flags() else "no",
        "Python": platform.python_version(),
        "ONNX Runtime": onnxruntime.__version__,
        "numpy": numpy.__version__,
    }


def _flags() -> set[str]:
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8", errors="replace") if info.exists() else ""
    return {word for line in text.splitlines() if line.startswith("flags") for word in line.split()}
