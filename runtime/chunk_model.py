"""Graphs that take features chunk by chunk, each with its own memory of earlier chunks.

A `ChunkModel` computes one step. `ChunkWalk` cuts features that arrive in any pieces into windows,
keeps the state between steps, and takes what is left at the end as a shorter last window, so that
every output frame that the whole recording has comes out, as in PaddleSpeech's
``forward_chunk_by_chunk``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from asrcompress.bundles.manifest import StreamingModel
from asrcompress.checkpoints.attention_decoder import EncodedUtterance
from asrcompress.errors import BadAudio, BadBundle
from asrcompress.runtime.graph import OnnxGraph

State = tuple[np.ndarray, ...]
"""What a model remembers; opaque to everybody else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a chunk gave.

    Attributes:
        log_probs: float32 (output frames, vocabulary), natural log.
        hidden: the encoder's output (output frames, width), where the graph gives it.
        state: for the next chunk.
    """

    log_probs: np.ndarray
    hidden: np.ndarray | None
    state: State


class ChunkModel(Protocol):
    """One step of a streaming network.

    Attributes:
        spec: sizes of windows and chunks.
    """

    spec: StreamingModel

    def start(self) -> State:
        """The state before the first chunk."""

    def step(self, frames: np.ndarray, state: State) -> Step:
        """One chunk.

        Args:
            frames: features, float32 (n_frames, n_mels), ``spec.context_frames`` of them at
                least; ``spec.window_frames`` but for the last chunk.
            state: from `start` or the step before.
        """


class _StatefulGraph:
    """A graph ``(features, *state) -> (log_probs, [hidden], *state)``."""

    def __init__(
        self, path: Path, spec: StreamingModel, *, threads: int = 1, exact_sums: bool = True
    ) -> None:
        """Load the graph; see `OnnxGraph`.

        Raises:
            BadBundle: not loadable, or not what `spec` says.
        """
        self.spec = spec
        self._graph = OnnxGraph(path, threads=threads, exact_sums=exact_sums)
        self._graph.check_against(spec.inputs, spec.outputs)
        self._has_hidden = any(item.name == "hidden" for item in spec.outputs)

    def _run(self, values: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None, State]:
        graph = self._graph
        names = [item.name for item in graph.inputs]
        log_probs, *rest = graph.run(dict(zip(names, values, strict=True)))
        if log_probs.ndim != 3 or len(log_probs) != 1 or np.isnan(log_probs).any():
            raise BadBundle(f"{graph.path}: gave {log_probs.shape} or NaN, expected log_probs")
        hidden = rest.pop(0)[0] if self._has_hidden else None
        return log_probs[0], hidden, tuple(rest)

    def _empty(self, positions: range) -> State:
        """Zeros for some inputs; nothing in dimensions that are free."""
        return tuple(
            np.zeros([d if isinstance(d, int) else 0 for d in item.dims], np.float32)
            for item in (self._graph.inputs[position] for position in positions)
        )


class U2ChunkModel(_StatefulGraph):
    """U2 encoder: ``(x, offset, required_cache_size, *caches, attn_mask)``.

    The state is the offset and the caches, the attention's first.
    """

    def start(self) -> State:
        """No output frame yet, nothing in the caches but silence for the convolutions."""
        caches = range(3, len(self._graph.inputs) - 1)
        return (np.zeros(1, np.int64), *self._empty(caches))

    def step(self, frames: np.ndarray, state: State) -> Step:
        """See `ChunkModel`."""
        offset, *caches = state
        spec = self.spec
        outputs = outputs_of(spec, len(frames))
        keep = -1 if spec.left_chunks < 0 else spec.left_chunks * spec.chunk_size
        mask = np.ones((1, 1, caches[0].shape[2] + outputs), bool)
        log_probs, hidden, following = self._run(
            [frames[None], offset, np.array([keep], np.int64), *caches, mask]
        )
        return Step(log_probs=log_probs, hidden=hidden, state=(offset + len(log_probs), *following))


class RecurrentChunkModel(_StatefulGraph):
    """Online DeepSpeech2: ``(x, h)`` or ``(x, h, c)``, states of fixed size that start as zeros."""

    def start(self) -> State:
        """Zeros."""
        return self._empty(range(1, len(self._graph.inputs)))

    def step(self, frames: np.ndarray, state: State) -> Step:
        """See `ChunkModel`."""
        log_probs, hidden, following = self._run([frames[None], *state])
        return Step(log_probs=log_probs, hidden=hidden, state=following)


_MODELS: dict[str, type[U2ChunkModel] | type[RecurrentChunkModel]] = {
    "u2": U2ChunkModel,
    "deepspeech2": RecurrentChunkModel,
}


def open_chunk_model(
    path: Path, spec: StreamingModel, *, threads: int = 1, exact_sums: bool = True
) -> ChunkModel:
    """The model that a bundle's manifest describes.

    Raises:
        BadBundle: the graph cannot be loaded, or is not what `spec` says.
    """
    return _MODELS[spec.kind](path, spec, threads=threads, exact_sums=exact_sums)


def outputs_of(spec: StreamingModel, n_frames: int) -> int:
    """Output frames of a window of `n_frames` feature frames."""
    return max(0, 1 + (n_frames - spec.context_frames) // spec.subsampling_factor)


class ChunkWalk:
    """Features in pieces of any size, cut into the windows of a model.

    Attributes:
        position: feature frames that are decoded, from the beginning of the stream.
    """

    def __init__(self, model: ChunkModel) -> None:
        self._model, self.position = model, 0
        self._waiting: list[np.ndarray] = []
        self._n_waiting = 0
        self.restart()

    def restart(self) -> None:
        """Forget what was heard. Features that were not decoded yet stay."""
        self._state, self._outputs = self._model.start(), 0

    def push(self, frames: np.ndarray) -> None:
        """Features that follow the earlier ones, float32 (n_frames, n_mels)."""
        if len(frames):
            self._waiting.append(frames)
            self._n_waiting += len(frames)

    def ready(self, *, ending: bool = False) -> int:
        """Frames that the next step would take; 0 where it must wait for more.

        Args:
            ending: nothing more will come, so the rest is taken as it is.
        """
        spec = self._model.spec
        if self._n_waiting >= spec.window_frames:
            return spec.window_frames
        return self._n_waiting if ending and self._n_waiting >= spec.context_frames else 0

    def fits(self, n_frames: int) -> bool:
        """Whether a step of `n_frames` is possible without a restart."""
        most = self._model.spec.max_outputs
        return most is None or self._outputs + outputs_of(self._model.spec, n_frames) <= most

    def step(self, n_frames: int) -> Step:
        """Decode the next `n_frames`, as `ready` said."""
        waiting = np.concatenate(self._waiting)
        done = self._model.step(waiting[:n_frames], self._state)
        hop = min(self._model.spec.hop_frames, n_frames)
        self._waiting, self._n_waiting = [waiting[hop:]], len(waiting) - hop
        self._state, self._outputs = done.state, self._outputs + len(done.log_probs)
        self.position += hop
        return done


class ChunkedAcousticModel:
    """A streaming model behind the interface for whole utterances: what the stream would give."""

    def __init__(self, model: ChunkModel) -> None:
        self._model = model

    def log_probs(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Log-probabilities of recordings, each taken chunk by chunk from a fresh start.

        Args:
            batch: features, float32, each of shape (n_frames, n_mels).
        Raises:
            BadAudio: a recording that is too short for one output frame, or too long.
        """
        return [item.log_probs for item in self.encode(batch)]

    def encode(self, batch: Sequence[np.ndarray]) -> list[EncodedUtterance]:
        """As `log_probs`, with the hidden states where the graph gives them."""
        return [self._one(features) for features in batch]

    def _one(self, features: np.ndarray) -> EncodedUtterance:
        walk, found = ChunkWalk(self._model), []
        walk.push(features)
        while n_frames := walk.ready(ending=True):
            if not walk.fits(n_frames):
                raise BadAudio(f"features: too long for one segment, got {len(features)} frames")
            found.append(walk.step(n_frames))
        if not found:
            least = self._model.spec.context_frames
            raise BadAudio(f"features: got {len(features)} frames, expected at least {least}")
        return joined(found)


def joined(steps: Sequence[Step]) -> EncodedUtterance:
    """The utterance that some chunks make up."""
    hidden = [step.hidden for step in steps if step.hidden is not None]
    return EncodedUtterance(
        log_probs=np.concatenate([step.log_probs for step in steps]),
        hidden=np.concatenate(hidden) if hidden else None,
    )
