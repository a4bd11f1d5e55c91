"""The pruning stage of a run: choose, take away, recover, measure; each step kept on disk.

pruned/            the pruned network as an experiment, after recovery
pruning.json       what was removed, parameters and operations before and after
prune.pdstate      training state of an unfinished recovery
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from asrcompress.checkpoints.batch_norm import fold_batch_norm
from asrcompress.checkpoints.checkpoint import Checkpoint, read_checkpoint
from asrcompress.checkpoints.network import build_network
from asrcompress.checkpoints.pruned_experiment import write_experiment
from asrcompress.checkpoints.subject import PRUNED_FOLDER
from asrcompress.console import Console
from asrcompress.errors import BadRecipe
from asrcompress.manifests.manifest import Utterance
from asrcompress.pipeline.evaluation import evaluate
from asrcompress.pipeline.recognizer import Recognizer, from_network
from asrcompress.recipe import Recipe, Training
from asrcompress.run import Run

if TYPE_CHECKING:
    from asrcompress.compress.batches import TrainingSet
    from asrcompress.compress.prune import Pruned
    from asrcompress.compress.workers import Workers

RECORD, STATE = "pruning.json", "prune.pdstate"
_CUT = "pruned-before-recovery"
_BLOCK_UTTERANCES = 8
# Output frames of the utterance that operations are counted for: 10 s at 25 frames a second.
_FRAMES = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningRecord:
    """What pruning did, for reports.

    Attributes:
        removed: share of `measure` that went, 0 to 1.
        parameters: of the encoder, before and after.
        dropped_blocks: indices in the network before.
        widths: one dict per block that is left.
    """

    measure: str
    criterion: str
    removed: float
    parameters: tuple[int, int]
    dropped_blocks: tuple[int, ...]
    widths: tuple[dict[str, int | None], ...]
    epochs: int
    dev_cer: tuple[float, ...]


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
        BadRecipe, BadCheckpoint, TrainingFailed: with what stopped it.
    """
    if run.has(RECORD):
        return read_checkpoint(run.path / PRUNED_FOLDER)
    from asrcompress.compress.batches import training_set

    whole = build_network(checkpoint, device=recipe.training.device)
    recognizer = from_network(checkpoint, whole)
    speech = training_set(train, recipe, checkpoint, whole, recognizer.features)
    if workers.leads and not (run.path / _CUT).is_dir():
        _cut(run, recipe, checkpoint, speech, train, recognizer, console)
    workers.wait()
    cut = read_checkpoint(run.path / _CUT)
    network = build_network(cut, device=recipe.training.device)
    fold_batch_norm(network)
    errors = _recover(run, recipe, whole, cut, network, speech, dev, console, workers)
    if workers.leads:
        _conclude(run, recipe, whole, cut, network, errors)
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
    from asrcompress.compress.prune import least_blocks, prune, score_units
    from asrcompress.compress.prune_plan import Limits

    settings = recipe.prune
    network = build_network(checkpoint, device=recipe.training.device)
    fold_batch_norm(network)
    drop: tuple[int, ...] = ()
    if settings.drop_blocks:
        some = [recognizer.features(item) for item in train[:_BLOCK_UTTERANCES]]
        with console.progress("blocks") as advance:
            drop = least_blocks(network, some, settings.drop_blocks, progress=advance)
    with console.progress(f"importance ({settings.criterion})") as advance:
        scores = score_units(
            network,
            groups_of(network),
            criterion=settings.criterion,
            speech=speech,
            batches=settings.batches,
            progress=advance,
        )
    result = prune(
        network,
        scores,
        measure="parameters" if settings.max_size_mb else settings.measure,
        frames=_FRAMES,
        amount=_amount(recipe, network),
        uniform=settings.uniform,
        limits=Limits(step=settings.step, keep=settings.keep),
        drop=drop,
    )
    _check(network, result)
    run.write_json("pruning-plan.json", {"removed": result.plan.removed, "dropped": list(drop)})
    write_experiment(run.path / _CUT, checkpoint, result.shape, result.weights)
    console.say(f"pruned {result.plan.removed:.1%} of the encoder")


