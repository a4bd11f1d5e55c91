"""A search in words: one candidate, why one was chosen, and what the nearest ones miss."""

from __future__ import annotations

from collections.abc import Sequence

from asrcompress.pareto import like, misses, nearest
from asrcompress.search import FAILED, Candidate, Goal, Verification

_NEAREST = 3
_BEST = {
    "speed": "is the fastest",
    "size": "is the smallest",
    "memory": "takes the least memory",
    "accuracy": "has the lowest bound of the CER increase",
}


def candidate(item: Candidate) -> str:
    """One line about what came of a candidate."""
    if item.state == FAILED or item.heard is None:
        return f"failed: {item.note}"
    cer = f"CER {item.heard.cer:.2%}"
    if item.heard.upper is not None:
        cer += f" (increase up to {100 * item.heard.upper:+.2f})"
    if item.weight is None:
        return f"{cer}, {item.note}"
    weight = item.weight
    return f"{cer}, {weight.size_mb:.2f} MB, {weight.speedup:.2f}x, {weight.memory_mb:.0f} MB RAM"


def why(
    chosen: Candidate | None,
    order: Sequence[Candidate],
    verified: Sequence[Verification],
    candidates: Sequence[Candidate],
    goal: Goal,
) -> str:
    """Why this candidate, or why none.

    Args:
        order: what keeps every limit on the search set, best first.
    """
    tried = _count(len(candidates), "candidate")
    if not order:
        return f"None of {tried} keeps every limit on the search set."
    keep = "keeps" if len(order) == 1 else "keep"
    text = f"Of {tried}, {len(order)} {keep} every limit on the search set."
    refused = [item.number for item in verified if not item.passed]
    if refused:
        numbers = ", ".join(f"#{number}" for number in refused)
        text += f" The gate refused {numbers}."
    if chosen is None:
        left = len(order) - len(refused)
        return text + (f" {left} more were not asked about." if left else "")
    rest = [item for item in order if item.number not in refused]
    text += f" #{chosen.number} {_BEST[goal.prefer]}{' of the others' if refused else ''}"
    twins = [item for item in rest if item is not chosen and like(item, chosen, goal.prefer)]
    if twins and goal.prefer != "accuracy":
        numbers = ", ".join(f"#{number}" for number in sorted(item.number for item in twins))
        text += f" to within 5 %, with {numbers}, none of which has a lower CER bound"
    looks = len(verified)
    return f"{text}. It passed the gate" + (f", at look number {looks}." if looks > 1 else ".")


def failure(candidates: Sequence[Candidate], verified: Sequence[Verification], goal: Goal) -> str:
    """What the error says: what the gate refused, or the nearest candidates and what they miss."""
    if verified:
        lines = [f"  #{item.number}: {item.reason}" for item in verified]
        return "\n".join([f"search: the gate refused {_count(len(verified), 'candidate')}", *lines])
    lines = [
        f"  #{item.number} ({item.choice.words}): "
        + "; ".join(miss.text for miss in misses(item, goal))
        for item in nearest(candidates, goal, _NEAREST)
    ]
    tried = _count(len(candidates), "candidate")
    return "\n".join([f"search: none of {tried} keeps every limit; the nearest:", *lines])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
