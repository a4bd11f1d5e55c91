"""matplotlib's SVG made part of a page: its colours follow the page's theme, its text its font.

matplotlib is told colours that stand for roles, and each is replaced by the CSS variable of that
role, so that one drawing serves light, dark and print.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

# Nobody draws in these by accident. The names are the CSS variables of page.css.
_ROLES = (
    "ink", "muted", "grid", "card", "before", "after",
    "good", "bad", "warn", "third", "allowed",
    "h0", "h1", "h2", "h3", "h4", "h5",
)  # fmt: skip
COLOUR = {role: f"#0a00{index:02x}" for index, role in enumerate(_ROLES, start=1)}
# Points, of which an inch has 72: a drawing of this width is legible on a phone and not huge on a
# desk.
_WIDTH_INCHES = 4.0
_STYLE = {
    "svg.fonttype": "none",  # text stays text: selectable, in the page's font
    "svg.hashsalt": "asrcompress",  # the same run gives the same bytes
    "text.parse_math": False,  # a name with a $ in it is a name
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": COLOUR["grid"],
    "axes.labelcolor": COLOUR["muted"],
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOUR["grid"],
    "grid.linewidth": 0.6,
    "xtick.color": COLOUR["muted"],
    "ytick.color": COLOUR["ink"],
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "text.color": COLOUR["ink"],
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A drawing and what it says.

    Attributes:
        alt: the drawing in words, for those who cannot see it.
    """

    title: str
    alt: str
    svg: Markup
    note: str = ""


@contextmanager
def drawing(height_inches: float, width_inches: float = _WIDTH_INCHES) -> Iterator[tuple[Any, Any]]:
    """A figure and its axes in the report's style.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
        yield figure, figure.add_subplot()


def to_svg(figure: Any, *, name: str) -> Markup:
    """`figure` as an inline ``<svg>``; its ids begin with `name`, which no other has."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[a-z]+[\w.]*_\d+"', "", text)  # figure_1, axes_1: the same in each
    text = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', _opening, text, count=1)
    for role, colour in COLOUR.items():
        text = text.replace(colour, f"var(--{role})")
    return Markup(re.sub(r"\n\s*", "\n", text))


def _opening(found: re.Match[str]) -> str:
    return f'<svg viewBox="{found[1]}" aria-hidden="true" focusable="false">'


_SPARK_WIDTH, _SPARK_HEIGHT = 120, 24


def sparkline(
    heights: Sequence[float], *, left: float, right: float, marks: Sequence[float]
) -> Markup:
    """A histogram the height of a line of text.

    Args:
        heights: of equal bins, 0 to 1.
        left, right: where the bins begin and end, as shares of the width; may be outside of it.
        marks: where to draw a line, as shares of the width.
    """
    step = _SPARK_WIDTH * (right - left) / max(1, len(heights))
    points = []
    for index, height in enumerate(heights):
        x, y = _SPARK_WIDTH * left + index * step, _SPARK_HEIGHT * (1 - height)
        if height > 0.0:
            points += [f"M{x:.1f} {_SPARK_HEIGHT}V{y:.1f}h{step:.1f}V{_SPARK_HEIGHT}"]
    lines = "".join(f"M{_SPARK_WIDTH * mark:.1f} 0V{_SPARK_HEIGHT}" for mark in marks)
    return Markup(
        '<svg class="spark" viewBox="0 0 120 24" aria-hidden="true">'
        '<path class="bins" d="{}"/><path class="mark" d="{}"/></svg>'
    ).format("".join(points), lines)
