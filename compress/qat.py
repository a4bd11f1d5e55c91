"""Calibration and quantization-aware training of a checkpoint, resumable from its run directory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np

from asrcompress.calibration.histograms import record
from asrcompress.checkpoints.acoustic import TRAINING_CONTEXT
from asrcompress.checkpoints.attention_decoder import forced
from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.checkpoints.network import (
    PaddleAcousticModel,
    PaddleAttentionDecoder,
    build_network,
)
from asrcompress.checkpoints.streaming import contexts_of
from asrcompress.checkpoints.subject import subject_of, trained_of
from asrcompress.checkpoints.weights import read_state
from asrcompress.compress.batches import training_set
from asrcompress.compress.masks import masks_of
from asrcompress.compress.quantized_network import QuantizedNetwork
from asrcompress.compress.scalars import Scalars, scalar_log
from asrcompress.compress.trainer import Trainer, write_state
from asrcompress.compress.workers import Workers
from asrcompress.console import Console
from asrcompress.histogram import Histogram, write_histograms
from asrcompress.manifests.manifest import Utterance
from asrcompress.ranges import read_ranges, write_ranges
from asrcompress.recipe import Recipe, Training
from asrcompress.run import Run
from asrcompress.targets import find_target

_CALIBRATED = "calibrated.json"


def train_quantized(
    run: Run,
    recipe: Recipe,
    checkpoint: Checkpoint,
    *,
    calibration: Sequence[Utterance],
    train: Sequence[Utterance],
    load_features: Callable[[Utterance], np.ndarray],
    console: Console,
    workers: Workers | None = None,
) -> QuantizedNetwork:
    """Quantize the checkpoint's network and train it; goes on from the run's state.

    Args:
        load_features: gives float32 (frames, mels), CMVN applied.
        workers: the processes that train together; all call this, the first one writes.
    Returns:
        the trained network in evaluation mode.
    Raises:
        CalibrationFailed, TrainingFailed, BadManifest: with what stopped it.
    """
    workers = workers or Workers()
    network = build_network(subject_of(run, checkpoint), device=recipe.training.device)
    quantized = QuantizedNetwork(
        network,
        recipe.quantization,
        recipe.decoding,
        weight_top=find_target(recipe.export.target).weight_top,
    )
    if not workers.leads:
        workers.wait()  # until the first worker has calibrated
    if run.has(_CALIBRATED):
        quantized.restore(read_ranges(run.path / _CALIBRATED))
    else:
        histograms = _calibrate(quantized, recipe, checkpoint, calibration, load_features, console)
        write_histograms(run.path / "histograms.json", histograms)
        write_ranges(run.path / _CALIBRATED, quantized.ranges())
    if workers.leads:
        workers.wait()
    if recipe.training.epochs:
        _train(run, recipe, checkpoint, quantized, train, load_features, console, workers)
    return quantized


def restore_quantized(run: Run, checkpoint: Checkpoint) -> QuantizedNetwork:
    """The trained network of a finished run, fake quantization included.

    Raises:
        BadRun, BadCheckpoint: the run's weights or ranges are missing or broken.
    """
    recipe = Recipe.from_dict(
        run.read_json("run.json")["recipe"], source=str(run.path), folder=run.path
    )
    network = build_network(trained_of(run, checkpoint))
    quantized = QuantizedNetwork(
        network,
        recipe.quantization,
        recipe.decoding,
        weight_top=find_target(recipe.export.target).weight_top,
    )
    quantized.restore(read_ranges(run.ranges))
    return quantized


def _calibrate(
    quantized: QuantizedNetwork,
    recipe: Recipe,
    checkpoint: Checkpoint,
    utterances: Sequence[Utterance],
    load_features: Callable[[Utterance], np.ndarray],
    console: Console,
) -> list[Histogram]:
    """Run calibration speech through the float network, in every context, and set the ranges.

    An attention decoder that is quantized too reads the transcripts along with it.
    """
    network, decoding = quantized.network, recipe.decoding
    contexts = contexts_of(recipe.streaming)
    models = [PaddleAcousticModel(network, context=item) for item in contexts]
    decoder = PaddleAttentionDecoder(network) if decoding.uses_decoder else None
    with record(quantized.edges) as recording, console.progress("calibrating") as advance:
        for index, utterance in enumerate(utterances):
            features = load_features(utterance)
            for model in models:
                hidden = model.encode([features])[0].hidden
                if decoder is not None and hidden is not None:
                    text = checkpoint.tokenizer.text_to_ids(utterance.text)
                    forced(decoder, hidden, text, reverse=decoding.uses_reverse)
            advance(index + 1, len(utterances))
    quantized.finish_calibration()
    return recording.histograms()


def _train(
    run: Run,
    recipe: Recipe,
    checkpoint: Checkpoint,
    quantized: QuantizedNetwork,
    utterances: Sequence[Utterance],
    load_features: Callable[[Utterance], np.ndarray],
    console: Console,
    workers: Workers,
) -> None:
    settings = recipe.training
    data = training_set(utterances, recipe, checkpoint, quantized.network, load_features)
    if str(data.skipped) and workers.leads:
        console.warn(f"training manifest: left out {data.skipped}")
    teacher = build_network(checkpoint, device=settings.device) if settings.distillation else None
    # A network that streams is trained as it is used: in chunks and on whole utterances, in turn.
    contexts = contexts_of(recipe.streaming) if recipe.streaming.wanted else (TRAINING_CONTEXT,)
    masks = masks_of(quantized.network, subject_of(run, checkpoint))
    trainer = Trainer(quantized, teacher, settings, data, workers, contexts, masks)
    if run.state.is_file():
        trainer.restore(read_state(run.state))
        console.say(f"resuming after step {trainer.progress.step}")
    if not workers.leads:
        _follow(trainer, settings.epochs)
        return
    run.truncate_metrics(trainer.progress.step)
    with scalar_log(run.path / "visualdl") as scalars:
        while trainer.progress.epoch < settings.epochs:
            _epoch(run, trainer, settings, scalars, console)
            write_state(run.state, trainer.state())


def _follow(trainer: Trainer, epochs: int) -> None:
    """Take part in every step; the first worker keeps the books."""
    while trainer.progress.epoch < epochs:
        for _ in trainer.steps():
            pass


def _epoch(
    run: Run, trainer: Trainer, settings: Training, scalars: Scalars, console: Console
) -> None:
    title = f"epoch {trainer.progress.epoch + 1}/{settings.epochs}"
    totals: list[float] = []
    saved = time.monotonic()
    with console.progress(title) as advance:
        for step in trainer.steps():
            totals.append(step.losses.total)
            values = {"learning_rate": step.learning_rate, **asdict(step.losses)}
            run.append_metric(step=step.number, epoch=step.epoch, **values)
            scalars.add(step.number, values)
            advance(round(1000 * step.done), 1000)
            if step.done < 1 and time.monotonic() - saved >= settings.save_every_s:
                write_state(run.state, trainer.state())
                saved = time.monotonic()
    message = f"{title}: loss {float(np.mean(totals)):.4f}"
    run.log(message)
    console.say(message)
