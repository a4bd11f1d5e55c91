"""Zeros inside of tensors: patterns, the schedule, masks that hold, and the INT8 graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("paddle", reason="needs the [compress] extra")

from asrcompress.checkpoints.checkpoint import read_checkpoint
from asrcompress.checkpoints.network import build_network
from asrcompress.checkpoints.patterns import ZeroPattern, zero_pattern
from asrcompress.checkpoints.pruned_experiment import write_experiment
from asrcompress.compress import patterns
from asrcompress.compress.masks import Masks, masks_of
from asrcompress.compress.sparsity import GradualPruner, sparse_weights
from asrcompress.errors import BadCheckpoint
from asrcompress.recipe import Prune

pytestmark = pytest.mark.paddle


@pytest.fixture(scope="module")
def conformer(make_experiment: Callable[..., Path], tmp_path_factory: Any) -> Any:
    return read_checkpoint(make_experiment(tmp_path_factory.mktemp("sparse"), blocks=2))


@pytest.fixture(scope="module")
def deepspeech2(make_deepspeech2: Callable[..., Path], tmp_path_factory: Any) -> Any:
    folder = tmp_path_factory.mktemp("sparse-ds2")
    return read_checkpoint(make_deepspeech2(folder, layers=2, width=16, direction="bidirect"))


def test_a_hand_made_matrix_in_every_pattern() -> None:
    # One output a row, as (outputs, inputs, places).
    rows = np.array([[1, -2, 3, -4], [8, 7, 6, 5], [1, -1, 9, 9], [1, 1, 9, 9]], np.float32)[
        ..., None
    ]
    one = patterns.losses(rows, "unstructured", 0)
    gone = patterns.smallest([one], 6 / 16, uniform=True)[0]
    assert (~patterns.mask(rows, gone, "unstructured", 0))[:, :, 0].astype(int).tolist() == [
        [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0],
    ]  # fmt: skip
    # Pairs of outputs: the third and fourth at the first two inputs. Their signs must not cancel.
    two = patterns.losses(rows, "1xN", 2)
    assert two.tolist() == [[4.5, 4.5, 4.5, 4.5], [1, 1, 9, 9]]
    gone = patterns.smallest([two], 2 / 8, uniform=True)[0]
    stay = patterns.mask(rows, gone, "1xN", 2)[:, :, 0]
    assert stay.astype(int).tolist() == [[1] * 4, [1] * 4, [0, 0, 1, 1], [0, 0, 1, 1]]
    fours = patterns.losses(rows, "2:4", 0)
    assert fours[:, 0, 0].tolist() == [1.5, 5.5, 1, 1]
    stay = patterns.mask(rows, np.ones(fours.shape, bool), "2:4", 0)[:, :, 0]
    assert stay.astype(int).tolist() == [[0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


def test_rows_are_outputs_for_linear_convolution_and_back() -> None:
    rng = np.random.default_rng(0)
    for shape, axis in (((6, 4), 1), ((4, 6), 0), ((5, 4, 3, 3), 0), ((5, 4, 7), 0)):
        weight = rng.standard_normal(shape)
        rows = patterns.as_rows(weight, axis)
        assert rows.shape[0] == shape[axis]
        assert np.array_equal(patterns.from_rows(rows > 0, shape, axis), weight > 0)


def test_the_smallest_of_all_or_of_each() -> None:
    small, large = np.arange(4.0), 10 + np.arange(4.0)
    together = patterns.smallest([small, large], 0.5, uniform=False)
    assert [item.sum() for item in together] == [4, 0]
    each = patterns.smallest([small, large], 0.5, uniform=True)
    assert [item.sum() for item in each] == [2, 2]


def test_depthwise_first_convolution_and_head_stay_whole(conformer: Any, deepspeech2: Any) -> None:
    names = {item.name for item in sparse_weights(build_network(conformer))}
    assert "encoder.encoders.0.feed_forward.w_1.weight" in names
    assert "encoder.encoders.0.conv_module.pointwise_conv1.weight" in names
    assert not any("depthwise" in n or n.startswith(("ctc.", "decoder.")) for n in names)
    assert "encoder.embed.conv.0.weight" not in names
    names = {item.name for item in sparse_weights(build_network(deepspeech2))}
    assert {f"encoder.rnn.1.weight_hh_l0{s}" for s in ("", "_reverse")} <= names
    assert "encoder.conv.conv.2.weight" in names and "encoder.conv.out.0.weight" not in names


@pytest.mark.parametrize("pattern", ["unstructured", "1xN", "2:4"])
@pytest.mark.parametrize("family", ["conformer", "deepspeech2"])
def test_every_weight_gets_its_zeros(pattern: str, family: str, request: Any) -> None:
    network = build_network(request.getfixturevalue(family))
    before = {name: tensor.numpy().copy() for name, tensor in network.named_parameters()}
    pruner = GradualPruner(network, Prune(pattern=pattern, block=4, uniform=True), total_steps=0)
    assert pruner.at_once and pruner.reached
    chosen = {item.name: item for item in sparse_weights(network)}
    for name, tensor in network.named_parameters():
        values = tensor.numpy()
        if name not in chosen:
            assert np.array_equal(values, before[name])
            continue
        assert (values == 0).mean() == pytest.approx(0.5, abs=0.02), name
        assert np.array_equal(values[values != 0], before[name][values != 0])
        rows = patterns.as_rows(values, chosen[name].output_axis)
        if pattern == "2:4":
            fours = (rows == 0).reshape(rows.shape[0], -1, 4, rows.shape[2])
            assert (fours.sum(2) >= 2).all(), name
        elif pattern == "1xN":
            blocks = (rows == 0).reshape(-1, 4, rows.shape[1], rows.shape[2])
            whole = blocks.all((1, 3)) | ~blocks.any((1, 3))
            assert whole.all(), name


def schedule(network: Any, steps: int, **settings: Any) -> list[float]:
    pruner = GradualPruner(network, Prune(pattern="unstructured", **settings), total_steps=steps)
    shares = []
    for _ in range(steps):
        pruner.advance()
        weights = [item.parameter.numpy() for item in sparse_weights(network)]
        shares.append(sum((w == 0).sum() for w in weights) / sum(w.size for w in weights))
    return shares


def test_zeros_come_by_the_cubic_schedule(conformer: Any) -> None:
    """Zhu & Gupta, equation 1, with five steps of twelve."""
    shares = schedule(
        build_network(conformer), 120, sparsity=0.8, rising_share=0.5, rising_steps=5,
        rising_start=0.25,
    )  # fmt: skip
    seen = sorted(set(np.round(shares, 3)))
    wanted = [0.8 + (0.2 - 0.8) * (1 - i / 5) ** 3 for i in range(6)]
    np.testing.assert_allclose(seen, wanted, atol=2e-3)
    assert shares[0] == pytest.approx(0.2, abs=2e-3)
    assert shares[59] < 0.799 and shares[60] == pytest.approx(0.8, abs=2e-3)


def test_a_resumed_schedule_frees_nothing(conformer: Any) -> None:
    """PaddleSlim's own would: the smallest weight that stays is then a zero."""
    network = build_network(conformer)
    settings = Prune(pattern="unstructured", sparsity=0.6, rising_steps=3)
    first = GradualPruner(network, settings, total_steps=100)
    for _ in range(20):
        first.advance()
    state = first.state()
    second = GradualPruner(network, settings, total_steps=100)
    second.restore(state)
    assert second.ratio == first.ratio
    for _ in range(100):
        first.advance()
        second.advance()
        for name, mask in first.masks.values().items():
            assert np.array_equal(mask, second.masks.values()[name])
    assert second.reached


