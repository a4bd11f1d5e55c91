"""Probes change what they say and nothing else; divergences and plans against plain arithmetic."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

pytest.importorskip("paddle", reason="needs the [compress] extra")

from asrcompress.checkpoints.batch_norm import fold_batch_norm
from asrcompress.checkpoints.checkpoint import Checkpoint, read_checkpoint
from asrcompress.checkpoints.network import PaddleAcousticModel, build_network
from asrcompress.checkpoints.pruned_experiment import write_experiment
from asrcompress.compress.costs import PARAMETERS, costs_of
from asrcompress.compress.families import attentions_of, layers_of, names_of, recurrent_of
from asrcompress.compress.groups import groups_of, shape_of, take
from asrcompress.compress.posteriors import divergence
from asrcompress.compress.prune_plan import Limits, plan_pruning
from asrcompress.compress.quantized_network import QuantizedNetwork
from asrcompress.compress.sensitivity import (
    float_network,
    groups_to_probe,
    prune_probes,
    quantize_probes,
    quantized_alone,
    silenced,
    units_to_silence,
)
from asrcompress.errors import BadRecipe
from asrcompress.ranges import Ranges
from asrcompress.recipe import Recipe
from asrcompress.sensitivity import EVERYTHING, DamageCurve

pytestmark = pytest.mark.paddle


@pytest.fixture(scope="module")
def ranges(checkpoint: Checkpoint) -> Ranges:
    rng = np.random.default_rng(0)
    quantized = QuantizedNetwork(build_network(checkpoint), Recipe().quantization)
    speech = [(3 * rng.standard_normal((90, 80))).astype(np.float32) for _ in range(3)]
    PaddleAcousticModel(quantized.network).log_probs(speech)
    quantized.finish_calibration()
    return quantized.ranges()


def heard(network: Any, features: list[np.ndarray]) -> list[np.ndarray]:
    model = PaddleAcousticModel(network)
    return [model.log_probs([item])[0] for item in features]


def test_divergence_is_what_a_sheet_of_paper_says() -> None:
    """Two utterances of one and two frames: the mean is over frames, in natural logarithms."""
    before = [np.log([[0.5, 0.25, 0.25]]), np.log([[0.9, 0.05, 0.05], [0.2, 0.2, 0.6]])]
    after = [np.log([[0.25, 0.25, 0.5]]), np.log([[0.9, 0.05, 0.05], [0.2, 0.7, 0.1]])]
    first = 0.5 * math.log(2) + 0.25 * math.log(0.5)
    last = 0.2 * math.log(2 / 7) + 0.6 * math.log(6)
    assert divergence(before, after) == pytest.approx((first + 0.0 + last) / 3)
    assert divergence(before, before) == pytest.approx(0.0, abs=1e-15)
    assert divergence(after, before) != pytest.approx(divergence(before, after))


def test_a_small_divergence_is_not_lost_in_rounding() -> None:
    """A thousandth more on one logit, in float32, against the series d²/2·p·(1-p)."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((400, 50))
    moved = logits.copy()
    moved[:, 3] += 1e-3
    exact = [x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (logits, moved)]
    p = np.exp(exact[0][:, 3])
    before, after = ([x.astype(np.float32)] for x in exact)
    assert divergence(before, after) == pytest.approx(float((p * (1 - p)).mean() * 5e-7), rel=0.01)


def test_there_is_a_probe_for_everything_that_can_be_quantized(checkpoint: Checkpoint) -> None:
    network = build_network(checkpoint)
    names = names_of(network)
    known = [item.name for item in (*layers_of(network), *attentions_of(network))]
    assert sorted(names) == sorted(known)
    assert len(set(names)) == len(names)
    first = names.index("encoder.encoders.0.self_attn")
    assert names[first - 1].startswith("encoder.encoders.0.self_attn.")
    assert not names[first + 1].startswith("encoder.encoders.0.self_attn.")
    assert [probe.target for probe in quantize_probes(network, Recipe())] == [EVERYTHING, *names]


