"""Which units stay: the least important go first, until enough is saved."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from asrcompress.compress.groups import HEADS, Group
from asrcompress.errors import BadRecipe

Kept = Mapping[tuple[str, int], tuple[int, ...]]
"""(kind, block) -> the units that stay, ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunePlan:
    """What a pruning removes.

    Attributes:
        kept: for every group.
        removed: share of the cost that goes, 0 to 1.
    """

    kept: Kept
    removed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What may be removed at all.

    Attributes:
        step: feed-forward units and channels go in multiples of this: integer kernels work on
            blocks of 16, so a width of 129 costs as much as one of 144.
        keep: least share of each group that stays.
        ratios: (kind, block) -> largest share to remove from that group, where something (a
            sensitivity analysis) says so.
    """

    step: int = 16
    keep: float = 0.1
    ratios: Mapping[tuple[str, int], float] | None = None


def plan_pruning(
    groups: Sequence[Group],
    scores: Sequence[np.ndarray],
    costs: Sequence[float],
    *,
    total_cost: float,
    amount: float,
    uniform: bool,
    limits: Limits,
) -> PrunePlan:
    """Choose the units to remove.

    Args:
        scores: importance of each unit, for each group.
        costs: what one unit of each group costs, in the same measure as `total_cost`.
        total_cost: of the part of the network that `amount` is a share of.
        amount: share of it to remove, 0 to below 1.
        uniform: remove the same share from every group, instead of whatever matters least.
    Raises:
        BadRecipe: even with all that may go, less than `amount` is saved; says how much is.
    """
    queues = [_steps(group, score, limits) for group, score in zip(groups, scores, strict=True)]
    chosen = [0] * len(groups)
    saved, wanted = 0.0, amount * total_cost
    heap: list[tuple[float, int]] = []

    def offer(index: int) -> None:
        if chosen[index] >= len(queues[index]):
            return
        units, importance = queues[index][chosen[index]]
        if uniform:
            rank = (chosen[index] + 1) / max(1, len(queues[index]))
        else:
            rank = importance / (len(units) * costs[index])
        heapq.heappush(heap, (rank, index))

    for index in range(len(groups)):
        offer(index)
    while saved < wanted and heap:
        _, index = heapq.heappop(heap)
        saved += len(queues[index][chosen[index]][0]) * costs[index]
        chosen[index] += 1
        offer(index)
    if saved < wanted:
        raise BadRecipe(
            f"prune.amount: got {amount:.3f}, expected at most {saved / total_cost:.3f}: more "
            "would leave a layer with too little",
            hint="lower prune.keep, or remove whole blocks (prune.drop_blocks)",
        )
    kept: dict[tuple[str, int], tuple[int, ...]] = {}
    for group, queue, count in zip(groups, queues, chosen, strict=True):
        gone = {unit for units, _ in queue[:count] for unit in units}
        kept[group.kind, group.block] = tuple(u for u in range(group.units) if u not in gone)
    return PrunePlan(kept=kept, removed=saved / total_cost)


def _steps(group: Group, scores: np.ndarray, limits: Limits) -> list[tuple[tuple[int, ...], float]]:
    """What can be removed from a group, least important first: (units, their importance)."""
    step = 1 if group.kind == HEADS else min(limits.step, group.units)
    most = group.units - max(step, int(np.ceil(limits.keep * group.units)))
    if limits.ratios is not None:
        ratio = limits.ratios.get((group.kind, group.block), 1.0)
        most = min(most, int(ratio * group.units))
    order = np.argsort(scores, kind="stable")
    # The first step also takes what makes the width a multiple of the step.
    first = group.units % step or step
    steps: list[tuple[tuple[int, ...], float]] = []
    start, size = 0, first
    while start + size <= most:
        units = order[start : start + size]
        steps.append((tuple(int(unit) for unit in units), float(scores[units].sum())))
        start, size = start + size, step
    return steps
