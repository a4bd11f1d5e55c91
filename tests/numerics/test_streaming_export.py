"""The streaming graph against PaddleSpeech's own chunk by chunk forward, and against its twin."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asrcompress.errors import BadCheckpoint, ExportFailed
from asrcompress.recipe import Quantization, Streaming

pytest.importorskip("paddle", reason="needs the [compress] extra")
import onnx
import paddle
from onnx import numpy_helper

from asrcompress.audio import read_audio
from asrcompress.bundles.onnx_header import read_metadata
from asrcompress.checkpoints.acoustic import Context
from asrcompress.checkpoints.batch_norm import fold_batch_norm
from asrcompress.checkpoints.checkpoint import Checkpoint, read_checkpoint
from asrcompress.checkpoints.network import PaddleAcousticModel, build_network
from asrcompress.checkpoints.streaming import check_streamable, chunk_context, contexts_of
from asrcompress.checkpoints.weights import write_weights
from asrcompress.compress.quantized_network import QuantizedNetwork
from asrcompress.export.chunk_graph import export_chunks
from asrcompress.export.families import export_utterances
from asrcompress.export.int8 import quantize_graph
from asrcompress.export.integer_operators import KERNEL
from asrcompress.export.integer_share import measure_integer_share
from asrcompress.export.onnx_graph import save_graph
from asrcompress.export.shared_weights import share_weights
from asrcompress.export.streaming import describe_again, example_feed, export_streaming
from asrcompress.manifests.manifest import load_manifest
from asrcompress.onnxruntime_optimizers import OPTIMIZED_KEY
from asrcompress.runtime.chunk_model import ChunkedAcousticModel, open_chunk_model
from asrcompress.runtime.features import Fbank
from asrcompress.runtime.session import OnnxAcousticModel

pytestmark = pytest.mark.paddle

ALL, SOME, NONE = (Streaming(chunk_size=8, left_chunks=left) for left in (-1, 2, 0))
MAX_FRAMES = 1600
CAUSAL = {"causal": True, "use_dynamic_chunk": True}


@pytest.fixture(scope="module")
def make_streamable(
    make_experiment: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Checkpoint]:
    """Factory of causal networks trained for chunks; the arguments are settings of the encoder."""

    def make(**encoder: Any) -> Checkpoint:
        folder = tmp_path_factory.mktemp("experiment")
        make_experiment(
            folder, blocks=2, width=32, heads=4, feed_forward=64, kernel=7,
            symbols=list("开关灯空调音乐天气"), encoder_conf={**CAUSAL, **encoder}, seed=3,
        )  # fmt: skip
        return read_checkpoint(folder)

    return make


@pytest.fixture(scope="module")
def streamable(make_streamable: Any) -> Checkpoint:
    return make_streamable()


def folded(checkpoint: Checkpoint) -> Any:
    network = build_network(checkpoint)
    fold_batch_norm(network)
    return network


def export(checkpoint: Checkpoint, settings: Streaming, path: Path) -> ChunkedAcousticModel:
    """The FP32 streaming graph of a checkpoint, driven by the runtime."""
    model, spec = export_streaming(
        folded(checkpoint),
        settings,
        name=path.name,
        opset=17,
        max_frames=MAX_FRAMES,
        n_mels=checkpoint.features.width,
    )
    save_graph(model, path)
    return ChunkedAcousticModel(open_chunk_model(path, spec))


def chunk_by_chunk(network: Any, features: np.ndarray, settings: Streaming) -> np.ndarray:
    """PaddleSpeech's own simulation of a stream, with its caches."""
    with paddle.no_grad():
        hidden, _ = network.encoder.forward_chunk_by_chunk(
            paddle.to_tensor(features[None]), settings.chunk_size, settings.left_chunks
        )
        scores = paddle.nn.functional.log_softmax(network.ctc.ctc_lo(hidden), axis=-1)
    found: np.ndarray = scores.numpy()[0]
    return found


def gap(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a - b).max())


@pytest.mark.parametrize(
    ("settings", "norm"), [(ALL, "batch_norm"), (SOME, "batch_norm"), (ALL, "layer_norm")]
)
def test_a_stream_equals_paddlespeechs_chunk_by_chunk_forward(
    make_streamable: Any,
    features: list[np.ndarray],
    tmp_path: Path,
    settings: Streaming,
    norm: str,
) -> None:
    checkpoint = make_streamable(cnn_module_norm=norm)
    network = build_network(checkpoint)
    model = export(checkpoint, settings, tmp_path / "model.onnx")
    masked = PaddleAcousticModel(network, context=chunk_context(settings))
    for item in features[::2]:
        streamed = model.log_probs([item])[0]
        assert gap(streamed, chunk_by_chunk(network, item, settings)) < 1e-4  # seen: 3e-6
        assert gap(streamed, masked.log_probs([item])[0]) < 1e-4


