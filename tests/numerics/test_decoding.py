"""Search, rescoring and the decoder's graphs against PaddleSpeech's own functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asrcompress.checkpoints.attention_decoder import PARAMETERS, forced
from asrcompress.errors import ExportFailed
from asrcompress.recipe import Decoding, Quantization

pytest.importorskip("paddle", reason="needs the [compress] extra")
import paddle

from asrcompress.bundles.manifest import DecoderModel
from asrcompress.checkpoints.batch_norm import fold_batch_norm
from asrcompress.checkpoints.checkpoint import read_checkpoint
from asrcompress.checkpoints.network import (
    PaddleAcousticModel,
    PaddleAttentionDecoder,
    build_network,
)
from asrcompress.compress.quantized_network import QuantizedNetwork
from asrcompress.export.decoder_graph import export_decoder
from asrcompress.export.families import export_utterances
from asrcompress.export.int8 import quantize_graph
from asrcompress.export.integer_share import measure_integer_share
from asrcompress.export.onnx_bundle import tensor_specs
from asrcompress.export.onnx_graph import save_graph
from asrcompress.pipeline.decoder import example_feed
from asrcompress.runtime.decode import prefix_beam
from asrcompress.runtime.onnx_decoder import OnnxAttentionDecoder
from asrcompress.runtime.rescoring import attention_beam, rescore
from asrcompress.runtime.session import OnnxAcousticModel

pytestmark = pytest.mark.paddle
SYMBOLS = tuple("开关灯空调音乐天气一二三四五六七八")
TEXTS = ((3, 5, 7, 2, 9), (3, 5), (4, 4, 4, 4), (), (11, 2, 6))


@pytest.fixture(scope="module", params=["transformer", "bitransformer"])
def network(
    request: pytest.FixtureRequest,
    make_experiment: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """A U2 and a U2++ network with random weights, two decoder blocks each way."""
    folder = make_experiment(
        tmp_path_factory.mktemp("u2"), blocks=1, width=32, heads=4, feed_forward=64,
        decoder_blocks=2, kernel=7, symbols=SYMBOLS, seed=3, decoder=request.param,
    )  # fmt: skip
    built = build_network(read_checkpoint(folder))
    fold_batch_norm(built)
    # A random network is almost sure of one token; this one wavers.
    rng = np.random.default_rng(1)
    for part in built.decoder.sublayers():
        if hasattr(part, "output_layer"):
            shape = part.output_layer.weight.shape
            part.output_layer.weight.set_value(rng.normal(0, 0.7, shape).astype(np.float32))
    return built


@pytest.fixture
def features() -> np.ndarray:
    return (2 * np.random.default_rng(5).standard_normal((140, 80))).astype(np.float32)


def is_both(network: Any) -> bool:
    return hasattr(network.decoder, "right_decoder")


def graph_of(network: Any, folder: Path, ranges: Any = None) -> OnnxAttentionDecoder:
    graph = export_decoder(network, opset=17, reverse=is_both(network))
    if ranges is not None:
        graph = quantize_graph(graph, ranges)
    save_graph(graph, folder / "decoder.onnx")
    return OnnxAttentionDecoder(folder / "decoder.onnx", declared(graph, network))


def declared(graph: Any, network: Any) -> DecoderModel:
    inputs, outputs = tensor_specs(graph)
    return DecoderModel(
        model="decoder.onnx", inputs=inputs, outputs=outputs, sos=network.sos, eos=network.eos,
        method="rescoring", beam=10, ctc_weight=0.5,
    )  # fmt: skip


def paddlespeech_nbest(network: Any, log_probs: np.ndarray, beam: int) -> list[Any]:
    """PaddleSpeech's own search, fed with log-probabilities instead of speech."""
    hidden = paddle.zeros([1, len(log_probs), 32])
    mask = paddle.ones([1, 1, len(log_probs)], dtype="bool")
    forward, softmax = network._forward_encoder, network.ctc.log_softmax
    network._forward_encoder = lambda *_: (hidden, mask)
    network.ctc.log_softmax = lambda _: paddle.to_tensor(log_probs[None])
    try:
        speech = paddle.zeros([1, 1, 80])
        found, _ = network._ctc_prefix_beam_search(speech, paddle.to_tensor([1]), beam)
    finally:
        network._forward_encoder, network.ctc.log_softmax = forward, softmax
    # Where a beam is wider than what is possible, PaddleSpeech fills it with the impossible.
    return [(tokens, score) for tokens, score in found if score > -np.inf]


def agree(found: list[Any], expected: list[Any]) -> None:
    assert [score for _, score in expected] == pytest.approx([h.score for h in found], abs=1e-6)
    # Equal scores may stand in either order.
    assert {h.tokens for h in found} == {tokens for tokens, _ in expected}
    scores = dict(expected)
    for hypothesis in found:
        assert hypothesis.score == pytest.approx(scores[hypothesis.tokens], abs=1e-6)


