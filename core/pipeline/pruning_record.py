"""What pruning did: numbers and operations before and after, counted on the networks themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.checkpoints.network import build_network
from asrcompress.checkpoints.patterns import zero_pattern
from asrcompress.checkpoints.unused_layers import belongs_to, unused_layers
from asrcompress.recipe import Recipe

_SHIPPED = ("encoder.", "ctc.", "decoder.ctc_lo.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningRecord:
    """What pruning did, for reports.

    Attributes:
        removed: share of `measure` that went, or of weights that are zero, 0 to 1.
        parameters: of the encoder, before and after.
        nonzero: of those, how many are not zero.
        macs: of the encoder for `seconds` of audio, before and after.
        dropped_blocks: indices in the network before.
        widths: of each layer: name, units before, units after.
        sparsity: share of zeros in each weight that has a pattern.
        dev_cer: before recovery and after each epoch of it.
        tried: amounts and real-time factors that were measured for a budget of time.
    """

    pattern: str
    measure: str
    criterion: str
    removed: float
    parameters: tuple[int, int]
    nonzero: tuple[int, int]
    macs: tuple[int, int]
    seconds: float
    dropped_blocks: tuple[int, ...]
    widths: tuple[tuple[str, int, int], ...]
    sparsity: dict[str, float]
    epochs: int
    dev_cer: tuple[float, ...]
    tried: tuple[tuple[float, float], ...]


def make_record(
    plan: Mapping[str, Any],
    recipe: Recipe,
    checkpoint: Checkpoint,
    cut: Checkpoint,
    network: Any,
    errors: tuple[float, ...],
) -> PruningRecord:
    """The record of a pruning that has ended.

    Args:
        plan: measure, removed, dropped, widths and tried, as they were decided.
        checkpoint: before pruning.
        cut: after it.
        network: of `cut`, recovered.
        errors: CER on the development set.
    """
    from asrcompress.compress.macs import count_macs
    from asrcompress.compress.masks import sparsity_by_layer

    settings, whole = recipe.prune, build_network(checkpoint)
    before, after = encoder_numbers(whole), encoder_numbers(network)
    pattern = zero_pattern(cut.network, item=str(cut.config_path))
    frames = int(settings.budget_seconds * 1000 / checkpoint.features.frame_shift_ms)

    def macs(item: Any) -> int:
        counted = count_macs(item, frames=frames, n_mels=checkpoint.features.width)
        return sum(value for name, value in counted.items() if name.startswith("encoder."))

    return PruningRecord(
        pattern=settings.pattern,
        measure=plan["measure"],
        criterion=settings.criterion if settings.structured else "magnitude",
        removed=plan["removed"],
        parameters=(before[0], after[0]),
        nonzero=(before[1], after[1]),
        macs=(macs(whole), macs(network)),
        seconds=settings.budget_seconds,
        dropped_blocks=tuple(plan["dropped"]),
        widths=tuple(tuple(item) for item in plan["widths"]),
        sparsity={} if pattern is None else sparsity_by_layer(network, pattern.layers),
        epochs=settings.epochs,
        dev_cer=errors,
        tried=tuple(tuple(item) for item in plan["tried"]),
    )


def check_smaller(record: PruningRecord) -> None:
    """A pruner that does nothing must not pass for one.

    Raises:
        RuntimeError: fewer numbers were promised than went.
    """
    if record.pattern != "structured":
        shares = list(record.sparsity.values())
        if not record.nonzero[1] < record.nonzero[0] or not any(shares):
            raise RuntimeError(f"pruning left {record.nonzero[1]} of {record.nonzero[0]} numbers")
        return
    # A budget that the network keeps as it is removes nothing.
    if record.removed > 0 and not (
        record.parameters[1] < record.parameters[0] and record.macs[1] < record.macs[0]
    ):
        raise RuntimeError(f"pruning left {record.parameters[1]} of {record.parameters[0]} numbers")


def encoder_numbers(network: Any) -> tuple[int, int, int]:
    """Numbers in the encoder, how many of them are not zero, and all that the network ships.

    Layers that no utterance goes through are left out, and so is the attention decoder.
    """
    unused = unused_layers(network)
    shipped = {
        name: tensor.numpy()
        for name, tensor in network.named_parameters()
        if name.startswith(_SHIPPED) and not belongs_to(name, unused)
    }
    encoder = [values for name, values in shipped.items() if name.startswith("encoder.")]
    return (
        sum(values.size for values in encoder),
        sum(int(np.count_nonzero(values)) for values in encoder),
        sum(values.size for values in shipped.values()),
    )
