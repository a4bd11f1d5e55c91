"""Swish on integers: what training simulates is what ONNX Runtime computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("paddle", reason="needs the [compress] extra")
import onnx
import onnxruntime
import paddle

from asrcompress.checkpoints.batch_norm import fold_batch_norm
from asrcompress.checkpoints.checkpoint import read_checkpoint
from asrcompress.checkpoints.network import PaddleAcousticModel, build_network
from asrcompress.compress.activations import QuantedSwish
from asrcompress.compress.quanters import ActivationQuanter
from asrcompress.compress.quantized_network import QuantizedNetwork
from asrcompress.errors import ExportFailed
from asrcompress.export.families import export_utterances
from asrcompress.export.int8 import quantize_graph
from asrcompress.export.onnx_graph import save_graph
from asrcompress.ranges import Ranges, read_ranges, write_ranges
from asrcompress.recipe import Quantization
from asrcompress.runtime.session import OnnxAcousticModel

pytestmark = pytest.mark.paddle
RNG = np.random.default_rng(5)


@pytest.fixture(scope="module")
def checkpoint(make_experiment: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("swish")
    make_experiment(folder, blocks=2, width=32, heads=4, feed_forward=64, decoder_blocks=1)
    return read_checkpoint(folder)


@pytest.fixture(scope="module")
def calibrated(checkpoint: Any) -> QuantizedNetwork:
    quantized = QuantizedNetwork(
        build_network(checkpoint), Quantization(observer="min_max", integer_swish=True)
    )
    model = PaddleAcousticModel(quantized.network)
    for frames in (80, 150, 220):
        model.log_probs([RNG.standard_normal((frames, 80)).astype(np.float32)])
    quantized.finish_calibration()
    return quantized


@pytest.fixture(scope="module")
def graph(checkpoint: Any) -> onnx.ModelProto:
    network = build_network(checkpoint)
    fold_batch_norm(network)
    return export_utterances(network, opset=17, max_frames=1600, n_mels=80)


def kernels(path: Path, folder: Path) -> list[str]:
    """Operators of the graph as ONNX Runtime runs it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]


@pytest.mark.parametrize("operators", ["qdq", "onnxruntime"])
def test_the_graph_computes_what_training_simulated(
    graph: Any, calibrated: QuantizedNetwork, tmp_path: Path, operators: str
) -> None:
    path = tmp_path / "model.onnx"
    save_graph(quantize_graph(graph, calibrated.ranges(), operators=operators), path)
    ran = kernels(path, tmp_path)
    # Two feed-forward layers and a convolution module in each of two blocks.
    assert ran.count("QLinearSigmoid") == ran.count("QLinearMul") == 6
    for frames in (90, 171):
        features = RNG.standard_normal((frames, 80)).astype(np.float32)
        simulated = PaddleAcousticModel(calibrated.network).log_probs([features])[0]
        deployed = OnnxAcousticModel(path).log_probs([features])[0]
        assert np.abs(simulated - deployed).mean() < 0.03  # seen: 0.003 to 0.015
        assert (simulated.argmax(-1) == deployed.argmax(-1)).mean() >= 0.95


def test_without_it_swish_stays_in_float(checkpoint: Any, graph: Any, tmp_path: Path) -> None:
    settings = Quantization(observer="min_max", integer_swish=False)
    quantized = QuantizedNetwork(build_network(checkpoint), settings)
    PaddleAcousticModel(quantized.network).log_probs([RNG.standard_normal((90, 80), np.float32)])
    quantized.finish_calibration()
    assert quantized.ranges().swishes == ()
    save_graph(quantize_graph(graph, quantized.ranges()), tmp_path / "model.onnx")
    assert "QLinearSigmoid" not in kernels(tmp_path / "model.onnx", tmp_path)


def test_a_layer_in_float_has_its_swish_in_float(checkpoint: Any) -> None:
    settings = Quantization(integer_swish=True, skip=("*.0.feed_forward.w_2",))
    quantized = QuantizedNetwork(build_network(checkpoint), settings)
    edges = quantized.swishes
    assert len(edges) == 5
    assert "encoder.encoders.0.feed_forward.w_1:output" not in edges


def test_values_by_hand() -> None:
    quanter = ActivationQuanter(
        "e", _Known(7.0), unsigned=False, update="frozen", momentum=0.9, lowest=-8.0
    )
    swish = QuantedSwish(quanter, rounded=False)
    x = paddle.to_tensor([-20.0, -1.0, 0.0, 0.5, 7.0])
    assert np.allclose(swish(x).numpy(), paddle.nn.functional.silu(x).numpy())
    quanter.finish_calibration()
    step, zero = 15.0 / 255.0, 136
    assert (quanter.range().scale, quanter.range().zero_point) == (pytest.approx(step), zero)
    codes = np.clip(np.rint(np.array([-20.0, -1.0, 0.0, 0.5, 7.0]) / step), -136, 119)
    inputs = codes * step
    gates = np.clip(np.rint(256 / (1 + np.exp(-inputs))), 0, 255) / 256
    assert np.allclose(swish(x).numpy(), inputs * gates, atol=1e-6)


def test_ranges_survive_the_run_directory(calibrated: QuantizedNetwork, tmp_path: Path) -> None:
    ranges = calibrated.ranges()
    assert len(ranges.swishes) == 6
    write_ranges(tmp_path / "ranges.json", ranges)
    assert read_ranges(tmp_path / "ranges.json") == ranges


def test_a_swish_that_is_not_there_is_refused(graph: Any, calibrated: QuantizedNetwork) -> None:
    ranges: Ranges = calibrated.ranges()
    edge = "encoder.encoders.0.feed_forward.w_2:output"
    grid = ranges.activations[ranges.swishes[0]]
    wrong = replace(ranges, swishes=(edge,), activations={**ranges.activations, edge: grid})
    with pytest.raises(ExportFailed, match=r"feed_forward\.w_2: has no Swish behind it"):
        quantize_graph(graph, wrong)


class _Known:
    """An observer that has seen its range."""

    def __init__(self, absmax: float) -> None:
        self._absmax = absmax

    def observe(self, activation: Any) -> None:
        pass

    def absmax(self) -> float:
        return self._absmax
