"""Quantization-aware fine-tuning of a network, with its FP32 self as teacher."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from asrcompress.checkpoints.acoustic import (
    FULL_CONTEXT,
    TRAINING_CONTEXT,
    Context,
    Encoded,
    encode,
    has_attention_loss,
    head_of,
    task_loss,
)
from asrcompress.compress.batches import Batch, TrainingSet
from asrcompress.compress.masks import Masks
from asrcompress.compress.quanters import ActivationQuanter
from asrcompress.compress.quick_layers import DropoutSource, quick_layers
from asrcompress.compress.workers import Workers
from asrcompress.errors import TrainingFailed
from asrcompress.files import temporary_beside, writing
from asrcompress.paddle_imports import import_paddle, threads
from asrcompress.process_memory import kept_memory
from asrcompress.recipe import Training

paddle = import_paddle()

from paddle.nn import functional as F  # noqa: E402  (after h5py, see paddle_imports)


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Losses of one batch, per utterance; `attention` and `distillation` may be absent."""

    total: float
    ctc: float
    attention: float | None
    distillation: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One optimizer step.

    Attributes:
        number: counted from 1 over all epochs.
        done: share of the epoch that is behind.
        losses: of its last batch.
    """

    number: int
    epoch: int
    done: float
    learning_rate: float
    losses: Losses


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where training is: the optimizer step and the batch that comes next."""

    epoch: int = 0
    batch: int = 0
    step: int = 0


# What AdamW keeps of each parameter: its name, and which of the accumulators.
_ACCUMULATOR = re.compile(r"(.+)(_(?:moment[12]|beta[12]_pow_acc)_0)")