def test_the_layers_of_deepspeech2_stand_in_forward_order(
    make_deepspeech2: Any, tmp_path: Any
) -> None:
    network = build_network(read_checkpoint(make_deepspeech2(tmp_path / "ds2")))
    names = names_of(network)
    known = [item.name for item in (*layers_of(network), *recurrent_of(network))]
    assert sorted(names) == sorted(known)
    assert names[1:4] == ["encoder.conv.conv.2", "encoder.rnn.0", "encoder.rnn.1"]
    assert names[-1] == "decoder.ctc_lo"


def test_a_layer_is_quantized_and_no_other(
    checkpoint: Checkpoint, ranges: Ranges, features: list[np.ndarray]
) -> None:
    """The reference rounds one layer's weight and input with numpy, in the float network."""
    name = "encoder.encoders.1.feed_forward.w_1"
    reference = float_network(checkpoint, Recipe())
    layer = dict(reference.named_sublayers())[name]
    weight = layer.weight.numpy()
    step = np.abs(weight).max(0) / 127
    layer.weight.set_value((np.round(weight / step) * step).astype(np.float32))
    scale = ranges.activations[f"{name}:input"].absmax / 127

    def round_input(_: Any, inputs: Any) -> Any:
        import paddle

        codes = np.clip(np.round(inputs[0].numpy() / np.float32(scale)), -128, 127)
        return (paddle.to_tensor((codes * np.float32(scale)).astype(np.float32)),)

    layer.register_forward_pre_hook(round_input)
    seen = heard(quantized_alone(checkpoint, Recipe(), ranges, name), features)
    plain = heard(float_network(checkpoint, Recipe()), features)
    for a, b, c in zip(heard(reference, features), seen, plain, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)
        assert np.abs(a - c).max() > 1e-3


def test_everything_is_all_of_it(
    checkpoint: Checkpoint, ranges: Ranges, features: list[np.ndarray]
) -> None:
    network = build_network(checkpoint)
    whole = QuantizedNetwork(network, Recipe().quantization)
    whole.restore(ranges)
    seen = heard(quantized_alone(checkpoint, Recipe(), ranges, EVERYTHING), features)
    for a, b in zip(heard(network, features), seen, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["heads", "feed_forward", "macaron", "channels"])
def test_silent_units_are_units_that_were_taken_away(
    checkpoint: Checkpoint, features: list[np.ndarray], tmp_path: Any, kind: str
) -> None:
    network = float_network(checkpoint, Recipe())
    groups = groups_of(network)
    group = next(item for item in groups if item.kind == kind and item.block == 1)
    scores = np.random.default_rng(1).permutation(group.units).astype(float)
    units = units_to_silence(group, 0.5)
    kept = {item.key: tuple(range(item.units)) for item in groups}
    kept[group.key] = tuple(np.flatnonzero(scores >= units))
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    smaller = write_experiment(
        tmp_path / "smaller", checkpoint, shape_of(network, kept), take(state, groups, kept)
    )
    whole = heard(network, features)
    with silenced(network, group, scores, units):
        seen = heard(network, features)
    for a, b, c in zip(heard(build_network(smaller), features), seen, whole, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
        assert np.abs(b - c).max() > 1e-3
    for name, tensor in network.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), state[name])


def test_a_probe_that_fails_leaves_the_network_as_it_was(checkpoint: Checkpoint) -> None:
    network = build_network(checkpoint)
    fold_batch_norm(network)
    group = groups_of(network)[0]
    before = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    with (
        pytest.raises(KeyboardInterrupt),
        silenced(network, group, np.arange(group.units), 1),
    ):
        raise KeyboardInterrupt
    for name, tensor in network.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name])


def test_shares_are_of_whole_units(checkpoint: Checkpoint) -> None:
    heads = groups_of(build_network(checkpoint))[0]
    assert heads.units == 4
    assert [units_to_silence(heads, ratio) for ratio in (0.01, 0.4, 0.5, 0.95)] == [1, 2, 2, 3]
    probes = prune_probes([heads], [0.5, 0.25, 0.5])
    assert [probe.ratio for probe in probes] == [0.25, 0.5]


