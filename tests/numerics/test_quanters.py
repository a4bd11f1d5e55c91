"""Fake quantization against an independent numpy oracle, and the shape of its gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from asrcompress.errors import BadRecipe, CalibrationFailed
from asrcompress.recipe import Quantization

pytest.importorskip("paddle", reason="needs the [compress] extra")
from asrcompress.calibration.observers import METHODS, make_observer
from asrcompress.checkpoints.network import PaddleAcousticModel, build_network
from asrcompress.compress.quanters import ActivationQuanter, WeightQuanter
from asrcompress.compress.quantized_network import QuantizedNetwork
from asrcompress.paddle_imports import import_paddle

pytestmark = pytest.mark.paddle
paddle = import_paddle()


def quanter(update: str = "frozen", *, unsigned: bool = False, absmax: float = 2.0) -> Any:
    observer = make_observer("min_max", edge="e", steps=127.0, percentile=1.0, momentum=0.9)
    made = ActivationQuanter("e", observer, unsigned=unsigned, update=update, momentum=0.9)
    made.restore(absmax)
    return made


def uint8_oracle(x: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    """ONNX QuantizeLinear then DequantizeLinear, uint8, written from the specification."""
    codes = np.clip(np.rint(x / np.float32(scale)) + zero_point, 0, 255)
    return ((codes - zero_point) * np.float32(scale)).astype(np.float32)


@pytest.mark.parametrize("unsigned", [False, True])
def test_activations_are_rounded_as_onnx_rounds_them(unsigned: bool) -> None:
    made = quanter(unsigned=unsigned)
    made.eval()
    x = np.random.default_rng(0).normal(0, 1.5, (4, 7, 9)).astype(np.float32)
    known = made.range()
    assert known.zero_point == (0 if unsigned else 128)
    expected = uint8_oracle(x, known.scale, known.zero_point)
    assert np.allclose(made(paddle.to_tensor(x)).numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("axis", "shape"), [(0, (5, 3, 7)), (1, (6, 4)), (0, (4, 2, 3, 3))])
def test_weights_are_rounded_per_output_channel(axis: int, shape: tuple[int, ...]) -> None:
    w = np.random.default_rng(1).normal(0, 0.2, shape).astype(np.float32)
    made = WeightQuanter(axis)
    assert np.array_equal(made(paddle.to_tensor(w)).numpy(), w)  # before calibration has ended
    made.enabled = True
    channels = np.moveaxis(w, axis, 0)
    expected = np.stack(
        [np.rint(c / (np.abs(c).max() / 127)) * (np.abs(c).max() / 127) for c in channels]
    )
    result = np.moveaxis(made(paddle.to_tensor(w)).numpy(), axis, 0)
    assert np.allclose(result, expected, rtol=0, atol=1e-6)
    for channel in result:
        assert len(np.unique(np.rint(channel / (np.abs(channel).max() / 127)))) <= 255


def test_gradient_passes_inside_the_range_and_stops_outside() -> None:
    made = quanter(absmax=1.0)
    made.train()
    x = paddle.to_tensor([-3.0, -0.5, 0.2, 0.9, 5.0], stop_gradient=False)
    made(x).sum().backward()
    assert x.grad.numpy().tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_learned_range_gets_lsq_gradient() -> None:
    made = quanter("learned", absmax=1.27)  # scale 0.01
    made.train()
    x = np.array([0.123, -0.456, 9.0, -9.0], np.float32)
    made(paddle.to_tensor(x)).sum().backward()
    # Esser et al. 2020, eq. 3: round(v) - v inside, the limit outside; d scale / d absmax = 1/127.
    v = x[:2] / 0.01
    expected = ((np.rint(v) - v).sum() + 127 - 128) / 127
    assert made.absmax.grad.numpy()[0] == pytest.approx(expected, abs=1e-4)


def test_ranges_move_only_as_they_were_told() -> None:
    batch = paddle.to_tensor([[-4.0, 1.0]])
    for update, expected in (("frozen", 2.0), ("learned", 2.0), ("moving_average", 2.2)):
        made = quanter(update, absmax=2.0)
        made.train()
        made(batch)
        assert made.range().absmax == pytest.approx(expected), update
        made.eval()
        made(batch * 100)
        assert made.range().absmax == pytest.approx(expected), update


@pytest.mark.parametrize("method", METHODS)
def test_observers_find_a_range_near_what_is_best(method: str) -> None:
    observer = make_observer(method, edge="e", steps=127.0, percentile=0.999, momentum=0.5)
    rng = np.random.default_rng(2)
    quiet, loud = rng.normal(0, 0.1, 5000), rng.normal(0, 1.0, 5000)
    for batch in (quiet, loud, loud):  # the quiet first batch is what PaddleSlim's MSE trips over
        observer.observe(paddle.to_tensor(batch.astype(np.float32)))
    largest = np.abs(loud).max()
    low, high = {
        "min_max": (largest * 0.999, largest * 1.001),
        "percentile": (2.5, largest),
        "moving_average": (0.7 * largest, largest),
        "mse": (2.5, largest * 1.001),
    }[method]
    assert low <= observer.absmax() <= high


def test_mse_observer_beats_min_max_on_an_outlier() -> None:
    values = np.random.default_rng(3).normal(0, 1.0, 20_000).astype(np.float32)
    values[0] = 30.0
    errors = {}
    for method in ("min_max", "mse"):
        observer = make_observer(method, edge="e", steps=127.0, percentile=1.0, momentum=0.9)
        observer.observe(paddle.to_tensor(values))
        scale = observer.absmax() / 127
        quantized = np.clip(np.rint(values / scale), -128, 127) * scale
        errors[method] = float(((values - quantized) ** 2).mean())
    assert errors["mse"] < errors["min_max"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [[], [0.0, 0.0], [float("nan"), 1.0]])
def test_unusable_calibration_is_refused(method: str, values: list[float]) -> None:
    observer = make_observer(method, edge="block 3", steps=127.0, percentile=0.999, momentum=0.9)
    with pytest.raises(CalibrationFailed, match=r"block 3: (observed range is|holds values)"):
        if values:
            observer.observe(paddle.to_tensor(values))
        observer.absmax()


@pytest.fixture
def quantized(checkpoint: Any) -> QuantizedNetwork:
    return QuantizedNetwork(build_network(checkpoint), Quantization(observer="min_max"))


def test_observing_changes_nothing(
    checkpoint: Any, quantized: QuantizedNetwork, features: list[np.ndarray]
) -> None:
    plain = PaddleAcousticModel(build_network(checkpoint)).log_probs(features[:1])[0]
    observing = PaddleAcousticModel(quantized.network).log_probs(features[:1])[0]
    assert np.abs(plain - observing).max() < 5e-5


def test_layers_that_read_one_tensor_share_one_range(quantized: QuantizedNetwork) -> None:
    layers = dict(quantized.network.named_sublayers())
    first = "encoder.encoders.0.self_attn"
    shared = layers[f"{first}.linear_q"].activation_quanter
    assert layers[f"{first}.linear_k"].activation_quanter is shared
    assert layers[f"{first}.linear_v"].activation_quanter is shared
    positions = [layers[f"encoder.encoders.{i}.self_attn.linear_pos"] for i in (0, 1)]
    assert positions[0].activation_quanter is positions[1].activation_quanter
    assert positions[0].activation_quanter is not shared


def test_parameters_keep_paddlespeech_names(checkpoint: Any, quantized: QuantizedNetwork) -> None:
    state = quantized.plain_state_dict()
    assert list(state) == list(build_network(checkpoint).state_dict())


def test_ranges_survive_json(quantized: QuantizedNetwork, features: list[np.ndarray]) -> None:
    from asrcompress.ranges import Ranges

    PaddleAcousticModel(quantized.network).log_probs(features)
    quantized.finish_calibration()
    ranges = quantized.ranges()
    assert Ranges.from_json(ranges.to_json()) == ranges
    assert ranges.activations["encoder.embed.conv.0:output"].unsigned
    assert ranges.activations["encoder.encoders.1.self_attn:weights"].unsigned


def test_calibration_without_speech_is_refused(quantized: QuantizedNetwork) -> None:
    with pytest.raises(CalibrationFailed, match="observed range is"):
        quantized.finish_calibration()


def test_a_skip_pattern_that_matches_nothing_is_refused(checkpoint: Any) -> None:
    with pytest.raises(BadRecipe, match=r"'encoder\.nowhere' matches no layer"):
        QuantizedNetwork(build_network(checkpoint), Quantization(skip=("encoder.nowhere",)))
