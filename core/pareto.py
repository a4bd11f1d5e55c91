"""Which candidates of a search are good: limits, the Pareto front, the order of choice."""

from __future__ import annotations

import math
from collections.abc import Sequence

from asrcompress.search import MEASURED, Candidate, Goal, Heard, Miss

# Times of one and the same graph differ by this much between measurements.
SAME = 0.05


def misses(item: Candidate, goal: Goal) -> tuple[Miss, ...]:
    """Every limit that a candidate breaks; of one that failed there is nothing to hold against."""
    found = []
    if item.heard is not None and not item.heard.keeps:
        found.append(_cer_miss(item.heard, goal))
    share = item.integer_share
    if share is not None and share < goal.min_integer_share:
        text = f"integer kernels {share:.1%}, at least {goal.min_integer_share:.1%}"
        found.append(Miss(name="integer share", excess=goal.min_integer_share - share, text=text))
    if item.weight is not None:
        for name, unit, value, limit in (
            ("size", " MB", item.weight.size_mb, goal.max_size_mb),
            ("real-time factor", "", item.weight.rtf, goal.max_rtf),
            ("memory", " MB", item.weight.memory_mb, goal.max_memory_mb),
        ):
            if limit is not None and value > limit:
                text = f"{name} {value:.4g}{unit}, at most {limit:.4g}"
                found.append(Miss(name=name, excess=value / limit - 1, text=text))
    return tuple(found)


def _cer_miss(heard: Heard, goal: Goal) -> Miss:
    limit, unit = goal.max_cer_increase, "of the CER before" if goal.relative else "points"
    bound = heard.upper
    if bound is None or bound <= limit:  # too few utterances, or long ones broken
        return Miss(name="CER", excess=1.0, text=heard.reason)
    text = f"CER increase up to {100 * bound:+.2f} {unit}, at most {100 * limit:.2f}"
    return Miss(name="CER", excess=(bound - limit) / max(limit, 0.001), text=text)


def pareto_front(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Those that no other beats in all of CER bound, size and time.

    A time that is less by a twentieth or less is no less, or noise would put every twin on the
    front; of twins the first is kept.
    """
    kept: list[tuple[Candidate, _Point]] = []
    known = [(point, item.number, item) for item in candidates if (point := _point(item))]
    for point, _, item in sorted(known, key=lambda entry: entry[:2]):
        if not any(_covers(other, point) for _, other in kept):
            kept.append((item, point))
    return tuple(sorted((item for item, _ in kept), key=lambda item: item.number))


_Point = tuple[float, float, float]


def _point(item: Candidate) -> _Point | None:
    """What the front is about; None where one of the three is not known."""
    if item.state != MEASURED or item.heard is None or item.weight is None:
        return None
    if item.heard.upper is None:
        return None
    return item.heard.upper, round(item.weight.size_mb, 2), item.weight.rtf


def _covers(one: _Point, other: _Point) -> bool:
    """Whether there is no reason to take `other`."""
    return one[0] <= other[0] and one[1] <= other[1] and one[2] <= other[2] * (1 + SAME)


def ranked(candidates: Sequence[Candidate], goal: Goal) -> tuple[Candidate, ...]:
    """Those that keep every limit on the search set, best first by what the goal prefers.

    Among equals, as far as a measurement can tell them apart, the lower bound of the CER decides.
    """
    left = [item for item in candidates if item.state == MEASURED and not misses(item, goal)]
    order: list[Candidate] = []
    while left:
        best = min(left, key=lambda item: (_preferred(item, goal.prefer), item.number))
        equals = [item for item in left if like(item, best, goal.prefer)]
        order += sorted(equals, key=_rest)
        left = [item for item in left if item not in equals]
    return tuple(order)


def like(one: Candidate, other: Candidate, prefer: str) -> bool:
    """Whether two measured candidates cannot be told apart by what is preferred."""
    low, high = sorted(_preferred(item, prefer) for item in (one, other))
    return low == high if prefer == "accuracy" else high <= low * (1 + SAME)


def _preferred(item: Candidate, prefer: str) -> float:
    """What `prefer` wants to be small."""
    assert item.weight is not None
    if prefer == "accuracy":
        return _bound(item)
    weight = item.weight
    return {"speed": weight.rtf, "size": weight.size_mb, "memory": weight.memory_mb}[prefer]


def _rest(item: Candidate) -> tuple[float, ...]:
    assert item.weight is not None
    return _bound(item), item.weight.rtf, item.weight.size_mb, item.number


def _bound(item: Candidate) -> float:
    upper = None if item.heard is None else item.heard.upper
    return math.inf if upper is None else upper


def nearest(candidates: Sequence[Candidate], goal: Goal, count: int) -> tuple[Candidate, ...]:
    """Those that miss the limits by least, relative to each; measured ones before stopped ones."""
    missing = [(item, misses(item, goal)) for item in candidates]
    missing = [(item, found) for item, found in missing if found]
    missing.sort(
        key=lambda pair: (pair[0].state != MEASURED, sum(m.excess for m in pair[1]), pair[0].number)
    )
    return tuple(item for item, _ in missing[:count])
