"""What the template shows, section by section; a section without data is None or empty."""

from __future__ import annotations

from typing import Any

from asrcompress.report.charts import (
    bars_chart,
    bucket_chart,
    edits_chart,
    gate_chart,
    interval_chart,
    kernel_chart,
    rate_chart,
    training_chart,
)
from asrcompress.report.data import Findings, percent
from asrcompress.report.diff import find_changes
from asrcompress.report.sensitivity import sensitivity_section
from asrcompress.report.svg import Chart
from asrcompress.report.tables import edge_rows, layer_tables, weakest
from asrcompress.stages import FP32, INT8, PRUNED, RECOVERED

_WEAKEST = 8


def sections(found: Findings, *, worst: int) -> dict[str, Any]:
    """Variables of the template.

    Args:
        worst: utterances to show of each kind.
    """
    both = found.before is not None and found.after is not None
    return {
        "accuracy": _accuracy(found),
        "buckets": _buckets(found),
        "changes": (
            find_changes(found.before.report, found.after.report, most=worst)
            if both and found.before and found.after
            else None
        ),
        "cost": _cost(found),
        "dtypes": _dtypes(found),
        "stages": _stages(found),
        "float_nodes": found.kernels.float_nodes if found.kernels else (),
        "noise": found.noise,
        "layer_tables": layer_tables(found.noise) if found.noise else [],
        "weakest": weakest(found.noise, _WEAKEST) if found.noise else [],
        "edges": (edge_rows(found.ranges, found.noise, found.histograms) if found.ranges else []),
        "has_histograms": bool(found.histograms),
        "training": (
            [training_chart(found.metrics), rate_chart(found.metrics)]
            if len(found.metrics) > 1
            else []
        ),
        "parity": found.parity,
        "sensitivity": sensitivity_section(found.run),
    }


def _accuracy(found: Findings) -> list[Chart]:
    if found.before is None or found.after is None:
        return []
    charts: list[Chart | None] = []
    if found.verdict is not None:
        charts.append(gate_chart(found.verdict))
    if found.streaming_verdict is not None:
        charts.append(gate_chart(found.streaming_verdict, title="The gate, in a stream"))
    charts.append(interval_chart(found.before.report, found.after.report))
    if found.verdict is not None:
        charts.append(edits_chart(found.verdict))
    charts.append(bucket_chart(found.before.report, found.after.report))
    return [chart for chart in charts if chart is not None]


def _buckets(found: Findings) -> list[tuple[str, ...]]:
    """Rows: duration, utterances, CER before and after, change, S, D and I as before -> after."""
    if found.verdict is None:
        return []
    rows = []
    for item in found.verdict.buckets:
        old, new = item.before, item.after
        rates = [counts.cer for counts in (old, new)]
        rows.append(
            (
                item.label,
                str(item.utterances),
                *("–" if rate is None else percent(float(rate), 2) for rate in rates),
                "–"
                if item.increase is None
                else f"{100 * float(item.increase):+.2f}".replace("-", "−"),
                *(
                    f"{getattr(old, kind)} → {getattr(new, kind)}"
                    for kind in ("substitutions", "deletions", "insertions")
                ),
            )
        )
    return rows


def _cost(found: Findings) -> list[Chart]:
    charts = []
    if found.sizes:
        fp32, int8 = (size / 1e6 for size in found.sizes)
        bars = [
            ("FP32", fp32, f"{fp32:.1f} MB", "before"),
            ("INT8", int8, f"{int8:.1f} MB ({fp32 / int8:.2f}× smaller)", "after"),
        ]
        charts.append(bars_chart("Size of the graph", bars, name="size", xlabel="MB"))
    if found.kernels is not None:
        charts.append(kernel_chart(found.kernels))
    if found.before is not None and found.after is not None:
        charts.append(_speed(found))
    if found.bench:
        bars = [
            (
                item.name,
                item.rtf,
                f"{item.rtf:.4f} ({item.speedup:.2f}×)",
                "after" if item.name == "INT8" else "before",
            )
            for item in found.bench
        ]
        charts.append(
            bars_chart(
                "Speed, benchmarked",
                bars,
                name="bench",
                xlabel="real-time factor",
                note="Interleaved on one machine by asrcompress bench; the first is the measure.",
            )
        )
    return charts


def _speed(found: Findings) -> Chart:
    assert found.before is not None and found.after is not None
    names = {"paddle": "Paddle", "onnxruntime": "ONNX Runtime"}
    bars = [
        (f"{names.get(side.backend, side.backend)}\n{label}", side.rtf, f"{side.rtf:.4f}", role)
        for side, label, role in ((found.before, "FP32", "before"), (found.after, "INT8", "after"))
    ]
    return bars_chart(
        "Speed while gating",
        bars,
        name="rtf",
        xlabel="real-time factor, lower is faster",
        note="Measured while gating, Paddle vs ONNX Runtime: a side effect of the measurement, "
        "not a benchmark. asrcompress bench compares bundles fairly.",
    )


def _dtypes(found: Findings) -> list[tuple[str, str, str]]:
    """Rows: dtype, megabytes, share of the INT8 graph's weights."""
    if found.kernels is None:
        return []
    total = sum(found.kernels.bytes_by_dtype.values()) or 1
    return [
        (dtype, f"{size / 1e6:.2f}", percent(size / total, 1))
        for dtype, size in found.kernels.bytes_by_dtype.items()
    ]


_STAGES = {
    FP32: "checkpoint",
    PRUNED: "pruned",
    RECOVERED: "pruned and recovered",
    INT8: "INT8",
}


def _stages(found: Findings) -> list[tuple[str, ...]]:
    """Rows: stage, CER, numbers in the encoder, those that are not zero, megabytes, zipped."""
    return [
        (
            _STAGES.get(item.name, item.name),
            percent(item.cer, 2),
            f"{item.parameters:,}",
            percent(item.nonzero / item.parameters, 1),
            f"{item.size_bytes / 1e6:.2f}",
            "–" if item.zipped_bytes is None else f"{item.zipped_bytes / 1e6:.2f}",
        )
        for item in found.stages
    ]
