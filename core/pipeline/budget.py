"""How much pruning is to remove: an amount, or whatever a budget of size, work or time needs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.checkpoints.pruned_experiment import write_experiment
from asrcompress.console import Console
from asrcompress.errors import BadRecipe, BudgetFailed
from asrcompress.pipeline.latency import LatencyProbe
from asrcompress.recipe import Prune, Recipe

if TYPE_CHECKING:
    from asrcompress.compress.costs import Costs
    from asrcompress.compress.prune import Pruned
    from asrcompress.compress.prune_plan import Limits

# Halvings of the range of amounts: finer than a measurement of time can tell apart.
_HALVINGS = 5
_LATENCY_UTTERANCES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """An amount that was measured on the way to a budget of time."""

    amount: float
    rtf: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is left of a network, and how the amount was found.

    Attributes:
        measure: what the amount is a share of.
        tried: measurements, where the budget is one of time.
    """

    pruned: Pruned
    measure: str
    tried: tuple[Tried, ...] = ()


def decide(
    recipe: Recipe,
    checkpoint: Checkpoint,
    network: Any,
    scores: Sequence[np.ndarray],
    *,
    drop: tuple[int, ...],
    limits: Limits,
    features: Callable[[int], Sequence[np.ndarray]],
    console: Console,
) -> Decision:
    """Prune `network` by the recipe's amount, or by as little as keeps its budget.

    Args:
        network: of `checkpoint`, batch norms folded; not changed.
        scores: importance of its units.
        features: gives those of some utterances, by their number.
    Raises:
        BadRecipe: more than can be removed.
        BudgetFailed: a budget of time that is missed with all removed that may be.
    """
    from asrcompress.compress.costs import BYTES, MACS, costs_of
    from asrcompress.compress.groups import groups_of
    from asrcompress.compress.prune import prune
    from asrcompress.compress.prune_plan import most_removable

    settings, groups = recipe.prune, groups_of(network)
    measures = {"max_size_mb": BYTES, "max_gmacs": MACS, "max_rtf": MACS}
    measure = measures.get(settings.budget, settings.measure)
    costs = costs_of(
        network,
        groups,
        measure=measure,
        frames=int(settings.budget_seconds * 1000 / checkpoint.features.frame_shift_ms),
        n_mels=checkpoint.features.width,
    )

    def cut(amount: float) -> Pruned:
        return prune(
            network,
            scores,
            costs=costs,
            amount=amount,
            uniform=settings.uniform,
            limits=limits,
            drop=drop,
        )

    if not settings.budget:
        return Decision(pruned=cut(settings.amount), measure=measure)
    most = most_removable(
        groups,
        costs.without(drop),
        total_cost=costs.total,
        limits=limits,
        fixed=[index for index, group in enumerate(groups) if group.block in drop],
    )
    if settings.budget != "max_rtf":
        return Decision(pruned=cut(_counted(settings, costs, most)), measure=measure)
    probe = LatencyProbe(recipe, checkpoint, features(_LATENCY_UTTERANCES))
    tried = _halve(settings, checkpoint, probe, cut, most, console)
    return Decision(pruned=cut(tried[-1].amount), measure=measure, tried=tried)


def _counted(settings: Prune, costs: Costs, most: float) -> float:
    """The amount that a budget of size or work needs, which is arithmetic."""
    limits = {"max_size_mb": (settings.max_size_mb, 1e6), "max_gmacs": (settings.max_gmacs, 1e9)}
    limit, unit = limits[settings.budget]
    amount = max(0.0, 1 - limit * unit / costs.total)
    if amount > most:
        raise BadRecipe(
            f"prune.{settings.budget}: got {limit}, expected at least "
            f"{(1 - most) * costs.total / unit:.4g}: more would leave a layer with too little",
            hint="lower prune.keep, or remove whole blocks (prune.drop_blocks)",
        )
    return amount


def _halve(
    settings: Prune,
    checkpoint: Checkpoint,
    probe: LatencyProbe,
    cut: Callable[[float], Pruned],
    most: float,
    console: Console,
) -> tuple[Tried, ...]:
    """Amounts that were measured; the last one is the smallest that kept the budget."""
    tried = []

    def measured(amount: float) -> Tried:
        if amount == 0.0:
            found = Tried(amount=0.0, rtf=probe.rtf())
        else:
            found = Tried(amount=amount, rtf=_rtf_of(probe, checkpoint, cut(amount)))
        console.say(f"{amount:.1%} removed: real-time factor {found.rtf:.5f}")
        tried.append(found)
        return found

    with console.status("measuring how much the budget needs"):
        best = measured(0.0)
        if best.rtf > settings.max_rtf:
            best = measured(most)
            if best.rtf > settings.max_rtf:
                raise BudgetFailed(
                    f"prune.max_rtf: got {best.rtf:.5f} with {most:.1%} removed "
                    f"({tried[0].rtf:.5f} with nothing), expected at most {settings.max_rtf:g}",
                    hint="lower prune.keep, remove whole blocks (prune.drop_blocks), or allow more",
                )
            low = 0.0
            for _ in range(_HALVINGS):
                middle = measured((low + best.amount) / 2)
                if middle.rtf <= settings.max_rtf:
                    best = middle
                else:
                    low = middle.amount
    others = [item for item in tried if item is not best]
    return (*others, best)


def _rtf_of(probe: LatencyProbe, checkpoint: Checkpoint, pruned: Pruned) -> float:
    with tempfile.TemporaryDirectory(prefix="asrcompress-") as folder:
        written = write_experiment(
            Path(folder) / "candidate", checkpoint, pruned.shape, pruned.weights
        )
        return probe.rtf(written)
