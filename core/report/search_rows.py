"""A search in rows: its limits, its numbers, its candidates, and the way to the chosen one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from asrcompress.pareto import misses, nearest, pareto_front
from asrcompress.report.data import percent
from asrcompress.report.page import Tile
from asrcompress.search import Candidate, SearchResult, Weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One candidate in the table."""

    number: int
    words: str
    mark: str
    state: str
    cells: tuple[str, ...]
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step from the checkpoint to a candidate, with what it changed.

    Attributes:
        cells: CER, its bound, size, real-time factor; the change in brackets.
        seconds: that the candidate took.
    """

    name: str
    number: str
    cells: tuple[str, ...]
    seconds: str


def limits(result: SearchResult) -> list[str]:
    """The goal, one limit a line."""
    goal = result.goal
    unit = "of the CER before" if goal.relative else "points"
    lines = [
        f"CER increase, upper 95 % bound: at most {100 * goal.max_cer_increase:.2f} {unit}",
        f"integer kernels: at least {percent(goal.min_integer_share, 1)} of the operations",
    ]
    for text, value in (
        ("size: at most {:g} MB", goal.max_size_mb),
        ("real-time factor: at most {:g}", goal.max_rtf),
        ("memory: at most {:g} MB", goal.max_memory_mb),
    ):
        lines += [] if value is None else [text.format(value)]
    return [*lines, f"preferred among those that keep all: {goal.prefer}"]


def tiles(result: SearchResult) -> list[Tile]:
    """The numbers of the chosen candidate, or of the search where there is none."""
    best = result.best
    if best is None or best.heard is None or best.weight is None:
        kept = sum(not misses(item, result.goal) for item in result.candidates if item.weight)
        return [
            Tile(label="Candidates", value=str(len(result.candidates)), detail="tried"),
            Tile(label="Within every limit", value=str(kept), detail="on the search set"),
            Tile(label="Checkpoint", value=percent(result.cer, 2), detail="CER on the search set"),
        ]
    weight, base = best.weight, result.reference
    bound = best.heard.upper
    return [
        Tile(
            label="CER on the search set",
            value=percent(best.heard.cer, 2),
            detail=f"was {percent(result.cer, 2)}; increase at most "
            + ("unknown" if bound is None else f"{100 * bound:+.2f}"),
        ),
        Tile(
            label="Size",
            value=f"{base.size_mb / weight.size_mb:.2f}× smaller",
            detail=f"{weight.size_mb:.2f} MB, was {base.size_mb:.2f} MB",
        ),
        Tile(
            label="Speed, one thread",
            value=f"{weight.speedup:.2f}× faster",
            detail=f"real-time factor {weight.rtf:.4f}, was {base.rtf:.4f}",
        ),
        Tile(
            label="Memory",
            value=f"{weight.memory_mb:.0f} MB",
            detail=f"at its peak, was {base.memory_mb:.0f} MB",
        ),
    ]


def sorted_candidates(result: SearchResult) -> list[Candidate]:
    """The chosen one, the front, the rest, those that were not measured last."""
    front = {item.number for item in pareto_front(result.candidates)}

    def place(item: Candidate) -> tuple[bool, bool, bool, float, int]:
        bound = None if item.heard is None else item.heard.upper
        return (
            item.number != result.chosen,
            item.weight is None,
            item.number not in front,
            float("inf") if bound is None else bound,
            item.number,
        )

    return sorted(result.candidates, key=place)


def row(item: Candidate, result: SearchResult) -> Row:
    """A candidate as the table shows it."""
    front = {one.number for one in pareto_front(result.candidates)}
    heard, weight = item.heard, item.weight
    cells = [
        "–" if heard is None else percent(heard.cer, 2),
        "–" if heard is None or heard.upper is None else _signed(100 * heard.upper, 2),
    ]
    if weight is None:
        cells += ["–"] * 4
    else:
        cells += [
            f"{weight.size_mb:.2f}", f"{weight.rtf:.4f}", f"{weight.speedup:.2f}×",
            f"{weight.memory_mb:.0f}",
        ]  # fmt: skip
    cells += ["–" if item.integer_share is None else percent(item.integer_share, 1)]
    cells += [f"{item.seconds:.0f}"]
    mark = "chosen" if item.number == result.chosen else "front" * (item.number in front)
    note = item.note or "; ".join(miss.text for miss in misses(item, result.goal))
    return Row(
        number=item.number, words=item.choice.words, mark=mark, state=item.state,
        cells=tuple(cells), note=note,
    )  # fmt: skip


def focus_of(result: SearchResult) -> Candidate:
    """The candidate that details are shown of: the chosen one, or the nearest to the limits."""
    if result.best is not None:
        return result.best
    close = nearest(result.candidates, result.goal, 1)
    return close[0] if close else result.candidates[0]


def steps(result: SearchResult) -> list[Step]:
    """From the checkpoint to the candidate in focus, one change at a time, as far as measured."""
    if not result.candidates:
        return []
    choice = focus_of(result).choice
    plain = replace(choice, epochs=0, prune_amount=0.0, float_layers=0)
    path = [("INT8 by calibration", plain)]
    for name, field in (
        ("Pruning", "prune_amount"), ("Layers in float", "float_layers"), ("Training", "epochs"),
    ):  # fmt: skip
        if getattr(choice, field):
            path.append((name, replace(path[-1][1], **{field: getattr(choice, field)})))
    measured = {item.choice: item for item in result.candidates if item.weight is not None}
    shown = [
        Step(
            name="Checkpoint in FP32",
            number="",
            cells=_step_cells(result.cer, None, result.reference, None, None),
            seconds="",
        )
    ]
    cer, weight = result.cer, result.reference
    for name, point in path:
        item = measured.get(point)
        if item is None or item.heard is None or item.weight is None:
            note = ("not measured", "–", "–", "–")
            shown.append(Step(name=name, number="", cells=note, seconds=""))
            continue
        cells = _step_cells(item.heard.cer, item.heard.upper, item.weight, cer, weight)
        seconds = f"{item.seconds:.0f}"
        shown.append(Step(name=name, number=f"#{item.number}", cells=cells, seconds=seconds))
        cer, weight = item.heard.cer, item.weight
    return shown


def _step_cells(
    cer: float, upper: float | None, weight: Weight, cer_before: float | None, before: Weight | None
) -> tuple[str, ...]:
    """A step's numbers, with what changed since the step before."""
    bound = "–" if upper is None else _signed(100 * upper, 2)
    if before is None or cer_before is None:
        return percent(cer, 2), bound, f"{weight.size_mb:.2f}", f"{weight.rtf:.4f}"
    return (
        f"{percent(cer, 2)} ({_signed(100 * (cer - cer_before), 2)})",
        bound,
        f"{weight.size_mb:.2f} ({_signed(100 * (weight.size_mb / before.size_mb - 1), 0)} %)",
        f"{weight.rtf:.4f} ({_signed(100 * (weight.rtf / before.rtf - 1), 0)} %)",
    )


def _signed(value: float, digits: int) -> str:
    """With a true minus sign, as matplotlib writes them."""
    return f"{value:+.{digits}f}".replace("-", "−")
