"""Attention decoders against sums worked out by hand, and bundles whose decoder does not fit."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asrcompress.bundles.bundle import (
    Bundle,
    BundleManifest,
    DecoderModel,
    TensorSpec,
    write_bundle,
)
from asrcompress.checkpoints.attention_decoder import EncodedUtterance, behind_sos, forced
from asrcompress.errors import BadBundle, BadRecipe
from asrcompress.recipe import Decoding
from asrcompress.runtime import Transcriber
from asrcompress.runtime.decode import Hypothesis
from asrcompress.runtime.decoder import Decoder, choose_decoding, open_scorers
from asrcompress.runtime.rescoring import attention_beam, rescore
from asrcompress.tokens import Vocabulary

EOS = 3


class Bigrams:
    """A decoder that only looks at the last token: log p(next | last), one table per direction."""

    sos = eos = EOS

    def __init__(self, seed: int = 0, *, reverse: bool = False) -> None:
        tables = np.random.default_rng(seed).dirichlet(np.ones(4), (2, 4))
        self.forward, self.backward = np.log(tables).astype(np.float32)
        self.reverse = reverse

    def log_probs(
        self, hidden: np.ndarray, tokens: np.ndarray, reversed_tokens: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        back = None if reversed_tokens is None else self.backward[reversed_tokens]
        return self.forward[tokens], back


def by_hand(table: np.ndarray, text: tuple[int, ...]) -> float:
    return float(sum(table[a, b] for a, b in itertools.pairwise((EOS, *text, EOS))))


HIDDEN = np.zeros((6, 2), np.float32)
NBEST = [
    Hypothesis(tokens=(1, 2, 1), score=-1.0),
    Hypothesis(tokens=(2,), score=-1.5),
    Hypothesis(tokens=(), score=-4.0),
    Hypothesis(tokens=(1, 1), score=-2.0),
]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_scores_by_hand(seed: int, share: float) -> None:
    decoder = Bigrams(seed, reverse=True)
    found = rescore(NBEST, HIDDEN, decoder, ctc_weight=0.5, reverse_weight=share)
    expected = {
        item.tokens: (1 - share) * by_hand(decoder.forward, item.tokens)
        + share * by_hand(decoder.backward, item.tokens[::-1])
        + 0.5 * item.score
        for item in NBEST
    }
    assert [item.tokens for item in found] == sorted(expected, key=lambda t: -expected[t])
    for item in found:
        assert item.score == pytest.approx(expected[item.tokens], abs=1e-5)


def test_nothing_to_rescore_is_nothing() -> None:
    assert rescore([], HIDDEN, Bigrams(), ctc_weight=0.5) == []


def test_texts_behind_sos() -> None:
    rows = behind_sos(Bigrams(), [(1, 2), (), (2,)])
    assert rows.tolist() == [[3, 1, 2], [3, 3, 3], [3, 2, 3]]
    rows = behind_sos(Bigrams(), [(1, 2), ()], backwards=True)
    assert rows.tolist() == [[3, 2, 1], [3, 3, 3]]
    both = forced(Bigrams(), HIDDEN, (1, 2), reverse=True)
    decoder = Bigrams()
    assert np.array_equal(both[:3], decoder.forward[[3, 1, 2]])
    assert np.array_equal(both[3:], decoder.backward[[3, 2, 1]])


@pytest.mark.parametrize("seed", range(5))
def test_a_wide_attention_search_is_exhaustive(seed: int) -> None:
    """Every text of at most four tokens: a fifth step ends those that have not."""
    decoder, hidden = Bigrams(seed), HIDDEN[:5]
    texts = [t for n in range(5) for t in itertools.product(range(3), repeat=n)]
    ended = {text: by_hand(decoder.forward, text) for text in texts}
    best = max(ended, key=lambda t: ended[t])
    found = {item.tokens: item.score for item in attention_beam(hidden, decoder, beam=2000)}
    for text in texts:
        assert found[text] == pytest.approx(ended[text], abs=1e-5)
    assert found[best] == max(found[text] for text in texts)
    narrow = attention_beam(hidden, decoder, beam=1)
    assert len(narrow) == 1


def test_methods_and_parts_must_go_together() -> None:
    rescoring = Decoding(method="rescoring", beam=2)
    with pytest.raises(BadRecipe, match="there is no attention decoder here"):
        Decoder(rescoring, blank=0)
    with pytest.raises(BadRecipe, match=r"reverse_weight: got 0\.5, expected 0"):
        Decoder(dataclasses.replace(rescoring, reverse_weight=0.5), blank=0, attention=Bigrams())
    with pytest.raises(BadRecipe, match="takes neither hotwords"):
        Decoder(Decoding(), blank=0, scorers=[object()])  # type: ignore[list-item]
    log_probs = np.log(np.full((4, 4), 0.25, np.float32))
    utterance = EncodedUtterance(log_probs=log_probs, hidden=HIDDEN)
    for method in ("greedy", "prefix_beam", "rescoring", "attention"):
        found = Decoder(Decoding(method=method, beam=3), blank=0, attention=Bigrams()).best(
            utterance
        )
        assert 1 <= len(found) <= 3
        assert found == sorted(found, key=lambda item: -item.score)


def test_a_stream_hears_hotwords_too(vocabulary: Vocabulary) -> None:
    log_probs = np.full((1, len(vocabulary)), -9.0, np.float32)
    log_probs[0, [2, 3]] = (-0.1, -2.0)  # 开, and 关 behind it
    for boosts, text in (({}, "开"), ({"关": 5.0}, "关")):
        scorers = open_scorers(vocabulary, boosts, None)
        decoder = Decoder(Decoding(method="prefix_beam", beam=3), blank=0, scorers=scorers)
        search = decoder.open_search(len(vocabulary))
        search.accept(log_probs)
        assert vocabulary.ids_to_text(search.hypotheses()[0].tokens) == text


def test_gaps_are_filled_as_the_bundle_was_judged() -> None:
    shipped = decoder_model(beam=7, ctc_weight=0.25)
    assert choose_decoding(None) == Decoding()
    assert choose_decoding(None, beam=1).method == "greedy"
    assert choose_decoding(None, beam=4) == Decoding(method="prefix_beam", beam=4)
    assert choose_decoding(None, searching=True) == Decoding(method="prefix_beam", beam=10)
    assert choose_decoding(shipped).method == "greedy"
    found = choose_decoding(shipped, method="rescoring")
    assert (found.beam, found.ctc_weight, found.reverse_weight) == (7, 0.25, 0.0)
    assert choose_decoding(shipped, method="rescoring", beam=3, ctc_weight=0.0).ctc_weight == 0.0
    for settings in ({"method": "best"}, {"beam": 0}, {"ctc_weight": -1.0}):
        with pytest.raises(BadRecipe, match=r"decoding\."):
            choose_decoding(shipped, **settings)  # type: ignore[arg-type]


WIDTH, SYMBOLS = 4, 7


def decoder_model(*, vocabulary: int = SYMBOLS, width: int = WIDTH, **changes: Any) -> DecoderModel:
    fitting: dict[str, Any] = {
        "model": "decoder.onnx",
        "inputs": (
            TensorSpec(name="hidden", dtype="float32", dims=(1, "T", width)),
            TensorSpec(name="tokens", dtype="int64", dims=("N", "L")),
        ),
        "outputs": (TensorSpec(name="log_probs", dtype="float32", dims=("N", "L", vocabulary)),),
        "sos": 6,
        "eos": 6,
        "method": "rescoring",
        "beam": 4,
        "ctc_weight": 0.5,
    }
    return DecoderModel(**{**fitting, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "greedy"}, "decoder.method is not allowed, got greedy"),
        ({"beam": 0}, "decoder.beam"),
        ({"ctc_weight": -0.1}, "decoder.ctc_weight"),
        ({"reverse_weight": 0.3}, "decoder.reverse_weight is not allowed, got 0.3"),
        ({"integer_share": 1.5}, "decoder.integer_share"),
        ({"model": "../decoder.onnx"}, "file name"),
        ({"outputs": ()}, "decoder.outputs"),
        ({"inputs": (TensorSpec(name="x", dtype="int64", dims=(1,)),)}, "decoder.inputs"),
    ],
)
def test_a_decoder_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadBundle, match=message):
        decoder_model(**changes)


def with_hidden(manifest: BundleManifest, decoder: DecoderModel | None) -> BundleManifest:
    hidden = TensorSpec(name="hidden", dtype="float32", dims=("N", "U", WIDTH))
    return dataclasses.replace(manifest, outputs=(*manifest.outputs, hidden), decoder=decoder)


def test_a_decoder_must_fit_the_model(manifest: BundleManifest) -> None:
    assert with_hidden(manifest, decoder_model()).decoder is not None
    for decoder, message in (
        (decoder_model(vocabulary=9), "decoder.outputs is not allowed.* expected 7 symbols"),
        (decoder_model(width=5), "expected hidden states of width 4"),
        (decoder_model(eos=7), "decoder.eos is not allowed, got 7"),
        (None, "outputs is not allowed"),  # hidden states that nobody reads
    ):
        with pytest.raises(BadBundle, match=message):
            with_hidden(manifest, decoder)
    with pytest.raises(BadBundle, match="hidden states"):
        dataclasses.replace(manifest, decoder=decoder_model())


@pytest.fixture
def write(
    tmp_path: Path,
    make_model: Callable[..., Path],
    manifest: BundleManifest,
    vocabulary: Vocabulary,
) -> Callable[..., Bundle]:
    """Factory of bundles with a decoder whose graph is made for another vocabulary on request."""
    onnx = pytest.importorskip("onnx", reason="makes the graphs")
    helper, float_, int_ = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64

    def make(*, vocabulary_of_graph: int = SYMBOLS) -> Bundle:
        model = onnx.load(make_model())
        for index in range(WIDTH):  # hidden states: the first log-probabilities
            model.graph.initializer.append(
                helper.make_tensor(f"index{index}", onnx.TensorProto.INT64, [1], [index])
            )
        model.graph.node.append(
            helper.make_node("Slice", ["log_probs", "index0", "width", "axis"], ["hidden"])
        )
        for name, value in (("width", WIDTH), ("axis", 2)):
            model.graph.initializer.append(helper.make_tensor(name, int_, [1], [value]))
        model.graph.output.append(
            helper.make_tensor_value_info("hidden", float_, ["N", "U", WIDTH])
        )
        onnx.save(model, str(tmp_path / "model.onnx"))
        table = np.random.default_rng(0).dirichlet(np.ones(vocabulary_of_graph), SYMBOLS)
        nodes = [
            helper.make_node("Gather", ["table", "tokens"], ["picked"]),
            helper.make_node("ReduceSum", ["hidden"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["sum", "nothing"], ["zero"]),
            helper.make_node("Add", ["picked", "zero"], ["log_probs"]),
        ]
        graph = helper.make_graph(
            nodes, "decoder",
            [
                helper.make_tensor_value_info("hidden", float_, [1, "T", WIDTH]),
                helper.make_tensor_value_info("tokens", int_, ["N", "L"]),
            ],
            [helper.make_tensor_value_info("log_probs", float_, ["N", "L", vocabulary_of_graph])],
            [
                onnx.numpy_helper.from_array(np.log(table).astype(np.float32), "table"),
                onnx.numpy_helper.from_array(np.float32(0), "nothing"),
            ],
        )  # fmt: skip
        built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.save(built, str(tmp_path / "decoder.onnx"))
        return write_bundle(
            tmp_path / "bundle",
            with_hidden(manifest, decoder_model()),
            model=tmp_path / "model.onnx",
            vocabulary=vocabulary,
            extra=[tmp_path / "decoder.onnx"],
            force=True,
        )

    return make


def test_every_method_of_a_bundle(
    write: Callable[..., Bundle], speech: Callable[..., np.ndarray]
) -> None:
    bundle, samples = write(), speech(1.0)
    texts = {
        method: Transcriber(bundle.path, method=method, beam=4).transcribe(samples)
        for method in ("greedy", "prefix_beam", "rescoring", "attention")
    }
    assert texts["prefix_beam"] == Transcriber(bundle.path, beam=4).transcribe(samples)
    assert texts["rescoring"].score < 0
    # CTC's weight decides between the decoder's taste and prefix beam's.
    heavy = Transcriber(bundle.path, method="rescoring", beam=4, ctc_weight=1000.0)
    assert heavy.transcribe(samples).text == texts["prefix_beam"].text
    both = [samples, speech(0.6, seed=1)]
    ready = Transcriber(bundle.path, method="rescoring")
    assert ready.transcribe_batch(both)[0].text == ready.transcribe(samples).text


def test_a_decoder_of_another_vocabulary_is_refused(write: Callable[..., Bundle]) -> None:
    bundle = write(vocabulary_of_graph=9)
    Transcriber(bundle.path)  # which does not load it
    with pytest.raises(BadBundle, match=r"decoder\.onnx: outputs are .*9\], expected .*7\]"):
        Transcriber(bundle.path, method="rescoring")


def test_verify_loads_the_decoder(write: Callable[..., Bundle]) -> None:
    from typer.testing import CliRunner

    from asrcompress.cli.app import app

    assert CliRunner().invoke(app, ["verify", str(write().path)]).exit_code == 0
    result = CliRunner().invoke(app, ["verify", str(write(vocabulary_of_graph=9).path)])
    assert result.exit_code == 3
    assert "decoder.onnx: outputs are" in result.output


def test_hotwords_reach_rescoring(
    write: Callable[..., Bundle], speech: Callable[..., np.ndarray]
) -> None:
    bundle, samples = write(), speech(1.0)
    plain = Transcriber(bundle.path, method="rescoring", ctc_weight=1.0).transcribe(samples)
    wanted = "灯灯" if "灯灯" not in plain.text else "开关"
    boosted = Transcriber(
        bundle.path, method="rescoring", ctc_weight=1.0, hotwords={wanted: 90.0}
    ).transcribe(samples)
    assert wanted in boosted.text
    assert wanted in Transcriber(bundle.path, hotwords={wanted: 90.0}).transcribe(samples).text


def test_a_bundle_without_a_decoder_says_so(make_bundle: Callable[..., Bundle]) -> None:
    with pytest.raises(BadRecipe, match="there is no attention decoder here") as caught:
        Transcriber(make_bundle().path, method="rescoring")
    assert "--decoding rescoring" in caught.value.hint
