"""The acoustic model: an ONNX graph from features to CTC log-probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from asrcompress.bundle_manifest import BundleManifest, TensorSpec
from asrcompress.errors import BadBundle

T = TypeVar("T")

# ONNX Runtime's exceptions have no common base but Exception, and each release adds some.
_ORT_ERRORS = tuple(
    item
    for item in vars(ort_errors).values()
    if isinstance(item, type) and issubclass(item, Exception)
)
_DTYPES = {"tensor(float)": "float32", "tensor(int64)": "int64"}
_SEVERITY_ERROR = 3


class OnnxAcousticModel:
    """An ONNX graph ``(x, x_lens) -> (log_probs, log_probs_lens)``; names are free, order is not.

    Attributes:
        inputs, outputs: as the graph declares them.
        fixed_batch: the only batch size that the graph takes, or None where it is free.
    """

    def __init__(self, path: Path, *, threads: int = 1, spin: bool = False) -> None:
        """Load a graph.

        Args:
            threads: that work on one operator.
            spin: let idle threads poll instead of sleeping: a little faster, at a full core each.
        Raises:
            BadBundle: not a graph, not loadable, or with other inputs and outputs.
        """
        self._path = path
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _SEVERITY_ERROR
        # Recordings differ in length; a memory pattern would be planned and kept for each length.
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
        self._session: onnxruntime.InferenceSession = self._mapped(
            lambda: onnxruntime.InferenceSession(
                str(path), sess_options=options, providers=["CPUExecutionProvider"]
            )
        )
        self.inputs = self._tensors("inputs", self._session.get_inputs())
        self.outputs = self._tensors("outputs", self._session.get_outputs())
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
        if not batch:
            return []
        size = self.fixed_batch or len(batch)
        if self.fixed_batch not in (None, 1):
            raise BadBundle(f"{self._path}: batch of {size} only, expected 1 or any number")
        results: list[np.ndarray] = []
        for first in range(0, len(batch), size):
            results += self._run(batch[first : first + size])
        return results

    def check_against(self, manifest: BundleManifest) -> None:
        """Refuse a graph that is not what its manifest says.

        Raises:
            BadBundle: other names, types, feature or vocabulary size than the manifest's.
        """
        for side in ("inputs", "outputs"):
            declared, seen = getattr(manifest, side), getattr(self, side)
            if [_fixed(t) for t in declared] != [_fixed(t) for t in seen]:
                raise BadBundle(
                    f"{self._path}: {side} are {_shown(seen)}, expected {_shown(declared)}"
                )
        for name, dims, expected in (
            ("features", self.inputs[0].dims, manifest.features.n_mels),
            ("vocabulary", self.outputs[0].dims, manifest.vocab_size),
        ):
            if isinstance(dims[2], int) and dims[2] != expected:
                raise BadBundle(f"{self._path}: {name} of size {dims[2]}, expected {expected}")

    def _run(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        lengths = np.array([len(features) for features in batch], np.int64)
        padded = np.zeros((len(batch), int(lengths.max()), batch[0].shape[1]), np.float32)
        for row, features in zip(padded, batch, strict=True):
            row[: len(features)] = features
        feed = {self.inputs[0].name: padded, self.inputs[1].name: lengths}
        log_probs, kept = self._mapped(lambda: self._session.run(None, feed))
        if log_probs.ndim != 3 or kept.shape != (len(batch),) or len(log_probs) != len(batch):
            raise BadBundle(f"{self._path}: gave shapes {log_probs.shape} and {kept.shape}")
        if (kept < 0).any() or (kept > log_probs.shape[1]).any():
            raise BadBundle(f"{self._path}: gave lengths {kept.tolist()} of {log_probs.shape[1]}")
        results = [row[:n] for row, n in zip(log_probs, kept, strict=True)]
        if any(np.isnan(result).any() for result in results):
            raise BadBundle(f"{self._path}: gave NaN, expected log-probabilities")
        return results

    def _tensors(self, side: str, nodes: Sequence[onnxruntime.NodeArg]) -> tuple[TensorSpec, ...]:
        """The graph's inputs or outputs: a (N, T, C) float tensor and its int64 lengths."""
        kinds = [(node.type, len(node.shape)) for node in nodes]
        if kinds != [("tensor(float)", 3), ("tensor(int64)", 1)]:
            seen = ", ".join(f"{node.name} {node.type}{node.shape}" for node in nodes)
            raise BadBundle(
                f"{self._path}: {side} are {seen}, expected tensor(float) (N, T, C) "
                "and tensor(int64) (N)"
            )
        return tuple(
            TensorSpec(
                name=node.name,
                dtype=_DTYPES[node.type],
                dims=tuple(dim if isinstance(dim, int) else str(dim) for dim in node.shape),
            )
            for node in nodes
        )

    def _mapped(self, call: Callable[[], T]) -> T:
        """The one place where ONNX Runtime is called, and where its exceptions become ours."""
        try:
            return call()
        except _ORT_ERRORS as error:
            reason = " ".join(str(error).split())
            raise BadBundle(f"{self._path}: ONNX Runtime refuses it, {reason}") from error


def _fixed(tensor: TensorSpec) -> tuple[str, str, tuple[int | None, ...]]:
    """A tensor without the names of its free dimensions, which mean nothing."""
    dims = tuple(dim if isinstance(dim, int) else None for dim in tensor.dims)
    return tensor.name, tensor.dtype, dims


def _shown(tensors: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{t.name} {t.dtype}{list(t.dims)}" for t in tensors)
