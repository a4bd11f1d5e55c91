"""Anything that can be evaluated: a checkpoint, a run, or a bundle, behind one interface.

All of them get the same features from the same code and the same greedy decoder; only the network
between the two differs. So a difference in CER is a difference of the network.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from asrcompress.audio import read_audio
from asrcompress.bundles.bundle import read_bundle
from asrcompress.bundles.manifest import MANIFEST_NAME, StreamingModel
from asrcompress.checkpoints.acoustic import FULL_CONTEXT, Context
from asrcompress.checkpoints.attention_decoder import EncodedUtterance
from asrcompress.checkpoints.checkpoint import Checkpoint, read_checkpoint
from asrcompress.checkpoints.streaming import check_streamable, chunk_context
from asrcompress.errors import BadAudio, BadBundle, BadRun
from asrcompress.features import FeatureSpec
from asrcompress.files import sha256_file
from asrcompress.manifests.manifest import Utterance
from asrcompress.recipe import GREEDY, Decoding, Recipe, Streaming
from asrcompress.run import Run, read_run
from asrcompress.runtime.chunk_model import ChunkedAcousticModel, ChunkModel, open_chunk_model
from asrcompress.runtime.decode import greedy
from asrcompress.runtime.decoder import Decoder, open_decoder
from asrcompress.runtime.endpoint import NO_ENDPOINT
from asrcompress.runtime.features import Fbank
from asrcompress.runtime.lite import LiteAcousticModel
from asrcompress.runtime.onnx_decoder import OnnxAttentionDecoder
from asrcompress.runtime.session import OnnxAcousticModel
from asrcompress.runtime.streaming import Stream
from asrcompress.tokens import Vocabulary

# Samples of one piece of audio in a simulated stream: 100 ms.
_PIECE = 1600


class AcousticModel(Protocol):
    """Features to CTC log-probabilities, and to the hidden states behind them."""

    def encode(self, batch: Sequence[np.ndarray], /) -> list[EncodedUtterance]:
        """As `log_probs`; hidden states where the network gives them."""

    def log_probs(self, batch: Sequence[np.ndarray], /) -> list[np.ndarray]:
        """(frames, mels) arrays -> (output frames, vocabulary) arrays, natural log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognizer:
    """A network with the features it wants and the symbols it emits.

    Attributes:
        name: for reports.
        backend: ``paddle`` or ``onnxruntime``.
        max_frames: most feature frames that the network takes; None where nothing says so.
        decoder: how log-probabilities become text; greedily where None.
    """

    name: str
    backend: str
    model: AcousticModel
    fbank: Fbank
    vocabulary: Vocabulary
    max_frames: int | None = None
    decoder: Decoder | None = None

    def check_length(self, n_samples: int) -> None:
        """Refuse audio that is longer than the network takes.

        Raises:
            BadAudio: too long.
        """
        spec = self.fbank.spec
        if self.max_frames is not None and spec.n_frames(n_samples) > self.max_frames:
            most = self.max_frames * spec.frame_shift_ms / 1000
            raise BadAudio(
                f"too long, got {n_samples / spec.sample_rate_hz:.1f} s, "
                f"expected at most {most:.1f} s",
                hint="split it at pauses, or export with a larger export.max_seconds",
            )

    def features(self, utterance: Utterance) -> np.ndarray:
        """Features of an utterance, float32 (frames, mels).

        Raises:
            BadAudio: the audio cannot be used.
        """
        samples = read_audio(utterance.audio, start_s=utterance.start_s, end_s=utterance.end_s)
        return self.fbank(samples)

    def text(self, log_probs: np.ndarray) -> str:
        """Greedy CTC transcript of one utterance's log-probabilities."""
        return self.vocabulary.ids_to_text(greedy(log_probs, self.vocabulary.blank_id))

    def transcribe(self, samples: np.ndarray) -> str:
        """Transcript of one utterance, float32 samples in [-1, 1)."""
        if self.decoder is None:
            return self.text(self.model.log_probs([self.fbank(samples)])[0])
        best = self.decoder.decode(self.model.encode([self.fbank(samples)])[0])
        return self.vocabulary.ids_to_text(best.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamingRecognizer(Recognizer):
    """A recognizer that hears an utterance as a microphone would give it, piece by piece.

    Attributes:
        chunks: the network of the stream; `model` is the same one for whole features.
    """

    chunks: ChunkModel

    def transcribe(self, samples: np.ndarray) -> str:
        """As `Recognizer.transcribe`, by the streaming runtime."""
        stream = Stream(
            self.chunks, self.fbank, self.vocabulary, decoder=self.decoder, endpoint=NO_ENDPOINT
        )
        pieces = (samples[at : at + _PIECE] for at in range(0, len(samples), _PIECE))
        return "".join(item.text for item in stream.transcribe(pieces) if item.is_final)


def from_checkpoint(
    checkpoint: Checkpoint,
    *,
    device: str = "cpu",
    context: Context = FULL_CONTEXT,
    decoding: Decoding = GREEDY,
) -> Recognizer:
    """PaddleSpeech's own network and forward, seeing as much as `context` says.

    With a method that needs one, it is PaddleSpeech's own attention decoder that judges; the
    search is ours, which finds what PaddleSpeech's finds.

    Raises:
        BadCheckpoint, MissingExtra: see `asrcompress.checkpoints.network`.
    """
    from asrcompress.checkpoints.network import build_network

    network = build_network(checkpoint, device=device)
    return from_network(checkpoint, network, context=context, decoding=decoding)


def from_network(
    checkpoint: Checkpoint,
    network: Any,
    *,
    context: Context = FULL_CONTEXT,
    decoding: Decoding = GREEDY,
) -> Recognizer:
    """PaddleSpeech's forward of a network that was built already, such as one in training."""
    from asrcompress.checkpoints.acoustic import has_attention_loss
    from asrcompress.checkpoints.network import PaddleAcousticModel, PaddleAttentionDecoder

    trained = decoding.uses_decoder and has_attention_loss(network)
    return Recognizer(
        name=checkpoint.name,
        backend="paddle",
        model=PaddleAcousticModel(network, context=context),
        fbank=Fbank(checkpoint.features),
        vocabulary=checkpoint.vocabulary,
        decoder=Decoder(
            decoding,
            blank=checkpoint.vocabulary.blank_id,
            attention=PaddleAttentionDecoder(network) if trained else None,
        ),
    )


def from_onnx(
    path: Path,
    *,
    name: str,
    features: FeatureSpec,
    vocabulary: Vocabulary,
    threads: int = 1,
    max_frames: int | None = None,
    decoder: Decoder | None = None,
) -> Recognizer:
    """An ONNX graph in the runtime.

    Raises:
        BadBundle: the graph cannot be loaded.
    """
    return Recognizer(
        name=name,
        backend="onnxruntime",
        model=OnnxAcousticModel(path, threads=threads),
        fbank=Fbank(features),
        vocabulary=vocabulary,
        max_frames=max_frames,
        decoder=decoder,
    )


def from_chunks(
    path: Path,
    spec: StreamingModel,
    *,
    name: str,
    features: FeatureSpec,
    vocabulary: Vocabulary,
    threads: int = 1,
    max_frames: int | None = None,
    decoder: Decoder | None = None,
) -> StreamingRecognizer:
    """A streaming graph in the streaming runtime.

    Raises:
        BadBundle: the graph cannot be loaded.
    """
    chunks = open_chunk_model(path, spec, threads=threads)
    return StreamingRecognizer(
        name=name,
        backend="onnxruntime, streaming",
        model=ChunkedAcousticModel(chunks),
        chunks=chunks,
        fbank=Fbank(features),
        vocabulary=vocabulary,
        max_frames=None if spec.max_outputs is None else max_frames,
        decoder=decoder,
    )


def from_bundle(
    path: Path,
    *,
    threads: int = 1,
    streaming: Streaming | None = None,
    decoding: Decoding = GREEDY,
) -> Recognizer:
    """A bundle, every hash checked; its streaming graph, fed as `streaming` says, if that is given.

    Raises:
        BadBundle: it was tampered with, cannot be loaded, or has no streaming graph.
    """
    bundle = read_bundle(path)
    manifest = bundle.manifest
    if streaming is not None:
        spec = _fed_as(manifest.streaming, streaming, item=str(path))
        return from_chunks(
            bundle.path / spec.model,
            spec,
            name=path.name,
            features=manifest.features,
            vocabulary=bundle.tokens,
            threads=threads,
            max_frames=manifest.max_frames,
            decoder=open_decoder(bundle, decoding, threads=threads),
        )
    if manifest.lite is not None:
        return Recognizer(
            name=path.name,
            backend="paddle lite",
            model=LiteAcousticModel(bundle.path, manifest, threads=threads),
            fbank=Fbank(manifest.features),
            vocabulary=bundle.tokens,
            max_frames=manifest.max_frames,
        )
    return from_onnx(
        bundle.model_path,
        name=path.name,
        features=manifest.features,
        vocabulary=bundle.tokens,
        threads=threads,
        max_frames=manifest.max_frames,
        decoder=open_decoder(bundle, decoding, threads=threads),
    )


def from_run(
    run: Run,
    checkpoint: Checkpoint,
    *,
    threads: int = 1,
    streaming: Streaming | None = None,
    decoding: Decoding = GREEDY,
) -> Recognizer:
    """The INT8 artifact of a run, or its streaming one.

    Raises:
        BadRun: the artifact is missing, or is not the one that the run measured.
    """
    _check_artifact(run, run.model, "model_sha256")
    decoder = Decoder(
        decoding,
        blank=checkpoint.vocabulary.blank_id,
        attention=_decoder_of(run, threads) if decoding.uses_decoder else None,
    )
    most = run.read_json("run.json").get("max_frames")
    if streaming is not None:
        _check_artifact(run, run.streaming_model, "streaming_sha256")
        spec = _fed_as(run.streaming_spec(), streaming, item=str(run.path))
        return from_chunks(
            run.streaming_model,
            spec,
            name=run.name,
            features=checkpoint.features,
            vocabulary=checkpoint.vocabulary,
            threads=threads,
            max_frames=most,
            decoder=decoder,
        )
    return from_onnx(
        run.model,
        name=run.name,
        features=checkpoint.features,
        vocabulary=checkpoint.vocabulary,
        threads=threads,
        max_frames=most,
        decoder=decoder,
    )


def _decoder_of(run: Run, threads: int) -> OnnxAttentionDecoder | None:
    """The attention decoder of a run; None where its recipe wants none."""
    if not run.has("decoder.json"):
        return None
    _check_artifact(run, run.decoder_model, "decoder_sha256")
    return OnnxAttentionDecoder(run.decoder_model, run.decoder_spec(), threads=threads)


def _check_artifact(run: Run, path: Path, recorded: str) -> None:
    digest = run.read_json("run.json").get(recorded)
    if digest is None or not path.is_file():
        raise BadRun(f"{run.path}: has no {path.name} yet", hint="repeat the command of the run")
    if sha256_file(path) != digest:
        raise BadRun(f"{path}: was changed after the run measured it")


def _fed_as(spec: StreamingModel | None, wanted: Streaming, *, item: str) -> StreamingModel:
    if spec is None:
        raise BadBundle(
            f"{item}: has no streaming graph, expected one",
            hint="quantize the checkpoint with --chunk-size",
        )
    return spec.with_chunks(wanted.chunk_size, wanted.left_chunks)


def open_recognizer(
    path: Path,
    *,
    config: Path | None = None,
    weights: Path | None = None,
    threads: int = 1,
    device: str = "cpu",
    streaming: Streaming | None = None,
    decoding: Decoding = GREEDY,
) -> Recognizer:
    """Whatever lies at `path`: a bundle, a run directory, or a checkpoint.

    Args:
        decoding: how log-probabilities become text.
        streaming: hear in chunks, as in a stream, instead of whole utterances.
    Raises:
        BadBundle, BadRun, BadCheckpoint: it is none of them, or a broken one.
    """
    # os.path, because pathlib raises where a name is too long or a folder may not be entered.
    if os.path.isfile(path / MANIFEST_NAME):
        return from_bundle(path, threads=threads, streaming=streaming, decoding=decoding)
    if os.path.isfile(path / "run.json"):
        run = read_run(path)
        return from_run(
            run, checkpoint_of(run), threads=threads, streaming=streaming, decoding=decoding
        )
    if path.suffix == ".onnx":
        raise BadBundle(f"{path}: is a bare graph", hint="give the bundle folder that holds it")
    checkpoint = read_checkpoint(path, config=config, weights=weights)
    if streaming is None:
        return from_checkpoint(checkpoint, device=device, decoding=decoding)
    check_streamable(checkpoint, streaming)
    context = chunk_context(streaming)
    return from_checkpoint(checkpoint, device=device, context=context, decoding=decoding)


def checkpoint_of(run: Run) -> Checkpoint:
    """The checkpoint that a run compressed.

    Raises:
        BadRun: its weights have changed since.
        BadCheckpoint: it is gone.
    """
    recipe = Recipe.from_dict(
        run.field("run.json", "recipe", kind=dict), source=str(run.path), folder=Path()
    )
    source = recipe.checkpoint
    if source.path is None:
        raise BadRun(f"{run.path}: names no checkpoint")
    checkpoint = read_checkpoint(source.path, config=source.config, weights=source.weights)
    if checkpoint.sha256 != run.field("run.json", "checkpoint", "sha256", kind=str):
        raise BadRun(f"{checkpoint.weights_path}: has changed since {run.name} compressed it")
    return checkpoint
