"""What sensitivity and mixed found, as a person reads it, within 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from asrcompress import mixed_text

if TYPE_CHECKING:
    from asrcompress.mixed_precision import MixedPrecision
    from asrcompress.pipeline.mixed import MixedOutcome
    from asrcompress.pipeline.sensitivity import SensitivityOutcome
    from asrcompress.sensitivity import ProbeResult, Sensitivity

_WORST = 10


def sensitivity(outcome: SensitivityOutcome) -> RenderableType:
    """The most sensitive layers and groups, and where the rest is."""
    found = outcome.sensitivity
    lines = [
        f"{found.checkpoint}: CER {found.cer:.2%} in float on {found.utterances} utterances, "
        f"{found.reference_chars} characters"
    ]
    if found.together is not None:
        points = _points(found, found.together)
        lines.append(f"all layers quantized: {_kl(found.together.kl)}, CER {points} points")
    parts: list[RenderableType] = [Text("\n".join(lines))]
    if found.layers:
        parts.append(_worst("quantized alone", found, found.most_sensitive_layers()))
    if found.ratios:
        parts.append(_groups(found))
    paths = [("measured", outcome.path), ("heat map", outcome.picture), ("report", outcome.report)]
    shown = [f"{name}: {path}" for name, path in paths if path is not None and path.is_file()]
    return Group(*parts, *(Text(line, no_wrap=True, overflow="ignore") for line in shown))


def _worst(title: str, found: Sensitivity, results: Sequence[ProbeResult]) -> Table:
    table = _table(title, "KL, nats", "CER, points")
    for item in results[:_WORST]:
        table.add_row(item.probe.target, f"{item.kl:.2g}", _points(found, item))
    if len(results) > _WORST:
        table.add_row(f"{len(results) - _WORST} more", "", "")
    return table


def _groups(found: Sensitivity) -> Table:
    """Groups by what the largest ratio does to them; a column of KL for each ratio."""
    table = _table("partly silent: KL in nats", *(f"{r:.0%}" for r in found.ratios))
    by_ratio = [{item.probe.target: item for item in found.pruned(r)} for r in found.ratios]
    for item in found.most_sensitive_groups(found.ratios[-1])[:_WORST]:
        cells = [column.get(item.probe.target) for column in by_ratio]
        texts = ("-" if cell is None else f"{cell.kl:.2g}" for cell in cells)
        table.add_row(item.probe.target, *texts)
    return table


def mixed(outcome: MixedOutcome) -> RenderableType:
    """The verdict, every step, what the gate said, and the layers that stay in float."""
    found, best = outcome.found, outcome.found.best
    if outcome.failure is None and best is not None:
        head = Text(f"PASSED with {best.kept_float} layers in float", style="bold green")
    else:
        head = Text(f"FAILED: {outcome.failure}", style="bold red")
    names = [Text(f'--skip "{name}"') for name in found.kept]
    paths = [("run", outcome.chosen.path if outcome.chosen else None), ("report", outcome.report)]
    shown = [f"{name}: {path}" for name, path in paths if path is not None]
    return Group(
        head,
        Text(f"\nchosen by {found.utterances} utterances of data.dev:"),
        _steps(found),
        *_looks(found),
        *names,
        *(Text(line, no_wrap=True, overflow="ignore") for line in shown),
    )


def _steps(found: MixedPrecision) -> Table:
    """Every step; one that was not heard to its end says so."""
    table = _table(
        "in float", "CER", "at most", "data.dev", "integers", "float MMACs", "float MB", "MB"
    )
    for step in found.steps:
        hopeless = step.utterances < found.utterances
        table.add_row(
            f"{step.kept_float} layers",
            f"{step.after_cer:.2%}",
            _bound(step.upper_bound),
            "passed" if step.passed else "hopeless" if hopeless else "failed",
            f"{step.integer_share:.1%}",
            f"{step.float_macs / 1e6:.1f}",
            f"{step.float_bytes / 1e6:.2f}",
            f"{step.model_bytes / 1e6:.2f}",
        )
    return table


def _looks(found: MixedPrecision) -> list[RenderableType]:
    """What the gate said, where it was asked."""
    if not found.looks:
        return [Text("the gate was not asked")]
    table = _table("in float", "CER", "at most", "gate")
    for look in found.looks:
        table.add_row(
            f"{look.kept_float} layers",
            f"{look.after_cer:.2%}",
            _bound(look.upper_bound),
            "passed" if look.passed else "refused",
        )
    return [Text(f"judged by the gate's manifest, asked {mixed_text.asked(found)}:"), table]


def _bound(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.2f}"


def _kl(value: float) -> str:
    return f"KL {value:.2g} nats per frame"


def _points(found: Sensitivity, item: ProbeResult) -> str:
    return f"{100 * found.more_edits(item) / found.reference_chars:+.2f}"


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    return table
