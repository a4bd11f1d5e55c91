"""Weights of 7 bits: trained as they ship, and what they are for, on an emulated AVX2."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("paddle", reason="needs the [compress] extra")
import onnx
from onnx import numpy_helper

from asrcompress.checkpoints.batch_norm import fold_batch_norm
from asrcompress.checkpoints.checkpoint import Checkpoint, read_checkpoint
from asrcompress.checkpoints.network import PaddleAcousticModel, build_network
from asrcompress.compress.quantized_network import QuantizedNetwork
from asrcompress.errors import ExportFailed
from asrcompress.export.families import export_utterances
from asrcompress.export.int8 import quantize_graph
from asrcompress.export.integer_operators import KERNEL
from asrcompress.export.onnx_graph import save_graph
from asrcompress.recipe import Quantization
from asrcompress.runtime.session import OnnxAcousticModel

FRAMES = (61, 97, 140)


@pytest.fixture(scope="module")
def checkpoint(
    make_experiment: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Checkpoint:
    folder = tmp_path_factory.mktemp("experiment")
    make_experiment(
        folder, blocks=2, width=32, heads=4, feed_forward=64, decoder_blocks=1, kernel=7,
        symbols=tuple("开关灯空调音乐天气"), seed=3,
    )  # fmt: skip
    return read_checkpoint(folder)


@pytest.fixture(scope="module")
def features() -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    return [3 * rng.standard_normal((frames, 80)).astype(np.float32) for frames in FRAMES]


def quantized(checkpoint: Checkpoint, features: list[np.ndarray], top: int) -> QuantizedNetwork:
    settings = Quantization(observer="min_max")
    network = QuantizedNetwork(build_network(checkpoint), settings, weight_top=top)
    PaddleAcousticModel(network.network).log_probs(features)
    network.finish_calibration()
    return network


def graph_of(checkpoint: Checkpoint, network: QuantizedNetwork) -> onnx.ModelProto:
    plain = build_network(checkpoint)
    fold_batch_norm(plain)
    graph = export_utterances(plain, opset=17, max_frames=1600, n_mels=80)
    return quantize_graph(graph, network.ranges())


def weights_of(graph: onnx.ModelProto) -> list[np.ndarray]:
    return [
        numpy_helper.to_array(item)
        for item in graph.graph.initializer
        if item.name.endswith(("weight_quantized", KERNEL))
    ]


@pytest.fixture(scope="module")
def models(
    checkpoint: Checkpoint, features: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Path]:
    """INT8 graphs with weights up to 127 and up to 63."""
    folder = tmp_path_factory.mktemp("models")
    found = {}
    for top in (127, 63):
        found[top] = folder / f"{top}.onnx"
        save_graph(graph_of(checkpoint, quantized(checkpoint, features, top)), found[top])
    return found


@pytest.mark.parametrize("top", [127, 63])
def test_what_is_trained_is_what_is_stored(
    checkpoint: Checkpoint, features: list[np.ndarray], models: dict[int, Path], top: int
) -> None:
    weights = weights_of(onnx.load(models[top]))
    assert len(weights) > 20
    assert all(item.dtype == np.int8 for item in weights)
    assert {int(np.abs(item.astype(int)).max()) for item in weights} == {top}
    trained = quantized(checkpoint, features, top)
    fake = PaddleAcousticModel(trained.network)
    expected = [fake.log_probs([item])[0] for item in features]
    seen = [OnnxAcousticModel(models[top]).log_probs([item])[0] for item in features]
    # Where no rounding flips, the two agree to float32; a grid of another size would move every
    # value, by 0.05 on average here.
    gaps = sorted(float(np.abs(a - b).mean()) for a, b in zip(expected, seen, strict=True))
    assert gaps[0] < 2e-3, gaps
    other = [OnnxAcousticModel(models[190 - top]).log_probs([item])[0] for item in features]
    wrong = [float(np.abs(a - b).mean()) for a, b in zip(expected, other, strict=True)]
    assert min(wrong) > 3 * gaps[0]


# Operators whose int8 weights ONNX Runtime makes uint8 on x86 without VNNI, and where they have the
# weights' codes and zero point: its table in avx2_weight_s8_to_u8.cc. It knows no others.
KEPT_FROM_SATURATING = {
    ("com.microsoft", "MatMulIntegerToFloat"): (1, 5),
    ("", "QLinearConv"): (3, 5),
    ("", "QLinearMatMul"): (3, 5),
    ("", "MatMulInteger"): (1, 3),
}


def unprotected(graph: Any) -> list[str]:
    """Nodes whose int8 weights would saturate on AVX2, whatever the session's options say."""
    stored = {item.name: item for item in graph.initializer}
    weights = {name for name, item in stored.items() if item.data_type == onnx.TensorProto.INT8}
    weights = {name for name in weights if np.prod(stored[name].dims) > max(stored[name].dims)}
    found = []
    for node in graph.node:
        read = [index for index, name in enumerate(node.input) if name in weights]
        if not read:
            continue
        if node.op_type in ("Transpose", "Unsqueeze"):  # folded before the operators are looked at
            weights.update(node.output)
            continue
        codes, zero_point = KEPT_FROM_SATURATING.get((node.domain, node.op_type), (None, 0))
        given = len(node.input) > zero_point and node.input[zero_point] in stored
        if read != [codes] or not given:
            found.append(f"{node.domain}:{node.op_type}")
    return found


