"""Structured pruning: smaller tensors, and exactly the network without the units."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("paddle", reason="needs the [compress] extra")

from asrcompress.checkpoints.checkpoint import read_checkpoint
from asrcompress.checkpoints.network import PaddleAcousticModel, build_network
from asrcompress.checkpoints.pruned_experiment import write_experiment
from asrcompress.compress.costs import costs_of
from asrcompress.compress.groups import groups_of
from asrcompress.compress.importance import score_magnitudes
from asrcompress.compress.prune import drop_blocks, least_blocks, prune
from asrcompress.compress.prune_plan import Limits
from asrcompress.errors import BadCheckpoint, BadRecipe

pytestmark = pytest.mark.paddle
FRAMES = 200


@pytest.fixture(scope="module")
def experiment(make_experiment: Callable[..., Path], tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("pruning")
    return make_experiment(folder, blocks=3, width=16, heads=4, feed_forward=32)


@pytest.fixture
def network(experiment: Path) -> Any:
    return build_network(read_checkpoint(experiment))


@pytest.fixture(scope="module")
def speech() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((90, 80), np.float32) for _ in range(2)]


def scores_of(network: Any, criterion: str = "l1") -> list[np.ndarray]:
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    return score_magnitudes(groups_of(network), state, criterion)


def pruned(network: Any, amount: float, **options: Any) -> Any:
    measure = options.pop("measure", "parameters")
    costs = costs_of(network, groups_of(network), measure=measure, frames=FRAMES, n_mels=80)
    defaults: dict[str, Any] = {"costs": costs, "uniform": False, "limits": Limits(step=4)}
    return prune(network, scores_of(network), amount=amount, **{**defaults, **options})


def silence(network: Any, kept: Any) -> None:
    """Zero what leaves each removed unit: the reference for taking it away."""
    last = {
        "heads": ("self_attn.linear_out", 0),
        "feed_forward": ("feed_forward.w_2", 0),
        "macaron": ("feed_forward_macaron.w_2", 0),
        "channels": ("conv_module.pointwise_conv2", 1),
    }
    layers = dict(network.named_sublayers())
    for group in groups_of(network):
        name, axis = last[group.kind]
        layer = layers[f"encoder.encoders.{group.block}.{name}"]
        gone = sorted(set(range(group.units)) - set(kept[group.kind, group.block]))
        weight = np.moveaxis(layer.weight.numpy().copy(), axis, 0)
        per_unit = weight.reshape(group.units, -1, *weight.shape[1:])
        per_unit[gone] = 0.0
        layer.weight.set_value(np.moveaxis(per_unit.reshape(weight.shape), 0, axis))


def test_a_pruned_checkpoint_computes_what_is_left(
    experiment: Path, network: Any, speech: list[np.ndarray], tmp_path: Path
) -> None:
    checkpoint = read_checkpoint(experiment)
    result = pruned(network, 0.4)
    smaller = build_network(
        write_experiment(tmp_path / "pruned", checkpoint, result.shape, result.weights)
    )
    silence(network, result.plan.kept)
    wanted = PaddleAcousticModel(network).log_probs(speech)
    seen = PaddleAcousticModel(smaller).log_probs(speech)
    for a, b in zip(wanted, seen, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_parameters_really_fall(network: Any, experiment: Path, tmp_path: Path) -> None:
    result = pruned(network, 0.4)
    checkpoint = read_checkpoint(experiment)
    smaller = build_network(
        write_experiment(tmp_path / "pruned", checkpoint, result.shape, result.weights)
    )

    def count(item: Any) -> int:
        return sum(
            math.prod(tensor.shape)
            for name, tensor in item.named_parameters()
            if name.startswith("encoder.")
        )

    removed = 1 - count(smaller) / count(network)
    assert removed == pytest.approx(result.plan.removed, abs=1e-9)
    assert 0.4 <= removed < 0.5


def test_pruning_again_starts_from_the_smaller_one(
    network: Any, experiment: Path, tmp_path: Path
) -> None:
    first = pruned(network, 0.15)
    once = write_experiment(
        tmp_path / "once", read_checkpoint(experiment), first.shape, first.weights
    )
    second = pruned(build_network(once), 0.15)
    twice = write_experiment(tmp_path / "twice", once, second.shape, second.weights)
    assert build_network(twice) is not None
    assert sum(b.feed_forward + b.heads for b in second.shape.blocks) < sum(
        b.feed_forward + b.heads for b in first.shape.blocks
    )


def test_uniform_removes_alike_and_global_does_not(network: Any) -> None:
    alike = pruned(network, 0.4, uniform=True).shape.blocks
    assert len({block.feed_forward for block in alike}) == 1
    assert len({block.channels for block in alike}) == 1


def macs_of_a_unit(network: Any, kind: str) -> float:
    """What removing one unit of the first such group saves."""
    groups = groups_of(network)
    costs = costs_of(network, groups, measure="macs", frames=FRAMES, n_mels=80)
    removed = [0] * len(groups)
    removed[next(i for i, group in enumerate(groups) if group.kind == kind)] = 1
    return costs.total - costs.left(removed)


def test_macs_are_a_measure_of_their_own(network: Any) -> None:
    frames = ((FRAMES - 1) // 2 - 1) // 2
    # A feed-forward unit: 16 products in, 16 out.
    assert macs_of_a_unit(network, "feed_forward") == pytest.approx(32 * frames)
    # A head of width 4: q, k, v and out for every frame, positions for as many, and three products
    # of frames x frames.
    wanted = 5 * 16 * 4 * frames + 3 * frames**2 * 4
    assert macs_of_a_unit(network, "heads") == pytest.approx(wanted)
    assert pruned(network, 0.1, measure="macs").plan.removed >= 0.1


def test_attention_without_relative_positions_has_two_products(
    make_experiment: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_experiment(
        tmp_path / "t", blocks=1, width=16, heads=4, feed_forward=32, encoder="transformer"
    )
    frames = ((FRAMES - 1) // 2 - 1) // 2
    wanted = 4 * 16 * 4 * frames + 2 * frames**2 * 4
    seen = macs_of_a_unit(build_network(read_checkpoint(folder)), "heads")
    assert seen == pytest.approx(wanted)


def test_bytes_are_one_for_a_weight_and_four_for_the_rest(network: Any) -> None:
    groups = groups_of(network)
    costs = costs_of(network, groups, measure="bytes", frames=FRAMES, n_mels=80)
    by_name = {part.name: part.amount for part in costs.parts}
    assert by_name["encoder.encoders.0.feed_forward.w_1.weight"] == 16 * 32
    assert by_name["encoder.encoders.0.feed_forward.w_1.bias"] == 4 * 32
    assert by_name["ctc.ctc_lo.weight"] == 16 * 7
    assert not any(name.startswith("decoder.") for name in by_name)


@pytest.mark.parametrize("criterion", ["l1", "l2", "fpgm"])
def test_a_unit_of_zeros_goes_first(network: Any, criterion: str) -> None:
    layer = network.encoder.encoders[1].feed_forward
    for linear, axis in ((layer.w_1, 1), (layer.w_2, 0)):
        weight = np.moveaxis(linear.weight.numpy().copy(), axis, 0)
        weight[7] = 0.0 if criterion != "fpgm" else weight.mean(0)
        linear.weight.set_value(np.moveaxis(weight, 0, axis))
    index = next(
        i for i, g in enumerate(groups_of(network)) if (g.kind, g.block) == ("feed_forward", 1)
    )
    assert int(scores_of(network, criterion)[index].argmin()) == 7


def test_more_than_there_is_cannot_be_removed(network: Any) -> None:
    with pytest.raises(BadRecipe, match=r"prune.amount: got 0.950, expected at most 0\.\d\d\d"):
        pruned(network, 0.95)


def test_a_sensitive_group_is_spared(network: Any) -> None:
    limits = Limits(step=4, ratios={("feed_forward", 0): 0.0})
    assert pruned(network, 0.3, limits=limits).shape.blocks[0].feed_forward == 32


def test_whole_blocks_count_towards_the_amount(
    network: Any, experiment: Path, tmp_path: Path, speech: list[np.ndarray]
) -> None:
    result = pruned(network, 0.2, drop=(1,))
    assert len(result.shape.blocks) == 2
    assert result.plan.removed >= 0.2
    smaller = build_network(
        write_experiment(tmp_path / "p", read_checkpoint(experiment), result.shape, result.weights)
    )
    import paddle

    network.encoder.encoders = paddle.nn.LayerList(
        [network.encoder.encoders[0], network.encoder.encoders[2]]
    )
    silence(
        network,
        {
            (kind, block - (block > 1)): units
            for (kind, block), units in result.plan.kept.items()
            if block != 1
        },
    )
    np.testing.assert_allclose(
        PaddleAcousticModel(network).log_probs(speech)[0],
        PaddleAcousticModel(smaller).log_probs(speech)[0],
        atol=1e-5,
    )


def test_the_block_that_does_nothing_is_the_least(network: Any, speech: list[np.ndarray]) -> None:
    layer = network.encoder.encoders[1]
    before = network.encoder.encoders[0].norm_final
    # Everything that block 1 adds becomes zero, and its final norm repeats the one before it.
    for part in (
        layer.self_attn.linear_out,
        layer.feed_forward.w_2,
        layer.feed_forward_macaron.w_2,
        layer.conv_module.pointwise_conv2,
    ):
        part.weight.set_value(np.zeros(part.weight.shape, np.float32))
        part.bias.set_value(np.zeros(part.bias.shape, np.float32))
    layer.norm_final.weight.set_value(before.weight)
    layer.norm_final.bias.set_value(before.bias)
    assert least_blocks(network, speech, 1, progress=lambda *_: None) == (1,)
    assert len(network.encoder.encoders) == 3  # as it was


def test_blocks_behind_a_dropped_one_move_up() -> None:
    state = {f"encoder.encoders.{i}.norm_ff.bias": np.full(1, i) for i in range(4)}
    left = drop_blocks({**state, "ctc.ctc_lo.bias": np.zeros(1)}, (0, 2))
    assert {name: int(v[0]) for name, v in left.items()} == {
        "encoder.encoders.0.norm_ff.bias": 1,
        "encoder.encoders.1.norm_ff.bias": 3,
        "ctc.ctc_lo.bias": 0,
    }


def test_rotary_attention_is_refused(make_experiment: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "rope", encoder_conf={"pos_enc_layer_type": "rope_pos"})
    with pytest.raises(BadCheckpoint, match=r"RoPERelPosition.*expected absolute or relative"):
        groups_of(build_network(read_checkpoint(folder)))


def test_a_shape_of_another_number_of_blocks_is_refused(
    network: Any, experiment: Path, tmp_path: Path
) -> None:
    result = pruned(network, 0.3)
    folder = tmp_path / "pruned"
    write_experiment(folder, read_checkpoint(experiment), result.shape, result.weights)
    path = folder / "conf/model.yaml"
    path.write_text(path.read_text().replace("num_blocks: 3", "num_blocks: 2"))
    with pytest.raises(BadCheckpoint, match="pruned_shape has 3 blocks, expected num_blocks 2"):
        build_network(read_checkpoint(folder))
