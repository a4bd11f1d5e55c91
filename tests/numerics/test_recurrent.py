"""Integer LSTM and GRU: the deployed nodes and the simulation against numpy, written from paper."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

pytest.importorskip("paddle", reason="needs the [compress] extra")
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from asrcompress.compress.recurrent import QuantedGRU, QuantedLSTM, quantize_dynamically
from asrcompress.errors import ExportFailed
from asrcompress.export.initializers import initializers
from asrcompress.export.recurrent import gate_rows
from asrcompress.export.recurrent_int8 import quantize_recurrent
from asrcompress.paddle_imports import import_paddle
from asrcompress.ranges import Ranges, RecurrentRange

paddle = import_paddle()

pytestmark = pytest.mark.paddle

INPUTS, HIDDEN, FRAMES = 12, 16, 20
LAYERS = {"LSTM": (paddle.nn.LSTM, QuantedLSTM), "GRU": (paddle.nn.GRU, QuantedGRU)}


# --- the oracle: numpy, one utterance (batch included), float64


def uint8(x: np.ndarray) -> np.ndarray:
    """ONNX's DynamicQuantizeLinear and back."""
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    scale = (high - low) / 255 or 1.0
    zero = np.clip(np.rint(-low / scale), 0, 255)
    return (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale


def int8(weight: np.ndarray) -> np.ndarray:
    """Symmetric, one scale per row, and back."""
    scale = np.abs(weight).max(1, keepdims=True) / 127
    return np.rint(weight / scale) * scale


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def oracle(
    kind: str, parameters: dict[str, np.ndarray], x: np.ndarray, suffix: str, states: Any = None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Paddle's equations on rounded numbers: x (frames, batch, inputs), states (batch, hidden)."""
    w_ih, w_hh = (int8(parameters[f"weight_{part}_l0{suffix}"]) for part in ("ih", "hh"))
    b_ih, b_hh = (parameters[f"bias_{part}_l0{suffix}"] for part in ("ih", "hh"))
    gates = uint8(x) @ w_ih.T + b_ih
    h, c = states or [np.zeros((x.shape[1], HIDDEN))] * 2
    outputs = []
    for step in gates[::-1] if suffix else gates:
        recurrent = uint8(h) @ w_hh.T + b_hh
        if kind == "LSTM":
            i, f, g, o = np.split(step + recurrent, 4, axis=1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            (x_r, x_z, x_c), (h_r, h_z, h_c) = np.split(step, 3, 1), np.split(recurrent, 3, 1)
            candidate = np.tanh(x_c + sigmoid(x_r + h_r) * h_c)
            z = sigmoid(x_z + h_z)
            h = z * h + (1 - z) * candidate
        outputs.append(h)
    stacked = np.stack(outputs)
    return (stacked[::-1] if suffix else stacked), [h, c] if kind == "LSTM" else [h]


# --- the subjects


def make_layer(kind: str, direction: str) -> Any:
    paddle.seed(4)
    return LAYERS[kind][0](INPUTS, HIDDEN, direction=direction)


def parameters_of(layer: Any) -> dict[str, np.ndarray]:
    named = layer.named_parameters(include_sublayers=False)
    return {name: tensor.numpy().astype(np.float64) for name, tensor in named}


def ranges_of(layer: Any, **changed: Any) -> Ranges:
    items = tuple(
        RecurrentRange(parameter=f"rnn.0.{name}", absmax=tuple(np.abs(value).max(1).tolist()))
        for name, value in parameters_of(layer).items()
        if "weight" in name
    )
    return Ranges(**{"activations": {}, "weights": (), "recurrent": items, **changed})


def float_node(layer: Any, kind: str, *, states: bool = False, lengths: bool = True) -> Any:
    """A graph with one node as `complete_recurrent` leaves it."""
    parameters = {k: v.astype(np.float32) for k, v in parameters_of(layer).items()}
    suffixes = ["", "_reverse"][: layer.num_directions]

    def stacked(*stems: str) -> np.ndarray:
        rows = [
            np.concatenate([gate_rows(kind, parameters[f"{stem}_l0{s}"]) for stem in stems])
            for s in suffixes
        ]
        return np.stack(rows)

    tensors = {
        "rnn.0.weight_ih": stacked("weight_ih"),
        "rnn.0.weight_hh": stacked("weight_hh"),
        "rnn.0.bias": stacked("bias_ih", "bias_hh"),
    }
    names = ["h", "c"] if kind == "LSTM" else ["h"]
    inputs = ["x", *tensors, "lens" if lengths else "", *(names if states else [])]
    outputs = ["y", *(f"next_{name}" for name in names)]
    node = helper.make_node(
        kind, inputs, outputs, name="rnn.0", hidden_size=HIDDEN,
        direction="bidirectional" if len(suffixes) > 1 else "forward",
    )  # fmt: skip
    if kind == "GRU":
        node.attribute.append(helper.make_attribute("linear_before_reset", 1))
    floats = ["x", *(names if states else [])]
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * 3) for n in floats]
        + [helper.make_tensor_value_info("lens", TensorProto.INT32, [None])] * lengths,
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, None)
            for n in (outputs if states else outputs[:1])
        ],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: Any, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, feed))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


