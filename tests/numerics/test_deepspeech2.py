"""DeepSpeech2: export against PaddleSpeech's forward, INT8 against the simulation, chunks."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("paddle", reason="needs the [compress] extra")
import onnx
import onnxruntime
from onnx import numpy_helper

from asrcompress.checkpoints.checkpoint import Checkpoint, read_checkpoint
from asrcompress.checkpoints.network import PaddleAcousticModel, build_network
from asrcompress.checkpoints.weights import read_weights, write_weights
from asrcompress.compress.anatomy import dissect
from asrcompress.compress.quantized_network import QuantizedNetwork
from asrcompress.compress.sqnr import measure_noise
from asrcompress.errors import BadCheckpoint, BadRecipe, ExportFailed, IntegerGateFailed
from asrcompress.export.deepspeech2_graph import export_online
from asrcompress.export.families import export_utterances
from asrcompress.export.initializers import initializers
from asrcompress.export.int8 import quantize_graph
from asrcompress.export.integer_share import check_integer_share, measure_integer_share
from asrcompress.export.onnx_graph import save_graph
from asrcompress.export.recurrent import gate_rows
from asrcompress.paddle_imports import import_paddle
from asrcompress.ranges import read_ranges, write_ranges
from asrcompress.recipe import Quantization
from asrcompress.runtime.session import OnnxAcousticModel

paddle = import_paddle()

pytestmark = pytest.mark.paddle

FORMS = [
    pytest.param({"gru": gru, "direction": direction, "fc": fc}, id=f"{name}-{direction}-{len(fc)}")
    for (gru, name), (direction, fc) in itertools.product(
        ((False, "lstm"), (True, "gru")), (("forward", ()), ("bidirect", (24, 16)))
    )
]


@pytest.fixture(scope="module", params=FORMS)
def form(request: Any, make_deepspeech2: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A checkpoint of one form, its FP32 graph, its calibrated network and its INT8 graph."""
    folder = tmp_path_factory.mktemp("deepspeech2")
    make_deepspeech2(folder, **request.param)
    return Form(folder, request.param)


class Form:
    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        self.options, self.folder = options, folder
        self.checkpoint = read_checkpoint(folder)
        self.graph = graph_of(self.checkpoint)
        self.quantized = calibrated(self.checkpoint)
        self.fp32, self.int8 = folder / "model.onnx", folder / "model.int8.onnx"
        save_graph(self.graph, self.fp32)
        save_graph(quantize_graph(self.graph, self.quantized.ranges()), self.int8)


def graph_of(checkpoint: Checkpoint, opset: int = 17) -> onnx.ModelProto:
    network = build_network(checkpoint)
    return export_utterances(network, opset=opset, max_frames=1600, n_mels=80)


def calibrated(checkpoint: Checkpoint, skip: tuple[str, ...] = ()) -> QuantizedNetwork:
    rng = np.random.default_rng(11)
    settings = Quantization(observer="min_max", skip=skip)
    quantized = QuantizedNetwork(build_network(checkpoint), settings)
    model = PaddleAcousticModel(quantized.network)
    for frames in (80, 150):
        model.log_probs([2 * rng.standard_normal((frames, 80)).astype(np.float32)])
    quantized.finish_calibration()
    return quantized


def alone(model: Any, features: list[np.ndarray]) -> list[np.ndarray]:
    return [model.log_probs([item])[0] for item in features]


