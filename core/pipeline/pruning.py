"""The pruning stage of a run: choose, take away, recover, measure; each step kept on disk.

pruned-before-recovery/  the network that is left, as an experiment, before any training
pruned/                  the same after recovery
pruning.json             what was removed, parameters and operations before and after
prune.pdstate            training state of an unfinished recovery

Pruning to a pattern of zeros has no network before recovery: zeros come while it trains.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from asrcompress.checkpoints.batch_norm import fold_batch_norm
from asrcompress.checkpoints.checkpoint import Checkpoint, read_checkpoint
from asrcompress.checkpoints.network import build_network
from asrcompress.checkpoints.patterns import ZeroPattern, zero_pattern
from asrcompress.checkpoints.pruned_experiment import write_experiment
from asrcompress.checkpoints.subject import CUT_FOLDER, PRUNED_FOLDER
from asrcompress.console import Advance, Console
from asrcompress.errors import BadRecipe
from asrcompress.manifests.manifest import Utterance
from asrcompress.pipeline.budget import Decision, decide
from asrcompress.pipeline.evaluation import evaluate
from asrcompress.pipeline.prune_curves import curves_of
from asrcompress.pipeline.pruning_record import check_smaller, make_record
from asrcompress.pipeline.recognizer import Recognizer, from_network
from asrcompress.recipe import Recipe, Training
from asrcompress.run import Run

if TYPE_CHECKING:
    from asrcompress.compress.batches import TrainingSet
    from asrcompress.compress.trainer import Step
    from asrcompress.compress.workers import Workers

RECORD, STATE = "pruning.json", "prune.pdstate"
_PLAN = "pruning-plan.json"
_BLOCK_UTTERANCES = 8


def prune_checkpoint(
    run: Run,
    recipe: Recipe,
    checkpoint: Checkpoint,
    *,
    train: Sequence[Utterance],
    dev: Sequence[Utterance],
    console: Console,
    workers: Workers,
) -> Checkpoint:
    """The pruned and recovered checkpoint of a run; goes on where an interrupted run was.

    Args:
        train: with transcripts, for the criterion and the recovery.
        dev: to stop the recovery by; may be empty.
    Raises:
        BadRecipe, BadCheckpoint, BudgetFailed, TrainingFailed: with what stopped it.
    """
    if run.has(RECORD):
        return read_checkpoint(run.path / PRUNED_FOLDER)
    from asrcompress.compress.batches import training_set

    console = console if workers.leads else Console(quiet=True)
    whole = build_network(checkpoint, device=recipe.training.device)
    recognizer = from_network(checkpoint, whole)
    speech = training_set(train, recipe, checkpoint, whole, recognizer.features)
    if workers.leads and not (run.path / CUT_FOLDER).is_dir():
        prepare = _cut if recipe.prune.structured else _mark
        prepare(run, recipe, checkpoint, speech, train, recognizer, console)
    workers.wait()
    cut = read_checkpoint(run.path / CUT_FOLDER)
    network = build_network(cut, device=recipe.training.device)
    fold_batch_norm(network)
    errors = _recover(run, recipe, whole, cut, network, speech, dev, console, workers)
    if workers.leads:
        _conclude(run, recipe, checkpoint, cut, network, errors)
    workers.wait()
    return read_checkpoint(run.path / PRUNED_FOLDER)


def _cut(
    run: Run,
    recipe: Recipe,
    checkpoint: Checkpoint,
    speech: TrainingSet,
    train: Sequence[Utterance],
    recognizer: Recognizer,
    console: Console,
) -> None:
    """Take the units away; writes the folder and what is known so far."""
    from asrcompress.compress.groups import groups_of
    from asrcompress.compress.prune import least_blocks, score_units
    from asrcompress.compress.prune_plan import Limits

    settings = recipe.prune
    if zero_pattern(checkpoint.network, item=str(checkpoint.config_path)) is not None:
        raise BadRecipe(
            "prune.pattern: got structured for a checkpoint whose zeros lie in a pattern",
            hint="prune the network that it came from, structures first",
        )

    def features(count: int) -> list[np.ndarray]:
        return [recognizer.features(item) for item in train[:count]]

    network = build_network(checkpoint, device=recipe.training.device)
    fold_batch_norm(network)
    drop: tuple[int, ...] = ()
    if settings.drop_blocks:
        with console.progress("blocks") as advance:
            drop = least_blocks(
                network, features(_BLOCK_UTTERANCES), settings.drop_blocks, progress=advance
            )
    groups = groups_of(network)
    with console.progress(f"importance ({settings.criterion})") as advance:
        scores = score_units(
            network,
            groups,
            criterion=settings.criterion,
            speech=speech,
            batches=settings.batches,
            progress=advance,
        )
    decision = decide(
        recipe,
        checkpoint,
        network,
        scores,
        drop=drop,
        limits=Limits(
            step=settings.step,
            keep=settings.keep,
            curves=curves_of(run, recipe, checkpoint, groups),
        ),
        features=features,
        console=console,
    )
    result = decision.pruned
    widths = [
        (g.name, g.units, 0 if g.block in drop else len(result.plan.kept[g.key])) for g in groups
    ]
    run.write_json(_PLAN, _plan(decision, drop, widths))
    write_experiment(run.path / CUT_FOLDER, checkpoint, result.shape, result.weights)
    console.say(f"pruned {result.plan.removed:.1%} of {decision.measure}")


def _plan(
    decision: Decision, drop: tuple[int, ...], widths: list[tuple[str, int, int]]
) -> dict[str, Any]:
    """What `_conclude` will want to know of `_cut`."""
    return {
        "measure": decision.measure,
        "removed": decision.pruned.plan.removed,
        "dropped": list(drop),
        "widths": widths,
        "tried": [(item.amount, item.rtf) for item in decision.tried],
    }


def _mark(
    run: Run,
    recipe: Recipe,
    checkpoint: Checkpoint,
    speech: TrainingSet,
    train: Sequence[Utterance],
    recognizer: Recognizer,
    console: Console,
) -> None:
    """Nothing to take away yet, but to say which weights will hold zeros, and for whom."""
    from asrcompress.compress.sparsity import sparse_weights

    settings = recipe.prune
    network = build_network(checkpoint)
    fold_batch_norm(network)
    pattern = ZeroPattern(
        pattern=settings.pattern,
        sparsity=settings.sparsity,
        block=settings.block,
        layers=tuple(item.name for item in sparse_weights(network)),
    )
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    nothing: dict[str, Any] = {"measure": "weights", "removed": settings.sparsity, "dropped": []}
    run.write_json(_PLAN, {**nothing, "widths": [], "tried": []})
    write_experiment(run.path / CUT_FOLDER, checkpoint, None, weights, pattern)


def _recover(
    run: Run,
    recipe: Recipe,
    whole: Any,
    cut: Checkpoint,
    network: Any,
    speech: TrainingSet,
    dev: Sequence[Utterance],
    console: Console,
    workers: Workers,
) -> tuple[float, ...]:
    """Train `network` in place; CER on the development set, before and after each epoch."""
    from asrcompress.compress.masks import masks_of
    from asrcompress.compress.recovery import Recovery
    from asrcompress.compress.sparsity import GradualPruner
    from asrcompress.compress.trainer import steps_of

    settings = _training(recipe, cut)
    pruner = None
    if not recipe.prune.structured:
        pruner = GradualPruner(network, recipe.prune, total_steps=steps_of(speech, settings))
        if pruner.at_once and settings.epochs:
            console.warn("the recovery is too short for zeros to come gradually: all come at once")
    recovery = Recovery(
        network,
        whole if settings.distillation else None,  # the teacher
        settings,
        speech,
        state=run.path / STATE,
        dev_cer=_dev_cer(cut, dev, console) if dev else None,
        patience=recipe.prune.patience,
        workers=workers,
        masks=masks_of(network, cut),
        pruner=pruner,
    )
    recovery.measure_start()
    while not recovery.finished:
        title = f"recovery {recovery.epoch + 1}/{settings.epochs}"
        with console.progress(title) as advance:
            result = recovery.train_epoch(functools.partial(_show, advance))
        note = "" if result.dev_cer is None else f", dev CER {result.dev_cer:.2%}"
        console.say(f"{title}: loss {result.loss:.3f}{note}")
        if workers.leads:
            run.log(f"{title}: loss {result.loss:.4f}{note}")
    best = recovery.best_weights()
    network.set_state_dict({name: np.asarray(value) for name, value in best.items()})
    network.eval()
    return recovery.history


def _show(advance: Advance, step: Step) -> None:
    advance(round(1000 * step.done), 1000)


def _dev_cer(cut: Checkpoint, dev: Sequence[Utterance], console: Console) -> Callable[[Any], float]:
    """CER of a network on the development set."""

    def measure(trained: Any) -> float:
        result = evaluate(from_network(cut, trained), dev, console=console, title="dev")
        return float(result.cer.cer)

    return measure


def _training(recipe: Recipe, cut: Checkpoint) -> Training:
    """The recipe's training with the recovery's own length, rate and imitation.

    A DeepSpeech2's hidden states become narrower, so that only posteriors can be imitated there.
    """
    narrower = recipe.prune.structured and cut.family == "deepspeech2"
    return replace(
        recipe.training,
        epochs=recipe.prune.epochs,
        learning_rate=recipe.prune.learning_rate,
        hidden_distillation=0.0 if narrower else recipe.prune.hidden_distillation,
    )


def _conclude(
    run: Run,
    recipe: Recipe,
    checkpoint: Checkpoint,
    cut: Checkpoint,
    network: Any,
    errors: tuple[float, ...],
) -> None:
    """Write the recovered experiment, then the record, which says that all is done."""
    shutil.rmtree(run.path / PRUNED_FOLDER, ignore_errors=True)
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    write_experiment(run.path / PRUNED_FOLDER, cut, None, weights)
    record = make_record(run.read_json(_PLAN), recipe, checkpoint, cut, network, errors)
    check_smaller(record)
    run.write_json(RECORD, asdict(record))
    (run.path / STATE).unlink(missing_ok=True)
    if not recipe.prune.structured:  # it is the checkpoint itself
        shutil.rmtree(run.path / CUT_FOLDER, ignore_errors=True)
