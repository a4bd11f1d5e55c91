"""Recovery after pruning: it learns, keeps the best epoch, stops in time, and resumes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("paddle", reason="needs the [compress] extra")

from asrcompress.checkpoints.batch_norm import fold_batch_norm
from asrcompress.checkpoints.checkpoint import read_checkpoint
from asrcompress.checkpoints.network import build_network
from asrcompress.compress.batches import TrainingSet
from asrcompress.compress.recovery import Recovery
from asrcompress.compress.sparsity import GradualPruner
from asrcompress.compress.trainer import steps_of
from asrcompress.compress.workers import Workers
from asrcompress.recipe import Prune, Training

pytestmark = pytest.mark.paddle
SETTINGS = Training(
    epochs=4, learning_rate=1e-2, warmup_steps=0, spec_augment=False, hidden_distillation=1.0
)


@pytest.fixture(scope="module")
def checkpoint(make_experiment: Callable[..., Path], tmp_path_factory: Any) -> Any:
    folder = tmp_path_factory.mktemp("recovery")
    return read_checkpoint(make_experiment(folder, dropout=0.0))


@pytest.fixture(scope="module")
def speech(checkpoint: Any, noise_to_train_on: Callable[..., TrainingSet]) -> TrainingSet:
    return noise_to_train_on(checkpoint, n_mels=80, seed=1)


def recovery_of(
    checkpoint: Any, speech: TrainingSet, state: Path, *, errors: list[float] | None, **changes: Any
) -> Recovery:
    network = build_network(checkpoint)
    fold_batch_norm(network)
    given = iter(errors or [])
    settings = replace(SETTINGS, epochs=changes.get("epochs", SETTINGS.epochs))
    pruner = None
    if "sparse" in changes:
        pruner = GradualPruner(network, changes["sparse"], total_steps=steps_of(speech, settings))
    return Recovery(
        network,
        build_network(checkpoint),
        settings,
        speech,
        state=state,
        dev_cer=(lambda _: next(given)) if errors is not None else None,
        patience=changes.get("patience", 2),
        workers=Workers(),
        pruner=pruner,
    )


def ignore(_: Any) -> None:
    """No progress wanted."""


def test_the_loss_falls(checkpoint: Any, speech: TrainingSet, tmp_path: Path) -> None:
    recovery = recovery_of(checkpoint, speech, tmp_path / "state", errors=None)
    losses = []
    while not recovery.finished:
        losses.append(recovery.train_epoch(ignore).loss)
    assert len(losses) == 4
    assert losses[-1] < losses[0]


def test_the_best_epoch_is_kept(checkpoint: Any, speech: TrainingSet, tmp_path: Path) -> None:
    errors = [0.5, 0.2, 0.3, 0.25, 0.4]
    recovery = recovery_of(checkpoint, speech, tmp_path / "state", errors=errors, patience=9)
    recovery.measure_start()
    weights = []
    while not recovery.finished:
        recovery.train_epoch(ignore)
        weights.append({n: t.numpy() for n, t in recovery._network.state_dict().items()})
    best = recovery.best_weights()
    assert recovery.history == tuple(errors)
    assert all(np.array_equal(best[name], weights[0][name]) for name in best)
    assert any(not np.array_equal(best[name], weights[-1][name]) for name in best)


def test_a_pruned_network_that_only_gets_worse_stays_as_it_was(
    checkpoint: Any, speech: TrainingSet, tmp_path: Path
) -> None:
    recovery = recovery_of(checkpoint, speech, tmp_path / "state", errors=[0.1, 0.2, 0.3, 0.4])
    before = {n: t.numpy().copy() for n, t in recovery._network.state_dict().items()}
    recovery.measure_start()
    epochs = 0
    while not recovery.finished:
        recovery.train_epoch(ignore)
        epochs += 1
    assert epochs == 2  # patience
    assert all(np.array_equal(before[n], v) for n, v in recovery.best_weights().items())


def test_a_resumed_recovery_ends_where_an_undisturbed_one_does(
    checkpoint: Any, speech: TrainingSet, tmp_path: Path
) -> None:
    whole = recovery_of(checkpoint, speech, tmp_path / "whole", errors=[9, 4, 3, 2, 1])
    whole.measure_start()
    while not whole.finished:
        whole.train_epoch(ignore)
    first = recovery_of(checkpoint, speech, tmp_path / "state", errors=[9, 4, 3])
    first.measure_start()
    first.train_epoch(ignore)
    first.train_epoch(ignore)
    second = recovery_of(checkpoint, speech, tmp_path / "state", errors=[2, 1])
    assert second.epoch == 2
    second.measure_start()  # known already
    assert second.history == (9, 4, 3)
    while not second.finished:
        second.train_epoch(ignore)
    wanted, seen = whole.best_weights(), second.best_weights()
    assert all(np.array_equal(wanted[name], seen[name]) for name in wanted)


# Two steps an epoch: zeros come in the first 22 of 40, in two portions.
SPARSE = Prune(
    pattern="unstructured", sparsity=0.5, rising_share=0.56, rising_start=0.2, uniform=True
)


def zeros_of(weights: Any) -> float:
    some = weights["encoder.encoders.0.feed_forward.w_1.weight"]
    return float((np.asarray(some) == 0).mean())


def test_an_epoch_without_all_its_zeros_is_never_the_best(
    checkpoint: Any, speech: TrainingSet, tmp_path: Path
) -> None:
    errors = [0.0] * 8 + [9.0] * 2 + [0.5] * 12  # the dense start and half-way are perfect
    recovery = recovery_of(
        checkpoint, speech, tmp_path / "state", errors=errors, sparse=SPARSE, epochs=20, patience=3
    )
    recovery.measure_start()
    assert recovery.history == (0.0,)
    with pytest.raises(RuntimeError, match="before all zeros were there"):
        recovery.best_weights()
    while not recovery.finished:
        recovery.train_epoch(ignore)
    assert recovery.epoch > 10  # patience begins when the zeros are there
    assert zeros_of(recovery.best_weights()) == pytest.approx(0.5, abs=0.01)


def test_a_resumed_sparse_recovery_ends_where_an_undisturbed_one_does(
    checkpoint: Any, speech: TrainingSet, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"sparse": SPARSE, "epochs": 16, "patience": 99}
    whole = recovery_of(checkpoint, speech, tmp_path / "whole", errors=None, **options)
    while not whole.finished:
        whole.train_epoch(ignore)
    first = recovery_of(checkpoint, speech, tmp_path / "state", errors=None, **options)
    for _ in range(7):
        first.train_epoch(ignore)
    second = recovery_of(checkpoint, speech, tmp_path / "state", errors=None, **options)
    assert second.epoch == 7
    while not second.finished:
        second.train_epoch(ignore)
    wanted, seen = whole.best_weights(), second.best_weights()
    assert all(np.array_equal(wanted[name], seen[name]) for name in wanted)
