"""The drawings of a report. Each gives the chart and the same in words."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from asrcompress.accuracy.cer import CerReport, bucket_of
from asrcompress.accuracy.verdict import GateVerdict
from asrcompress.report.data import METRICS, Kernels, Metric, percent
from asrcompress.report.svg import COLOUR, Chart, drawing, to_svg

_KIND = {"total": "ink", "ctc": "before", "attention": "third", "distillation": "after"}


def gate_chart(verdict: GateVerdict, *, title: str = "The gate") -> Chart | None:
    """The increase with its bounds against what is allowed; None where no bound exists."""
    low, high, increase = (
        _points(value) for value in (verdict.lower_bound, verdict.upper_bound, verdict.increase)
    )
    if low is None or high is None or increase is None:
        return None
    allowed = float(100 * verdict.max_increase)
    unit = "% of the CER before" if verdict.relative else "points"
    state = "good" if high <= allowed else "bad"
    span = max(allowed, high, 1e-6) - min(low, 0.0)
    with drawing(1.15) as (figure, axes):
        axes.axvspan(min(low, 0.0) - span, allowed, color=COLOUR["allowed"], lw=0)
        axes.axvline(0, color=COLOUR["muted"], lw=0.8)
        axes.axvline(allowed, color=COLOUR["ink"], lw=1.0, ls=(0, (4, 3)))
        axes.plot([low, high], [0, 0], color=COLOUR[state], lw=5, solid_capstyle="round")
        axes.plot([increase], [0], "o", color=COLOUR["card"], mec=COLOUR[state], mew=2, ms=9)
        side = "right" if allowed > (max(allowed, high) + min(low, 0.0)) / 2 else "left"
        axes.text(allowed, 0.62, f" allowed {allowed:.2f} ", ha=side, va="center", fontsize=8.5)
        axes.set(ylim=(-0.8, 0.9), yticks=[], xlabel=f"change of the CER, {unit}")
        axes.set_xlim(min(low, 0.0) - 0.12 * span, max(allowed, high) + 0.12 * span)
        axes.grid(axis="y", visible=False)
        svg = to_svg(figure, name=title.lower().replace(", ", "-").replace(" ", "-"))
    return Chart(
        title=title,
        alt=f"The CER changed by {increase:+.2f} {unit}, between {low:+.2f} and {high:+.2f} with "
        f"95 % confidence on either side; at most {allowed:.2f} is allowed.",
        svg=svg,
        note="The ring is the measured change, the bar its one-sided 95 % bounds. "
        "The gate passes if the bar ends within the shaded area.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """CERs in percent: measured, and the ends of the 95 % interval."""

    label: str
    values: tuple[float, float, float]
    role: str


def interval_chart(before: CerReport, after: CerReport) -> Chart:
    """CER of both models with their 95 % intervals."""
    rows = [_row("before", before, "before"), _row("after", after, "after")]
    return Chart(
        title="Character error rate",
        alt=_words(rows),
        svg=_dots(rows, name="cer", labels=[row.label for row in rows], positions=[1.0, 0.0]),
        note="Bars are 95 % intervals, bootstrapped over utterances.",
    )


def bucket_chart(before: CerReport, after: CerReport) -> Chart | None:
    """CER by duration; None where there is only one range of durations."""
    rows, labels, positions = [], [], []
    buckets = after.buckets()
    for index, bucket in enumerate(buckets):
        if not bucket.counts.reference_chars:
            continue
        base = 3.0 * (len(buckets) - index)
        labels.append(f"{bucket.label}\nn = {bucket.utterances}")
        for name, report, offset in (("before", before, 0.5), ("after", after, -0.5)):
            inside = tuple(
                item for item in report.utterances if bucket_of(item.duration_s) == bucket.label
            )
            part = CerReport(utterances=inside, normalisation=report.normalisation)
            rows.append(_row(f"{bucket.label} {name}", part, name))
            positions.append(base + offset)
    if len(labels) < 2:
        return None
    return Chart(
        title="CER by duration",
        alt=_words(rows),
        svg=_dots(rows, name="bucket", labels=labels, positions=positions),
        note="Grey before, coloured after. Int8 that fails only on long audio would show here.",
    )


def _row(label: str, report: CerReport, role: str) -> _Row:
    low, high = report.interval()
    values = (100 * float(report.cer), 100 * low, 100 * high)
    return _Row(label=label, values=values, role=role)


def _words(rows: Sequence[_Row]) -> str:
    said = [
        f"{r.label}: {r.values[0]:.2f} % ({r.values[1]:.2f} to {r.values[2]:.2f})" for r in rows
    ]
    return "CER " + "; ".join(said) + "."


def _dots(
    rows: Sequence[_Row], *, name: str, labels: Sequence[str], positions: Sequence[float]
) -> Any:
    """Dots with intervals; `labels` are spread evenly over `positions`."""
    with drawing(0.62 + 0.26 * len(rows)) as (figure, axes):
        for row, y in zip(rows, positions, strict=True):
            value, low, high = row.values
            axes.plot([low, high], [y, y], color=COLOUR[row.role], lw=3, solid_capstyle="round")
            axes.plot([value], [y], "o", color=COLOUR[row.role], mec=COLOUR["card"], mew=1.2, ms=8)
            axes.annotate(
                f"{value:.2f}", (high, y), xytext=(7, 0), textcoords="offset points",
                va="center", fontsize=8.5,
            )  # fmt: skip
        per = len(rows) // len(labels)
        middles = [sum(positions[i * per : (i + 1) * per]) / per for i in range(len(labels))]
        axes.set_yticks(middles, labels)
        axes.set_ylim(min(positions) - 0.7, max(positions) + 0.7)
        most = max(row.values[2] for row in rows)
        axes.set_xlim(0, 1.18 * most if most else 1.0)
        axes.set_xlabel("CER, %")
        axes.grid(axis="y", visible=False)
        return to_svg(figure, name=name)


def edits_chart(verdict: GateVerdict) -> Chart:
    """Substitutions, deletions and insertions, before and after."""
    kinds = ("substitutions", "deletions", "insertions")
    pairs = [(getattr(verdict.before, kind), getattr(verdict.after, kind)) for kind in kinds]
    with drawing(1.85) as (figure, axes):
        most = max(1, *(max(pair) for pair in pairs))
        for index, (old, new) in enumerate(pairs):
            y = 2 - index
            axes.barh([y + 0.19], [old], height=0.32, color=COLOUR["before"])
            axes.barh([y - 0.19], [new], height=0.32, color=COLOUR["after"])
            for value, offset, text in (
                (old, 0.19, f"{old}"),
                (new, -0.19, f"{new} ({_signed(new - old)})"),
            ):
                axes.annotate(
                    text, (value, y + offset), xytext=(4, 0), textcoords="offset points",
                    va="center", fontsize=8.5,
                )  # fmt: skip
        axes.set_yticks([2, 1, 0], kinds)
        axes.set(xlim=(0, 1.25 * most), xlabel="characters")
        axes.grid(axis="y", visible=False)
        svg = to_svg(figure, name="edits")
    said = "; ".join(
        f"{k}: {old} before, {new} after" for k, (old, new) in zip(kinds, pairs, strict=True)
    )
    return Chart(
        title="What kind of errors",
        alt=said + ".",
        svg=svg,
        note="Quantization noise tends to show as deletions: blank wins over weak symbols.",
    )


def bars_chart(
    title: str,
    bars: Sequence[tuple[str, float, str, str]],
    *,
    name: str,
    xlabel: str,
    note: str = "",
) -> Chart:
    """Horizontal bars from the top down.

    Args:
        bars: label, value, what to write beside it, role of its colour.
    """
    with drawing(0.5 + 0.34 * len(bars)) as (figure, axes):
        for index, (_, value, text, role) in enumerate(bars):
            axes.barh([-index], [value], height=0.58, color=COLOUR[role])
            axes.annotate(
                text, (value, -index), xytext=(5, 0), textcoords="offset points",
                va="center", fontsize=8.5,
            )  # fmt: skip
        axes.set_yticks([-index for index in range(len(bars))], [bar[0] for bar in bars])
        axes.set(xlim=(0, 1.45 * max(bar[1] for bar in bars) or 1.0), xlabel=xlabel)
        axes.grid(axis="y", visible=False)
        svg = to_svg(figure, name=name)
    said = "; ".join(f"{label}: {text}" for label, _, text, _ in bars)
    return Chart(title=title, alt=said + ".", svg=svg, note=note)


def kernel_chart(kernels: Kernels) -> Chart:
    """Multiply-accumulates by the kernel that ran them."""
    bars = [
        (
            item.kernel,
            100 * item.macs / kernels.macs,
            f"{percent(item.macs / kernels.macs, 1)} · {item.calls}",
            "after" if item.integer else "bad",
        )
        for item in kernels.kernels
    ]
    return bars_chart(
        "Integer kernels",
        bars,
        name="kernels",
        xlabel="% of the multiply-accumulates",
        note=f"As ONNX Runtime's profiler saw them on {kernels.frames} frames. "
        "Beside each: how many nodes. A kernel that multiplies in float would be red.",
    )


def training_chart(metrics: Sequence[Metric]) -> Chart:
    """Losses, smoothed over the raw values, with a line at each new epoch."""
    steps = np.array([item.step for item in metrics])
    with drawing(2.5) as (figure, axes):
        for name in METRICS:
            values = np.array([item.losses.get(name, np.nan) for item in metrics])
            if np.isnan(values).all():
                continue
            role = _KIND[name]
            axes.plot(steps, values, color=COLOUR[role], lw=0.6, alpha=0.22)
            width = 1.9 if name == "total" else 1.3
            axes.plot(steps, _smooth(values), color=COLOUR[role], lw=width, label=name)
        for previous, item in itertools.pairwise(metrics):
            if item.epoch != previous.epoch:
                axes.axvline(item.step, color=COLOUR["muted"], lw=0.8, ls=(0, (2, 3)))
        _limit(axes, metrics)
        axes.set(xlabel="optimizer step", ylabel="loss per utterance")
        axes.yaxis.label.set_color(COLOUR["muted"])
        axes.legend(loc="upper right", ncols=2, labelcolor=COLOUR["ink"])
        svg = to_svg(figure, name="training")
    return Chart(
        title="Loss",
        alt=f"{len(metrics)} optimizer steps over {metrics[-1].epoch + 1} epochs; the total loss "
        f"begins at {_mean(metrics[:20]):.3f} and ends at {_mean(metrics[-20:]):.3f}.",
        svg=svg,
        note="Thin: each step. Thick: running mean. Dotted: a new epoch.",
    )


def rate_chart(metrics: Sequence[Metric]) -> Chart:
    """The learning rate."""
    rates = [item.learning_rate for item in metrics]
    with drawing(1.5) as (figure, axes):
        axes.plot([item.step for item in metrics], rates, color=COLOUR["after"], lw=1.6)
        axes.set(xlabel="optimizer step", ylim=(0, 1.1 * max(rates) or 1.0))
        axes.ticklabel_format(axis="y", style="plain")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.1e}" if value else "0")
        svg = to_svg(figure, name="rate")
    return Chart(
        title="Learning rate",
        alt=f"The learning rate rises to {max(rates):.2e} and ends at {rates[-1]:.2e}.",
        svg=svg,
    )


def _smooth(values: np.ndarray) -> np.ndarray:
    """Exponential running mean over some fiftieth of the curve; gaps are bridged."""
    weight = 1.0 / max(2.0, len(values) / 50.0)
    smooth, mean = np.full(len(values), np.nan), float("nan")
    for index, value in enumerate(values):
        if not np.isnan(value):
            mean = value if np.isnan(mean) else mean + weight * (value - mean)
        smooth[index] = mean
    return smooth


def _limit(axes: Any, metrics: Sequence[Metric]) -> None:
    """Let a few wild steps not flatten all the others."""
    losses = [loss for item in metrics for loss in item.losses.values()]
    if losses:
        axes.set_ylim(min(0.0, min(losses)), 1.08 * float(np.percentile(losses, 99)) or 1.0)


def _mean(metrics: Sequence[Metric]) -> float:
    totals = [item.losses["total"] for item in metrics if "total" in item.losses]
    return float(np.mean(totals)) if totals else float("nan")


def _signed(count: int) -> str:
    """With a true minus sign, as matplotlib writes them."""
    return f"{count:+}".replace("-", "−")


def _points(value: Fraction | None) -> float | None:
    return None if value is None else float(100 * value)