def test_without_history_a_chunk_sees_only_itself(
    streamable: Checkpoint, features: list[np.ndarray], tmp_path: Path
) -> None:
    """PaddleSpeech's chunk by chunk forward fails without history; its masked one does not."""
    model = export(streamable, NONE, tmp_path / "model.onnx")
    masked = PaddleAcousticModel(build_network(streamable), context=chunk_context(NONE))
    assert gap(model.log_probs(features[-1:])[0], masked.log_probs(features[-1:])[0]) < 1e-4


def test_the_chunk_size_is_free(
    streamable: Checkpoint, features: list[np.ndarray], tmp_path: Path
) -> None:
    model, spec = export_streaming(
        folded(streamable), ALL, name="model.onnx", opset=17, max_frames=MAX_FRAMES, n_mels=80
    )
    save_graph(model, tmp_path / "model.onnx")
    network = build_network(streamable)
    for chunk_size in (1, 5, 16):
        other = spec.with_chunks(chunk_size, -1)
        streamed = ChunkedAcousticModel(open_chunk_model(tmp_path / "model.onnx", other))
        wanted = PaddleAcousticModel(network, context=Context(chunk_size=chunk_size))
        item = features[-1]
        assert gap(streamed.log_probs([item])[0], wanted.log_probs([item])[0]) < 1e-4


def test_a_static_chunk_size(
    make_streamable: Any, features: list[np.ndarray], tmp_path: Path
) -> None:
    checkpoint = make_streamable(use_dynamic_chunk=False, static_chunk_size=8)
    check_streamable(checkpoint, ALL)
    model = export(checkpoint, ALL, tmp_path / "model.onnx")
    own = PaddleAcousticModel(build_network(checkpoint))  # its only context
    assert gap(model.log_probs(features[:1])[0], own.log_probs(features[:1])[0]) < 1e-4


def test_a_transformer_encoder_streams_without_a_convolution_cache(
    make_experiment: Any, features: list[np.ndarray], tmp_path: Path
) -> None:
    """Absolute positions are added to what a chunk brings, wherever it is in the stream.

    PaddleSpeech's chunk by chunk forward fails here (it stacks empty caches); its masked one not.
    """
    make_experiment(
        tmp_path, blocks=2, width=32, heads=4, feed_forward=64, symbols=["一", "二"],
        encoder="transformer", encoder_conf={"use_dynamic_chunk": True},
    )  # fmt: skip
    checkpoint = read_checkpoint(tmp_path)
    check_streamable(checkpoint, ALL)
    network = build_network(checkpoint)
    for settings in (ALL, SOME):
        model = export(checkpoint, settings, tmp_path / "model.onnx")
        masked = PaddleAcousticModel(network, context=chunk_context(settings))
        streamed = model.log_probs(features[-1:])[0]
        assert gap(streamed, masked.log_probs(features[-1:])[0]) < 1e-4


@pytest.mark.parametrize("gru", [False, True])
def test_an_online_deepspeech2_streams_as_it_hears_whole_utterances(
    make_deepspeech2: Any, features: list[np.ndarray], tmp_path: Path, gru: bool
) -> None:
    checkpoint = read_checkpoint(make_deepspeech2(tmp_path, gru=gru, direction="forward"))
    check_streamable(checkpoint, ALL)
    model = export(checkpoint, ALL, tmp_path / "model.onnx")
    own = PaddleAcousticModel(build_network(checkpoint))
    for item in features[::2]:
        item = np.resize(item, (len(item), checkpoint.features.width))
        assert gap(model.log_probs([item])[0], own.log_probs([item])[0]) < 1e-4


