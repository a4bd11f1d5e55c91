"""Weights that are zero and stay zero, whatever a training does to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.checkpoints.patterns import zero_pattern
from asrcompress.paddle_imports import import_paddle

paddle = import_paddle()


class Masks:
    """Ones and zeros, by parameter; `apply` puts the zeros into the network."""

    def __init__(self, network: Any, names: Iterable[str]) -> None:
        """Masks of ones for some parameters of `network`."""
        named = dict(network.named_parameters())
        self._parameters = {name: named[name] for name in names}
        self._masks = {
            name: paddle.ones_like(parameter) for name, parameter in self._parameters.items()
        }

    @classmethod
    def of_zeros(cls, network: Any, names: Iterable[str]) -> Masks:
        """Masks that keep every zero that is there."""
        masks = cls(network, names)
        masks.restore({name: p.numpy() != 0 for name, p in masks._parameters.items()})
        return masks

    def restore(self, values: Mapping[str, np.ndarray]) -> None:
        """Set masks, by name."""
        for name, value in values.items():
            self._masks[name].set_value(np.asarray(value).astype(np.float32))

    def values(self) -> dict[str, np.ndarray]:
        """The masks as bool arrays, by name."""
        return {name: mask.numpy() != 0 for name, mask in self._masks.items()}

    def apply(self) -> None:
        """Set what is masked to zero."""
        with paddle.no_grad():
            for name, parameter in self._parameters.items():
                parameter.set_value(parameter * self._masks[name])


def masks_of(network: Any, checkpoint: Checkpoint) -> Masks | None:
    """The masks of a network that was pruned to a pattern; None where it was not.

    Args:
        network: with the checkpoint's weights, or quantized, parameters under the same names.
    """
    pattern = zero_pattern(checkpoint.network, item=str(checkpoint.config_path))
    return None if pattern is None else Masks.of_zeros(network, pattern.layers)


def sparsity_by_layer(network: Any, names: Iterable[str]) -> dict[str, float]:
    """Share of exact zeros in each of some parameters."""
    named = dict(network.named_parameters())
    return {name: float((named[name].numpy() == 0).mean()) for name in names}