@pytest.mark.parametrize("beam", [1, 3, 10])
@pytest.mark.parametrize(
    ("frames", "sharp", "seed"), [(1, 1.0, 0), (30, 0.3, 1), (60, 2.0, 2), (60, 6.0, 3)]
)
def test_prefix_beam_is_paddlespeechs(
    network: Any, frames: int, sharp: float, seed: int, beam: int
) -> None:
    logits = sharp * np.random.default_rng(seed).standard_normal((frames, 40))
    logits[:, 0] += sharp  # blanks, as CTC has them
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    log_probs = log_probs.astype(np.float32)
    agree(prefix_beam(log_probs, beam), paddlespeech_nbest(network, log_probs, beam))


def test_prefix_beam_is_paddlespeechs_on_speech(shared: Path) -> None:
    """Log-probabilities of trained networks; PaddleSpeech runs its own encoder on the features."""
    from asrcompress.manifests.manifest import load_manifest
    from asrcompress.pipeline.recognizer import from_network

    folder = shared / "checkpoints" / "dsp20-conformer"
    manifest = shared / "data" / "dsp20" / "test.jsonl"
    if not folder.is_dir() or not manifest.is_file():
        pytest.skip(f"no {folder} and {manifest}")
    checkpoint = read_checkpoint(folder)
    built = build_network(checkpoint)
    recognizer = from_network(checkpoint, built)
    for item in load_manifest(manifest)[:5]:
        (log_probs,) = recognizer.model.log_probs([recognizer.features(item)])
        agree(prefix_beam(log_probs, 10), paddlespeech_nbest(built, log_probs, 10))


def test_the_graph_is_paddlespeechs_decoder(
    network: Any, features: np.ndarray, tmp_path: Path
) -> None:
    (encoded,) = PaddleAcousticModel(network).encode([features])
    exported, exact = graph_of(network, tmp_path), PaddleAttentionDecoder(network)
    for text in TEXTS:
        a, b = (
            forced(d, encoded.hidden, text, reverse=is_both(network)) for d in (exported, exact)
        )
        assert a.shape == b.shape == ((1 + is_both(network)) * (1 + len(text)), 20)
        assert np.abs(a - b).max() < 1e-4  # seen: 2e-6


def test_rescoring_is_paddlespeechs(network: Any, features: np.ndarray, tmp_path: Path) -> None:
    """Scores of the n-best by PaddleSpeech's forward_attention_decoder and its sums; then texts."""
    (encoded,) = PaddleAcousticModel(network).encode([features])
    hypotheses = prefix_beam(encoded.log_probs, 6)
    lengths = paddle.to_tensor([len(h.tokens) + 1 for h in hypotheses])
    padded = np.full((len(hypotheses), int(lengths.max())), network.eos, np.int64)
    padded[:, 0] = network.sos
    for row, item in zip(padded, hypotheses, strict=True):
        row[1 : len(item.tokens) + 1] = item.tokens
    share = 0.3 if is_both(network) else 0.0
    left, right = (
        x.numpy()
        for x in network.forward_attention_decoder(
            paddle.to_tensor(padded), lengths, paddle.to_tensor(encoded.hidden[None]), share
        )
    )
    expected = {}
    for i, item in enumerate(hypotheses):
        said, n = item.tokens, len(item.tokens)
        score = sum(left[i][j][w] for j, w in enumerate(said)) + left[i][n][network.eos]
        if share:
            back = (
                sum(right[i][n - j - 1][w] for j, w in enumerate(said)) + right[i][n][network.eos]
            )
            score = (1 - share) * score + share * back
        expected[said] = score + 0.5 * item.score
    for decoder in (PaddleAttentionDecoder(network), graph_of(network, tmp_path)):
        found = rescore(hypotheses, encoded.hidden, decoder, ctc_weight=0.5, reverse_weight=share)
        assert [h.tokens for h in found] == sorted(expected, key=lambda t: -expected[t])
        for item in found:
            assert item.score == pytest.approx(expected[item.tokens], abs=1e-4)
        chosen = network.attention_rescoring(
            paddle.to_tensor(features[None]), paddle.to_tensor([len(features)]), 6,
            ctc_weight=0.5, reverse_weight=share,
        )  # fmt: skip
        assert found[0].tokens == tuple(chosen)