def test_hidden_states_come_with_the_scores(
    streamable: Checkpoint, features: list[np.ndarray], tmp_path: Path
) -> None:
    network = folded(streamable)
    model = export_chunks(network, opset=17, max_frames=MAX_FRAMES, n_mels=80, hidden=True)
    _, plain = export_streaming(
        network, ALL, name="model.onnx", opset=17, max_frames=MAX_FRAMES, n_mels=80
    )
    save_graph(model, tmp_path / "model.onnx")
    spec = describe_again(plain, model, "model.onnx")
    chunks = open_chunk_model(tmp_path / "model.onnx", spec)
    step = chunks.step(features[0][: spec.window_frames], chunks.start())
    assert step.hidden is not None
    with paddle.no_grad():
        scores = network.ctc.ctc_lo(paddle.to_tensor(step.hidden))
        wanted = paddle.nn.functional.log_softmax(scores, axis=-1).numpy()
    assert gap(step.log_probs, wanted) < 1e-5


# --- INT8: the same weights and ranges in both graphs --------------------------------------------


@pytest.fixture(scope="module")
def quantized(streamable: Checkpoint) -> QuantizedNetwork:
    rng = np.random.default_rng(11)
    found = QuantizedNetwork(build_network(streamable), Quantization(observer="min_max"))
    for context in contexts_of(ALL):
        model = PaddleAcousticModel(found.network, context=context)
        for frames in (80, 150, 220):
            model.log_probs([rng.standard_normal((frames, 80)).astype(np.float32)])
    found.finish_calibration()
    return found


@pytest.fixture(scope="module")
def int8(
    streamable: Checkpoint, quantized: QuantizedNetwork, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with both INT8 graphs; the streaming one reads the other's weights."""
    folder = tmp_path_factory.mktemp("int8")
    write_weights(folder / "weights.pdparams", quantized.plain_state_dict())
    network = folded(replace(streamable, weights_path=folder / "weights.pdparams"))
    whole = export_utterances(network, opset=17, max_frames=MAX_FRAMES, n_mels=80)
    save_graph(quantize_graph(whole, quantized.ranges()), folder / "model.int8.onnx")
    model, spec = export_streaming(
        network, ALL, name="model-streaming.int8.onnx", opset=17, max_frames=MAX_FRAMES, n_mels=80
    )
    model = quantize_graph(model, quantized.ranges())
    spec = describe_again(spec, model, spec.model)
    onnx.save(model, folder / "alone.onnx")
    assert share_weights(model, folder / "model.int8.onnx") > 20_000
    save_graph(model, folder / spec.model)
    (folder / "spec.json").write_text(json.dumps(example_spec(spec)))
    return folder


def example_spec(spec: Any) -> Any:
    from asrcompress import strict_json

    return strict_json.to_json(spec)


def spec_of(folder: Path) -> Any:
    from asrcompress import strict_json
    from asrcompress.bundles.manifest import StreamingModel
    from asrcompress.errors import BadBundle

    tree = json.loads((folder / "spec.json").read_text())
    return strict_json.from_json(StreamingModel, tree, item="spec.json", error=BadBundle)


def test_both_graphs_hold_the_same_integers_and_only_one_copy(int8: Path) -> None:
    def integers(name: str) -> dict[str, np.ndarray]:
        model = onnx.load(int8 / name)  # reads external data too
        tensors = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        return {name: v for name, v in tensors.items() if name.endswith(("_quantized", KERNEL))}

    whole, chunks = integers("model.int8.onnx"), integers("model-streaming.int8.onnx")
    assert whole.keys() == chunks.keys()
    assert any(name.endswith(KERNEL) for name in whole)
    assert sum(value.size for value in whole.values()) > 20_000
    for name, value in whole.items():
        assert np.array_equal(value, chunks[name]), name
    alone = (int8 / "alone.onnx").stat().st_size
    assert (int8 / "model-streaming.int8.onnx").stat().st_size < alone - 20_000


def test_nothing_is_left_to_simplify_when_they_are_loaded(int8: Path) -> None:
    for name in ("model.int8.onnx", "model-streaming.int8.onnx"):
        assert OPTIMIZED_KEY in read_metadata(int8 / name)


def test_weights_of_another_network_are_not_shared(int8: Path, tmp_path: Path) -> None:
    other = onnx.load(int8 / "model.int8.onnx")
    name = f"encoder.encoders.0.feed_forward.w_1.weight_quantized{KERNEL}"
    item = next(i for i in other.graph.initializer if i.name == name)
    changed = numpy_helper.to_array(item).copy()
    changed.flat[0] += 1 if changed.flat[0] < 127 else -1
    item.CopyFrom(numpy_helper.from_array(changed, name))
    onnx.save(other, tmp_path / "model.int8.onnx")
    with pytest.raises(ExportFailed, match=f"{name}: differs"):
        share_weights(onnx.load(int8 / "alone.onnx"), tmp_path / "model.int8.onnx")
    item.CopyFrom(numpy_helper.from_array(-changed, "nobody's"))
    onnx.save(other, tmp_path / "model.int8.onnx")
    with pytest.raises(ExportFailed, match=f"{name}: differs"):
        share_weights(onnx.load(int8 / "alone.onnx"), tmp_path / "model.int8.onnx")


def test_int8_streams_where_training_simulated_it(
    int8: Path, quantized: QuantizedNetwork, features: list[np.ndarray]
) -> None:
    spec = spec_of(int8)
    model = ChunkedAcousticModel(open_chunk_model(int8 / spec.model, spec))
    simulated = PaddleAcousticModel(quantized.network, context=chunk_context(ALL))
    for item in features:
        a, b = simulated.log_probs([item])[0], model.log_probs([item])[0]
        assert np.abs(a - b).mean() < 0.02  # seen: 0.003 to 0.01, rounding that spreads
        assert (a.argmax(-1) == b.argmax(-1)).mean() >= 0.95


def test_all_multiplications_of_a_step_run_on_integers(int8: Path, position_rows: Any) -> None:
    spec = spec_of(int8)
    measured = measure_integer_share(int8 / spec.model, feed=example_feed(spec))
    assert set(measured.float_nodes) == position_rows(int8 / spec.model)
    assert measured.share > 0.99


def test_the_utterance_graph_of_a_causal_network(
    int8: Path, streamable: Checkpoint, features: list[np.ndarray], tmp_path: Path
) -> None:
    graph = export_utterances(folded(streamable), opset=17, max_frames=MAX_FRAMES, n_mels=80)
    save_graph(graph, tmp_path / "model.onnx")
    model, own = (
        OnnxAcousticModel(tmp_path / "model.onnx"),
        PaddleAcousticModel(build_network(streamable)),
    )
    for item, batched in zip(features, model.log_probs(features), strict=True):
        assert gap(own.log_probs([item])[0], batched) < 1e-4


# --- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        ({"causal": False}, "encoder_conf.causal is false"),
        ({"use_dynamic_chunk": False}, "not trained for chunks"),
        ({"use_dynamic_chunk": False, "static_chunk_size": 16}, "trained for chunks of 16"),
    ],
)
def test_a_network_that_was_not_trained_for_chunks_is_refused(
    streamable: Checkpoint, encoder: dict[str, Any], said: str
) -> None:
    settings = dict(streamable.network)
    settings["encoder_conf"] = {**settings["encoder_conf"], **encoder}
    with pytest.raises(BadCheckpoint, match=said) as caught:
        check_streamable(replace(streamable, network=settings), ALL)
    assert "--chunk-size" in caught.value.hint
    check_streamable(replace(streamable, network=settings), Streaming())  # whole utterances: fine