# --- tests


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("direction", ["forward", "bidirect"])
@pytest.mark.parametrize("batch", [1, 2])
def test_node_computes_what_the_equations_say(kind: str, direction: str, batch: int) -> None:
    layer = make_layer(kind, direction)
    model = float_node(layer, kind)
    quantize_recurrent(model, ranges_of(layer))
    x = noise(FRAMES, batch, INPUTS)
    (y,) = run(model, {"x": x, "lens": np.full(batch, FRAMES, np.int32)})
    for index, suffix in enumerate(["", "_reverse"][: layer.num_directions]):
        expected, _ = oracle(kind, parameters_of(layer), x, suffix)
        assert np.abs(y[:, index] - expected).max() < 1e-5


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_states_go_in_and_out(kind: str) -> None:
    layer = make_layer(kind, "forward")
    model = float_node(layer, kind, states=True, lengths=False)
    quantize_recurrent(model, ranges_of(layer))
    x, states = noise(FRAMES, 1, INPUTS), [np.tanh(noise(1, HIDDEN)), noise(1, HIDDEN)]
    names = ["h", "c"] if kind == "LSTM" else ["h"]
    feed = {name: state[None] for name, state in zip(names, states, strict=False)}
    y, *finals = run(model, {"x": x, **feed})
    expected, expected_finals = oracle(kind, parameters_of(layer), x, "", states)
    assert np.abs(y[:, 0] - expected).max() < 1e-5
    for final, wanted in zip(finals, expected_finals, strict=True):
        assert np.abs(final[0] - wanted).max() < 1e-5


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_padding_is_not_read(kind: str) -> None:
    """Backwards starts at an utterance's own end; its frames do not depend on what is behind."""
    layer = make_layer(kind, "bidirect")
    model = float_node(layer, kind)
    quantize_recurrent(model, ranges_of(layer))
    x = noise(FRAMES, 1, INPUTS)
    padded = np.concatenate([x, np.zeros((7, 1, INPUTS), np.float32)])
    (alone,) = run(model, {"x": x, "lens": np.array([FRAMES], np.int32)})
    (behind,) = run(model, {"x": padded, "lens": np.array([FRAMES], np.int32)})
    assert np.abs(alone - behind[:FRAMES]).max() < 1e-6


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("direction", ["forward", "bidirect"])
def test_simulation_computes_what_the_equations_say(kind: str, direction: str) -> None:
    layer = make_layer(kind, direction)
    quanted = LAYERS[kind][1](layer, None)
    quanted.eval()
    x = noise(2, FRAMES, INPUTS)
    lengths = [FRAMES, FRAMES - 6]
    exact = quanted(paddle.to_tensor(x))[0].numpy()
    assert np.array_equal(exact, layer(paddle.to_tensor(x))[0].numpy())  # not enabled yet
    enable(quanted)
    y, states = quanted(paddle.to_tensor(x), None, paddle.to_tensor(lengths))
    y = y.numpy()
    final_h = (states[0] if kind == "LSTM" else states).numpy()
    assert 1e-4 < np.abs(y[0] - exact[0]).max() < 0.1
    for row, length in enumerate(lengths):
        # Each utterance on the grid that it has alone, which is how it is deployed.
        own = x[row, :length, None]
        for index, suffix in enumerate(["", "_reverse"][: layer.num_directions]):
            expected, finals = oracle(kind, parameters_of(layer), own, suffix)
            found = y[row, :length, index * HIDDEN : (index + 1) * HIDDEN]
            assert np.abs(found - expected[:, 0]).max() < 1e-5
            assert np.abs(final_h[index, row] - finals[0][0]).max() < 1e-5
        assert np.all(y[row, length:] == 0)


