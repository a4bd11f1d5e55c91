"""ONNX Runtime's own quantizers on the checkpoint's graph, and ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from asrcompress.audio import read_audio
from asrcompress.export.integer_share import measure_integer_share
from bench.artifact import Artifact, Settings, size_of
from bench.subject import Subject

_DYNAMIC = ["MatMul", "Gemm", "LSTM"]  # the ConvInteger that it writes does not load


class _Features(CalibrationDataReader):
    """Features of some utterances, as ``quantize_static`` wants them."""

    def __init__(self, subject: Subject) -> None:
        self._left = iter(subject.calibration)
        self._fbank = subject.fbank

    def get_next(self) -> dict[str, np.ndarray] | None:
        item = next(self._left, None)
        if item is None:
            return None
        features = self._fbank(read_audio(item.audio, start_s=item.start_s, end_s=item.end_s))
        return {"x": features[None], "x_lens": np.array([len(features)], np.int64)}


def build_fp32(subject: Subject, folder: Path, settings: Settings) -> Artifact:
    """The checkpoint's graph as it is."""
    return _artifact(subject.fp32)


def build_dynamic(subject: Subject, folder: Path, settings: Settings) -> Artifact:
    """``quantize_dynamic``."""
    model = folder / "model.onnx"
    quantize_dynamic(
        subject.fp32, model, op_types_to_quantize=_DYNAMIC, weight_type=QuantType.QInt8
    )
    return _artifact(model)


def _static(activations: QuantType, *, per_channel: bool) -> Callable[..., Artifact]:
    def build(subject: Subject, folder: Path, settings: Settings) -> Artifact:
        """``quantize_static`` of convolutions and products, calibrated on the run's utterances."""
        model = folder / "model.onnx"
        quantize_static(
            subject.fp32,
            model,
            _Features(subject),
            quant_format=QuantFormat.QDQ,
            per_channel=per_channel,
            activation_type=activations,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "MatMul"],
            nodes_to_exclude=_not_matrices(subject.fp32) if per_channel else [],
        )
        return _artifact(model)

    return build


def _not_matrices(model: Path) -> list[str]:
    """Products with constants of three dimensions: QLinearMatMul takes no channels of those."""
    graph = onnx.load(model, load_external_data=False).graph
    ranks = {item.name: len(item.dims) for item in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMul"]
    return [node.name for node in products if ranks.get(node.input[1], 2) != 2]


STATIC = {
    "U8S8": _static(QuantType.QUInt8, per_channel=False),
    "U8S8 per channel": _static(QuantType.QUInt8, per_channel=True),
    "S8S8 per channel": _static(QuantType.QInt8, per_channel=True),
}


def build_ours(subject: Subject, folder: Path, settings: Settings) -> Artifact:
    """The graph of the bundle that ships."""
    return _artifact(subject.int8, engine="asrcompress")


def _artifact(model: Path, *, engine: str = "onnxruntime") -> Artifact:
    weights = model.with_name(f"{model.name}.data")
    return Artifact(
        engine=engine,
        spec={"model": str(model)},
        size_bytes=size_of(model, *([weights] if weights.is_file() else [])),
        integer_share=measure_integer_share(model).share,
    )


def multiply_accumulates(model: Path, seconds: float) -> int:
    """Of one utterance of some length, by the kernels that ran."""
    return measure_integer_share(model, frames=round(seconds * 100)).macs


def serial_share(model: Path) -> float:
    """Share of the recurrent layers' weights that multiply one frame's state at a time.

    These products have one row: they read each weight for a single multiply-accumulate. 0 where
    the graph has no recurrent layer.
    """
    graph = onnx.load(model, load_external_data=False).graph
    sizes = {item.name: int(np.prod(item.dims)) for item in graph.initializer}
    pairs = [
        (sizes[node.input[1]], sizes[node.input[2]])
        for node in graph.node
        if node.op_type in ("LSTM", "GRU")
    ]
    total = sum(sum(pair) for pair in pairs)
    return sum(recurrent for _, recurrent in pairs) / total if total else 0.0
