"""The changes that a measurement of sensitivity makes to a network, one at a time.

A layer that is quantized alone is made by leaving all others in float, exactly as
``quantization.skip`` does: what is measured is a network that could be exported. A part of a
pruning group is made silent by zeroing all that its units own, which for heads, feed-forward units
and channels is what taking them away computes; behind a layer norm (DeepSpeech2) silent units still
count in its mean and variance.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from asrcompress.checkpoints.batch_norm import fold_batch_norm
from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.checkpoints.network import build_network
from asrcompress.compress.families import names_of
from asrcompress.compress.groups import Group, groups_of
from asrcompress.compress.quantized_network import QuantizedNetwork
from asrcompress.errors import BadCheckpoint
from asrcompress.ranges import Ranges
from asrcompress.recipe import Recipe
from asrcompress.sensitivity import EVERYTHING, PRUNE, QUANTIZE, Probe
from asrcompress.targets import find_target


def quantize_probes(network: Any, recipe: Recipe) -> list[Probe]:
    """All layers together, then each layer, attention and recurrent layer alone."""
    names = [EVERYTHING, *names_of(network, recipe.decoding)]
    return [Probe(action=QUANTIZE, target=name) for name in names]


def prune_probes(groups: Sequence[Group], ratios: Collection[float]) -> list[Probe]:
    """Every group at every ratio, the smallest ratio first."""
    return [
        Probe(action=PRUNE, target=group.name, ratio=ratio)
        for ratio in sorted(set(ratios))
        for group in groups
    ]


def groups_to_probe(checkpoint: Checkpoint) -> list[Group]:
    """The pruning groups of a checkpoint.

    Raises:
        BadCheckpoint: it has none that could be pruned by themselves.
    """
    groups = [group for group in groups_of(build_network(checkpoint)) if group.units > 1]
    if not groups:
        raise BadCheckpoint(f"{checkpoint.config_path}: no layer has two units to choose from")
    return groups


def units_to_silence(group: Group, ratio: float) -> int:
    """How many units `ratio` of a group is: at least one goes, and at least one stays."""
    return min(group.units - 1, max(1, round(ratio * group.units)))


def quantized_alone(checkpoint: Checkpoint, recipe: Recipe, ranges: Ranges, target: str) -> Any:
    """PaddleSpeech's network with fake quantization in one place.

    Args:
        ranges: calibrated, of all layers.
        target: name of a layer, attention or recurrent layer; `EVERYTHING` for all of them.
    """
    network = build_network(checkpoint, device=recipe.training.device)
    names = names_of(network, recipe.decoding)
    skip = () if target == EVERYTHING else tuple(name for name in names if name != target)
    quantized = QuantizedNetwork(
        network,
        replace(recipe.quantization, skip=skip),
        recipe.decoding,
        weight_top=find_target(recipe.export.target).weight_top,
    )
    quantized.restore(ranges)
    return quantized.network


def float_network(checkpoint: Checkpoint, recipe: Recipe) -> Any:
    """The network that is compared with, batch norms folded as in every quantized one."""
    network = build_network(checkpoint, device=recipe.training.device)
    fold_batch_norm(network)
    return network


@contextmanager
def silenced(network: Any, group: Group, scores: np.ndarray, units: int) -> Iterator[None]:
    """The least important `units` of a group silent; restored afterwards.

    Args:
        scores: importance of each unit of the group.
    """
    gone = np.argsort(scores, kind="stable")[:units]
    state = network.state_dict()
    whole: dict[str, np.ndarray] = {}
    try:
        for member in group.members:
            whole.setdefault(member.tensor, state[member.tensor].numpy())
            changed = np.moveaxis(state[member.tensor].numpy().copy(), member.axis, 0)
            changed[member.rows[gone].ravel()] = 0.0
            state[member.tensor].set_value(np.moveaxis(changed, 0, member.axis))
        yield
    finally:
        for name, tensor in whole.items():
            state[name].set_value(tensor)