def test_no_operator_saturates_without_vnni(models: dict[int, Path]) -> None:
    graph = onnx.load(models[127]).graph
    assert sum(node.op_type == "MatMulIntegerToFloat" for node in graph.node) > 10
    assert sum(node.op_type == "QLinearConv" for node in graph.node) > 5
    assert unprotected(graph) == []
    for node in graph.node:  # the check itself: each of these would go unnoticed on this machine
        if node.op_type == "QLinearConv":
            node.domain = "com.microsoft"
            break
    product = next(n for n in graph.node if n.op_type == "MatMulIntegerToFloat")
    product.input[5] = ""
    kinds = {"com.microsoft:QLinearConv", "com.microsoft:MatMulIntegerToFloat"}
    assert set(unprotected(graph)) <= kinds and unprotected(graph)


def test_the_bias_of_a_convolution_follows_the_grid(
    checkpoint: Checkpoint, features: list[np.ndarray]
) -> None:
    for top in (127, 63):
        network = quantized(checkpoint, features, top)
        layer = dict(network.network.named_sublayers())["encoder.embed.conv.2"]
        step = layer.source_quanter.scale() * layer.weight_quanter.scale(layer.weight)
        codes = (layer._rounded_bias() / step).numpy()
        assert np.allclose(codes, np.round(codes), atol=1e-2)
        absmax = layer.weight_quanter.absmax(layer.weight).numpy()
        assert np.allclose(layer.weight_quanter.scale(layer.weight).numpy() * top, absmax)


def test_a_weight_beyond_the_grid_is_not_exported(
    checkpoint: Checkpoint, features: list[np.ndarray]
) -> None:
    network = quantized(checkpoint, features, 63)
    item = next(i for i in network._layers if i.edges.name == "ctc.ctc_lo")
    ranges = network.ranges()
    weight = item.edges.layer.weight
    weight.set_value(weight * 1.5)  # after its range was taken
    plain = build_network(checkpoint)
    plain.ctc.ctc_lo.weight.set_value(plain.ctc.ctc_lo.weight * 1.5)
    fold_batch_norm(plain)
    graph = export_utterances(plain, opset=17, max_frames=1600, n_mels=80)
    with pytest.raises(ExportFailed, match=r"ctc_lo.weight: has the code 9[0-9], expected .* 63"):
        quantize_graph(graph, ranges)


SCRIPT = """
import sys
sys.path[:0] = {path!r}
import numpy as np
import onnxruntime as ort
features = np.load({features!r})
for exact in (False, True):
    for top in {tops}:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.x64quantprecision", str(int(exact)))
        session = ort.InferenceSession(f"{folder}/{{top}}.onnx", options)
        out = []
        for name in features.files:
            x = features[name][None]
            out.append(session.run(None, {{"x": x, "x_lens": np.array([x.shape[1]])}})[0][0])
        np.savez(f"{folder}/avx2-{{top}}-{{exact}}.npz", *out)
"""


def on_haswell(folder: Path, tops: Sequence[int], features: list[np.ndarray]) -> None:
    """Run ``TOP.onnx`` on an emulated Haswell, with exact sums and without; leaves avx2-….npz."""
    qemu = shutil.which("qemu-x86_64-static")
    if qemu is None:
        pytest.skip("qemu-x86_64-static not found: apt-get install qemu-user-static")
    np.savez(folder / "features.npz", *features)
    script = SCRIPT.format(
        path=[p for p in sys.path if p],
        features=str(folder / "features.npz"),
        folder=str(folder),
        tops=tuple(tops),
    )
    command = [qemu, "-cpu", "Haswell", os.path.realpath(sys.executable), "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def gaps_to_here(path: Path, exact: bool, features: list[np.ndarray]) -> list[float]:
    """Mean difference of each recording between Haswell and this machine."""
    seen = np.load(path.parent / f"avx2-{path.stem}-{exact}.npz")
    here = OnnxAcousticModel(path)
    expected = [here.log_probs([item])[0] for item in features]
    pairs = zip(expected, (seen[name] for name in seen.files), strict=True)
    return [float(np.abs(a - b).mean()) for a, b in pairs]


@pytest.mark.slow
def test_avx2_without_vnni(models: dict[int, Path], features: list[np.ndarray]) -> None:
    """ONNX Runtime's own AVX2 kernels, on an emulated Haswell."""
    on_haswell(models[127].parent, (127, 63), features)
    saturated = min(gaps_to_here(models[127], False, features))
    assert saturated > 1e-3, "every recording is off where sums saturate"
    for top, exact in ((127, True), (63, False), (63, True)):
        agreeing = min(gaps_to_here(models[top], exact, features))
        assert agreeing < 1e-4, (top, exact)
        assert agreeing < saturated / 10


@pytest.mark.slow
@pytest.mark.parametrize("gru", [False, True], ids=["lstm", "gru"])
def test_recurrent_layers_on_avx2(
    make_deepspeech2: Callable[..., Path], features: list[np.ndarray], tmp_path: Path, gru: bool
) -> None:
    """Their weights are in operators of their own, a GRU's in the body of a loop."""
    found = read_checkpoint(make_deepspeech2(tmp_path / "experiment", gru=gru))
    network = QuantizedNetwork(build_network(found), Quantization(observer="min_max"))
    PaddleAcousticModel(network.network).log_probs(features)
    network.finish_calibration()
    graph = export_utterances(build_network(found), opset=17, max_frames=1600, n_mels=80)
    path = tmp_path / "127.onnx"
    save_graph(quantize_graph(graph, network.ranges()), path)
    on_haswell(tmp_path, (127,), features)
    assert min(gaps_to_here(path, True, features)) < 1e-4
