"""Hidden units, channels and dense units of DeepSpeech2: smaller, and exactly what is left."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("paddle", reason="needs the [compress] extra")
import onnxruntime
import paddle

from asrcompress.checkpoints.checkpoint import Checkpoint, read_checkpoint
from asrcompress.checkpoints.network import PaddleAcousticModel, build_network
from asrcompress.checkpoints.pruned_experiment import write_experiment
from asrcompress.compress.costs import costs_of
from asrcompress.compress.groups import groups_of
from asrcompress.compress.importance import score_magnitudes
from asrcompress.compress.macs import count_macs
from asrcompress.compress.prune import Pruned, prune, score_units
from asrcompress.compress.prune_plan import Limits
from asrcompress.compress.quantized_network import QuantizedNetwork
from asrcompress.compress.recovery import Recovery
from asrcompress.compress.workers import Workers
from asrcompress.errors import BadCheckpoint
from asrcompress.export.deepspeech2_graph import export_online
from asrcompress.export.families import export_utterances
from asrcompress.export.int8 import quantize_graph
from asrcompress.export.integer_share import measure_integer_share
from asrcompress.export.onnx_graph import save_graph
from asrcompress.recipe import Quantization, Training
from asrcompress.runtime.session import OnnxAcousticModel

pytestmark = pytest.mark.paddle
N_MELS, FRAMES = 80, 200


@pytest.fixture(
    params=[("forward", False, (24,)), ("bidirect", False, ()), ("bidirect", True, (24, 20))],
    ids=["lstm", "bi-lstm", "bi-gru"],
)
def checkpoint(
    request: Any, make_deepspeech2: Callable[..., Path], tmp_path_factory: Any
) -> Checkpoint:
    direction, gru, fc = request.param
    folder = tmp_path_factory.mktemp("ds2")
    return read_checkpoint(
        make_deepspeech2(folder, layers=3, width=24, direction=direction, gru=gru, fc=fc)
    )


@pytest.fixture
def network(checkpoint: Checkpoint) -> Any:
    built = build_network(checkpoint)
    rng = np.random.default_rng(1)
    for norm in built.encoder.layernorm_list:  # ones and zeros would hide a wrong place
        for part in (norm.weight, norm.bias):
            part.set_value(rng.normal(1.0, 0.3, part.shape).astype(np.float32))
    return built


@pytest.fixture(scope="module")
def speech() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((frames, N_MELS), np.float32) for frames in (90, 70)]


def pruned(network: Any, amount: float, measure: str = "parameters", **options: Any) -> Pruned:
    groups = groups_of(network)
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    limits = Limits(step=4, **options)
    return prune(
        network,
        score_magnitudes(groups, state, "l1"),
        costs=costs_of(network, groups, measure=measure, frames=FRAMES, n_mels=N_MELS),
        amount=amount,
        uniform=True,  # else the channels in front, of which there are few, would all go first
        limits=limits,
    )


def written(checkpoint: Checkpoint, result: Pruned, folder: Path) -> Any:
    return build_network(write_experiment(folder, checkpoint, result.shape, result.weights))


class NormOfSome(paddle.nn.Layer):
    """Layer norm over some of its inputs, by hand; the others come out as zeros."""

    def __init__(self, norm: Any, kept: list[int]) -> None:
        super().__init__()
        self.norm, self.kept = norm, paddle.to_tensor(kept)

    def forward(self, x: Any) -> Any:
        some = x.index_select(self.kept, axis=-1)
        centred = some - some.mean(-1, keepdim=True)
        normed = centred / paddle.sqrt((centred**2).mean(-1, keepdim=True) + self.norm._epsilon)
        weight, bias = self.norm.weight, self.norm.bias
        mask = paddle.zeros([x.shape[-1]])
        mask = paddle.scatter(mask, self.kept, paddle.ones([len(self.kept)]))
        places = paddle.nn.functional.one_hot(self.kept, x.shape[-1])
        return (paddle.matmul(normed, places) * weight + bias) * mask


def silence(network: Any, kept: Any) -> None:
    """The full network whose removed units nobody reads, not even their own layer's next step."""
    encoder = network.encoder
    for index, layer in enumerate(encoder.rnn):
        suffixes = ["", "_reverse"][: layer.num_directions]
        places: list[int] = []
        for direction, suffix in enumerate(suffixes):
            kind = "hidden_reverse" if suffix else "hidden"
            stay = kept[kind, index]
            places += [direction * encoder.rnn_size + unit for unit in stay]
            weight = getattr(layer, f"weight_hh_l0{suffix}")
            zeroed = np.zeros_like(weight.numpy())
            zeroed[:, list(stay)] = weight.numpy()[:, list(stay)]
            weight.set_value(zeroed)
        # Zeros behind the norm are what no reader reads.
        encoder.layernorm_list[index] = NormOfSome(encoder.layernorm_list[index], places)
    for index, layer in enumerate((encoder.conv.conv[0], encoder.conv.conv[2])):
        gone = np.setdiff1d(np.arange(32), kept["convolution", index])
        for part in (layer.weight, layer.bias):  # then a ReLU of zero is zero
            values = part.numpy().copy()
            values[gone] = 0.0
            part.set_value(values)
    for index, layer in enumerate(encoder.fc_layers_list):
        gone = np.setdiff1d(np.arange(layer.weight.shape[1]), kept["dense", index])
        weight, bias = layer.weight.numpy().copy(), layer.bias.numpy().copy()
        weight[:, gone], bias[gone] = 0.0, 0.0
        layer.weight.set_value(weight)
        layer.bias.set_value(bias)