def test_attention_search_is_paddlespeechs(
    network: Any, features: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # PaddleSpeech moves tensors to where they are already, in words that Paddle 2.6 refuses.
    monkeypatch.setattr(paddle.Tensor, "to", lambda tensor, *_: tensor)
    for length in (60, 140):
        part = features[:length]
        (expected,) = network.recognize(
            paddle.to_tensor(part[None]), paddle.to_tensor([length]), beam_size=4
        ).tolist()
        (encoded,) = PaddleAcousticModel(network).encode([part])
        found = attention_beam(encoded.hidden, graph_of(network, tmp_path), beam=4)
        assert found[0].tokens == tuple(t for t in expected if t != network.eos)


def calibrated(network: Any) -> QuantizedNetwork:
    settings = Decoding(method="rescoring", reverse_weight=0.3 if is_both(network) else 0.0)
    quantized = QuantizedNetwork(network, Quantization(observer="min_max"), settings)
    model, decoder = PaddleAcousticModel(network), PaddleAttentionDecoder(network)
    rng = np.random.default_rng(9)
    for frames in (90, 140):
        (encoded,) = model.encode([(2 * rng.standard_normal((frames, 80))).astype(np.float32)])
        for text in TEXTS:
            forced(decoder, encoded.hidden, text, reverse=is_both(network))
    quantized.finish_calibration()
    return quantized


@pytest.fixture
def fresh(network: Any) -> Any:
    """A copy to quantize, so that other tests keep the float network."""
    import copy

    return copy.deepcopy(network)


def test_int8_runs_on_integers_and_rounds_as_training_simulates(
    network: Any, fresh: Any, features: np.ndarray, tmp_path: Path
) -> None:
    (encoded,) = PaddleAcousticModel(network).encode([features])
    quantized = calibrated(fresh)
    ranges = quantized.ranges()
    deployed = graph_of(network, tmp_path, ranges.part(PARAMETERS))
    simulated = PaddleAttentionDecoder(fresh)
    exact = PaddleAttentionDecoder(network)
    for text in TEXTS:
        a, b, c = (
            forced(d, encoded.hidden, text, reverse=is_both(network))
            for d in (deployed, simulated, exact)
        )
        assert np.abs(a - b).mean() < 0.01  # seen: 1e-7 to 0.001
        assert 1e-4 < np.abs(b - c).mean() < 0.2  # it is quantized, and still the same decoder
    graph = export_decoder(network, opset=17, reverse=is_both(network))
    feed = example_feed(declared(graph, network))
    measured = measure_integer_share(tmp_path / "decoder.onnx", feed=feed)
    assert measured.share == 1.0
    # Two blocks of 4 + 4 projections, 2 feed-forward layers and 4 products, and the output layer.
    both = 1 + is_both(network)
    assert sum(item.calls for item in measured.kernels) == both * (2 * (4 + 4 + 2 + 4) + 1)
    # The encoder's ranges are what they are without a decoder, and both parts together are all.
    inside, outside = ranges.part(PARAMETERS), ranges.part(PARAMETERS, inside=False)
    assert len(inside.weights) == both * 21
    assert len(inside.weights) + len(outside.weights) == len(ranges.weights)
    assert not set(inside.activations) & set(outside.activations)


def test_training_reaches_the_decoder_and_its_ranges(network: Any, fresh: Any) -> None:
    """A padded batch through PaddleSpeech's hybrid loss, on the integer grids."""
    quantized = calibrated(fresh)
    fresh.train()
    rng = np.random.default_rng(2)
    speech = rng.standard_normal((2, 120, 80)).astype(np.float32)
    speech[1, 90:] = 0.0
    loss, attention, _ = fresh(
        paddle.to_tensor(speech),
        paddle.to_tensor([120, 90]),
        paddle.to_tensor([[3, 4, 5], [6, 7, -1]]),
        paddle.to_tensor([3, 2]),
    )
    loss.backward()
    assert np.isfinite(float(attention))
    names = [n for n in quantized.edges if n.startswith("decoder")]
    assert len(names) == len(quantized.ranges().part(PARAMETERS).activations)
    for name in names:
        assert quantized.edges[name].absmax.grad is not None, name
    changed = [
        n for n, p in fresh.named_parameters() if n.startswith("decoder.") and p.grad is not None
    ]
    assert any("src_attn.linear_k.weight" in n for n in changed)
    if is_both(network):
        assert any(n.startswith("decoder.right_decoder.") for n in changed)


def test_the_utterance_graph_gives_hidden_states_only_where_asked(
    network: Any, features: np.ndarray, tmp_path: Path
) -> None:
    (expected,) = PaddleAcousticModel(network).encode([features])
    for hidden in (False, True):
        graph = export_utterances(network, opset=17, max_frames=400, n_mels=80, hidden=hidden)
        save_graph(graph, tmp_path / "model.onnx")
        (found,) = OnnxAcousticModel(tmp_path / "model.onnx").encode([features])
        assert np.abs(found.log_probs - expected.log_probs).max() < 5e-5
        assert (found.hidden is None) != hidden
        if found.hidden is not None:
            assert np.abs(found.hidden - expected.hidden).max() < 5e-5


def test_a_decoder_that_is_not_there_is_refused(network: Any) -> None:
    if not is_both(network):
        with pytest.raises(ExportFailed, match="reads left to right only"):
            export_decoder(network, opset=17, reverse=True)
    weight, network.ctc_weight = network.ctc_weight, 1.0
    try:
        with pytest.raises(ExportFailed, match="was not trained"):
            export_decoder(network, opset=17, reverse=False)
    finally:
        network.ctc_weight = weight