def test_a_bidirectional_deepspeech2_is_refused(streamable: Checkpoint) -> None:
    both = replace(streamable, family="deepspeech2", network={"rnn_direction": "bidirect"})
    with pytest.raises(BadCheckpoint, match="rnn_direction is bidirect, expected forward"):
        check_streamable(both, ALL)
    check_streamable(replace(both, network={"rnn_direction": "forward"}), ALL)


def test_a_convolution_that_looks_ahead_has_no_streaming_graph(
    make_experiment: Any, tmp_path: Path
) -> None:
    make_experiment(tmp_path)
    network = folded(read_checkpoint(tmp_path))
    with pytest.raises(ExportFailed, match=r"encoders\.0\.conv_module: looks ahead"):
        export_chunks(network, opset=17, max_frames=MAX_FRAMES, n_mels=80)


# --- real speech ------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.slow
def test_real_speech_streams_as_in_paddlespeech(
    shared: Path, streamable: Checkpoint, tmp_path: Path
) -> None:
    """Features of real recordings, through random weights: every frame agrees."""
    manifest = shared / "data/librispeech-mini/test.jsonl"
    audio = [item.audio for item in load_manifest(manifest)[:3]]
    fbank, network = Fbank(streamable.features), build_network(streamable)
    settings = Streaming(chunk_size=16)
    model = export(streamable, settings, tmp_path / "model.onnx")
    for path in audio:
        features = fbank(read_audio(path))[:1500]
        assert (
            gap(model.log_probs([features])[0], chunk_by_chunk(network, features, settings)) < 1e-4
        )
