"""One way to train with quantization, in a process of its own: see qat.py, which starts it.

Reads a job as one line of JSON from stdin, answers when it is ready, and then takes as many steps
as each further line asks for.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import asrcompress.paddle_imports as paddle_imports
from asrcompress.checkpoints.checkpoint import Checkpoint, read_checkpoint
from asrcompress.manifests.manifest import Utterance, load_manifest
from asrcompress.pipeline.recognizer import from_checkpoint
from asrcompress.recipe import Recipe, Training

_CALIBRATION = 20  # utterances
_FOREVER = 10_000  # epochs


class Ours:
    """`asrcompress.compress.trainer`, as `asrcompress qat` uses it."""

    def __init__(self, checkpoint: Checkpoint, utterances: list[Utterance], recipe: Recipe) -> None:
        from asrcompress.checkpoints.network import PaddleAcousticModel, build_network
        from asrcompress.compress.batches import training_set
        from asrcompress.compress.quantized_network import QuantizedNetwork
        from asrcompress.compress.trainer import Trainer

        load = from_checkpoint(checkpoint).features
        network = build_network(checkpoint)
        quantized = QuantizedNetwork(network, recipe.quantization)
        model = PaddleAcousticModel(network)
        for utterance in utterances[:_CALIBRATION]:
            model.log_probs([load(utterance)])
        quantized.finish_calibration()
        data = training_set(utterances, recipe, checkpoint, network, load)
        teacher = build_network(checkpoint) if recipe.training.distillation else None
        self._trainer = Trainer(quantized, teacher, recipe.training, data)
        self._frames = _frames_per_step(data)

    def steps(self) -> Iterator[tuple[float, int]]:
        """The checkpoint's own loss, and the frames of the batch, step by step."""
        weight = self._trainer._network.ctc_weight
        while True:
            for step in self._trainer.steps():
                losses = step.losses
                attention = losses.ctc if losses.attention is None else losses.attention
                yield weight * losses.ctc + (1 - weight) * attention, next(self._frames)


class Straight:
    """paddleslim.QAT with its stock quanters around PaddleSpeech's model, and PaddleSpeech's loss.

    Args:
        bucketed: take our batches and our cached features; else batches of as many utterances,
            drawn at random, whose features are made when they are needed.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        utterances: list[Utterance],
        recipe: Recipe,
        *,
        bucketed: bool,
    ) -> None:
        from asrcompress.checkpoints.network import build_network
        from asrcompress.compress.batches import TrainingSet, training_set

        class Shuffled(TrainingSet):
            """As many utterances per batch as ours have, in any order."""

            def groups(self, epoch: int) -> list[list[int]]:
                size = max(1, round(len(self) / len(super().groups(0))))
                order = np.random.default_rng((1, epoch)).permutation(len(self)).tolist()
                return [order[first : first + size] for first in range(0, len(order), size)]

        self._paddle = paddle_imports.import_paddle()
        paddle_imports.import_u2()
        from paddleslim import QAT

        load = from_checkpoint(checkpoint).features
        self._network = build_network(checkpoint)
        if not bucketed:
            recipe = replace(recipe, training=replace(recipe.training, cache_mb=0))
        self._data = training_set(utterances, recipe, checkpoint, self._network, load)
        if not bucketed:
            self._data.__class__ = Shuffled
        QAT(
            config={
                "weight_quantize_type": "channel_wise_abs_max",
                "activation_quantize_type": "moving_average_abs_max",
                "quantizable_layer_type": ["Conv2D", "Linear"],
            }
        ).quantize(self._network)
        settings = recipe.training
        self._optimizer = self._paddle.optimizer.AdamW(
            self._warm_up(settings),
            parameters=self._network.parameters(),
            weight_decay=settings.weight_decay,
            grad_clip=self._paddle.nn.ClipGradByGlobalNorm(settings.gradient_clip),
        )

    def _warm_up(self, settings: Training) -> Any:
        peak = settings.learning_rate
        return self._paddle.optimizer.lr.LinearWarmup(peak, settings.warmup_steps, 0.0, peak)

    def steps(self) -> Iterator[tuple[float, int]]:
        """As `Ours.steps`."""
        paddle, network = self._paddle, self._network
        network.train()
        for epoch in range(_FOREVER):
            for batch in self._data.batches(epoch):
                assert batch is not None
                arrays = (batch.features, batch.lengths, batch.tokens, batch.token_lengths)
                loss = network(*(paddle.to_tensor(array) for array in arrays))[0]
                loss.backward()
                self._optimizer.step()
                self._optimizer.clear_grad()
                self._optimizer._learning_rate.step()
                yield float(loss), int(batch.lengths.sum())


def _frames_per_step(data: Any) -> Iterator[int]:
    """Frames of each batch, from the lengths that the manifest gives; no padding."""
    for epoch in range(_FOREVER):
        for group in data.groups(epoch):
            yield sum(data._items[index][2] for index in group)


def make(job: dict[str, Any]) -> Ours | Straight:
    """What a job describes."""
    if not job["quick_kernels"]:
        # As Paddle starts by itself: see asrcompress.blas.
        paddle_imports.use_quick_kernels = lambda: None
    checkpoint = read_checkpoint(Path(job["checkpoint"]))
    utterances = load_manifest(Path(job["manifest"]))[: job["utterances"]]
    training = Training(
        epochs=_FOREVER // 100,
        batch_frames=job["batch_frames"],
        distillation=job["distillation"],
        threads=job["threads"],
    )
    recipe = Recipe(training=training)
    if job["ours"]:
        return Ours(checkpoint, utterances, recipe)
    return Straight(checkpoint, utterances, recipe, bucketed=job["bucketed"])


def main() -> None:
    """Serve stdin."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries talk
    steps = make(json.loads(sys.stdin.readline())).steps()
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        taken = [next(steps) for _ in range(int(line))]
        answer = {
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
            "losses": [loss for loss, _ in taken],
            "frames": sum(frames for _, frames in taken),
        }
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
