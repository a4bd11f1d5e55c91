"""The sensitivity of a network as a heat map: a picture of its own, and a section of the report."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup

from asrcompress import mixed_text, strict_json
from asrcompress.errors import BadRun
from asrcompress.files import write_atomically
from asrcompress.mixed_precision import MixedPrecision
from asrcompress.report.svg import COLOUR, Chart, drawing, to_svg
from asrcompress.run import Run
from asrcompress.sensitivity import EVERYTHING, ProbeResult, Sensitivity, read_sensitivity

# Lower ends of the classes of the map, as shares of the largest value of the same action: what is
# large depends on the task, which layers mind most does not. From the last on is class 0.
HEAT_SHARES = (0.001, 0.01, 0.03, 0.1, 0.3)
_WORST, _LONGEST_NAME = 10, 34
# A cell is wide enough for "-12.34", a column's name stands upright under it.
_CELL_WIDTH, _CELL_HEIGHT, _NAMES_WIDTH, _NAMES_HEIGHT = 0.55, 0.36, 0.9, 1.3  # inches
# The page's light theme, for a picture that goes elsewhere.
_PRINT = {
    "ink": "#1b1e23",
    "muted": "#5c636e",
    "h0": "#f3b3a8",
    "h1": "#f7cbb4",
    "h2": "#f8e2bd",
    "h3": "#eef0c4",
    "h4": "#d6ecd0",
    "h5": "#bfe3cf",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One map: blocks down, places within a block across.

    Attributes:
        cells: by (row, column); where a block has no such layer there is none.
        largest: divergence of all panels of the same action.
        base: edits of the float network, which `cells` are compared with.
        reference_chars: what edits are a share of.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], ProbeResult]
    largest: float
    base: int
    reference_chars: int

    def points(self, result: ProbeResult) -> float:
        """Change of the CER in percentage points."""
        return 100.0 * (result.edits - self.base) / self.reference_chars


def panels(found: Sensitivity) -> list[Panel]:
    """Quantized: in blocks and outside of them; pruned: one for each ratio."""
    inside: list[tuple[str, str, ProbeResult]] = []
    outside: list[tuple[str, str, ProbeResult]] = []
    for result in found.layers:
        name = result.probe.target
        block = re.fullmatch(r"(\w+)\.\w+\.(\d+)\.(\D.*)", name)
        if block:
            row = block[2] if block[1] == "encoder" else f"{block[1]} {block[2]}"
            place = "self_attn products" if block[3] == "self_attn" else block[3]
            inside.append((row, place, result))
        else:
            outside.append(("all", name.partition(".")[2] or name, result))
    groups = {
        ratio: [(*_group(item), item) for item in found.pruned(ratio)] for ratio in found.ratios
    }
    listed = [
        ("Each layer quantized alone", inside),
        ("Outside of the blocks, quantized alone" if inside else "Quantized alone", outside),
        *((f"{ratio:.0%} of each group silent", items) for ratio, items in groups.items()),
    ]
    return [_panel(found, title, items) for title, items in listed if items]


def _group(result: ProbeResult) -> tuple[str, str]:
    """Row and column of ``block 3 feed_forward``."""
    found = re.fullmatch(r"block (\d+) (.+)", result.probe.target)
    return (found[1], found[2]) if found else ("all", result.probe.target)


def _panel(found: Sensitivity, title: str, items: Sequence[tuple[str, str, ProbeResult]]) -> Panel:
    return Panel(
        title=title,
        rows=tuple(dict.fromkeys(row for row, _, _ in items)),
        columns=tuple(dict.fromkeys(column for _, column, _ in items)),
        cells={(row, column): result for row, column, result in items},
        largest=_largest(found, items[0][2].probe.action),
        base=found.edits,
        reference_chars=found.reference_chars,
    )


def _largest(found: Sensitivity, action: str) -> float:
    """Divergence of any probe of this action but that of everything together."""
    return max(
        item.kl
        for item in found.results
        if item.probe.action == action and item.probe.target != EVERYTHING
    )


def level(kl: float, largest: float) -> int:
    """Class of a value, 0 (worst) to 5."""
    return len(HEAT_SHARES) - sum(kl >= low * largest > 0 for low in HEAT_SHARES)


def nats(kl: float, digits: int = 2) -> str:
    """A divergence as short as it can be: ``0.31``, ``0.0042``, ``6.8e-6``."""
    if kl >= 1e-3 or not kl:
        return f"{kl:.2g}"
    mantissa, exponent = f"{kl:.{digits - 1}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def points_text(points: float) -> str:
    """``+0.12``, with a true minus sign; nothing where nothing changed."""
    return f"{points:+.2f}".replace("-", "−") if points else ""


def draw_panel(axes: Any, panel: Panel, colour: Mapping[str, str]) -> None:
    """`panel` on matplotlib's `axes`.

    Args:
        colour: by role, as in `asrcompress.report.svg`.
    """
    from matplotlib.patches import Rectangle

    for y, row in enumerate(panel.rows):
        for x, column in enumerate(panel.columns):
            result = panel.cells.get((row, column))
            if result is None:
                continue
            face = colour[f"h{level(result.kl, panel.largest)}"]
            axes.add_patch(Rectangle((x + 0.03, y + 0.04), 0.94, 0.92, facecolor=face, lw=0))
            changed = points_text(panel.points(result))
            axes.text(
                x + 0.5, y + (0.32 if changed else 0.5), nats(result.kl, 1),
                ha="center", va="center", fontsize=8, color=colour["ink"],
            )  # fmt: skip
            axes.text(
                x + 0.5, y + 0.72, changed,
                ha="center", va="center", fontsize=6.5, color=colour["ink"],
            )  # fmt: skip
    axes.set(xlim=(0, len(panel.columns)), ylim=(len(panel.rows), 0))
    columns, rows = ([_label(name) for name in names] for names in (panel.columns, panel.rows))
    axes.set_xticks([x + 0.5 for x in range(len(columns))], columns, rotation=90)
    axes.set_yticks([y + 0.5 for y in range(len(rows))], rows)
    axes.tick_params(length=0, labelsize=8, labelcolor=colour["muted"])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _label(name: str) -> str:
    """A name from a file that anybody may have written, fit to be drawn."""
    shown = "".join(char for char in name if char.isprintable())
    return shown if len(shown) <= _LONGEST_NAME else f"{shown[: _LONGEST_NAME - 1]}…"


def _size(panel: Panel) -> tuple[float, float]:
    """Inches, width and height."""
    return (
        _NAMES_WIDTH + _CELL_WIDTH * len(panel.columns),
        _NAMES_HEIGHT + _CELL_HEIGHT * len(panel.rows),
    )


def write_picture(found: Sensitivity, path: Path) -> None:
    """All panels, one below the other, as PNG.

    Raises:
        FileFailed: it cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = panels(found)
    sizes = [_size(panel) for panel in shown]
    width = max([7.0, *(size[0] for size in sizes)])
    heights = [height + 0.3 for _, height in sizes]
    with rc_context({"text.parse_math": False, "font.size": 9.0}):
        figure = Figure(figsize=(width, sum(heights) + 0.7), layout="constrained", dpi=150)
        FigureCanvasAgg(figure)
        figure.suptitle(_caption(found), fontsize=9, color=_PRINT["muted"])
        grid = figure.add_gridspec(len(shown), 1, height_ratios=heights)
        for index, panel in enumerate(shown):
            # A narrow panel keeps the size of its cells: the rest of its row stays empty.
            share = sizes[index][0] / width
            row = grid[index].subgridspec(1, 2, width_ratios=[share, max(1e-3, 1.0 - share)])
            axes = figure.add_subplot(row[0])
            draw_panel(axes, panel, _PRINT)
            axes.set_title(panel.title, loc="left", fontsize=10, color=_PRINT["ink"])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomically(path, buffer.getvalue())