def count(network: Any) -> int:
    return sum(
        math.prod(tensor.shape)
        for name, tensor in network.named_parameters()
        if name.startswith("encoder.") and not name.startswith("encoder.conv.out.")
    )


def test_a_pruned_checkpoint_computes_what_is_left(
    checkpoint: Checkpoint, network: Any, speech: list[np.ndarray], tmp_path: Path
) -> None:
    result = pruned(network, 0.5)
    assert all(
        len(units) < group.units
        for group, units in zip(
            groups_of(network), (result.plan.kept[g.key] for g in groups_of(network)), strict=True
        )
    )
    smaller = written(checkpoint, result, tmp_path / "pruned")
    silence(network, result.plan.kept)
    for features in speech:
        wanted = PaddleAcousticModel(network).log_probs([features])[0]
        seen = PaddleAcousticModel(smaller).log_probs([features])[0]
        assert np.abs(wanted).max() > 0.1
        np.testing.assert_allclose(seen, wanted, atol=2e-5)


def test_one_unit_more_is_noticed(
    checkpoint: Checkpoint, network: Any, speech: list[np.ndarray], tmp_path: Path
) -> None:
    result = pruned(network, 0.5)
    smaller = written(checkpoint, result, tmp_path / "pruned")
    kept = dict(result.plan.kept)
    kept["hidden", 1] = kept["hidden", 1][:-1]  # a reference of another network
    silence(network, kept)
    wanted = PaddleAcousticModel(network).log_probs(speech[:1])[0]
    assert np.abs(PaddleAcousticModel(smaller).log_probs(speech[:1])[0] - wanted).max() > 1e-4


def test_parameters_and_operations_really_fall(
    checkpoint: Checkpoint, network: Any, tmp_path: Path
) -> None:
    for measure in ("parameters", "macs"):
        result = pruned(network, 0.4, measure)
        smaller = written(checkpoint, result, tmp_path / measure)
        if measure == "parameters":
            before, after = count(network), count(smaller)
        else:
            before, after = (
                sum(
                    macs
                    for name, macs in count_macs(item, frames=FRAMES, n_mels=N_MELS).items()
                    if name.startswith("encoder.")
                )
                for item in (network, smaller)
            )
        assert 1 - after / before == pytest.approx(result.plan.removed, abs=1e-9)
        assert 0.4 <= 1 - after / before < 0.6


def test_all_recurrent_layers_keep_one_width_and_paddlespeech_knows_it(
    checkpoint: Checkpoint, network: Any, tmp_path: Path
) -> None:
    result = pruned(network, 0.5)
    assert len({len(units) for (kind, _), units in result.plan.kept.items() if "hid" in kind}) == 1
    chosen = [units for (kind, _), units in result.plan.kept.items() if kind == "hidden"]
    assert len(set(chosen)) > 1  # which units stay is each layer's own choice
    written(checkpoint, result, tmp_path / "pruned")
    settings = yaml.safe_load((tmp_path / "pruned/conf/model.yaml").read_text())
    assert settings["rnn_layer_size"] == settings["pruned_shape"]["hidden"] < 24
    dense = [size for size in settings["fc_layers_size_list"] if size > 0]
    assert settings["pruned_shape"]["dense"] == dense


def test_pruning_again_starts_from_the_smaller_one(
    checkpoint: Checkpoint, network: Any, tmp_path: Path
) -> None:
    once = written(checkpoint, pruned(network, 0.3), tmp_path / "once")
    again = pruned(once, 0.3)
    twice = written(read_checkpoint(tmp_path / "once"), again, tmp_path / "twice")
    assert count(twice) <= 0.7 * count(once) <= 0.49 * count(network)


def test_a_sensitive_layer_spares_its_likes(network: Any) -> None:
    result = pruned(network, 0.05, ratios={("hidden", 2): 0.0})
    assert result.shape.hidden == 24  # type: ignore[union-attr]


