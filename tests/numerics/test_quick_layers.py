"""The quick forms against Paddle's own operators: same numbers, same gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("paddle", reason="needs the [compress] extra")
from asrcompress.checkpoints.acoustic import encode
from asrcompress.checkpoints.network import build_network
from asrcompress.compress import fake_quantization
from asrcompress.compress.fake_quantization import fake_quantize, round_weight
from asrcompress.compress.quanters import round_through
from asrcompress.compress.quick_layers import DropoutSource, convolve, quick_layers
from asrcompress.paddle_imports import import_paddle, threads
from asrcompress.process_memory import kept_memory

pytestmark = pytest.mark.paddle
paddle = import_paddle()
F = paddle.nn.functional


def noise(*shape: int, seed: int = 0, spread: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread, shape).astype(np.float32)


def both_ways(function: Callable[..., Any], *arrays: np.ndarray) -> list[np.ndarray]:
    """Result, and gradient of its product with noise by each array."""
    tensors = [paddle.to_tensor(array, stop_gradient=False) for array in arrays]
    result = function(*tensors)
    (result * paddle.to_tensor(noise(*result.shape, seed=9))).sum().backward()
    return [result.numpy(), *(tensor.grad.numpy() for tensor in tensors)]


def assert_same(
    quick: Callable[..., Any],
    plain: Callable[..., Any],
    *arrays: np.ndarray,
    exact: bool = True,
    lost: float = 2e-5,
) -> None:
    """Results equal to the last bit, if `exact`; gradients within what sums in float32 lose."""
    found, expected = both_ways(quick, *arrays), both_ways(plain, *arrays)
    if exact:
        assert np.array_equal(found[0], expected[0])
    for a, b in zip(found, expected, strict=True):
        assert np.allclose(a, b, rtol=lost, atol=lost * max(1.0, float(np.abs(b).max())))


@pytest.mark.parametrize(("low", "high"), [(-128.0, 127.0), (0.0, 255.0), (-17.0, 238.0)])
def test_fake_quantization_is_what_it_was_composed_of(low: float, high: float) -> None:
    def composed(x: Any, scale: Any) -> Any:
        return round_through(paddle.clip(x / scale, low, high)) * scale

    x = noise(3, 5, 70, spread=2.0)
    assert (x / 0.03 > 127).any() and (x / 0.03 < -128).any()  # some are cut
    scale = np.array([0.03], np.float32)
    limits = paddle.to_tensor([low]), paddle.to_tensor([high])
    on_gpu = fake_quantization._FakeQuantize.apply  # its operators run here too
    for function in (fake_quantize, on_gpu):
        for given in ((low, high), limits):
            # The gradient of the scale is a small difference of large sums.
            assert_same(
                lambda x, s, f=function, given=given: f(x, s, *given),
                composed, x, scale, lost=5e-4,
            )  # fmt: skip


def test_gradients_of_fake_quantization_are_lsqs() -> None:
    x, scale, low, high = noise(7, 1500, spread=2.0), np.float32(0.03), -128.0, 127.0
    _, of_x, of_scale = both_ways(
        lambda x, s: fake_quantize(x, s, low, high), x, np.array([scale], np.float32)
    )
    # Esser et al. 2020, equations 3 and 5, in float64.
    given = noise(7, 1500, seed=9)
    exact = (x / scale).astype(np.float64)
    inside = (exact >= low) & (exact <= high)
    of_step = np.where(inside, np.rint(exact) - exact, np.clip(exact, low, high))
    assert np.array_equal(of_x, np.where(inside, given, 0))
    assert of_scale[0] == pytest.approx(float((of_step * given).sum()), rel=1e-4)


def test_what_is_not_a_number_stays_so() -> None:
    x = paddle.to_tensor([float("nan"), 1.0], stop_gradient=False)
    result = fake_quantize(x, paddle.to_tensor([0.5]), -128.0, 127.0)
    assert np.isnan(result.numpy()).tolist() == [True, False]


@pytest.mark.parametrize("shape", [[0, 3], [5], [2, 3, 4]])
def test_fake_quantization_of_views_and_of_nothing(shape: list[int]) -> None:
    x = paddle.to_tensor(noise(*shape), stop_gradient=False)
    turned = x.transpose(list(range(len(shape)))[::-1])
    result = fake_quantize(turned, paddle.to_tensor([0.1], stop_gradient=False), -128.0, 127.0)
    expected = np.rint(x.numpy().T / np.float32(0.1)) * np.float32(0.1)
    assert np.array_equal(result.numpy(), expected)
    if x.size:
        (result * result.detach()).sum().backward()
        assert np.array_equal(x.grad.numpy(), expected.T)


@pytest.mark.parametrize("stopped", ["x", "scale", "both", "no_grad"])
def test_fake_quantization_where_not_everything_is_trained(stopped: str) -> None:
    x = paddle.to_tensor(noise(4, 6), stop_gradient=stopped in ("x", "both"))
    scale = paddle.to_tensor([0.02], stop_gradient=stopped in ("scale", "both"))
    if stopped == "no_grad":
        with paddle.no_grad():
            result = fake_quantize(x, scale, -128.0, 127.0)
    else:
        result = fake_quantize(x, scale, -128.0, 127.0)
    expected = np.clip(np.rint(x.numpy() / np.float32(0.02)), -128, 127) * np.float32(0.02)
    assert np.array_equal(result.numpy(), expected.astype(np.float32))
    if stopped in ("x", "scale"):
        result.sum().backward()
        assert (x.grad is None, scale.grad is None) == (stopped == "x", stopped == "scale")


@pytest.mark.parametrize(("shape", "axis"), [((6, 4), 1), ((5, 3, 7), 0), ((4, 2, 3, 3), 0)])
def test_weights_are_rounded_as_they_were_composed(shape: tuple[int, ...], axis: int) -> None:
    wide = [1] * len(shape)
    wide[axis] = -1
    scale = paddle.to_tensor(np.abs(noise(shape[axis], seed=3)) + 0.01).reshape(wide)
    assert_same(
        lambda w: round_weight(w, scale), lambda w: round_through(w / scale) * scale, noise(*shape)
    )


CONVOLUTIONS = {
    "subsampling": (F.conv2d, (2, 3, 19, 16), (5, 3, 3, 3), {"stride": [2, 2], "padding": [0, 0]}),
    "pointwise": (F.conv1d, (2, 6, 11), (8, 6, 1), {"stride": [1], "padding": 0}),
    "depthwise": (F.conv1d, (3, 6, 20), (6, 1, 5), {"stride": [1], "padding": 2, "groups": 6}),
    "depthwise, no padding": (
        F.conv1d, (3, 6, 20), (6, 1, 5), {"stride": [1], "padding": [0], "groups": 6},
    ),
    "depthwise, dilated": (
        F.conv1d, (3, 6, 20), (6, 1, 3), {"stride": 1, "padding": 1, "groups": 6, "dilation": [2]},
    ),
    "depthwise, strided": (
        F.conv1d, (3, 6, 20), (6, 1, 5), {"stride": [2], "padding": 0, "groups": 6},
    ),
    "depthwise, two dimensions": (
        F.conv2d, (2, 4, 9, 8), (4, 1, 3, 3), {"stride": [2, 2], "padding": [1, 1], "groups": 4},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("biased", [True, False])
def test_convolutions_are_paddles(name: str, biased: bool) -> None:
    function, shape, weight_shape, given = CONVOLUTIONS[name]
    settings = {"groups": 1, "dilation": [1] * (len(shape) - 2), **given}
    bias = [noise(weight_shape[0], seed=2)] if biased else []
    # A depthwise one becomes a matrix product, which may add in another order.
    assert_same(
        lambda x, w, b=None: convolve(function, x, w, b, **settings),
        lambda x, w, b=None: function(x, w, b, **settings),
        noise(*shape), noise(*weight_shape, seed=1), *bias,
        exact=not name.startswith("depthwise"),
    )  # fmt: skip


def test_networks_compute_what_they_did_and_are_left_as_they_were(checkpoint: Any) -> None:
    network = build_network(checkpoint)
    speech = paddle.to_tensor(noise(2, 90, 80))
    lengths = paddle.to_tensor([90, 71])
    types = [type(layer) for layer in network.sublayers()]
    names = list(network.state_dict())

    def run() -> tuple[np.ndarray, dict[str, np.ndarray]]:
        network.clear_gradients()
        hidden = encode(network, speech, lengths).hidden
        (hidden * paddle.to_tensor(noise(*hidden.shape, seed=5))).sum().backward()
        gradients = {
            name: parameter.grad.numpy()
            for name, parameter in network.named_parameters()
            if parameter.grad is not None
        }
        return hidden.numpy(), gradients

    expected, expected_gradients = run()
    before = paddle.Tensor.masked_fill
    with quick_layers(network, DropoutSource()):
        assert sum(type(a) is not b for a, b in zip(network.sublayers(), types, strict=True)) > 10
        assert list(network.state_dict()) == names
        found, gradients = run()
    assert [type(layer) for layer in network.sublayers()] == types
    assert paddle.Tensor.masked_fill is before
    assert np.abs(found - expected).max() < 1e-5
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        largest = np.abs(expected_gradients[name]).max()
        assert np.abs(gradient - expected_gradients[name]).max() <= 1e-4 * max(largest, 1.0), name


def test_dropout_keeps_the_mean_and_depends_on_its_seed() -> None:
    source = DropoutSource()
    source.seed(1, 2)
    first = source.mask([100, 2000], 0.3).numpy()
    source.seed(1, 2)
    assert np.array_equal(source.mask([100, 2000], 0.3).numpy(), first)
    source.seed(1, 3)
    assert not np.array_equal(source.mask([100, 2000], 0.3).numpy(), first)
    assert (first == 0).mean() == pytest.approx(0.3, abs=0.01)  # 0.001 is a standard deviation
    assert first.mean() == pytest.approx(1.0, abs=0.01)
    assert len(np.unique(first)) == 2


def test_dropout_of_a_quick_network_is_the_sources(checkpoint: Any) -> None:
    layer = paddle.nn.Sequential(paddle.nn.Dropout(0.5))
    x = paddle.ones([4, 50])
    source = DropoutSource()
    with quick_layers(layer, source):
        layer.train()
        source.seed(0)
        dropped = layer(x).numpy()
        source.seed(0)
        assert np.array_equal(dropped, source.mask([4, 50], 0.5).numpy())
        layer.eval()
        assert np.array_equal(layer(x).numpy(), x.numpy())


def test_threads_are_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    core = paddle.base.core
    seen: list[int] = []
    monkeypatch.setattr(core, "set_num_threads", seen.append)
    with threads(3):
        assert seen == [3]
    assert seen == [3, 1]
    with threads(0):  # the tests are run with OMP_NUM_THREADS set
        assert seen == [3, 1]


def test_memory_that_is_kept_is_given_back() -> None:
    with kept_memory(), kept_memory():
        blocks = [np.ones(2**20) for _ in range(8)]
    assert sum(block.sum() for block in blocks) == 2**23
