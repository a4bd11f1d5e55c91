"""The parts of a report that are tables: layers by block, edges with their histograms, steps."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from asrcompress.histogram import Histogram
from asrcompress.ranges import ActivationRange, Ranges
from asrcompress.report.data import percent
from asrcompress.report.svg import sparkline
from asrcompress.sqnr import EdgeNoise, LayerNoise, NoiseReport

# Lower ends of the classes of the heat tables, in dB; below the first is class 0, the worst.
HEAT_DB = (15.0, 20.0, 25.0, 30.0, 40.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heat:
    """One value of a heat table; `level` 0 (worst) to 5, None where there is none."""

    text: str
    level: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatTable:
    """Layers as blocks times places; what is in no block is listed under `others`.

    Attributes:
        groups: what neighbouring columns are part of, and how many they are.
        rows: block and one value per column.
    """

    title: str
    groups: tuple[tuple[str, int], ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Heat, ...]], ...]
    others: tuple[tuple[str, Heat], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeRow:
    """One quantized activation."""

    name: str
    spark: Markup | None
    range: str
    seen: str
    clipped: str
    noise: Heat


def heat(db: float | None) -> Heat:
    """A value in dB with its class."""
    if db is None:
        return Heat(text="–", level=None)
    return Heat(text=str(math.floor(db)), level=sum(db >= low for low in HEAT_DB))


def heat_table(title: str, values: Mapping[str, float | None]) -> HeatTable:
    """`values` by layer name, arranged by block (``encoder.encoders.3``) and place within."""
    blocks: dict[str, dict[str, float | None]] = {}
    others: list[tuple[str, Heat]] = []
    for name, db in values.items():
        found = re.fullmatch(r"(.+\.\d+)\.(\D.*)", name)
        if found:
            blocks.setdefault(found[1], {})[found[2]] = db
        else:
            others.append((name, heat(db)))
    places = list(dict.fromkeys(place for block in blocks.values() for place in block))
    return HeatTable(
        title=title,
        groups=tuple(
            (parent, len(list(members)))
            for parent, members in itertools.groupby(place.rpartition(".")[0] for place in places)
        ),
        columns=tuple(place.rpartition(".")[2] for place in places),
        rows=tuple(
            (block, tuple(heat(found.get(place)) for place in places))
            for block, found in blocks.items()
        ),
        others=tuple(others),
    )


def layer_tables(noise: NoiseReport) -> list[HeatTable]:
    """Of outputs where they were measured, and of weights."""
    tables = []
    if any(item.output_db is not None for item in noise.layers):
        outputs = {item.name: item.output_db for item in noise.layers}
        tables.append(heat_table("Output of each layer, all errors before it included", outputs))
    weights = {item.name: item.weight_db for item in noise.layers}
    tables.append(heat_table("Weight of each layer, by itself", weights))
    return tables


def weakest(noise: NoiseReport, count: int) -> list[tuple[LayerNoise, float]]:
    """The layers with the noisiest outputs, or weights where that is all that is known."""
    measured = any(item.output_db is not None for item in noise.layers)
    pairs = [(item, item.output_db if measured else item.weight_db) for item in noise.layers]
    known = [(item, db) for item, db in pairs if db is not None]
    return sorted(known, key=lambda pair: (pair[1], pair[0].name))[:count]


def edge_rows(
    ranges: Ranges, noise: NoiseReport | None, histograms: Mapping[str, Histogram]
) -> list[EdgeRow]:
    """Every edge, the noisiest first where that is known, else in forward order."""
    measured: dict[str, EdgeNoise] = {item.name: item for item in noise.edges} if noise else {}
    names = list(ranges.activations)
    names.sort(key=lambda name: _order(measured.get(name)))
    return [
        _edge_row(name, ranges.activations[name], measured.get(name), histograms.get(name))
        for name in names
    ]


def _order(item: EdgeNoise | None) -> float:
    return math.inf if item is None or item.db is None else item.db


def _edge_row(
    name: str, grid: ActivationRange, noise: EdgeNoise | None, seen: Histogram | None
) -> EdgeRow:
    return EdgeRow(
        name=name,
        spark=None if seen is None else _spark(grid, seen),
        range=_ends(grid),
        seen="–" if seen is None else f"{seen.absmax:.3g}",
        clipped="–" if noise is None else _clipped(noise.clipped),
        noise=heat(None if noise is None else noise.db),
    )


def _ends(grid: ActivationRange) -> str:
    if grid.lowest is not None:
        return f"{grid.lowest:.3g} to {grid.absmax:.3g}"
    return f"0 to {grid.absmax:.3g}" if grid.unsigned else f"±{grid.absmax:.3g}"


def _clipped(share: float) -> str:
    if 0.0 < share < 1e-5:
        return "under 0.001 %"
    return percent(share, 3) if share else "0"


def _spark(grid: ActivationRange, seen: Histogram) -> Markup:
    """Counts on a logarithmic scale, or the tails could not be seen; lines end the range."""
    half = len(seen.counts) // 2
    counts: Sequence[int] = seen.counts[half:] if grid.unsigned else seen.counts
    most = math.log1p(max(counts, default=0)) or 1.0
    heights = [math.log1p(count) / most for count in counts]
    shown = 1.04 * max(grid.absmax, seen.absmax)  # what is at the ends of the drawing
    end, limit = grid.absmax / shown, seen.limit / shown
    if grid.unsigned:
        return sparkline(heights, left=0.0, right=limit, marks=(end,))
    start = end if grid.lowest is None else -grid.lowest / shown
    return sparkline(
        heights,
        left=(1 - limit) / 2,
        right=(1 + limit) / 2,
        marks=((1 - start) / 2, (1 + end) / 2),
    )