class Trainable(Protocol):
    """A network to train; a `QuantizedNetwork`, or one without quanters."""

    @property
    def network(self) -> Any:
        """PaddleSpeech's network."""

    @property
    def edges(self) -> Mapping[str, ActivationQuanter]:
        """Quanters whose ranges are trained along."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainNetwork:
    """A network that is trained in float, such as a pruned one."""

    network: Any
    edges: Mapping[str, ActivationQuanter] = field(default_factory=dict)


def steps_of(data: TrainingSet, settings: Training) -> int:
    """Optimizer steps of a whole training."""
    return sum(
        math.ceil(len(data.groups(epoch)) / settings.accumulate) for epoch in range(settings.epochs)
    )


class Trainer:
    """Trains a network in place.

    Args:
        subject: a calibrated `QuantizedNetwork`, or a `PlainNetwork`.
        teacher: the FP32 network, or None where there is no distillation.
        settings: checked.
        data: what to train on.
        workers: the processes that train together; None for this one alone.
        contexts: how far a U2 encoder sees, batch by batch in turn, teacher and network alike; by
            default what PaddleSpeech draws in training, with a teacher that sees everything.
        masks: weights that are zero and stay so.
    """

    def __init__(
        self,
        subject: Trainable,
        teacher: Any | None,
        settings: Training,
        data: TrainingSet,
        workers: Workers | None = None,
        contexts: Sequence[Context] = (TRAINING_CONTEXT,),
        masks: Masks | None = None,
    ) -> None:
        self._network, self._teacher, self._masks = subject.network, teacher, masks
        self._settings, self._data = settings, data
        self._workers, self._contexts = workers or Workers(), tuple(contexts)
        self.progress = Progress()
        self.total_steps = max(1, steps_of(data, settings))
        self._trained = [p for p in self._network.parameters() if not p.stop_gradient]
        ranges = {q.absmax.name for q in subject.edges.values()}
        self._averaged_ranges = [
            q.absmax for q in subject.edges.values() if q.update == "moving_average"
        ]
        self._schedule = paddle.optimizer.lr.LambdaDecay(1.0, self._learning_rate)
        self._optimizer = paddle.optimizer.AdamW(
            self._schedule,
            parameters=self._trained,
            weight_decay=settings.weight_decay,
            grad_clip=paddle.nn.ClipGradByGlobalNorm(settings.gradient_clip),
            # Decay would pull ranges towards zero and norms' gains with them.
            apply_decay_param_fun=lambda name: name not in ranges,
        )

        self._scaler = paddle.amp.GradScaler(enable=settings.amp)
        self._dropout = DropoutSource()

    def steps(self) -> Iterator[Step]:
        """Train to the end of the present epoch, from where `progress` stands.

        Yields:
            after each optimizer step, `progress` then being where a resumed run would go on.
        Raises:
            TrainingFailed: a loss that is not finite.
        """
        self._network.train()
        with self._quick():
            yield from self._epoch()
        self._network.eval()

    @contextlib.contextmanager
    def _quick(self) -> Iterator[None]:
        """All that makes a step faster and leaves its numbers alone."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(threads(self._settings.threads))
            stack.enter_context(kept_memory())
            stack.enter_context(quick_layers(self._network, self._dropout))
            if self._teacher is not None:
                stack.enter_context(quick_layers(self._teacher, self._dropout))
            yield

    def _epoch(self) -> Iterator[Step]:
        epoch, accumulate = self.progress.epoch, self._settings.accumulate
        first, step = self.progress.batch, self.progress.step
        count = len(self._data.groups(epoch))
        share = self._workers.share
        batches = self._data.batches(epoch, first=first, share=share)
        for number, batch in enumerate(batches, start=first):
            # Dropout must not depend on what ran before, or a resumed run would differ.
            key = (self._settings.seed, epoch, number, self._workers.rank)
            self._dropout.seed(*key)
            paddle.seed(int(np.random.default_rng(key).integers(2**31)))
            context = self._contexts[number % len(self._contexts)]
            losses = self._backward(batch, accumulate, context)
            if not math.isfinite(losses.total):
                raise TrainingFailed(
                    f"epoch {epoch}, batch {number}: loss is {losses.total}",
                    hint="lower training.learning_rate",
                )
            last = number + 1 == count
            if (number + 1) % accumulate == 0 or last:
                rate = float(self._schedule())
                self._update()
                step += 1
                self.progress = Progress(
                    epoch=epoch + last, batch=0 if last else number + 1, step=step
                )
                done = (number + 1) / count
                yield Step(number=step, epoch=epoch, done=done, learning_rate=rate, losses=losses)

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs, for ``paddle.save``."""
        return {
            "network": self._network.state_dict(),
            "optimizer": self._renamed(self._optimizer.state_dict(), to_structured=True),
            "progress": (self.progress.epoch, self.progress.batch, self.progress.step),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._network.set_state_dict(state["network"])
        self._optimizer.set_state_dict(self._renamed(state["optimizer"], to_structured=False))
        epoch, batch, step = state["progress"]
        self.progress = Progress(epoch=epoch, batch=batch, step=step)

    def _renamed(self, state: dict[str, Any], *, to_structured: bool) -> dict[str, Any]:
        """Optimizer state by structured names instead of Paddle's running numbers, or back.

        Paddle numbers the tensors of a process; a resumed one may have built other networks
        before this one.
        """
        pairs = [(tensor.name, name) for name, tensor in self._network.named_parameters()]
        names = dict(pairs) if to_structured else {name: number for number, name in pairs}
        renamed = {}
        for key, value in state.items():
            found = _ACCUMULATOR.fullmatch(key)
            if found and found[1] in names:
                renamed[names[found[1]] + found[2]] = value
            elif key == "master_weights":  # of mixed precision
                renamed[key] = {names[name]: tensor for name, tensor in value.items()}
            else:
                renamed[key] = value
        return renamed

    def _learning_rate(self, step: int) -> float:
        """Linear warm-up, then a half cosine down to 1 % (Loshchilov & Hutter, 2017)."""
        peak = self._settings.learning_rate
        warmup = min(self._settings.warmup_steps, self.total_steps // 2)
        if step < warmup:
            return peak * (step + 1) / warmup
        done = (step - warmup) / max(1, self.total_steps - warmup)
        return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))

    def _backward(self, batch: Batch | None, accumulate: int, context: Context) -> Losses:
        """Gradients of this worker's share; the losses of the whole batch."""
        names = [item.name for item in fields(Losses)]
        values: list[float | None] = [0.0] * len(names)
        if batch is not None:
            with paddle.amp.auto_cast(enable=self._settings.amp):
                losses, total = self._losses(batch, context)
            self._scaler.scale(total * (batch.weight / accumulate)).backward()
            values = [getattr(losses, name) for name in names]
        weight = 0.0 if batch is None else batch.weight
        summed = self._workers.totals([weight * (value or 0.0) for value in values])
        absent = {
            "attention": not has_attention_loss(self._network),
            "distillation": not self._teacher,
        }
        return Losses(
            **{
                name: None if absent.get(name) else value
                for name, value in zip(names, summed, strict=True)
            }  # type: ignore[arg-type]
        )

    def _update(self) -> None:
        """One optimizer step with the gradients of all workers."""
        self._workers.sum_gradients(self._trained)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.clear_grad()
        self._schedule.step()
        if self._masks is not None:
            self._masks.apply()
        # Each worker's moving averages saw its own share only; learned ranges have a gradient.
        self._workers.average(self._averaged_ranges)

    def _losses(self, batch: Batch, context: Context) -> tuple[Losses, Any]:
        """The checkpoint's own loss and the imitation of the teacher."""
        network = self._network
        speech, lengths = paddle.to_tensor(batch.features), paddle.to_tensor(batch.lengths)
        text, text_lengths = paddle.to_tensor(batch.tokens), paddle.to_tensor(batch.token_lengths)
        encoded = encode(network, speech, lengths, context)
        task = task_loss(network, encoded, text, text_lengths)
        share, imitation = self._settings.distillation, None
        total = task.total
        if self._teacher is not None:
            seen = FULL_CONTEXT if context == TRAINING_CONTEXT else context
            imitation = self._imitation(encoded, speech, lengths, seen)
            total = (1 - share) * total + share * imitation
        losses = Losses(
            total=float(total),
            ctc=float(task.ctc),
            attention=None if task.attention is None else float(task.attention),
            distillation=None if imitation is None else float(imitation),
        )
        return losses, total

    def _imitation(self, encoded: Encoded, speech: Any, lengths: Any, context: Context) -> Any:
        """KL(teacher || student) of the frame posteriors (Hinton et al. 2015, arXiv:1503.02531).

        Summed over an utterance's frames like the CTC loss, averaged over the batch.
        """
        temperature, teacher = self._settings.temperature, self._teacher
        assert teacher is not None
        with paddle.no_grad():
            wanted = encode(teacher, speech, lengths, context).hidden
            target = F.log_softmax(head_of(teacher)(wanted) / temperature, axis=-1)
        student = F.log_softmax(head_of(self._network)(encoded.hidden) / temperature, axis=-1)
        per_frame = (target.exp() * (target - student)).sum(-1)
        kept = _valid(encoded, per_frame.shape[1])
        distance = (per_frame * kept).sum() / len(speech) * temperature**2
        if not self._settings.hidden_distillation:
            return distance
        # Squared distance of hidden states of width D, per frame, relative to their own size.
        apart = ((encoded.hidden - wanted) ** 2).sum(-1) / (wanted**2).sum(-1)
        return distance + self._settings.hidden_distillation * (apart * kept).sum() / len(speech)


def _valid(encoded: Encoded, frames: int) -> Any:
    """1.0 on an utterance's own frames and 0.0 on padding, (batch, frames)."""
    return (paddle.arange(frames).unsqueeze(0) < encoded.lengths.unsqueeze(1)).astype("float32")


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write a training state under a temporary name and rename it.

    Raises:
        FileFailed: the system refuses.
    """
    temporary = temporary_beside(path)
    with writing(path):
        try:
            paddle.save(state, str(temporary))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
