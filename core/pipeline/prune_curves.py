"""What a measurement of sensitivity tells pruning: damage by the share of a group that goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.errors import BadRecipe
from asrcompress.files import write_atomically
from asrcompress.recipe import Recipe
from asrcompress.run import Run
from asrcompress.sensitivity import DamageCurve, check_subject, read_sensitivity

if TYPE_CHECKING:
    from asrcompress.compress.units import Group

Curves = dict[tuple[str, int], DamageCurve]


def curves_of(
    run: Run, recipe: Recipe, checkpoint: Checkpoint, groups: Sequence[Group]
) -> Curves | None:
    """The curve of every group that has more than one unit, by the group's key.

    A copy of the measurement is left in the run directory, for its report.

    Returns:
        None where the recipe names no measurement.
    Raises:
        BadSensitivity: of other weights, or without pruning.
        BadRecipe: it ranked units by another criterion, or uniform shares are asked for.
    """
    path, settings = recipe.prune.sensitivity, recipe.prune
    if path is None:
        return None
    if settings.uniform:
        raise BadRecipe(
            "prune.uniform: got true with prune.sensitivity, expected one of them",
            hint="--no-prune-uniform",
        )
    found = read_sensitivity(path)
    check_subject(found, checkpoint.sha256, item=str(path))
    if found.criterion != settings.criterion:
        raise BadRecipe(
            f"prune.criterion: got {settings.criterion}, expected {found.criterion}, by which "
            f"{path} ranked the units",
            hint=f"--prune-criterion {found.criterion}, or measure anew",
        )
    curves = {group.key: found.curve(group.name) for group in groups if group.units > 1}
    write_atomically(run.path / "sensitivity.json", path.read_bytes())
    return curves
