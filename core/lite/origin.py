"""What is exported to Paddle Lite: of a run its trained weights and ranges, or a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.errors import BadRecipe
from asrcompress.lite.environment import Sidecar
from asrcompress.pipeline.recognizer import checkpoint_of
from asrcompress.pipeline.shipping import contract_of, find_run, named_checkpoint, require_passed
from asrcompress.ranges import Ranges, read_ranges
from asrcompress.recipe import Recipe
from asrcompress.run import Run, read_run
from asrcompress.targets import Target, find_target

BUCKETS_S = (2.0, 4.0, 8.0, 16.0)
# Layers that are shipped; an attention decoder has ranges too.
_SHIPPED = ("encoder.", "ctc.", "decoder.ctc_lo.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteOptions:
    """How to export.

    Attributes:
        precision: ``int8`` or ``fp32``; None is ``fp32`` for x86 and ``int8`` for ARM.
        buckets_s: lengths in seconds.
        sidecar: where Paddle Lite comes from.
    """

    precision: str | None = None
    buckets_s: tuple[float, ...] = BUCKETS_S
    sidecar: Sidecar = field(default_factory=Sidecar)

    def __post_init__(self) -> None:
        if self.precision not in (None, "int8", "fp32"):
            raise BadRecipe(f"--precision: got {self.precision}, expected int8 or fp32")
        ascending = sorted(set(self.buckets_s))
        if not ascending or list(self.buckets_s) != ascending or ascending[0] <= 0:
            raise BadRecipe(
                f"--buckets: got {','.join(f'{s:g}' for s in self.buckets_s)}, "
                "expected seconds in ascending order, such as 2,4,8,16"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What is exported: weights, and of a run its ranges and its gate."""

    checkpoint: Checkpoint
    recipe: Recipe
    contract: Target
    precision: str
    run: Run | None = None
    ranges: Ranges | None = None

    @property
    def hardware(self) -> str:
        """``arm`` or ``x86``."""
        return self.contract.name.removeprefix("lite-")

    @property
    def executed(self) -> bool:
        """Whether the kernels run on this machine."""
        return self.hardware == "x86"


def find_origin(source: Path | None, recipe: Recipe, options: LiteOptions) -> Origin:
    """The origin that `source` names; arguments as of `asrcompress.lite.shipping.ship_lite`.

    Raises:
        BadRecipe, BadRun, BadCheckpoint, CerGateFailed: see
            `asrcompress.pipeline.shipping.ship_run`.
    """
    contract = find_target(recipe.export.target)
    if contract.format != "paddle-lite":
        raise BadRecipe(
            f"--target: got {recipe.export.target}, expected arm or x86 for paddle-lite"
        )
    precision = options.precision or ("fp32" if contract.name == "lite-x86" else "int8")
    is_run = source is not None and (source / "run.json").is_file()
    if precision == "fp32":
        path = source or recipe.checkpoint.path
        if path is None:
            raise BadRecipe("checkpoint: not set, expected a checkpoint", hint="--checkpoint DIR")
        checkpoint = checkpoint_of(read_run(path)) if is_run else named_checkpoint(path, recipe)
        return Origin(checkpoint=checkpoint, recipe=recipe, contract=contract, precision=precision)
    run = find_run(source, recipe)
    trained = require_passed(run)
    return Origin(
        checkpoint=replace(checkpoint_of(run), weights_path=run.weights),
        recipe=trained,
        contract=contract_of(run, trained, contract.name),
        precision=precision,
        run=run,
        ranges=read_ranges(run.ranges).part(_SHIPPED),
    )
