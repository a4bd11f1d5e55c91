"""One ONNX graph in ONNX Runtime: the only module that calls it, and maps what it raises."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnxruntime

from asrcompress import process_memory
from asrcompress.bundles.manifest import TensorSpec
from asrcompress.bundles.onnx_header import read_metadata
from asrcompress.errors import BadBundle
from asrcompress.onnxruntime_errors import ORT_ERRORS
from asrcompress.onnxruntime_optimizers import DONE_AHEAD, OPTIMIZED_KEY
from asrcompress.runtime.mapped_weights import map_weights

T = TypeVar("T")

_DTYPES = {"tensor(float)": "float32", "tensor(int64)": "int64", "tensor(bool)": "bool"}
_SEVERITY_ERROR = 3
# The first release that loads a graph from memory and its weights from a folder.
_MAPS_WEIGHTS = (1, 21)


class OnnxGraph:
    """A loaded graph.

    Attributes:
        path: its file.
        inputs, outputs: as the graph declares them.
    """

    def __init__(self, path: Path, *, threads: int = 1, exact_sums: bool = True) -> None:
        """Load a graph.

        Args:
            threads: that work on one operator. Those without work poll for it while the graph
                runs, and sleep between two runs.
            exact_sums: on x86 without VNNI, add int8 products without saturation, at half the
                speed. Nothing changes elsewhere, and weights of 7 bits do not need it.
        Raises:
            BadBundle: not a graph, not loadable, or with tensors of a type that is not known here.
        """
        self.path = path
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _SEVERITY_ERROR
        # Recordings differ in length; a memory pattern would be planned and kept for each length.
        options.enable_mem_pattern = False
        # Two threads that had to be woken for each operator took a sixth longer for short audio.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # Measured on AVX2 with 8-bit weights: log-probabilities are 0.1 to 0.25 nats off without.
        options.add_session_config_entry("session.x64quantprecision", str(int(exact_sums)))
        self._session = self._load(options)
        # Whatever was not mapped, as it was before it was packed.
        process_memory.give_back()
        self.inputs = self._tensors("inputs", self._session.get_inputs())
        self.outputs = self._tensors("outputs", self._session.get_outputs())

    def run(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """All outputs, in order.

        Raises:
            BadBundle: the graph fails.
        """
        outputs: list[np.ndarray] = self._mapped(lambda: self._session.run(None, dict(feed)))
        return outputs

    def check_against(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        """Refuse a graph that is not what its manifest says.

        Raises:
            BadBundle: other names, types or fixed sizes.
        """
        for side, declared, seen in (
            ("inputs", inputs, self.inputs),
            ("outputs", outputs, self.outputs),
        ):
            if [_fixed(t) for t in declared] != [_fixed(t) for t in seen]:
                raise BadBundle(
                    f"{self.path}: {side} are {shown(seen)}, expected {shown(declared)}"
                )

    def _load(self, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
        """Session of the file; with its weights mapped where ONNX Runtime can do so.

        Some of its optimizers read a weight that lies outside as if it were empty, and fail (seen
        in 1.23): so only where most have nothing to do, and are left out; and where one of the
        others fails all the same, the file is loaded as it is.
        """
        if not (_can_map_weights() and OPTIMIZED_KEY in read_metadata(self.path)):
            return self._session_of(str(self.path), options)
        graph = map_weights(self.path)
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(graph.folder)
        )
        try:
            return self._session_of(graph.model, options, DONE_AHEAD)
        except BadBundle:
            return self._session_of(str(self.path), options, DONE_AHEAD)

    def _session_of(
        self, model: str | bytes, options: onnxruntime.SessionOptions, needless: Sequence[str] = ()
    ) -> onnxruntime.InferenceSession:
        """Session of a file or a message, without some optimizers."""
        return self._mapped(
            lambda: onnxruntime.InferenceSession(
                model,
                sess_options=options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=list(needless),
            )
        )

    def _tensors(self, side: str, nodes: Sequence[onnxruntime.NodeArg]) -> tuple[TensorSpec, ...]:
        if any(node.type not in _DTYPES for node in nodes):
            seen = ", ".join(f"{node.name} {node.type}{node.shape}" for node in nodes)
            raise BadBundle(
                f"{self.path}: {side} are {seen}, expected tensors of {', '.join(_DTYPES)}"
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
        try:
            return call()
        except ORT_ERRORS as error:
            reason = " ".join(str(error).split())
            raise BadBundle(f"{self.path}: ONNX Runtime refuses it, {reason}") from error


def _can_map_weights() -> bool:
    numbers = re.findall(r"\d+", onnxruntime.__version__)
    return tuple(int(number) for number in numbers[:2]) >= _MAPS_WEIGHTS


def shown(tensors: Sequence[TensorSpec]) -> str:
    """Tensors as messages spell them: ``x float32['N', 'T', 80]``."""
    return ", ".join(f"{t.name} {t.dtype}{list(t.dims)}" for t in tensors)


def _fixed(tensor: TensorSpec) -> tuple[str, str, tuple[int | None, ...]]:
    """A tensor without the names of its free dimensions, which mean nothing."""
    dims = tuple(dim if isinstance(dim, int) else None for dim in tensor.dims)
    return tensor.name, tensor.dtype, dims
