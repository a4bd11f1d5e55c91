"""The streaming runtime on tiny graphs: any cutting of the audio gives the same text."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asrcompress.bundles.bundle import BundleManifest, StreamingModel, TensorSpec, write_bundle
from asrcompress.errors import BadAudio, BadBundle, BadRecipe
from asrcompress.features import FeatureSpec
from asrcompress.recipe import Decoding
from asrcompress.runtime import Transcriber
from asrcompress.runtime.chunk_model import (
    ChunkedAcousticModel,
    ChunkModel,
    ChunkWalk,
    Step,
    open_chunk_model,
    outputs_of,
)
from asrcompress.runtime.decode import greedy
from asrcompress.runtime.decoder import Decoder
from asrcompress.runtime.endpoint import NO_ENDPOINT, Endpoint, EndpointRule
from asrcompress.runtime.features import Fbank
from asrcompress.runtime.graph import OnnxGraph
from asrcompress.runtime.streaming import Partial, Stream
from asrcompress.tokens import Vocabulary

N_MELS, CHUNK, KERNEL, FACTOR = 80, 4, 7, 4
CMVN = FeatureSpec(cmvn_mean=(10.0,) * N_MELS, cmvn_istd=(0.25,) * N_MELS)


def spec_of(vocab_size: int, **changes: Any) -> StreamingModel:
    """Of the graph that `write_recurrent` writes."""
    dims = (1, 1, vocab_size)
    plain = StreamingModel(
        kind="deepspeech2",
        model="model-streaming.onnx",
        inputs=(
            TensorSpec(name="x", dtype="float32", dims=(1, "T", N_MELS)),
            TensorSpec(name="h", dtype="float32", dims=dims),
        ),
        outputs=(
            TensorSpec(name="log_probs", dtype="float32", dims=(1, "U", vocab_size)),
            TensorSpec(name="next_h", dtype="float32", dims=dims),
        ),
        chunk_size=CHUNK,
        window_frames=(CHUNK - 1) * FACTOR + KERNEL,
        hop_frames=CHUNK * FACTOR,
    )
    return dataclasses.replace(plain, **changes)


def write_recurrent(path: Path, vocab_size: int, *, seed: int = 0) -> Path:
    """A convolution of 7 frames and stride 4; what it gives is shifted by all that was before."""
    onnx = pytest.importorskip("onnx", reason="makes the graph")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    rng = np.random.default_rng(seed)
    weight = 0.3 * rng.standard_normal((vocab_size, N_MELS, KERNEL))
    weight -= weight.mean(axis=(1, 2), keepdims=True)
    mix = rng.standard_normal((vocab_size, vocab_size)) / vocab_size
    nodes = [
        helper.make_node("Transpose", ["x"], ["xt"], perm=[0, 2, 1]),
        helper.make_node("Conv", ["xt", "W"], ["yt"], strides=[FACTOR]),
        helper.make_node("Transpose", ["yt"], ["y"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["h", "M"], ["shift"]),
        helper.make_node("Add", ["y", "shift"], ["z"]),
        helper.make_node("LogSoftmax", ["z"], ["log_probs"], axis=2),
        helper.make_node("ReduceMean", ["z"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Tanh", ["mean"], ["next_h"]),
    ]
    value, kind = helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    spec = spec_of(vocab_size)
    graph = helper.make_graph(
        nodes,
        "tiny",
        [value(item.name, kind, list(item.dims)) for item in spec.inputs],
        [value(item.name, kind, list(item.dims)) for item in spec.outputs],
        [
            numpy_helper.from_array(weight.astype(np.float32), "W"),
            numpy_helper.from_array(mix.astype(np.float32), "M"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


@pytest.fixture
def recurrent(tmp_path: Path, vocabulary: Vocabulary) -> ChunkModel:
    size = len(vocabulary)
    return open_chunk_model(write_recurrent(tmp_path / "chunk.onnx", size), spec_of(size))


class Scripted:
    """A chunk model that says what it was told to, frame by frame.

    Args:
        spoken: token id of every output frame; blanks behind them.
    """

    def __init__(self, spoken: list[int], spec: StreamingModel) -> None:
        self.spec, self._spoken = spec, spoken
        self._gives_hidden = any(item.name == "hidden" for item in spec.outputs)
        self.starts = 0
        self._at = 0

    def start(self) -> tuple[np.ndarray, ...]:
        self.starts += 1
        return (np.zeros(1),)

    def step(self, frames: np.ndarray, state: tuple[np.ndarray, ...]) -> Step:
        count = outputs_of(self.spec, len(frames))
        ids = (self._spoken[self._at : self._at + count] + [0] * count)[:count]
        self._at += count
        log_probs = np.full((count, self.spec.outputs[0].dims[-1]), -9.0, np.float32)
        log_probs[np.arange(count), ids] = -0.01
        hidden = np.full((count, 2), self._at, np.float32) if self._gives_hidden else None
        return Step(log_probs=log_probs, hidden=hidden, state=(state[0] + count,))


def seconds(n: float) -> np.ndarray:
    return np.zeros(round(n * 16_000), np.float32)


def pieces(samples: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (samples[at : at + size] for at in range(0, len(samples), size))


def texts(found: list[Partial]) -> list[str]:
    return [item.text for item in found if item.is_final]


def scripted_stream(
    spoken: list[int], vocabulary: Vocabulary, *, endpoint: Endpoint | None = None, **changes: Any
) -> tuple[Scripted, Stream]:
    model = Scripted(spoken, spec_of(len(vocabulary), **changes))
    return model, Stream(model, Fbank(CMVN), vocabulary, endpoint=endpoint)


# --- chunks ------------------------------------------------------------------------------------


def test_every_output_frame_of_the_recording_comes_out(recurrent: ChunkModel) -> None:
    """As PaddleSpeech's forward_chunk_by_chunk counts them: the rest is a shorter window."""
    rng = np.random.default_rng(0)
    for n_frames in range(KERNEL, 60):
        features = rng.standard_normal((n_frames, N_MELS)).astype(np.float32)
        (log_probs,) = ChunkedAcousticModel(recurrent).log_probs([features])
        assert len(log_probs) == ((n_frames - 1) // 2 - 1) // 2
    with pytest.raises(BadAudio, match="got 6 frames, expected at least 7"):
        ChunkedAcousticModel(recurrent).log_probs([features[:6]])


def test_a_state_is_handed_on_and_forgotten_at_a_restart(recurrent: ChunkModel) -> None:
    rng = np.random.default_rng(1)
    window = recurrent.spec.window_frames
    features = rng.standard_normal((window, N_MELS)).astype(np.float32)
    fresh = recurrent.step(features, recurrent.start())
    later = recurrent.step(features, fresh.state)
    assert not np.allclose(fresh.log_probs, later.log_probs)
    walk = ChunkWalk(recurrent)
    for restart in (False, True):
        walk.push(features[: recurrent.spec.hop_frames] if restart else features)
        if restart:
            walk.restart()
        assert walk.ready() == window
        step = walk.step(window)
    overlap = np.concatenate([features[recurrent.spec.hop_frames :], features])[:window]
    assert np.array_equal(step.log_probs, recurrent.step(overlap, recurrent.start()).log_probs)


def test_bounded_positions_end_a_segment(vocabulary: Vocabulary) -> None:
    walk = ChunkWalk(Scripted([], spec_of(len(vocabulary), max_outputs=2 * CHUNK + 1)))
    walk.push(np.zeros((200, N_MELS), np.float32))
    for _ in range(2):
        assert walk.fits(walk.ready())
        walk.step(walk.ready())
    assert not walk.fits(walk.ready())
    assert walk.fits(KERNEL)  # one more output frame
    walk.restart()
    assert walk.fits(walk.ready())


# --- any cutting gives the same ------------------------------------------------------------------


@settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(cuts=st.lists(st.integers(0, 40_000), max_size=40), beam=st.sampled_from([1, 3]))
def test_any_cutting_of_the_samples_gives_the_same_text(
    recurrent: ChunkModel, vocabulary: Vocabulary, speech: Any, cuts: list[int], beam: int
) -> None:
    samples = speech(2.5, seed=3)
    method = "greedy" if beam == 1 else "prefix_beam"
    decoder = Decoder(Decoding(method=method, beam=beam), blank=vocabulary.blank_id)
    fbank = Fbank(CMVN)
    bounds = [0, *sorted(min(cut, len(samples)) for cut in cuts), len(samples)]
    cut = [samples[a:b] for a, b in itertools.pairwise(bounds)]  # empty ones too
    found = Stream(recurrent, fbank, vocabulary, decoder=decoder, endpoint=NO_ENDPOINT)
    best = decoder.decode(ChunkedAcousticModel(recurrent).encode([fbank(samples)])[0])
    last = list(found.transcribe(cut))[-1]
    assert last.is_final
    assert last.text == vocabulary.ids_to_text(best.tokens) != ""
    assert last.score == pytest.approx(best.score)


def test_greedy_in_a_stream_is_greedy(
    recurrent: ChunkModel, vocabulary: Vocabulary, speech: Any
) -> None:
    samples, fbank = speech(2.0), Fbank(CMVN)
    (log_probs,) = ChunkedAcousticModel(recurrent).log_probs([fbank(samples)])
    stream = Stream(recurrent, fbank, vocabulary, endpoint=NO_ENDPOINT)
    found = list(stream.transcribe(pieces(samples, 160)))
    assert texts(found) == [vocabulary.ids_to_text(greedy(log_probs))]
    assert [item.is_final for item in found] == [False] * (len(found) - 1) + [True]
    assert found[-1].end_s == pytest.approx(len(fbank(samples)) / 100, abs=0.07)


def test_a_token_that_goes_on_over_a_border_is_one_token(vocabulary: Vocabulary) -> None:
    spoken = [0, 0, 2, 2, 2, 2, 0, 2, 0, 0, 0, 3]  # chunks of 4: 开 goes on into the second
    _, stream = scripted_stream(spoken, vocabulary, endpoint=NO_ENDPOINT)
    assert texts(list(stream.transcribe([seconds(1.0)]))) == ["开开关"]


def test_int16_and_float_samples_are_the_same_stream(
    recurrent: ChunkModel, vocabulary: Vocabulary, speech: Any
) -> None:
    integers = np.rint(speech(1.0) * 32768).astype(np.int16)
    found = [
        list(Stream(recurrent, Fbank(CMVN), vocabulary).transcribe(pieces(samples, 1600)))
        for samples in (integers, integers / np.float32(32768))
    ]
    assert found[0] == found[1]


def test_samples_that_are_none_are_refused(recurrent: ChunkModel, vocabulary: Vocabulary) -> None:
    stream = Stream(recurrent, Fbank(CMVN), vocabulary)
    with pytest.raises(BadAudio, match="not finite"):
        list(stream.accept(np.array([np.nan], np.float32)))
    with pytest.raises(BadAudio, match="one channel"):
        list(stream.accept(np.zeros((2, 160), np.float32)))


# --- endpoints -----------------------------------------------------------------------------------


def test_the_three_rules() -> None:
    rules = Endpoint()
    assert not rules.reached(spoken=False, silence_s=2.3, length_s=2.3)
    assert rules.reached(spoken=False, silence_s=2.4, length_s=2.4)  # nothing said
    assert not rules.reached(spoken=True, silence_s=1.1, length_s=5.0)
    assert rules.reached(spoken=True, silence_s=1.2, length_s=5.0)  # said, then silence
    assert not rules.reached(spoken=True, silence_s=0.3, length_s=60.0)
    assert not rules.reached(spoken=True, silence_s=0.4, length_s=19.0)
    assert rules.reached(spoken=True, silence_s=0.4, length_s=20.0)  # long: any pause
    assert not NO_ENDPOINT.reached(spoken=True, silence_s=99.0, length_s=99.0)


def test_silence_after_speech_ends_an_utterance(vocabulary: Vocabulary) -> None:
    """40 ms per output frame: 1.2 s are 30 blanks, found at the end of a chunk of 4."""
    spoken = [2, 0, 3, *[0] * 33, 5, 0]
    model, stream = scripted_stream(spoken, vocabulary)
    found = list(stream.transcribe(pieces(seconds(2.0), 1600)))
    assert texts(found) == ["开关", "灯"]
    first, second = (item for item in found if item.is_final)
    # 3 + 30 frames, rounded up to whole chunks: 36 frames of 40 ms.
    assert (first.start_s, first.end_s) == (0.0, pytest.approx(1.44))
    assert second.start_s == first.end_s
    assert second.end_s == pytest.approx(1.98, abs=0.07)  # 198 frames lie in 2 s
    assert model.starts == 3  # at the beginning, and after each utterance


def test_silence_without_speech_is_no_utterance(vocabulary: Vocabulary) -> None:
    model, stream = scripted_stream([], vocabulary)
    assert list(stream.transcribe(pieces(seconds(6.0), 1600))) == []
    assert model.starts == 1 + 6.0 // 2.4 + 1


def test_a_configured_endpoint(vocabulary: Vocabulary) -> None:
    quick = Endpoint(rules=(EndpointRule(after_speech=True, min_silence_s=0.3),))
    spoken = [2, *[0] * 15, 3]
    _, stream = scripted_stream(spoken, vocabulary, endpoint=quick)
    assert texts(list(stream.transcribe([seconds(1.0)]))) == ["开", "关"]
    _, stream = scripted_stream(spoken, vocabulary, endpoint=NO_ENDPOINT)
    assert texts(list(stream.transcribe([seconds(1.0)]))) == ["开关"]
    with pytest.raises(Exception, match=r"endpoint\.min_silence_s: got -1"):
        EndpointRule(after_speech=True, min_silence_s=-1)


def test_an_utterance_is_cut_where_the_positions_end(vocabulary: Vocabulary) -> None:
    """No pause for an hour: the network starts anew, nothing is lost, nothing is said twice."""
    spoken = [2, 3] * 20
    model, stream = scripted_stream(spoken, vocabulary, endpoint=NO_ENDPOINT, max_outputs=3 * CHUNK)
    found = texts(list(stream.transcribe(pieces(seconds(1.7), 1600))))
    assert "".join(found) == "开关" * 20
    assert [len(text) for text in found] == [12, 12, 12, 4]
    assert model.starts == len(found) + 1


def test_memory_does_not_grow_in_an_hour(vocabulary: Vocabulary) -> None:
    """What a stream holds on to after 2 minutes is what it holds on to after 20 seconds."""
    _, stream = scripted_stream([2, 0, 0] * 1200, vocabulary, max_outputs=500)  # 20 s

    def held() -> int:
        stack, seen, total = [stream], set(), 0
        while stack:
            item = stack.pop()
            if id(item) in seen or isinstance(item, Scripted | Fbank | Vocabulary):
                continue
            seen.add(id(item))
            if isinstance(item, np.ndarray):
                total += item.nbytes
            elif isinstance(item, list | tuple):
                total += 8 * len(item)
                stack += list(item)
            elif hasattr(item, "__dict__"):
                stack += list(vars(item).values())
        return total

    sizes = []
    for number, piece in enumerate(pieces(seconds(120.0), 1600), start=1):
        list(stream.accept(piece))
        if number % 100 == 0:  # every 10 s
            sizes.append(held())
    assert max(sizes[2:]) <= 1.2 * max(sizes[:2])


# --- an attention decoder at the end of each utterance -------------------------------------------


class Likes:
    """An attention decoder that knows one text, and what hidden states it was shown."""

    sos = eos = 6
    reverse = False

    def __init__(self, text: list[int]) -> None:
        self._text = [*text, self.eos]
        self.seen: list[np.ndarray] = []

    def log_probs(
        self, hidden: np.ndarray, tokens: np.ndarray, reversed_tokens: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        self.seen.append(hidden)
        scores = np.full((*tokens.shape, 7), -50.0, np.float32)
        for place in range(tokens.shape[1]):
            scores[:, place, self._text[min(place, len(self._text) - 1)]] = -0.01
        return scores, None


def test_an_attention_decoder_judges_at_the_end_of_each_utterance(vocabulary: Vocabulary) -> None:
    hidden = TensorSpec(name="hidden", dtype="float32", dims=(1, "U", 2))
    plain = spec_of(len(vocabulary))
    spec = dataclasses.replace(plain, outputs=(plain.outputs[0], hidden, plain.outputs[1]))
    likes = Likes([2, 5])  # CTC hears 2 3, and 5 almost as well
    decoder = Decoder(
        Decoding(method="rescoring", beam=3, ctc_weight=0.1), blank=0, attention=likes
    )

    class Doubtful(Scripted):
        def step(self, frames: np.ndarray, state: tuple[np.ndarray, ...]) -> Step:
            step = super().step(frames, state)
            step.log_probs[step.log_probs[:, 3] > -1, 5] = -0.02
            return step

    model = Doubtful([2, 0, 3, *[0] * 33, 2, 0, 3], spec)
    stream = Stream(model, Fbank(CMVN), vocabulary, decoder=decoder)
    found = list(stream.transcribe(pieces(seconds(2.0), 1600)))
    assert [(item.text, item.is_final) for item in found] == [
        ("开关", False), ("开灯", True), ("开关", False), ("开灯", True),
    ]  # fmt: skip
    assert [len(item) for item in likes.seen] == [36, 48 - 36]  # each utterance's own frames


def test_an_attention_decoder_needs_hidden_states(vocabulary: Vocabulary) -> None:
    decoder = Decoder(Decoding(method="rescoring"), blank=0, attention=Likes([2]))
    model = Scripted([], spec_of(len(vocabulary)))
    with pytest.raises(BadBundle, match="gives no hidden states"):
        Stream(model, Fbank(CMVN), vocabulary, decoder=decoder)


# --- bundles -----------------------------------------------------------------------------------


@pytest.fixture
def make_streaming_bundle(
    tmp_path: Path, make_model: Any, manifest: BundleManifest, vocabulary: Vocabulary
) -> Callable[..., Path]:
    def make(name: str = "bundle", **changes: Any) -> Path:
        spec = spec_of(len(vocabulary), **changes)
        model = write_recurrent(tmp_path / "model-streaming.onnx", len(vocabulary))
        return write_bundle(
            tmp_path / name,
            dataclasses.replace(manifest, streaming=spec),
            model=make_model(),
            vocabulary=vocabulary,
            extra=[model],
        ).path

    return make


def test_a_bundle_streams(make_streaming_bundle: Any, speech: Any, vocabulary: Vocabulary) -> None:
    transcriber = Transcriber(make_streaming_bundle())
    samples = speech(2.0)
    found = list(transcriber.stream(pieces(samples, 480), endpoint=NO_ENDPOINT))
    assert found[-1].is_final
    assert found[-1].text
    assert all(symbol in vocabulary.symbols for symbol in found[-1].tokens)
    pushed = transcriber.open_stream(endpoint=NO_ENDPOINT)
    both = [*pushed.accept(samples[:9000]), *pushed.accept(samples[9000:]), *pushed.finish()]
    assert both[-1] == found[-1]


def test_a_device_that_only_streams_loads_one_graph(
    make_streaming_bundle: Any, speech: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_streaming_bundle()
    loaded = []
    load = OnnxGraph.__init__

    def watched(self: OnnxGraph, path: Path, **options: Any) -> None:
        loaded.append(path.name)
        load(self, path, **options)

    monkeypatch.setattr(OnnxGraph, "__init__", watched)
    both = Transcriber(path)
    expected = list(both.stream([speech()]))
    assert loaded == ["model.onnx", "model-streaming.onnx"] and expected
    loaded.clear()
    lean = Transcriber(path, streams_only=True)
    assert list(lean.stream([speech()])) == expected
    assert loaded == ["model-streaming.onnx"]
    for whole in (lambda: lean.transcribe(speech()), lambda: lean.transcribe_batch([speech()])):
        with pytest.raises(BadRecipe, match="was opened with streams_only, expected a stream"):
            whole()


def test_two_streams_of_one_bundle_do_not_mix(make_streaming_bundle: Any, speech: Any) -> None:
    transcriber = Transcriber(make_streaming_bundle())
    one, other = speech(1.5, seed=1), speech(1.5, seed=2)
    alone = [list(transcriber.stream([item]))[-1].text for item in (one, other)]
    streams = [transcriber.open_stream(), transcriber.open_stream()]
    for pair in zip(pieces(one, 800), pieces(other, 800), strict=True):
        for stream, piece in zip(streams, pair, strict=True):
            list(stream.accept(piece))
    assert [list(stream.finish())[-1].text for stream in streams] == alone


def test_a_bundle_without_a_streaming_graph(make_bundle: Any) -> None:
    path = make_bundle().path
    with pytest.raises(BadBundle, match="has no streaming graph") as caught:
        Transcriber(path).open_stream()
    with pytest.raises(BadBundle, match="has no streaming graph"):
        Transcriber(path, streams_only=True)
    assert "--chunk-size" in caught.value.hint


def test_a_streaming_graph_that_is_not_as_declared(make_streaming_bundle: Any) -> None:
    names = (
        TensorSpec(name="x", dtype="float32", dims=(1, "T", N_MELS)),
        TensorSpec(name="state", dtype="float32", dims=(1, 1, 7)),
    )
    with pytest.raises(BadBundle, match=r"inputs are x float32.* h float32.*expected.* state"):
        Transcriber(make_streaming_bundle(inputs=names)).open_stream()


def test_a_damaged_streaming_graph_is_refused(make_streaming_bundle: Any) -> None:
    path = make_streaming_bundle() / "model-streaming.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadBundle, match=r"model-streaming\.onnx: was changed"):
        Transcriber(path.parent)


def test_a_bundle_must_hold_the_streaming_graph_that_it_names(
    tmp_path: Path, make_model: Any, manifest: BundleManifest, vocabulary: Vocabulary
) -> None:
    with pytest.raises(BadBundle, match=r"model-streaming\.onnx is not among its files"):
        write_bundle(
            tmp_path / "bundle",
            dataclasses.replace(manifest, streaming=spec_of(len(vocabulary))),
            model=make_model(),
            vocabulary=vocabulary,
        )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "rnnt"}, "streaming.kind"),
        ({"model": "../model.onnx"}, "file name"),
        ({"chunk_size": 0}, "streaming.chunk_size"),
        ({"left_chunks": -2}, "streaming.left_chunks"),
        ({"hop_frames": 15}, "a multiple of 4"),
        ({"hop_frames": 32}, "1 to 19"),
        ({"max_outputs": 3}, "streaming.max_outputs"),
        ({"inputs": ()}, "no state"),
    ],
)
def test_impossible_streaming_parts_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(BadBundle, match=said):
        spec_of(7, **change)


def test_chunks_of_another_size_are_the_same_graph() -> None:
    other = spec_of(7).with_chunks(16, 2)
    assert (other.window_frames, other.hop_frames, other.left_chunks) == (67, 64, 2)
    assert (other.context_frames, other.subsampling_factor) == (7, 4)