def test_masks_hold_against_an_optimizer(conformer: Any, tmp_path: Path) -> None:
    network = build_network(conformer)
    GradualPruner(network, Prune(pattern="2:4"), total_steps=0)
    names = tuple(item.name for item in sparse_weights(network))
    written = write_experiment(
        tmp_path / "sparse",
        conformer,
        None,
        {name: tensor.numpy() for name, tensor in network.state_dict().items()},
        ZeroPattern(pattern="2:4", sparsity=0.5, block=4, layers=names),
    )
    again = build_network(written)
    masks = masks_of(again, written)
    assert masks is not None
    for _, tensor in again.named_parameters():
        tensor.set_value(tensor + 1.0)
    masks.apply()
    for item in sparse_weights(again):
        assert (item.parameter.numpy() == 0).mean() == pytest.approx(0.5, abs=0.02)
    assert masks_of(network, conformer) is None


def test_a_dense_network_gives_masks_of_ones(conformer: Any) -> None:
    network = build_network(conformer)
    masks = Masks.of_zeros(network, [item.name for item in sparse_weights(network)])
    assert all(mask.all() for mask in masks.values().values())


def test_a_pattern_that_is_none_is_refused() -> None:
    good = ZeroPattern(pattern="1xN", sparsity=0.5, block=4, layers=("a",)).to_settings()
    assert zero_pattern({"pruned_pattern": good}, item="x") is not None
    for change in ({"pattern": "3:4"}, {"layers": []}, {"sparsity": "half"}):
        with pytest.raises(BadCheckpoint, match="pruned_pattern"):
            zero_pattern({"pruned_pattern": {**good, **change}}, item="x")