def largest_gap(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    return max(float(np.abs(x - y).max()) for x, y in zip(a, b, strict=True))


def mean_gap(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    return float(np.mean(np.concatenate([np.abs(x - y) for x, y in zip(a, b, strict=True)])))


def agreement(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    same = [x.argmax(-1) == y.argmax(-1) for x, y in zip(a, b, strict=True)]
    return float(np.concatenate(same).mean())


def test_graph_equals_paddlespeech_forward_alone_and_in_a_batch(
    form: Form, features: list[np.ndarray]
) -> None:
    network = PaddleAcousticModel(build_network(form.checkpoint))
    reference = alone(network, features)
    exported = OnnxAcousticModel(form.fp32)
    # Seen: 5e-6, the order of float32 summation. Lengths left out: 0.6.
    assert largest_gap(reference, alone(exported, features)) < 5e-5
    assert largest_gap(reference, exported.log_probs(features)) < 5e-5
    assert largest_gap(reference, network.log_probs(features)) < 5e-5


@pytest.mark.parametrize("gru", [False, True], ids=["lstm", "gru"])
def test_the_oldest_opset_has_the_same_numbers(
    make_deepspeech2: Any, features: list[np.ndarray], tmp_path: Path, gru: bool
) -> None:
    checkpoint = read_checkpoint(make_deepspeech2(tmp_path, gru=gru, direction="bidirect"))
    ranges = calibrated(checkpoint).ranges()
    models = []
    for opset in (13, 17):
        path = tmp_path / f"{opset}.onnx"
        save_graph(quantize_graph(graph_of(checkpoint, opset), ranges), path)
        models.append(OnnxAcousticModel(path))
    assert mean_gap(*(model.log_probs(features[:2]) for model in models)) < 1e-3


def test_int8_rounds_where_training_simulated_it(form: Form, features: list[np.ndarray]) -> None:
    simulation = PaddleAcousticModel(form.quantized.network)
    simulated = alone(simulation, features)
    deployed = alone(OnnxAcousticModel(form.int8), features)
    exact = alone(PaddleAcousticModel(build_network(form.checkpoint)), features)
    assert agreement(simulated, deployed) >= 0.98  # seen: 1.0
    # Seen: a tenth. A flipped code at a step spreads to the later ones.
    assert mean_gap(simulated, deployed) < 0.3 * mean_gap(simulated, exact)
    assert largest_gap(simulated, simulation.log_probs(features)) < 1e-5


def test_a_batch_shares_its_dynamic_ranges_and_nothing_else(
    form: Form, features: list[np.ndarray]
) -> None:
    """ONNX Runtime makes one grid for a batch: noise of that size is all that a batch may add."""
    model = OnnxAcousticModel(form.int8)
    separate, batched = alone(model, features), model.log_probs(features)
    exact = alone(PaddleAcousticModel(build_network(form.checkpoint)), features)
    assert mean_gap(separate, batched) < mean_gap(separate, exact)
    assert agreement(separate, batched) > 0.95
    # The same utterance beside itself has the same ranges as alone.
    twice = model.log_probs([features[2], features[2]])
    assert largest_gap(twice, [separate[2]] * 2) < 1e-5


def test_every_multiplication_runs_on_integers_and_is_counted(form: Form) -> None:
    int8, fp32 = (measure_integer_share(path, frames=200) for path in (form.int8, form.fp32))
    assert (int8.share, fp32.share) == (1.0, 0.0)
    assert int8.macs == fp32.macs == macs_by_hand(form.options, frames=200)
    assert int8.bytes_by_dtype["int8"] > 0.8 * sum(int8.bytes_by_dtype.values())
    check_integer_share(int8, minimum=0.95)
    with pytest.raises(IntegerGateFailed, match=r"in float: .*encoder\.rnn\.0"):
        check_integer_share(fp32, minimum=0.95)


def macs_by_hand(
    options: dict[str, Any], *, frames: int, width: int = 32, vocabulary: int = 9
) -> int:
    gates, directions = 3 if options["gru"] else 4, 2 if options["direction"] == "bidirect" else 1
    t1, f1 = (frames - 1) // 2, (80 - 1) // 2
    t2, f2 = (t1 - 1) // 2, (f1 - 1) // 2
    total = t1 * f1 * 32 * 9 + t2 * f2 * 32 * 32 * 9
    inputs = f2 * 32
    for _ in range(2):
        total += t2 * directions * gates * width * (inputs + width)
        inputs = directions * width
    for size in (*options["fc"], vocabulary):
        total += t2 * inputs * size
        inputs = size
    return total


def test_inspect_counts_the_same(form: Form) -> None:
    anatomy = dissect(form.checkpoint, seconds=2.0)
    assert sum(b.macs for b in anatomy.blocks) == macs_by_hand(form.options, frames=200)
    assert sum(b.int8_macs for b in anatomy.blocks) == sum(b.macs for b in anatomy.blocks)
    layers = [name for block in anatomy.blocks for name in block.layers]
    assert {"encoder.rnn.0", "encoder.rnn.1", "decoder.ctc_lo"} <= set(layers)
    stored = sum(measure_integer_share(form.int8, frames=50).bytes_by_dtype.values())
    # Scales and zero points come on top of the weights.
    assert anatomy.int8_bytes < stored < 1.15 * anatomy.int8_bytes


def test_weights_in_the_file_are_the_learned_ones(form: Form) -> None:
    stored = {i.name: numpy_helper.to_array(i) for i in initializers(onnx.load(form.int8).graph)}
    state = form.quantized.plain_state_dict()
    ranges = form.quantized.ranges()
    directions = 2 if form.options["direction"] == "bidirect" else 1
    assert len(ranges.recurrent) == 2 * 2 * directions
    assert len(ranges.weights) == 2 + len(form.options["fc"]) + 1
    kind = "GRU" if form.options["gru"] else "LSTM"
    for item in ranges.recurrent:
        scale = np.asarray(item.absmax, np.float32) / np.float32(127)
        codes = gate_rows(kind, np.rint(state[item.parameter] / scale[:, None])).astype(np.int8).T
        name = item.parameter.replace("_l0", "")
        if kind == "LSTM" or "_ih" in name:
            shared = stored[f"{name.removesuffix('_reverse')}_quantized"]
            parts = shared if kind == "LSTM" else np.split(shared, directions, axis=1)
            assert np.array_equal(parts[int("_reverse" in name)], codes), item.parameter
        else:
            assert np.array_equal(stored[f"{name}_quantized"], codes), item.parameter


def test_ranges_survive_the_run_directory(form: Form, tmp_path: Path) -> None:
    ranges = form.quantized.ranges()
    write_ranges(tmp_path / "ranges.json", ranges)
    assert read_ranges(tmp_path / "ranges.json") == ranges
    assert (
        ranges.part(("encoder.rnn.0.",)).recurrent == ranges.recurrent[: len(ranges.recurrent) // 2]
    )
    again = QuantizedNetwork(build_network(form.checkpoint), Quantization(observer="min_max"))
    again.restore(ranges)
    x = [np.ones((50, 80), np.float32)]
    models = [PaddleAcousticModel(item.network) for item in (form.quantized, again)]
    assert largest_gap(*(model.log_probs(x) for model in models)) == 0.0


def test_noise_is_measured_in_recurrent_layers_too(form: Form, features: list[np.ndarray]) -> None:
    network = build_network(form.checkpoint)
    report = measure_noise(network, form.quantized, features[:1], progress=lambda *_: None)
    found = {layer.name: layer for layer in report.layers}
    for name in ("encoder.rnn.0", "encoder.rnn.1"):
        assert 30 < found[name].weight_db < 50
        assert 10 < found[name].output_db < 50


def test_skipped_recurrent_layers_stay_in_float_and_fail_the_gate(
    make_deepspeech2: Any, tmp_path: Path
) -> None:
    """Sabotage: a model whose LSTM runs in float is not called INT8."""
    checkpoint = read_checkpoint(make_deepspeech2(tmp_path))
    quantized = calibrated(checkpoint, skip=("encoder.rnn.1",))
    assert {item.layer for item in quantized.ranges().recurrent} == {"encoder.rnn.0"}
    save_graph(quantize_graph(graph_of(checkpoint), quantized.ranges()), tmp_path / "model.onnx")
    measured = measure_integer_share(tmp_path / "model.onnx", frames=100)
    assert measured.float_nodes == ("encoder.rnn.1",)
    with pytest.raises(IntegerGateFailed, match=r"in float: encoder\.rnn\.1"):
        check_integer_share(measured, minimum=0.98)
    with pytest.raises(BadRecipe, match=r"'encoder\.rnn\.2' matches no layer"):
        calibrated(checkpoint, skip=("encoder.rnn.2",))


# --- chunks


class Online:
    """A chunk graph, driven as `export_online` says."""

    def __init__(self, path: Path) -> None:
        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self._states = {
            item.name: np.zeros(item.shape, np.float32) for item in self._session.get_inputs()[1:]
        }

    def step(self, x: np.ndarray) -> np.ndarray:
        log_probs, *following = self._session.run(None, {"x": x[None], **self._states})
        self._states = dict(zip(self._states, following, strict=True))
        return np.asarray(log_probs[0])


def streamed(path: Path, x: np.ndarray, chunk: int) -> np.ndarray:
    online, parts, start = Online(path), [], 0
    while len(x) - start >= 7:
        parts.append(online.step(x[start : start + (chunk - 1) * 4 + 7]))
        start += chunk * 4
    return np.concatenate(parts)


@pytest.fixture(scope="module", params=[False, True], ids=["lstm", "gru"])
def online(request: Any, make_deepspeech2: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("online")
    make_deepspeech2(folder, gru=request.param)
    form = Form(folder, {"gru": request.param})
    chunks = export_online(build_network(form.checkpoint), opset=17, n_mels=80)
    save_graph(chunks, folder / "chunk.onnx")
    save_graph(quantize_graph(chunks, form.quantized.ranges()), folder / "chunk.int8.onnx")
    return form


@pytest.mark.parametrize("chunk", [8, 3])
def test_chunks_equal_paddlespeechs_own(
    online: Form, features: list[np.ndarray], chunk: int
) -> None:
    network = build_network(online.checkpoint)
    for x in features:
        with paddle.no_grad():
            outputs, lengths, _, _ = network.encoder.forward_chunk_by_chunk(
                paddle.to_tensor(x[None]), paddle.to_tensor([len(x)]), chunk
            )
            heard = [out[:, : int(n)] for out, n in zip(outputs, lengths, strict=True)]
            scores = network.decoder.log_softmax(paddle.concat(heard, axis=1))[0].numpy()
        found = streamed(online.folder / "chunk.onnx", x, chunk)
        assert found.shape == scores.shape
        assert np.abs(found - scores).max() < 1e-4  # seen: 4e-6
        whole = PaddleAcousticModel(network).log_probs([x])[0]
        assert np.abs(found - whole).max() < 1e-4


def test_int8_chunks_share_the_utterance_graphs_weights(
    online: Form, features: list[np.ndarray]
) -> None:
    chunk = online.folder / "chunk.int8.onnx"
    weights = [
        {
            item.name: numpy_helper.to_array(item)
            for item in onnx.load(path).graph.initializer
            if item.name.endswith("_quantized")
        }
        for path in (online.int8, chunk)
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
    whole = alone(OnnxAcousticModel(online.int8), features)
    pieces = [streamed(chunk, x, 8) for x in features]
    exact = alone(PaddleAcousticModel(build_network(online.checkpoint)), features)
    # A chunk's dynamic range is not the utterance's: noise of another draw, not more of it.
    assert mean_gap(pieces, exact) < 1.5 * mean_gap(whole, exact)
    assert agreement(pieces, whole) > 0.95


def test_chunks_of_a_network_that_reads_backwards_are_refused(
    make_deepspeech2: Any, tmp_path: Path
) -> None:
    checkpoint = read_checkpoint(make_deepspeech2(tmp_path, direction="bidirect"))
    with pytest.raises(ExportFailed, match="rnn_direction is bidirect, expected forward"):
        export_online(build_network(checkpoint), opset=17, n_mels=80)


# --- checkpoints


def test_one_of_the_two_names_of_a_weight_is_enough(make_deepspeech2: Any, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(make_deepspeech2(tmp_path))
    weights = read_weights(checkpoint.weights_path)
    twins = [name for name in weights if ".cell." in name]
    assert len(twins) == 2 * 4
    write_weights(tmp_path / "lean.pdparams", {k: v for k, v in weights.items() if k not in twins})
    lean = build_network(replace(checkpoint, weights_path=tmp_path / "lean.pdparams"))
    for name, tensor in build_network(checkpoint).state_dict().items():
        assert np.array_equal(lean.state_dict()[name].numpy(), tensor.numpy()), name


def test_weights_that_disagree_under_their_two_names_are_refused(
    make_deepspeech2: Any, tmp_path: Path
) -> None:
    checkpoint = read_checkpoint(make_deepspeech2(tmp_path))
    weights = dict(read_weights(checkpoint.weights_path))
    weights["encoder.rnn.1.0.cell.weight_hh"] = weights["encoder.rnn.1.0.cell.weight_hh"] * 2
    write_weights(tmp_path / "two.pdparams", weights)
    with pytest.raises(BadCheckpoint, match=r"rnn\.1\.0\.cell\.weight_hh is not what .*_hh_l0 is"):
        build_network(replace(checkpoint, weights_path=tmp_path / "two.pdparams"))


@pytest.mark.parametrize("key", ["rnn_layer_size", "num_rnn_layers"])
def test_sizes_beyond_the_weights_are_refused(
    make_deepspeech2: Any, tmp_path: Path, key: str
) -> None:
    checkpoint = read_checkpoint(make_deepspeech2(tmp_path))
    wrong = replace(checkpoint, network={**checkpoint.network, key: 900_000})
    with pytest.raises(BadCheckpoint, match=f"{key} is 900000, expected at most"):
        build_network(wrong)
