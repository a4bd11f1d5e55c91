"""The Pareto plot of a search: bound of the CER increase against size, and against time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from asrcompress.pareto import misses, pareto_front
from asrcompress.report.svg import COLOUR, Chart, drawing, to_svg
from asrcompress.search import Candidate, SearchResult, Weight

_HEIGHT = 3.1
_LABELLED = 14  # more numbers than this would lie on each other; the table has them all
_WIDE, _HIGH = 14.0, 8.0  # of a label, points


def pareto_charts(result: SearchResult) -> list[Chart]:
    """CER bound over size, and over the real-time factor; none where nothing was measured."""
    shown = [
        item
        for item in result.candidates
        if item.weight is not None and item.heard is not None and item.heard.upper is not None
    ]
    if not shown:
        return []
    goal = result.goal
    return [
        _chart(
            result, shown, "CER against size", "size, MB", lambda weight: weight.size_mb,
            limit=goal.max_size_mb, name="pareto-size",
        ),
        _chart(
            result, shown, "CER against speed", "real-time factor, lower is faster",
            lambda weight: weight.rtf, limit=goal.max_rtf, name="pareto-rtf",
        ),
    ]  # fmt: skip


def _chart(
    result: SearchResult,
    shown: Sequence[Candidate],
    title: str,
    label: str,
    quantity: Callable[[Weight], float],
    *,
    limit: float | None,
    name: str,
) -> Chart:
    front = {item.number for item in pareto_front(result.candidates)}
    points = {item.number: _position(item, quantity) for item in shown}
    with drawing(_HEIGHT) as (figure, axes):
        _limits(axes, points.values(), allowed=100 * result.goal.max_cer_increase, limit=limit)
        _front_line(axes, [points[number] for number in points if number in front])
        # The front last, or what lies at the same place would hide it.
        for item in sorted(shown, key=lambda i: (i.number == result.chosen, i.number in front)):
            _dot(axes, points[item.number], _role(item, result, front), item, result)
        figure.canvas.draw()  # labels keep their distance in points, which only a layout knows
        _label(figure, axes, points, front, result)
        unit = "% of the CER before" if result.goal.relative else "points"
        axes.set(xlabel=label, ylabel=f"CER increase, at most, {unit}")
        axes.yaxis.label.set_color(COLOUR["muted"])
        axes.tick_params(axis="y", labelcolor=COLOUR["muted"])
        svg = to_svg(figure, name=name)
    return Chart(
        title=title,
        alt=_words(result, shown, label, quantity),
        svg=svg,
        note="Blue is the Pareto front: nothing else has less of all of CER bound, size and time. "
        "The ring is the chosen one. Shaded: what the limits allow. Hollow: misses a limit.",
    )


def _position(item: Candidate, quantity: Callable[[Weight], float]) -> tuple[float, float]:
    assert item.weight is not None and item.heard is not None and item.heard.upper is not None
    return quantity(item.weight), 100 * item.heard.upper


def _limits(axes: Any, points: Any, *, allowed: float, limit: float | None) -> None:
    """Axes that hold all points and limits, with what is allowed shaded."""
    from matplotlib.patches import Rectangle

    xs, ys = zip(*points, strict=True)
    right = max([*xs, *([limit] if limit else [])])
    left = min([*xs, *([limit] if limit else [])])
    # What is all but the same should look so.
    margin = max(0.12 * (right - left), 0.05 * right)
    low, high = min([0.0, *ys]), max([allowed, *ys])
    rise = 0.12 * (high - low) or 0.1
    axes.set(xlim=(left - margin, right + margin), ylim=(low - rise, high + rise))
    width = (limit if limit else right + margin) - (left - margin)
    axes.add_patch(
        Rectangle(
            (left - margin, low - rise), width, allowed - low + rise,
            facecolor=COLOUR["allowed"], lw=0, zorder=0,
        )
    )  # fmt: skip
    axes.axhline(allowed, color=COLOUR["ink"], lw=0.9, ls=(0, (4, 3)), zorder=1)
    if limit:
        axes.axvline(limit, color=COLOUR["ink"], lw=0.9, ls=(0, (4, 3)), zorder=1)


def _front_line(axes: Any, points: Sequence[tuple[float, float]]) -> None:
    """The lower left of the front, as steps: what is on it for the third quantity stands off."""
    low, steps = float("inf"), list[tuple[float, float]]()
    for x, y in sorted(points):
        if y < low:
            low = y
            steps.append((x, y))
    if len(steps) > 1:
        axes.step(
            *zip(*steps, strict=True), where="post", color=COLOUR["after"], lw=1.1, alpha=0.6,
            zorder=2,
        )  # fmt: skip


def _role(item: Candidate, result: SearchResult, front: set[int]) -> str:
    if item.number == result.chosen:
        return "good"
    return "after" if item.number in front else "before"


def _dot(
    axes: Any, point: tuple[float, float], role: str, item: Candidate, result: SearchResult
) -> None:
    face = COLOUR["card"] if misses(item, result.goal) else COLOUR[role]
    axes.plot(*point, "o", color=face, mec=COLOUR[role], mew=1.6, ms=7.5, zorder=3)
    if item.number == result.chosen:
        axes.plot(*point, "o", color="none", mec=COLOUR["good"], mew=1.6, ms=14, zorder=3)


def _label(
    figure: Any,
    axes: Any,
    points: dict[int, tuple[float, float]],
    front: set[int],
    result: SearchResult,
) -> None:
    """Numbers of the chosen one, of the front, and of others where there is room."""
    order = sorted(points, key=lambda number: (number != result.chosen, number not in front))
    scale = 72.0 / figure.dpi
    places = {n: axes.transData.transform(points[n]) * scale for n in order}
    taken = [(float(x), float(y)) for x, y in places.values()]
    for number in order[:_LABELLED]:
        (x, y), far = places[number], 4 if number == result.chosen else 0
        corners = ((6 + far, 4), (6 + far, -10), (-20 - far, 4), (-20 - far, -10))
        middles = [(float(x) + dx + _WIDE / 2, float(y) + dy + _HIGH / 2) for dx, dy in corners]
        free = [i for i, middle in enumerate(middles) if not _touches(middle, taken)]
        if not free and number not in front:
            continue
        corner = free[0] if free else 0
        taken.append(middles[corner])
        axes.annotate(
            f"#{number}", points[number], xytext=corners[corner], textcoords="offset points",
            fontsize=8, color=COLOUR["ink"], zorder=4,
        )  # fmt: skip


def _touches(middle: tuple[float, float], taken: Sequence[tuple[float, float]]) -> bool:
    """Whether a label there would lie on one of those, or on a dot."""
    x, y = middle
    return any(abs(x - a) < 0.75 * _WIDE and abs(y - b) < 0.9 * _HIGH for a, b in taken)


def _words(
    result: SearchResult,
    shown: Sequence[Candidate],
    label: str,
    quantity: Callable[[Weight], float],
) -> str:
    front = {item.number for item in pareto_front(result.candidates)}
    said = []
    for item in shown:
        if item.number in front:
            x, y = _position(item, quantity)
            chosen = ", chosen" if item.number == result.chosen else ""
            said.append(f"#{item.number} {x:.3g} with {y:+.2f}{chosen}")
    axis = label.partition(",")[0]
    return f"{len(shown)} candidates. On the front, {axis} with CER bound: {'; '.join(said)}."
