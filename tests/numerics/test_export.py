"""Export fidelity: PaddleSpeech's own forward against the graph, INT8 against the simulation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asrcompress.errors import ExportFailed, IntegerGateFailed
from asrcompress.recipe import Quantization

pytest.importorskip("paddle", reason="needs the [compress] extra")
import onnx
from onnx import numpy_helper

from asrcompress.checkpoints.batch_norm import fold_batch_norm
from asrcompress.checkpoints.network import PaddleAcousticModel, build_network
from asrcompress.checkpoints.weights import write_weights
from asrcompress.compress.quantized_network import QuantizedNetwork
from asrcompress.export.families import export_utterances
from asrcompress.export.int8 import quantize_graph
from asrcompress.export.integer_share import check_integer_share, measure_integer_share
from asrcompress.export.onnx_graph import save_graph
from asrcompress.runtime.session import OnnxAcousticModel

pytestmark = pytest.mark.paddle


def alone(model: Any, features: list[np.ndarray]) -> list[np.ndarray]:
    """Log-probabilities of each utterance in a batch of one."""
    return [model.log_probs([item])[0] for item in features]


def largest_gap(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    return max(float(np.abs(x - y).max()) for x, y in zip(a, b, strict=True))


def graph_of(checkpoint: Any, opset: int = 17) -> onnx.ModelProto:
    network = build_network(checkpoint)
    fold_batch_norm(network)
    return export_utterances(network, opset=opset, max_frames=1600, n_mels=80)


@pytest.fixture(scope="module")
def fp32(checkpoint: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fp32") / "model.onnx"
    save_graph(graph_of(checkpoint), path)
    return path


@pytest.fixture(scope="module")
def calibrated(checkpoint: Any) -> QuantizedNetwork:
    rng = np.random.default_rng(11)
    quantized = QuantizedNetwork(build_network(checkpoint), Quantization(observer="min_max"))
    model = PaddleAcousticModel(quantized.network)
    for frames in (80, 150, 220):
        model.log_probs([rng.standard_normal((frames, 80)).astype(np.float32)])
    quantized.finish_calibration()
    return quantized


@pytest.fixture(scope="module")
def int8(
    checkpoint: Any, calibrated: QuantizedNetwork, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("int8")
    write_weights(folder / "weights.pdparams", calibrated.plain_state_dict())
    trained = replace(checkpoint, weights_path=folder / "weights.pdparams")
    save_graph(quantize_graph(graph_of(trained), calibrated.ranges()), folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.parametrize("opset", [13, 17])
def test_graph_equals_paddlespeech_forward(
    checkpoint: Any, features: list[np.ndarray], tmp_path: Path, opset: int
) -> None:
    reference = alone(PaddleAcousticModel(build_network(checkpoint)), features)
    save_graph(graph_of(checkpoint, opset), tmp_path / "model.onnx")
    exported = alone(OnnxAcousticModel(tmp_path / "model.onnx"), features)
    # Seen: 3e-6. Only the order of float32 summation differs.
    assert largest_gap(reference, exported) < 5e-5


def test_an_utterance_in_a_batch_gives_what_it_gives_alone(
    fp32: Path, features: list[np.ndarray]
) -> None:
    model = OnnxAcousticModel(fp32)
    assert largest_gap(model.log_probs(features), alone(model, features)) < 5e-5


def test_layer_norm_convolution_modules_export_too(
    make_experiment: Any, features: list[np.ndarray], tmp_path: Path
) -> None:
    from asrcompress.checkpoints.checkpoint import read_checkpoint

    make_experiment(
        tmp_path, blocks=1, width=16, heads=2, feed_forward=32, decoder_blocks=1, kernel=7,
        symbols=["一", "二"], norm="layer_norm",
    )  # fmt: skip
    checkpoint = read_checkpoint(tmp_path)
    save_graph(graph_of(checkpoint), tmp_path / "model.onnx")
    reference = alone(PaddleAcousticModel(build_network(checkpoint)), features[:2])
    exported = alone(OnnxAcousticModel(tmp_path / "model.onnx"), features[:2])
    assert largest_gap(reference, exported) < 5e-5


def test_folding_batch_norm_changes_nothing_and_twice_is_once(
    checkpoint: Any, features: list[np.ndarray]
) -> None:
    network = build_network(checkpoint)
    model = PaddleAcousticModel(network)
    before = alone(model, features)
    assert fold_batch_norm(network) == 2
    assert largest_gap(before, alone(model, features)) < 5e-5
    once = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    fold_batch_norm(network)
    for name, tensor in network.state_dict().items():
        assert np.array_equal(once[name], tensor.numpy()), name


def test_every_weight_is_int8_with_the_learned_scale_and_rounding(
    checkpoint: Any, calibrated: QuantizedNetwork
) -> None:
    graph = quantize_graph(graph_of(checkpoint), calibrated.ranges(), operators="qdq").graph
    stored = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    state = calibrated.plain_state_dict()
    ranges = calibrated.ranges()
    assert len(ranges.weights) == 2 + 1 + 2 * 12 + 1  # subsampling, its linear, blocks, CTC head
    for item in ranges.weights:
        codes = stored[f"{item.parameter}_quantized"]
        assert codes.dtype == np.int8
        scales = stored[f"{item.parameter}_scale"]
        assert np.array_equal(scales, np.asarray(item.absmax, np.float32) / np.float32(127))
        weight = state[item.parameter]
        if weight.ndim == 3 and codes.ndim == 2:  # a pointwise convolution became [in, out]
            weight = weight[:, :, 0].T
        elif weight.ndim == 3:
            weight = weight[:, :, None, :]
        shape = [1] * weight.ndim
        shape[1 if codes.ndim == 2 else 0] = -1
        expected = np.clip(np.rint(weight / scales.reshape(shape)), -127, 127)
        assert np.array_equal(codes, expected), item.parameter


def test_int8_rounds_where_training_simulated_it(
    int8: Path, calibrated: QuantizedNetwork, features: list[np.ndarray]
) -> None:
    simulated = alone(PaddleAcousticModel(calibrated.network), features)
    deployed = alone(OnnxAcousticModel(int8), features)
    for a, b in zip(simulated, deployed, strict=True):
        # Only a value on the border of two codes may round the other way, and spread from there.
        assert np.abs(a - b).mean() < 0.01  # seen: 0.0005 to 0.003; quantization itself: 0.02
        assert (a.argmax(-1) == b.argmax(-1)).mean() >= 0.95


def test_all_multiplications_run_on_integers(int8: Path, fp32: Path, position_rows: Any) -> None:
    measured = measure_integer_share(int8, frames=200)
    # What the learned biases of relative positions add to all queries alike stays in float.
    assert set(measured.float_nodes) == position_rows(int8)
    assert 0.999 < measured.share < 1.0
    assert measured.bytes_by_dtype["int8"] > 0.5 * sum(measured.bytes_by_dtype.values())
    assert measure_integer_share(fp32, frames=200).share == 0.0
    check_integer_share(measured, minimum=0.95)


def test_macs_agree_with_a_count_by_hand(fp32: Path) -> None:
    width, ff, vocabulary, kernel, blocks = 32, 64, 20, 7, 2
    t1, f1 = (200 - 1) // 2, (80 - 1) // 2
    t2, f2 = (t1 - 1) // 2, (f1 - 1) // 2
    subsampling = t1 * f1 * width * 9 + t2 * f2 * width * width * 9 + t2 * f2 * width * width
    attention = 5 * t2 * width * width + 2 * t2 * t2 * width + 2 * t2 * width
    convolution = t2 * (2 * width * width + kernel * width + width * width)
    block = 4 * t2 * width * ff + attention + convolution
    by_hand = subsampling + blocks * block + t2 * width * vocabulary
    assert measure_integer_share(fp32, frames=200).macs == by_hand


def test_integer_gate_fails_on_a_float_model(fp32: Path) -> None:
    with pytest.raises(IntegerGateFailed, match=r"got 0\.000 .* expected at least 0\.950"):
        check_integer_share(measure_integer_share(fp32, frames=100), minimum=0.95)


def test_a_range_without_a_node_is_refused(checkpoint: Any, calibrated: QuantizedNetwork) -> None:
    ranges = calibrated.ranges()
    stray = replace(ranges.weights[0], parameter="encoder.nowhere.weight")
    with pytest.raises(ExportFailed, match=r"without a node in the graph: encoder\.nowhere"):
        quantize_graph(graph_of(checkpoint), replace(ranges, weights=(*ranges.weights, stray)))


def test_two_ranges_for_one_tensor_are_refused(
    checkpoint: Any, calibrated: QuantizedNetwork
) -> None:
    ranges = calibrated.ranges()
    layers = list(ranges.weights)
    index = next(
        i for i, w in enumerate(layers) if w.parameter.endswith("0.self_attn.linear_k.weight")
    )
    layers[index] = replace(layers[index], input="ctc.ctc_lo:input")
    with pytest.raises(ExportFailed, match="is claimed by the ranges of"):
        quantize_graph(graph_of(checkpoint), replace(ranges, weights=tuple(layers)))


def test_skipped_layers_stay_in_float(checkpoint: Any, tmp_path: Path) -> None:
    settings = Quantization(observer="min_max", skip=("encoder.encoders.0.*", "ctc.*"))
    quantized = QuantizedNetwork(build_network(checkpoint), settings)
    rng = np.random.default_rng(0)
    PaddleAcousticModel(quantized.network).log_probs([rng.standard_normal((90, 80), np.float32)])
    quantized.finish_calibration()
    save_graph(quantize_graph(graph_of(checkpoint), quantized.ranges()), tmp_path / "model.onnx")
    measured = measure_integer_share(tmp_path / "model.onnx", frames=100)
    assert 0.4 < measured.share < 0.95
    with pytest.raises(IntegerGateFailed):
        check_integer_share(measured, minimum=0.95)
