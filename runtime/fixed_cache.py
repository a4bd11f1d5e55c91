"""The streaming graph as sherpa-onnx and WeNet feed it: a cache of fixed size from the beginning.

It is full of zeros, the mask hides what was never heard, and offsets count from its length. What
comes out is what `asrcompress.runtime.chunk_model` gets from a cache that grows, where the graph
counts positions from the first frame (`asrcompress.export.sherpa.count_from_cache`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from asrcompress.bundles.manifest import StreamingModel
from asrcompress.runtime.chunk_model import State, Step, outputs_of
from asrcompress.runtime.graph import OnnxGraph


class FixedCacheModel:
    """A graph ``(x, offset, required_cache_size, attn_cache, conv_cache, attn_mask)``.

    Attributes:
        spec: sizes of windows and chunks; ``left_chunks`` is how long the cache is.
    """

    def __init__(
        self, path: Path, spec: StreamingModel, *, threads: int = 1, exact_sums: bool = True
    ) -> None:
        """Load the graph; see `OnnxGraph`.

        Raises:
            BadBundle: not loadable.
        """
        self.spec = spec
        self._graph = OnnxGraph(path, threads=threads, exact_sums=exact_sums)

    @property
    def _cached(self) -> int:
        return self.spec.left_chunks * self.spec.chunk_size

    def start(self) -> State:
        """Zeros, at an offset of the cache's length."""
        attention, convolution = self._graph.inputs[3:5]
        shape = [d if isinstance(d, int) else self._cached for d in attention.dims]
        fixed = [d for d in convolution.dims if isinstance(d, int)]
        offset = np.array([self._cached], np.int64)
        return offset, np.zeros(shape, np.float32), np.zeros(fixed, np.float32)

    def step(self, frames: np.ndarray, state: State) -> Step:
        """See `asrcompress.runtime.chunk_model.ChunkModel`."""
        offset, attention, convolution = state
        outputs = outputs_of(self.spec, len(frames))
        mask = np.ones((1, 1, self._cached + outputs), bool)
        # Of the cache only its end was heard: offset - cached frames, at most all of it.
        mask[..., : max(0, 2 * self._cached - int(offset[0]))] = False
        required = np.array([self._cached], np.int64)
        values = [frames[None], offset, required, attention, convolution, mask]
        names = [item.name for item in self._graph.inputs]
        log_probs, attention, convolution = self._graph.run(dict(zip(names, values, strict=True)))
        following = (offset + log_probs.shape[1], attention, convolution)
        return Step(log_probs=log_probs[0], hidden=None, state=following)
