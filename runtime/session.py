"""The acoustic model: an ONNX graph from features to CTC log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from asrcompress.bundles.manifest import BundleManifest
from asrcompress.bundles.onnx_header import read_opset
from asrcompress.checkpoints.attention_decoder import EncodedUtterance
from asrcompress.errors import BadBundle
from asrcompress.runtime.graph import OnnxGraph, shown

# A tensor and its lengths.
_PAIR = [("float32", 3), ("int64", 1)]


class OnnxAcousticModel:
    """An ONNX graph ``(x, x_lens) -> (log_probs, log_probs_lens)``; names are free, order is not.

    A third output holds the hidden states that an attention decoder reads.

    Attributes:
        inputs, outputs: as the graph declares them.
        fixed_batch: the only batch size that the graph takes, or None where it is free.
    """

    def __init__(self, path: Path, *, threads: int = 1, exact_sums: bool = True) -> None:
        """Load a graph; see `OnnxGraph`.

        Raises:
            BadBundle: not a graph, not loadable, or with other inputs and outputs.
        """
        self._path = path
        self._graph = OnnxGraph(path, threads=threads, exact_sums=exact_sums)
        self.inputs, self.outputs = self._graph.inputs, self._graph.outputs
        for side, tensors in (("inputs", self.inputs), ("outputs", self.outputs[:2])):
            if [(t.dtype, len(t.dims)) for t in tensors] != _PAIR:
                raise BadBundle(
                    f"{path}: {side} are {shown(tensors)}, expected float32 (N, T, C) and int64 (N)"
                )
        others = self.outputs[2:]
        if len(others) > 1 or any((t.dtype, len(t.dims)) != _PAIR[0] for t in others):
            raise BadBundle(
                f"{path}: also gives {shown(others)}, expected hidden states (N, T, D) or nothing"
            )
        batch, n_frames, _ = self.inputs[0].dims
        if isinstance(n_frames, int):
            raise BadBundle(f"{path}: takes {n_frames} frames only, expected any number")
        self.fixed_batch = batch if isinstance(batch, int) else None

    def log_probs(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        """CTC log-probabilities of some recordings, run together where the graph allows it.

        Args:
            batch: features, float32, each of shape (n_frames, n_mels).
        Returns:
            float32 arrays (n_output_frames, vocab_size), natural log, in the order of `batch`.
        Raises:
            BadBundle: the graph fails, or gives NaN or impossible lengths.
        """
        return [item.log_probs for item in self.encode(batch)]

    def encode(self, batch: Sequence[np.ndarray]) -> list[EncodedUtterance]:
        """As `log_probs`, with the hidden states where the graph gives them."""
        if not batch:
            return []
        size = self.fixed_batch or len(batch)
        if self.fixed_batch not in (None, 1):
            raise BadBundle(f"{self._path}: batch of {size} only, expected 1 or any number")
        results: list[EncodedUtterance] = []
        for first in range(0, len(batch), size):
            results += self._run(batch[first : first + size])
        return results

    def check_against(self, manifest: BundleManifest) -> None:
        """Refuse a graph that is not what its manifest says.

        Raises:
            BadBundle: other opset, names, types, feature or vocabulary size than the manifest's.
        """
        opset = read_opset(self._path)
        if opset != manifest.opset:
            raise BadBundle(f"{self._path}: has opset {opset}, expected {manifest.opset}")
        self._graph.check_against(manifest.inputs, manifest.outputs)
        for name, dims, expected in (
            ("features", self.inputs[0].dims, manifest.features.width),
            ("vocabulary", self.outputs[0].dims, manifest.vocab_size),
        ):
            if isinstance(dims[2], int) and dims[2] != expected:
                raise BadBundle(f"{self._path}: {name} of size {dims[2]}, expected {expected}")

    def _run(self, batch: Sequence[np.ndarray]) -> list[EncodedUtterance]:
        lengths = np.array([len(features) for features in batch], np.int64)
        padded = np.zeros((len(batch), int(lengths.max()), batch[0].shape[1]), np.float32)
        for row, features in zip(padded, batch, strict=True):
            row[: len(features)] = features
        feed: dict[str, np.ndarray] = {self.inputs[0].name: padded}
        feed[self.inputs[1].name] = lengths
        log_probs, kept, *others = self._graph.run(feed)
        if log_probs.ndim != 3 or kept.shape != (len(batch),) or len(log_probs) != len(batch):
            raise BadBundle(f"{self._path}: gave shapes {log_probs.shape} and {kept.shape}")
        if (kept < 0).any() or (kept > log_probs.shape[1]).any():
            raise BadBundle(f"{self._path}: gave lengths {kept.tolist()} of {log_probs.shape[1]}")
        if any(states.shape[:2] != log_probs.shape[:2] for states in others):
            raise BadBundle(f"{self._path}: gave {others[0].shape} beside {log_probs.shape}")
        hidden = others[0] if others else [None] * len(batch)
        results = [
            EncodedUtterance(
                log_probs=row[:n], hidden=None if states is None else np.array(states[:n])
            )
            for row, states, n in zip(log_probs, hidden, kept, strict=True)
        ]
        if any(np.isnan(result.log_probs).any() for result in results):
            raise BadBundle(f"{self._path}: gave NaN, expected log-probabilities")
        return results
