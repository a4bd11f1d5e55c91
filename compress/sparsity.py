"""Zeros inside of tensors: gradual magnitude pruning, and masks that keep the zeros.

PaddleSlim's `GMPUnstructuredPruner` (Zhu & Gupta 2017, arXiv:1710.01878) gives the schedule and,
for single weights, the choice. At its own seams (``_apply_masks``, ``update_threshold``,
``_update_masks``) this adds what it does not have, or what does not hold here:

* its masks are buffers in every layer, biases and norms included, which end in the checkpoint; and
  hooks that multiply before every forward. Here they are tensors beside the network, for the
  encoder's weights only, applied behind every step of the optimizer;
* an LSTM's weights count twice, since two layers own them;
* its blocks are scored by the mean of their values, so that +1 and -1 make a block of nothing, in
  a loop of Python that takes minutes for one matrix; ``2:4`` it does not know;
* a resumed run finds the threshold 0, since what is pruned is zero by then, and frees all of it.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from asrcompress.compress import patterns
from asrcompress.compress.families import layers_of, recurrent_of
from asrcompress.compress.masks import Masks
from asrcompress.paddle_imports import import_paddle
from asrcompress.settings import Prune

paddle = import_paddle()

from paddleslim import GMPUnstructuredPruner  # noqa: E402  (after h5py, see paddle_imports)

# PaddleSlim wants more than ten steps of the optimizer between two steps of the schedule.
_LEAST_PERIOD = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseWeight:
    """A weight that can have zeros.

    Attributes:
        name: structured name.
        output_axis: outputs of its layer.
    """

    name: str
    parameter: Any
    output_axis: int


def sparse_weights(network: Any) -> list[SparseWeight]:
    """The encoder's weights that read at least four inputs: not depthwise, not the first layer.

    The CTC head stays whole: it is the last to see an error.
    """
    named = dict(network.named_parameters())
    found = [
        SparseWeight(name=f"{e.name}.weight", parameter=e.layer.weight, output_axis=e.axis)
        for e in layers_of(network)
    ]
    found += [
        SparseWeight(name=name, parameter=parameter, output_axis=0)
        for edges in recurrent_of(network)
        for name, parameter in named.items()
        if name.startswith(f"{edges.name}.weight_")
    ]
    return [
        item
        for item in found
        if item.name.startswith("encoder.") and item.parameter.shape[1 - item.output_axis] >= 4
    ]


class GradualPruner(GMPUnstructuredPruner):
    """Raises the share of zeros while a network trains.

    Args:
        network: to train; its parameters are changed by `masks` only.
        settings: pattern, sparsity and schedule.
        total_steps: of the optimizer in the whole recovery.
    """

    def __init__(self, network: Any, settings: Prune, *, total_steps: int) -> None:
        self._weights = sparse_weights(network)
        self._settings, self._network = settings, network
        self.masks = Masks(network, [item.name for item in self._weights])
        rising = int(settings.rising_share * total_steps)
        steps = min(settings.rising_steps, (rising - 1) // (_LEAST_PERIOD - 1))
        self.at_once = steps < 1
        with contextlib.redirect_stdout(io.StringIO()):  # PaddleSlim prints
            super().__init__(
                network,
                ratio=settings.sparsity,
                skip_params_func=self._skipped,
                local_sparsity=settings.uniform,
                configs={
                    "stable_iterations": 0,
                    "pruning_iterations": max(rising, _LEAST_PERIOD),
                    "tunning_iterations": max(0, total_steps - rising),
                    "pruning_steps": max(steps, 1),
                    "initial_ratio": settings.sparsity * settings.rising_start,
                    "resume_iteration": 0,
                },
            )
        if self.at_once:
            self.complete()

    @property
    def reached(self) -> bool:
        """Whether the sparsity that was asked for is there."""
        return bool(self.ratio == self.target_ratio)

    def advance(self) -> None:
        """One step of the optimizer is done: more zeros where the schedule says so."""
        if not self.reached:
            self.step()
            self.masks.apply()

    def complete(self) -> None:
        """All zeros now."""
        self.ratio = self.target_ratio
        self.update_threshold()
        self._update_masks()
        self.masks.apply()

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        masks = {name: value.astype(np.uint8) for name, value in self.masks.values().items()}
        return {"iteration": self.cur_iteration, "ratio": self.ratio, "masks": masks}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.cur_iteration = 0
        self._prepare_training_hyper_parameters()
        for iteration in range(int(state["iteration"])):
            if iteration % self.ratio_increment_period == 0 and self.ratios_stack:
                self.ratios_stack.pop()
        self.cur_iteration, self.ratio = int(state["iteration"]), float(state["ratio"])
        self.masks.restore(state["masks"])

    def update_threshold(self) -> None:
        """PaddleSlim's seam for the choice; see `_update_masks`, which needs no threshold."""

    def _update_masks(self) -> None:
        """Zeros where the losses are smallest, as many as the schedule wants by now."""
        pattern, block = self._settings.pattern, self._settings.block
        rows = [patterns.as_rows(w.parameter.numpy(), w.output_axis) for w in self._weights]
        # All fours halved are a half of the weights.
        share = self.ratio * (2.0 if pattern == patterns.TWO_OF_FOUR else 1.0)
        gone = patterns.smallest(
            [patterns.losses(item, pattern, block) for item in rows],
            min(1.0, share),
            uniform=self._settings.uniform,
        )
        masks = {}
        for weight, item, pieces in zip(self._weights, rows, gone, strict=True):
            stay = patterns.mask(item, pieces, pattern, block)
            shape = tuple(weight.parameter.shape)
            masks[weight.name] = patterns.from_rows(stay, shape, weight.output_axis)
        self.masks.restore(masks)

    def _apply_masks(self) -> None:
        """PaddleSlim's seam for where masks live; see `Masks`."""

    def _skipped(self, network: Any) -> set[str]:
        """Names of what PaddleSlim is to leave alone."""
        sparse = {item.parameter.name for item in self._weights}
        return {p.name for p in network.parameters() if p.name not in sparse}
