"""What pruning left of each part of each block: the numbers that are there and not zero."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from asrcompress.checkpoints.checkpoint import read_checkpoint
from asrcompress.checkpoints.weights import read_weights
from asrcompress.errors import AsrCompressError
from asrcompress.recipe import Recipe
from asrcompress.report.search_rows import focus_of
from asrcompress.report.tables import Heat
from asrcompress.run import Run
from asrcompress.search import SearchResult

_PART = re.compile(r"(?:encoder|decoder)\.(encoders|rnn)\.(\d+)\.(?:0\.)?(\w+)(?:\.|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparsity:
    """What is left of each part of each block.

    Attributes:
        rows: block and, per column, the share of its numbers that are there and not zero.
    """

    number: int
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Heat, ...]], ...]


def sparsity_of(
    run: Run, result: SearchResult, record: Mapping[str, Any]
) -> tuple[Sparsity | None, str]:
    """Of the candidate in focus if it was pruned, else of the most pruned one; or why of none.

    Args:
        record: of the search's run directory.
    """
    pruned = [item for item in result.candidates if item.removed and item.weight is not None]
    if not pruned:
        return None, "No candidate that was measured to the end was pruned."
    focus = focus_of(result)
    item = focus if focus in pruned else max(pruned, key=lambda one: one.removed or 0.0)
    try:
        recipe = Recipe.from_dict(record["recipe"], source=str(run.path), folder=run.path)
        source, folder = recipe.checkpoint, run.path.parent / item.run
        if source.path is None:
            return None, "The search names no checkpoint."
        checkpoint = read_checkpoint(source.path, config=source.config, weights=source.weights)
        if checkpoint.sha256 != result.checkpoint_sha256:
            return None, "The checkpoint has changed since the search."
        before = part_sizes(read_weights(checkpoint.weights_path))
        after = part_sizes(read_weights(folder / "weights.pdparams"))
        dropped = Run(path=folder).read_json("pruning.json").get("dropped_blocks") or []
    except (AsrCompressError, KeyError) as error:
        return None, f"What is left of each layer is not known: {error}"
    return left_of(before, after, dropped=dropped, number=item.number), ""


def part_sizes(weights: Mapping[str, np.ndarray]) -> dict[tuple[int, str], int]:
    """Numbers that are not zero in the matrices of each block's parts, by (block, part)."""
    sizes: dict[tuple[int, str], int] = {}
    for name, tensor in weights.items():
        found = _PART.match(name)
        if found and tensor.ndim > 1:
            key = (int(found[2]), found[3])
            sizes[key] = sizes.get(key, 0) + int(np.count_nonzero(tensor))
    return sizes


def left_of(
    before: Mapping[tuple[int, str], int],
    after: Mapping[tuple[int, str], int],
    *,
    dropped: list[int],
    number: int,
) -> Sparsity | None:
    """Shares of `before` that `after` still has; blocks that were dropped are renumbered in it."""
    blocks = sorted({block for block, _ in before})
    columns = tuple(dict.fromkeys(part for _, part in before))
    if not blocks:
        return None
    places = {old: new for new, old in enumerate(b for b in blocks if b not in dropped)}
    rows = []
    for block in blocks:
        cells = []
        for part in columns:
            whole = before.get((block, part), 0)
            left = after.get((places.get(block, -1), part), 0)
            cells.append(_heat(left / whole) if whole else Heat(text="", level=None))
        rows.append((str(block), tuple(cells)))
    return Sparsity(number=number, columns=columns, rows=tuple(rows))


def _heat(share: float) -> Heat:
    """100 % is class 5, under a sixth class 0."""
    return Heat(text=f"{100 * share:.0f}", level=min(5, int(6 * share)))
