"""What one layer, quantized or pruned alone, does to the network.

The frame posteriors of some utterances are compared with those of the untouched network: KL says
how far they moved, the CER whether anybody would notice. KL orders layers that cost no character
yet; CER alone would call them all equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from asrcompress.compress.groups import CHANNELS, FEED_FORWARD, HEADS, MACARON, Group
from asrcompress.compress.quantized_network import QuantizedNetwork

# The layer through which a group's units leave, and the axis of its weight that they lie on.
_LEAVING = {
    HEADS: ("self_attn.linear_out", 0),
    FEED_FORWARD: ("feed_forward.w_2", 0),
    MACARON: ("feed_forward_macaron.w_2", 0),
    CHANNELS: ("conv_module.pointwise_conv2", 1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One change to measure.

    Attributes:
        action: ``quantize`` or ``prune``.
        target: name of a layer or attention (quantize), or of a group (prune).
        ratio: share of the group that is pruned; 1 for quantize.
    """

    action: str
    target: str
    ratio: float = 1.0

    @property
    def key(self) -> str:
        """Unique among the probes of a network."""
        return f"{self.action} {self.target} {self.ratio:g}"


LogProbs = Callable[[], list[np.ndarray]]
"""Log-probabilities (frames, vocabulary) of each utterance, by the network as it is now."""


def quantize_probes(quantized: QuantizedNetwork) -> list[Probe]:
    """One per layer and attention that gets an integer kernel."""
    return [Probe(action="quantize", target=name) for name in quantized.parts()]


def prune_probes(groups: Sequence[Group], ratios: Sequence[float]) -> list[Probe]:
    """Every group at every ratio."""
    return [
        Probe(action="prune", target=group.name, ratio=ratio)
        for group in groups
        for ratio in ratios
    ]


@contextmanager
def quantized_alone(quantized: QuantizedNetwork, target: str) -> Iterator[None]:
    """Only one layer or attention quantized, all others in float."""
    with quantized.only(target):
        yield


@contextmanager
def pruned_alone(network: Any, group: Group, scores: np.ndarray, ratio: float) -> Iterator[None]:
    """The least important `ratio` of a group silent; restored afterwards.

    Args:
        scores: importance of each unit of the group.
    """
    name, axis = _LEAVING[group.kind]
    layer = dict(network.named_sublayers())[f"encoder.encoders.{group.block}.{name}"]
    whole = layer.weight.numpy()
    gone = np.argsort(scores, kind="stable")[: round(ratio * group.units)]
    silent = np.moveaxis(whole.copy(), axis, 0)
    by_unit = silent.reshape(group.units, -1)
    by_unit[gone] = 0.0
    layer.weight.set_value(np.moveaxis(by_unit.reshape(silent.shape), 0, axis))
    try:
        yield
    finally:
        layer.weight.set_value(whole)