def _amount(recipe: Recipe, network: Any) -> float:
    """Share of the encoder's parameters that a size budget asks for, or what was given."""
    settings = recipe.prune
    if not settings.max_size_mb:
        return settings.amount
    # INT8 takes a byte per parameter; the few that stay in float are within the rounding.
    encoder = _parameters(network, "encoder.")
    shipped = encoder + _parameters(network, "ctc.")
    excess = shipped - settings.max_size_mb * 1e6
    if excess >= encoder:
        raise BadRecipe(
            f"prune.max_size_mb: got {settings.max_size_mb}, expected more than "
            f"{(shipped - encoder) / 1e6:.2f}, which the CTC head takes alone"
        )
    return max(0.0, excess / encoder)


def _parameters(network: Any, prefix: str) -> int:
    return sum(
        math.prod(tensor.shape)
        for name, tensor in network.named_parameters()
        if name.startswith(prefix)
    )


def _check(network: Any, result: Pruned) -> None:
    """Tensors really got smaller: a pruner that does nothing must not pass for one."""
    before = {name: math.prod(tensor.shape) for name, tensor in network.state_dict().items()}
    after = sum(tensor.size for tensor in result.weights.values())
    if after >= sum(before.values()):
        raise RuntimeError(f"pruning left {after} numbers of {sum(before.values())}")


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
    from asrcompress.compress.recovery import Recovery

    settings = _training(recipe)

    def dev_cer(trained: Any) -> float:
        result = evaluate(from_network(cut, trained), dev, console=console, title="dev")
        return float(result.cer.cer)

    recovery = Recovery(
        network,
        whole if settings.distillation else None,  # the teacher
        settings,
        speech,
        state=run.path / STATE,
        dev_cer=dev_cer if dev else None,
        patience=recipe.prune.patience,
        workers=workers,
    )
    start = recovery.measure_start()
    errors = [] if start is None else [start]
    while not recovery.finished:
        title = f"recovery {recovery.epoch + 1}/{settings.epochs}"
        with console.progress(title) as advance:
            result = recovery.train_epoch(lambda step: advance(round(1000 * step.done), 1000))
        note = "" if result.dev_cer is None else f", dev CER {result.dev_cer:.2%}"
        console.say(f"{title}: loss {result.loss:.3f}{note}")
        run.log(f"{title}: loss {result.loss:.4f}{note}")
        errors += [] if result.dev_cer is None else [result.dev_cer]
    best = recovery.best_weights()
    network.set_state_dict({name: np.asarray(value) for name, value in best.items()})
    network.eval()
    return tuple(errors)


def _training(recipe: Recipe) -> Training:
    """The recipe's training with the recovery's own length, rate and imitation."""
    return replace(
        recipe.training,
        epochs=recipe.prune.epochs,
        learning_rate=recipe.prune.learning_rate,
        hidden_distillation=recipe.prune.hidden_distillation,
    )


def _conclude(
    run: Run,
    recipe: Recipe,
    whole: Any,
    cut: Checkpoint,
    network: Any,
    errors: tuple[float, ...],
) -> None:
    """Write the recovered experiment, then the record, which says that all is done."""
    from asrcompress.checkpoints.shapes import pruned_shape

    shape = pruned_shape(cut.network, item=str(cut.config_path))
    assert shape is not None
    shutil.rmtree(run.path / PRUNED_FOLDER, ignore_errors=True)
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    write_experiment(run.path / PRUNED_FOLDER, cut, shape, weights)
    plan = run.read_json("pruning-plan.json")
    record = PruningRecord(
        measure=recipe.prune.measure,
        criterion=recipe.prune.criterion,
        removed=plan["removed"],
        parameters=(_parameters(whole, "encoder."), _parameters(network, "encoder.")),
        dropped_blocks=tuple(plan["dropped"]),
        widths=tuple(asdict(block) for block in shape.blocks),
        epochs=recipe.prune.epochs,
        dev_cer=errors,
    )
    run.write_json(RECORD, asdict(record))
    (run.path / STATE).unlink(missing_ok=True)
    shutil.rmtree(run.path / _CUT, ignore_errors=True)