def _caption(found: Sensitivity) -> str:
    return (
        f"{found.checkpoint}: KL in nats per frame, and below it the change of the CER in points;\n"
        f"{found.utterances} utterances, {found.frames} frames, CER {found.cer:.2%}"
    )


def _chart(panel: Panel, index: int) -> Chart:
    width, height = _size(panel)
    with drawing(height, max(4.0, width)) as (figure, axes):
        draw_panel(axes, panel, COLOUR)
        svg = to_svg(figure, name=f"sensitivity-{index}")
    worst = max(panel.cells.values(), key=lambda item: item.kl)
    return Chart(
        title=panel.title,
        alt=f"{len(panel.cells)} values in {len(panel.rows)} rows; the largest is "
        f"{nats(worst.kl)} nats per frame, of {worst.probe.target}.",
        svg=svg,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstRow:
    """One line of a table of the worst."""

    name: str
    kl: str
    level: int
    points: str


def _points_of(found: Sensitivity, item: ProbeResult) -> str:
    return points_text(100.0 * found.more_edits(item) / found.reference_chars) or "0"


def _worst(found: Sensitivity, results: Sequence[ProbeResult]) -> list[WorstRow]:
    largest = _largest(found, results[0].probe.action) if results else 0.0
    return [
        WorstRow(
            name=item.probe.target,
            kl=nats(item.kl),
            level=level(item.kl, largest),
            points=_points_of(found, item),
        )
        for item in results[:_WORST]
    ]


def sensitivity_section(run: Run) -> Markup:
    """The section of a run that has a sensitivity.json; empty for others.

    Raises:
        BadSensitivity, BadRun: one of the files is damaged.
    """
    from jinja2 import Environment, StrictUndefined

    if not run.has("sensitivity.json"):
        return Markup()
    found = read_sensitivity(run.path / "sensitivity.json")
    shown = panels(found)
    text = resources.files("asrcompress.report").joinpath("sensitivity.html.j2")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    together, mixed = found.together, _mixed(run)
    return Markup(
        environment.from_string(text.read_text(encoding="utf-8")).render(
            found=found,
            wide=[_chart(p, i) for i, p in enumerate(shown) if _size(p)[0] > 4.5],
            narrow=[_chart(p, i) for i, p in enumerate(shown) if _size(p)[0] <= 4.5],
            together=together,
            together_kl="" if together is None else nats(together.kl),
            together_points="" if together is None else _points_of(found, together),
            layers=_worst(found, found.most_sensitive_layers()),
            groups=[(r, _worst(found, found.most_sensitive_groups(r))) for r in found.ratios],
            bounds=[f"{100 * share:g}" for share in HEAT_SHARES],
            mixed=mixed,
            asked="" if mixed is None else mixed_text.asked(mixed),
        )
    )


def _mixed(run: Run) -> MixedPrecision | None:
    if not run.has("mixed.json"):
        return None
    item = str(run.path / "mixed.json")
    return strict_json.from_json(
        MixedPrecision, run.read_json("mixed.json"), item=item, error=BadRun
    )
