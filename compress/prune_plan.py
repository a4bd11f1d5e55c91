"""Which units stay: the least important go first, until enough is saved."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from asrcompress.compress.costs import Costs
from asrcompress.compress.units import HEADS, Group, Kept
from asrcompress.errors import BadRecipe
from asrcompress.sensitivity import DamageCurve


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
        step: units and channels go in multiples of this: integer kernels work on blocks of 16, so
            a width of 129 costs as much as one of 144. Heads go one by one.
        keep: least share of each group that stays.
        ratios: (kind, block) -> largest share to remove from that group, where something says so.
        curves: (kind, block) -> what silencing a share of that group was measured to do. Where
            there are any, layers are compared by them instead of by importance, which only says
            which units of a layer go first; and nothing goes beyond what was measured.
    """

    step: int = 16
    keep: float = 0.1
    ratios: Mapping[tuple[str, int], float] | None = None
    curves: Mapping[tuple[str, int], DamageCurve] | None = None

    def most(self, group: Group) -> float:
        """The largest share that may go from a group; `keep` is not asked."""
        most = 1.0 if self.ratios is None else self.ratios.get(group.key, 1.0)
        if self.curves is None:
            return most
        curve = self.curves.get(group.key)
        return 0.0 if curve is None else min(most, curve.most)


class _Layer:
    """Groups that keep the same number of units, and the steps in which they lose them."""

    def __init__(
        self,
        indices: Sequence[int],
        groups: Sequence[Group],
        scores: Sequence[np.ndarray],
        costs: Costs,
        limits: Limits,
    ) -> None:
        self.indices = tuple(indices)
        self._orders = {i: np.argsort(scores[i], kind="stable") for i in indices}
        self._scores = scores
        self._costs = costs.touched_by(indices)
        group = groups[indices[0]]
        self._units = group.units
        step = 1 if group.kind == HEADS else min(limits.step, group.units)
        most = group.units - max(step, int(np.ceil(limits.keep * group.units)))
        for index in indices:
            # Shares come from divisions; a hair below a whole number of units is that number.
            most = min(most, int(limits.most(groups[index]) * group.units + 1e-6))
        curves = limits.curves or {}
        self._curves = [curves[groups[i].key] for i in indices if groups[i].key in curves]
        # The first step also takes what makes the width a multiple of the step.
        first = group.units % step or step
        self._stops = [0, *range(first, most + 1, step)]
        self._done = 0

    @property
    def steps(self) -> int:
        """How many there are."""
        return len(self._stops) - 1

    @property
    def finished(self) -> bool:
        """Whether nothing more may go."""
        return self._done >= self.steps

    def rank(self, removed: Sequence[int], *, uniform: bool) -> float:
        """How soon the next step should be taken: importance per cost saved."""
        if uniform:
            return (self._done + 1) / self.steps
        start, stop = self._stops[self._done : self._done + 2]
        if self._curves:
            importance = sum(
                curve.at(stop / self._units) - curve.at(start / self._units)
                for curve in self._curves
            )
        else:
            importance = sum(
                float(self._scores[i][self._orders[i][start:stop]].sum()) for i in self.indices
            )
        after = list(removed)
        for index in self.indices:
            after[index] = stop
        saved = self._costs.left(removed) - self._costs.left(after)
        return importance / saved

    def advance(self, removed: list[int]) -> None:
        """Take the next step."""
        self._done += 1
        for index in self.indices:
            removed[index] = self._stops[self._done]

    def kept(self, index: int) -> tuple[int, ...]:
        """The units of one of the groups that stay."""
        gone = self._orders[index][: self._stops[self._done]]
        return tuple(int(unit) for unit in np.setdiff1d(np.arange(self._units), gone))


def plan_pruning(
    groups: Sequence[Group],
    scores: Sequence[np.ndarray],
    costs: Costs,
    *,
    total_cost: float,
    amount: float,
    uniform: bool,
    limits: Limits,
    fixed: Sequence[int] = (),
) -> PrunePlan:
    """Choose the units to remove.

    Args:
        scores: importance of each unit, for each group.
        costs: of what there is, by the measure of `total_cost`.
        total_cost: what `amount` is a share of; more than `costs` where blocks have gone already.
        amount: share of it to remove, 0 to below 1.
        uniform: remove the same share from every group, instead of whatever matters least.
        fixed: indices of groups that are left alone.
    Raises:
        BadRecipe: even with all that may go, less than `amount` is saved; says how much is.
    """
    layers = [
        _Layer(indices, groups, scores, costs, limits) for indices in _tied(groups, set(fixed))
    ]
    removed = [0] * len(groups)
    heap: list[tuple[float, int]] = []

    def offer(number: int) -> None:
        if not layers[number].finished:
            rank = layers[number].rank(removed, uniform=uniform)
            heapq.heappush(heap, (rank, number))

    for number in range(len(layers)):
        offer(number)
    left, budget = costs.left(removed), (1 - amount) * total_cost
    while left > budget and heap:
        rank, number = heapq.heappop(heap)
        # A step saves less the more is gone around it, so a rank can only have grown since.
        if layers[number].rank(removed, uniform=uniform) > rank:
            offer(number)
            continue
        layers[number].advance(removed)
        left = costs.left(removed)
        offer(number)
    if left > budget:
        raise BadRecipe(
            f"prune.amount: got {amount:.3f}, expected at most {1 - left / total_cost:.3f}: more "
            "would leave a layer with too little",
            hint="lower prune.keep, or remove whole blocks (prune.drop_blocks)"
            + (", or measure larger shares (sensitivity.ratios)" if limits.curves else ""),
        )
    kept = {groups[i].key: layer.kept(i) for layer in layers for i in layer.indices}
    kept |= {groups[i].key: tuple(range(groups[i].units)) for i in fixed}
    return PrunePlan(kept=kept, removed=1 - left / total_cost)


def most_removable(
    groups: Sequence[Group],
    costs: Costs,
    *,
    total_cost: float,
    limits: Limits,
    fixed: Sequence[int] = (),
) -> float:
    """The largest amount that `plan_pruning` can reach, with the same arguments."""
    nothing = [np.zeros(group.units) for group in groups]
    removed = [0] * len(groups)
    for indices in _tied(groups, set(fixed)):
        layer = _Layer(indices, groups, nothing, costs, limits)
        while not layer.finished:
            layer.advance(removed)
    return 1 - costs.left(removed) / total_cost


def _tied(groups: Sequence[Group], fixed: set[int]) -> list[list[int]]:
    """Indices of the groups that go together; most stand alone."""
    found: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        if index not in fixed:
            found.setdefault(group.tie or group.name, []).append(index)
    return list(found.values())