def enable(quanted: Any) -> None:
    for quanter in quanted.weight_quanters:
        quanter.enabled = True


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_training_has_the_rounded_values_and_gradients_of_every_parameter(kind: str) -> None:
    layer = make_layer(kind, "bidirect")
    quanted = LAYERS[kind][1](layer, None)
    enable(quanted)
    x, lengths = paddle.to_tensor(noise(2, FRAMES, INPUTS)), paddle.to_tensor([FRAMES, FRAMES - 6])
    quanted.eval()
    deployed = quanted(x, None, lengths)[0].numpy()
    quanted.train()
    x.stop_gradient = False
    y, _ = quanted(x, None, lengths)
    assert np.abs(y.numpy() - deployed).max() < 1e-6
    (y * y).sum().backward()
    gradients = {name: p.grad for name, p in quanted.named_parameters(include_sublayers=False)}
    assert len(gradients) == 8
    assert all(float(g.abs().max()) > 0 for g in gradients.values())
    assert float(x.grad.abs().max()) > 0
    # The gradient is that of the float layer, up to what rounding changes.
    plain = make_layer(kind, "bidirect")
    plain.train()
    z, _ = plain(paddle.to_tensor(noise(2, FRAMES, INPUTS)), None, lengths)
    (z * z).sum().backward()
    for name, parameter in plain.named_parameters(include_sublayers=False):
        a, b = parameter.grad.numpy().ravel(), gradients[name].numpy().ravel()
        assert a @ b / math.sqrt((a @ a) * (b @ b)) > 0.99, name


def test_dynamic_grid_is_onnx_runtimes() -> None:
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])
    back = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])
    graph = helper.make_graph(
        [node, back],
        "grid",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for x in (noise(1, 40), np.abs(noise(1, 40)), -np.abs(noise(1, 40)), np.zeros((1, 5), "f")):
        (expected,) = run(model, {"x": x})
        assert np.abs(quantize_dynamically(paddle.to_tensor(x)).numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("top", [127, 63])
def test_stored_codes_and_scales_are_the_learned_ones(kind: str, top: int) -> None:
    layer = make_layer(kind, "bidirect")
    model = float_node(layer, kind)
    quantize_recurrent(model, ranges_of(layer, weight_top=top))
    stored = {item.name: numpy_helper.to_array(item) for item in initializers(model.graph)}
    assert not any(item.dtype == np.float32 and item.ndim > 2 for item in stored.values())
    for part in ("ih", "hh"):
        codes, scales = _both_directions(kind, stored, part)
        for index, suffix in enumerate(("", "_reverse")):
            weight = gate_rows(kind, layer.state_dict()[f"weight_{part}_l0{suffix}"].numpy())
            scale = np.abs(weight).max(1) / np.float32(top)
            assert codes[index].dtype == np.int8
            assert np.array_equal(scales[index], scale)
            assert np.array_equal(codes[index].T, np.rint(weight / scale[:, None]))


def _both_directions(
    kind: str, stored: dict[str, np.ndarray], part: str
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Codes [inputs, gates * hidden] and scales of each direction, however they are stored."""
    name = f"rnn.0.weight_{part}"
    if kind == "LSTM":
        return list(stored[f"{name}_quantized"]), list(stored[f"{name}_scale"])
    if part == "ih":
        codes = np.split(stored[f"{name}_quantized"], 2, axis=1)
        return codes, np.split(stored[f"{name}_scale"], 2)
    names = [name, f"{name}_reverse"]
    return [stored[f"{n}_quantized"] for n in names], [stored[f"{n}_scale"] for n in names]


def test_a_layer_with_half_of_its_ranges_is_refused() -> None:
    layer = make_layer("LSTM", "bidirect")
    ranges = ranges_of(layer)
    with pytest.raises(ExportFailed, match=r"rnn\.0\.weight_hh: has ranges of \[64\] gate rows"):
        quantize_recurrent(
            float_node(layer, "LSTM"), ranges_of(layer, recurrent=ranges.recurrent[:3])
        )


def test_a_range_without_a_node_is_refused() -> None:
    layer = make_layer("GRU", "forward")
    stray = RecurrentRange(parameter="rnn.7.weight_ih_l0", absmax=(1.0,))
    with pytest.raises(ExportFailed, match=r"without a node in the graph: rnn\.7"):
        quantize_recurrent(float_node(layer, "GRU"), ranges_of(layer, recurrent=(stray,)))


def test_a_gru_that_reads_backwards_needs_lengths() -> None:
    layer = make_layer("GRU", "bidirect")
    with pytest.raises(ExportFailed, match="expected the lengths of the batch"):
        quantize_recurrent(float_node(layer, "GRU", lengths=False), ranges_of(layer))


def test_float_weights_do_not_load_as_an_integer_lstm() -> None:
    """Sabotage: the node that stands for integers cannot hold anything else."""
    layer = make_layer("LSTM", "forward")
    model = float_node(layer, "LSTM")
    quantize_recurrent(model, ranges_of(layer))
    (weight,) = [i for i in model.graph.initializer if i.name == "rnn.0.weight_ih_quantized"]
    weight.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float32), weight.name)
    )
    with pytest.raises(Exception, match="is an invalid model"):
        run(model, {"x": noise(FRAMES, 1, INPUTS), "lens": np.array([FRAMES], np.int32)})