def test_a_shape_that_contradicts_the_settings_is_refused(
    checkpoint: Checkpoint, network: Any, tmp_path: Path
) -> None:
    result = pruned(network, 0.5)
    written(checkpoint, result, tmp_path / "pruned")
    path = tmp_path / "pruned/conf/model.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["pruned_shape"]["hidden"] -= 4
    path.write_text(yaml.safe_dump(settings))
    with pytest.raises(BadCheckpoint, match="expected rnn_layer_size"):
        build_network(read_checkpoint(tmp_path / "pruned"))


def test_a_pruned_network_is_exported_and_quantized_like_any_other(
    checkpoint: Checkpoint, network: Any, speech: list[np.ndarray], tmp_path: Path
) -> None:
    result = pruned(network, 0.4)
    smaller = written(checkpoint, result, tmp_path / "pruned")
    graph = export_utterances(smaller, opset=17, max_frames=400, n_mels=N_MELS)
    save_graph(graph, tmp_path / "fp32.onnx")
    wanted = PaddleAcousticModel(smaller).log_probs(speech[:1])[0]
    seen = OnnxAcousticModel(tmp_path / "fp32.onnx").log_probs(speech[:1])[0]
    np.testing.assert_allclose(seen, wanted, atol=5e-5)
    quantized = QuantizedNetwork(
        build_network(read_checkpoint(tmp_path / "pruned")), Quantization(observer="min_max")
    )
    simulation = PaddleAcousticModel(quantized.network)
    simulation.log_probs(speech)
    quantized.finish_calibration()
    save_graph(quantize_graph(graph, quantized.ranges()), tmp_path / "int8.onnx")
    assert measure_integer_share(tmp_path / "int8.onnx", frames=200).share == 1.0
    simulated = simulation.log_probs(speech[:1])[0]
    deployed = OnnxAcousticModel(tmp_path / "int8.onnx").log_probs(speech[:1])[0]
    assert (simulated.argmax(-1) == deployed.argmax(-1)).mean() >= 0.98


def test_chunks_of_a_pruned_network_equal_its_whole_utterance(
    make_deepspeech2: Callable[..., Path], speech: list[np.ndarray], tmp_path: Path
) -> None:
    checkpoint = read_checkpoint(make_deepspeech2(tmp_path / "whole", layers=2, width=24))
    result = pruned(build_network(checkpoint), 0.4)
    smaller = written(checkpoint, result, tmp_path / "pruned")
    assert smaller.encoder.rnn_size < 24
    save_graph(export_online(smaller, opset=17, n_mels=N_MELS), tmp_path / "chunks.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "chunks.onnx"))
    state = np.zeros((2, 1, smaller.encoder.rnn_size), np.float32)
    found, h, c = [], state, state
    for start in range(0, len(speech[0]) - 6, 16):  # four output frames at a time
        x = speech[0][None, start : start + 19]
        if x.shape[1] >= 7:
            log_probs, h, c = session.run(None, {"x": x, "h": h, "c": c})
            found.append(log_probs[0])
    wanted = PaddleAcousticModel(smaller).log_probs(speech[:1])[0]
    np.testing.assert_allclose(np.concatenate(found), wanted, atol=5e-5)


def test_taylor_looks_at_the_loss_and_only_narrower_layers_are_recovered(
    checkpoint: Checkpoint, noise_to_train_on: Callable[..., Any], tmp_path: Path
) -> None:
    """Importance by gradients, and one epoch of distillation from a wider teacher."""
    speech = noise_to_train_on(checkpoint, n_mels=N_MELS, seed=2)
    network = build_network(checkpoint)
    # Nobody reads unit 5 of the second layer: taking it away changes no loss.
    layer = network.encoder.rnn[1]
    weight = layer.weight_hh_l0.numpy().copy()
    weight[:, 5] = 0.0
    layer.weight_hh_l0.set_value(weight)
    for name in ("weight_ih_l0", "weight_ih_l0_reverse"):
        reader = getattr(network.encoder.rnn[2], name, None)
        if reader is not None:
            weight = reader.numpy().copy()
            weight[:, 5] = 0.0
            reader.set_value(weight)
    groups = groups_of(network)
    scores = score_units(
        network, groups, criterion="taylor", speech=speech, batches=2, progress=lambda *_: None
    )
    index = next(i for i, g in enumerate(groups) if g.key == ("hidden", 1))
    assert int(scores[index].argmin()) == 5
    assert not network.training and not layer.training
    smaller = written(checkpoint, pruned(network, 0.4), tmp_path / "pruned")
    before = smaller.encoder.rnn[0].weight_hh_l0.numpy().copy()
    recovery = Recovery(
        smaller,
        build_network(checkpoint),
        Training(epochs=1, warmup_steps=0, learning_rate=1e-3, spec_augment=False),
        speech,
        state=tmp_path / "state",
        dev_cer=None,
        patience=1,
        workers=Workers(),
    )
    recovery.train_epoch(lambda _: None)
    after = recovery.best_weights()["encoder.rnn.0.weight_hh_l0"]
    assert after.shape == before.shape and not np.array_equal(after, before)
