"""Training after pruning: what is left learns to do the work of what was taken.

The teacher is the network before pruning; its frame posteriors and its hidden states are imitated,
and the transcripts are learned as usual. Training stops when the CER on a development set, which
the gate never sees, has not improved for some epochs; the best epoch's weights are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asrcompress.checkpoints.weights import read_state
from asrcompress.compress.batches import TrainingSet
from asrcompress.compress.masks import Masks
from asrcompress.compress.sparsity import GradualPruner
from asrcompress.compress.trainer import PlainNetwork, Step, Trainer, write_state
from asrcompress.compress.workers import Workers
from asrcompress.recipe import Training

Weights = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochResult:
    """One pass over the training data.

    Attributes:
        loss: mean over its steps.
        dev_cer: None where there is no development set.
        best: whether this is the epoch to keep, so far.
    """

    epoch: int
    loss: float
    dev_cer: float | None
    best: bool


class Recovery:
    """Trains a pruned network; resumable after each epoch.

    Args:
        network: pruned, batch norms folded.
        teacher: the network before pruning, or None.
        state: file that the training state is kept in.
        dev_cer: CER of the network on the development set, or None: then the last epoch is kept.
        patience: epochs without improvement before it stops.
        masks: weights that are zero and stay so.
        pruner: makes zeros while the network trains, in masks of its own; only an epoch at whose
            end all of them are there can be the best.
    """

    def __init__(
        self,
        network: Any,
        teacher: Any | None,
        settings: Training,
        speech: TrainingSet,
        *,
        state: Path,
        dev_cer: Callable[[Any], float] | None,
        patience: int,
        workers: Workers,
        masks: Masks | None = None,
        pruner: GradualPruner | None = None,
    ) -> None:
        self._network, self._settings, self._state = network, settings, state
        self._dev_cer, self._patience, self._workers = dev_cer, patience, workers
        self._pruner = pruner
        masks = masks if pruner is None else pruner.masks
        plain = PlainNetwork(network=network)
        self._trainer = Trainer(plain, teacher, settings, speech, workers, masks=masks)
        self._best_cer = float("inf")
        self._history: list[float] = []
        self._since = 0
        self._best = self._weights()
        if state.is_file():
            self._restore(read_state(state))

    @property
    def epoch(self) -> int:
        """Epochs that are done."""
        return self._trainer.progress.epoch

    @property
    def _ready(self) -> bool:
        """Whether the network is as sparse as it is to be."""
        return self._pruner is None or self._pruner.reached

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or nothing has improved for too long."""
        return self.epoch >= self._settings.epochs or self._since >= self._patience

    @property
    def history(self) -> tuple[float, ...]:
        """CER on the development set at the start and after each epoch, where there is one."""
        return tuple(self._history)

    def measure_start(self) -> None:
        """CER on the development set before any training; the first best, if it may be.

        All workers call it, and must know the number: by it they stop together.
        """
        if self._history:  # resumed
            return
        found = self._judge()
        if found is not None:
            self._history.append(found)
            if self._ready:
                self._best_cer = found

    def train_epoch(self, progress: Callable[[Step], None]) -> EpochResult:
        """One epoch, its CER, and the state written.

        Raises:
            TrainingFailed: a loss that is not finite.
        """
        losses = []
        for step in self._trainer.steps():
            losses.append(step.losses.total)
            if self._pruner is not None:
                self._pruner.advance()
            progress(step)
        cer = self._judge()
        better = self._ready and (cer is None or cer < self._best_cer)
        if not self._ready:  # neither the best nor a step back
            self._since = 0
        elif better:
            self._best = self._weights()
            self._since = 0
        else:
            self._since += 1
        if cer is not None:
            self._history.append(cer)
            self._best_cer = cer if better else self._best_cer
        if self._workers.leads:
            self._save()
        return EpochResult(epoch=self.epoch, loss=float(np.mean(losses)), dev_cer=cer, best=better)

    def best_weights(self) -> Weights:
        """Weights of the best epoch, under PaddleSpeech's names."""
        if not self._ready:
            raise RuntimeError("the recovery ended before all zeros were there")
        return self._best

    def _judge(self) -> float | None:
        """CER of the leading worker, told to all: they must stop together."""
        if self._dev_cer is None:
            return None
        own = self._dev_cer(self._network) if self._workers.leads else 0.0
        return self._workers.totals([own])[0]

    def _weights(self) -> Weights:
        return {name: tensor.numpy() for name, tensor in self._network.state_dict().items()}

    def _save(self) -> None:
        state = {
            "trainer": self._trainer.state(),
            "best": self._best,
            "best_cer": self._best_cer,
            "since": self._since,
            "history": self._history,
        }
        if self._pruner is not None:
            state["pruner"] = self._pruner.state()
        write_state(self._state, state)

    def _restore(self, state: dict[str, Any]) -> None:
        self._trainer.restore(state["trainer"])
        self._best = dict(state["best"])
        self._best_cer, self._since = float(state["best_cer"]), int(state["since"])
        self._history = [float(value) for value in state["history"]]
        if self._pruner is not None:
            self._pruner.restore(state["pruner"])
