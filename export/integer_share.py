"""Which kernels really run: the share of multiply-accumulates executed on integers.

A model file full of int8 weights proves nothing: ONNX Runtime may dequantize them and multiply in
float. So the model is executed with ONNX Runtime's profiler on, which logs every kernel of the
*optimized* graph with the shapes it saw, and the multiply-accumulates are counted from that log.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from asrcompress.errors import ExportFailed, IntegerGateFailed
from asrcompress.export.initializers import initializers

# kernel -> (position of the weight or right operand, runs on integers)
_CONVOLUTIONS = {
    "Conv": (1, False),
    "FusedConv": (1, False),
    "NhwcFusedConv": (1, False),
    "QLinearConv": (3, True),
    "ConvInteger": (1, True),
}
_PRODUCTS = {
    "MatMul": False,
    "FusedMatMul": False,
    "Gemm": False,
    "FusedGemm": False,
    "MatMulInteger": True,
    "MatMulIntegerToFloat": True,
    "DynamicQuantizeMatMul": True,
    "QLinearMatMul": True,
    "QGemm": True,
}
_SIDES = ("input", "output")
# kernel -> (gates, runs on integers)
_RECURRENT = {"LSTM": (4, False), "DynamicQuantizeLSTM": (4, True), "GRU": (3, False)}
# Kernels that multiply but are not understood here must not pass for "nothing to count".
_UNCOUNTED = {"RNN", "Attention", "QAttention", "Einsum"}


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelCount:
    """One kind of kernel in the optimized graph."""

    kernel: str
    integer: bool
    calls: int
    macs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerShare:
    """What ONNX Runtime executed.

    Attributes:
        kernels: every multiplying kernel, most multiply-accumulates first.
        float_nodes: names of the nodes that multiplied in float.
        bytes_by_dtype: initializers of the model file.
        frames: feature frames of the utterance that was run.
    """

    kernels: tuple[KernelCount, ...]
    float_nodes: tuple[str, ...]
    bytes_by_dtype: Mapping[str, int]
    frames: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one utterance."""
        return sum(item.macs for item in self.kernels)

    @property
    def share(self) -> float:
        """Integer multiply-accumulates / all, 0 to 1."""
        return sum(item.macs for item in self.kernels if item.integer) / self.macs

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the share and the total spelled out."""
        return {**asdict(self), "share": self.share, "macs": self.macs}


def measure_integer_share(
    model: Path, *, frames: int = 1000, feed: Mapping[str, np.ndarray] | None = None
) -> IntegerShare:
    """Run `model` once under the profiler.

    Args:
        model: ONNX file with the interface of `asrcompress.export.onnx_graph`.
        frames: feature frames of 10 ms; attention's part grows with it.
        feed: inputs to run it on instead, for a graph with another interface; the first is the
            features.
    Raises:
        ExportFailed: ONNX Runtime cannot run it, or runs a kernel whose work is not known here.
    """
    loaded = onnx.load(model, load_external_data=False)
    if feed is None:
        feed = _random_utterance(loaded, frames)
    frames = next(iter(feed.values())).shape[1]
    with tempfile.TemporaryDirectory(prefix="asrcompress-") as folder:
        events, optimized = _profile(model, Path(folder), feed)
    counts, float_nodes = _count(events, optimized)
    if not counts:
        raise ExportFailed(f"{model}: ran no multiplying kernel")
    kernels = sorted(counts.values(), key=lambda item: -item.macs)
    return IntegerShare(
        kernels=tuple(kernels),
        float_nodes=tuple(float_nodes),
        bytes_by_dtype=_bytes_by_dtype(loaded),
        frames=frames,
    )


def check_integer_share(measured: IntegerShare, *, minimum: float) -> None:
    """The gate against "int8 in name only".

    Raises:
        IntegerGateFailed: the share is below `minimum`; names the nodes that stayed in float.
    """
    if measured.share < minimum:
        nodes = ", ".join(measured.float_nodes[:6]) or "none"
        raise IntegerGateFailed(
            f"integer share: got {measured.share:.3f} of the multiply-accumulates, "
            f"expected at least {minimum:.3f}; in float: {nodes}",
            hint="shorten quantization.skip, or lower gate.min_integer_share on purpose",
        )


def _random_utterance(model: onnx.ModelProto, frames: int) -> dict[str, np.ndarray]:
    features, lengths = model.graph.input
    n_mels = features.type.tensor_type.shape.dim[2].dim_value
    noise = np.random.default_rng(0).standard_normal((1, frames, n_mels), np.float32)
    return {features.name: noise, lengths.name: np.array([frames], np.int64)}


def _profile(
    model: Path, folder: Path, feed: Mapping[str, np.ndarray]
) -> tuple[list[dict[str, Any]], onnx.ModelProto]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    try:
        session = onnxruntime.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )
        session.run(None, dict(feed))
    # onnxruntime raises classes of a private module that derive from Exception directly.
    except Exception as error:
        raise ExportFailed(f"{model}: ONNX Runtime cannot run it, {error}") from error
    events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    return kernels, onnx.load(folder / "optimized.onnx", load_external_data=False)


def _count(
    events: list[dict[str, Any]], optimized: onnx.ModelProto
) -> tuple[dict[str, KernelCount], list[str]]:
    nodes = {node.name: node for node in optimized.graph.node}
    dims = {item.name: list(item.dims) for item in optimized.graph.initializer}
    counts: dict[str, KernelCount] = {}
    float_nodes = []
    for event in events:
        kernel = event["args"]["op_name"]
        name = event["name"].removesuffix("_kernel_time")
        if kernel in _UNCOUNTED:
            raise ExportFailed(f"{name}: {kernel} is a kernel whose work is not counted here")
        if kernel in _CONVOLUTIONS:
            position, integer = _CONVOLUTIONS[kernel]
            per_output = math.prod(dims[nodes[name].input[position]][1:])
        elif kernel in _PRODUCTS:
            integer = _PRODUCTS[kernel]
            per_output = _shape(event["args"]["input_type_shape"][0])[-1]
        elif kernel in _RECURRENT:
            gates, integer = _RECURRENT[kernel]
            # An output is made of all gates of its unit, which read the input and the state.
            inputs, hidden = (_shape(event["args"][f"{side}_type_shape"][0])[-1] for side in _SIDES)
            per_output = gates * (inputs + hidden)
        else:
            continue
        macs = math.prod(_shape(event["args"]["output_type_shape"][0])) * per_output
        before = counts.get(kernel)
        counts[kernel] = KernelCount(
            kernel=kernel,
            integer=integer,
            calls=1 + (before.calls if before else 0),
            macs=macs + (before.macs if before else 0),
        )
        if not integer:
            float_nodes.append(name)
    return counts, float_nodes


def _shape(typed: dict[str, list[int]]) -> list[int]:
    """Shape out of the profiler's ``{"uint8": [1, 249, 144]}``."""
    return next(iter(typed.values()))


def _bytes_by_dtype(model: onnx.ModelProto) -> dict[str, int]:
    totals: dict[str, int] = {}
    for item in initializers(model.graph):
        dtype = onnx.helper.tensor_dtype_to_np_dtype(item.data_type)
        totals[dtype.name] = totals.get(dtype.name, 0) + math.prod(item.dims) * dtype.itemsize
    return dict(sorted(totals.items(), key=lambda pair: -pair[1]))