def test_deepspeech2_is_probed_too(make_deepspeech2: Any, tmp_path: Any) -> None:
    """A recurrent layer alone on int8, and each kind of group silent and back again."""
    checkpoint = read_checkpoint(make_deepspeech2(tmp_path / "ds2"))
    rng = np.random.default_rng(0)
    speech = [
        rng.standard_normal((60, checkpoint.features.width)).astype(np.float32) for _ in range(2)
    ]
    quantized = QuantizedNetwork(build_network(checkpoint), Recipe().quantization)
    PaddleAcousticModel(quantized.network).log_probs(speech[:1])
    quantized.finish_calibration()
    network = float_network(checkpoint, Recipe())
    plain = heard(network, speech)
    alone = quantized_alone(checkpoint, Recipe(), quantized.ranges(), "encoder.rnn.0")
    types = {name: type(layer).__name__ for name, layer in alone.named_sublayers()}
    assert [name for name, kind in types.items() if kind.startswith("Quanted")] == ["encoder.rnn.0"]
    assert 0.0 < divergence(plain, heard(alone, speech)) < 0.1
    groups = {group.kind: group for group in groups_to_probe(checkpoint)}
    assert "hidden" in groups
    for group in groups.values():
        with silenced(network, group, np.arange(group.units), units_to_silence(group, 0.5)):
            assert divergence(plain, heard(network, speech)) > 0.0
        for a, b in zip(plain, heard(network, speech), strict=True):
            np.testing.assert_array_equal(a, b)


def _curves(groups: Any, seed: int) -> dict[tuple[str, int], DamageCurve]:
    rng = np.random.default_rng(seed)
    found = {}
    for group in groups:
        rising = np.cumsum(np.sort(rng.exponential(size=3)))
        shares = (0.25, 0.5, 0.75)
        points = ((0.0, 0.0), *zip(shares, map(float, rising), strict=True))
        found[group.key] = DamageCurve(points=points)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_curves_decide_how_much_goes_from_which_layer(checkpoint: Checkpoint, seed: int) -> None:
    """No other set of shares saves as much at less damage, but for the last step's rounding."""
    network = build_network(checkpoint)
    every = groups_of(network)
    groups = [item for item in every if item.block == 0]
    fixed = [index for index, item in enumerate(every) if item.block != 0]
    costs = costs_of(network, every, measure=PARAMETERS, frames=100, n_mels=80)
    scores = [np.arange(item.units, dtype=float) for item in every]
    curves = _curves(groups, seed)
    plan = plan_pruning(
        every, scores, costs, total_cost=costs.total, amount=0.15, uniform=False,
        limits=Limits(step=8, keep=0.0, curves=curves), fixed=fixed,
    )  # fmt: skip

    def removed(key: tuple[str, int]) -> int:
        return next(g.units for g in groups if g.key == key) - len(plan.kept[key])

    def damage(counts: dict[tuple[str, int], int]) -> float:
        return sum(curves[g.key].at(counts[g.key] / g.units) for g in groups)

    def saved(counts: dict[tuple[str, int], int]) -> float:
        gone = [counts.get(item.key, 0) for item in every]
        return costs.left([0] * len(every)) - costs.left(gone)

    chosen = {g.key: removed(g.key) for g in groups}
    assert saved(chosen) >= 0.15 * costs.total
    for g in groups:  # nothing beyond what was measured
        assert chosen[g.key] <= 0.75 * g.units
        assert plan.kept[g.key] == tuple(range(chosen[g.key], g.units))
    options = [range(0, int(0.75 * g.units) + 1, 1 if g.kind == "heads" else 8) for g in groups]
    for counts in itertools.product(*options):
        other = dict(zip((g.key for g in groups), counts, strict=True))
        if saved(other) >= saved(chosen):
            assert damage(other) >= damage(chosen) - 1e-9


def test_more_than_was_measured_is_refused(checkpoint: Checkpoint) -> None:
    network = build_network(checkpoint)
    groups = groups_of(network)
    costs = costs_of(network, groups, measure=PARAMETERS, frames=100, n_mels=80)
    scores = [np.ones(item.units) for item in groups]
    curves = {item.key: DamageCurve(points=((0.0, 0.0), (0.25, 0.1))) for item in groups}
    with pytest.raises(BadRecipe, match=r"prune\.amount: got 0\.600") as error:
        plan_pruning(
            groups, scores, costs, total_cost=costs.total, amount=0.6, uniform=False,
            limits=Limits(step=4, curves=curves),
        )  # fmt: skip
    assert "sensitivity.ratios" in error.value.hint
