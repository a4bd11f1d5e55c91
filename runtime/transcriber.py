"""Speech to text from a bundle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from asrcompress.audio import SAMPLE_RATE_HZ, check_samples, read_audio
from asrcompress.bundles.bundle import Bundle, read_bundle
from asrcompress.checkpoints.attention_decoder import EncodedUtterance
from asrcompress.errors import BadAudio, BadBundle, BadRecipe
from asrcompress.runtime.decode import greedy
from asrcompress.runtime.decoder import choose_decoding, open_decoder, open_scorers
from asrcompress.runtime.features import Fbank
from asrcompress.runtime.session import OnnxAcousticModel
from asrcompress.targets import needs_exact_sums

if TYPE_CHECKING:  # imported where they are asked for: a program that starts often waits for it
    from asrcompress.bundles.golden import SelfTest
    from asrcompress.runtime.chunk_model import ChunkModel
    from asrcompress.runtime.endpoint import Endpoint
    from asrcompress.runtime.language_model import LanguageModel
    from asrcompress.runtime.lite import LiteAcousticModel
    from asrcompress.runtime.streaming import Partial, Stream
    from asrcompress.runtime.timestamps import Timestamp

Audio = Path | str | np.ndarray
"""A file, or samples: float32 in [-1, 1) or int16, shape (n_samples,), 16 kHz."""

# Recordings that are read ahead and sorted by length, so that a batch pads little: memory is
# bounded by this many recordings, however many there are.
_WINDOW = 64
# Feature frames of one batch, padding included; two minutes bound what attention allocates.
_MAX_BATCH_FRAMES = 12_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """What was said in a recording.

    Attributes:
        tokens: the symbols behind the text, in PaddleSpeech's spelling; never a blank.
        duration_s: of the audio.
        score: natural log of a probability: of the best alignment (greedy), or of the tokens over
            all alignments that were kept (beam search); with an attention decoder, a language
            model or hotwords, their sum as docs/decoding.md has it.
        timestamps, words: when each of `tokens`, and each word, was said; empty unless asked for.
    """

    text: str
    tokens: tuple[str, ...]
    duration_s: float
    score: float
    timestamps: tuple[Timestamp, ...] = ()
    words: tuple[Timestamp, ...] = ()


@dataclass(frozen=True, slots=True)
class _Item:
    index: int
    features: np.ndarray
    duration_s: float


class Transcriber:
    """A bundle, checked and loaded, ready to transcribe.

    Attributes:
        bundle: what was loaded.
    """

    def __init__(
        self,
        bundle_dir: Path | str,
        *,
        threads: int = 1,
        beam: int | None = None,
        batch_size: int = 8,
        timestamps: bool = False,
        public_key: Path | str | None = None,
        method: str | None = None,
        ctc_weight: float | None = None,
        reverse_weight: float | None = None,
        hotwords: Mapping[str, float] | None = None,
        language_model: LanguageModel | None = None,
        streams_only: bool = False,
    ) -> None:
        """Check every hash of the bundle, and load it.

        Args:
            threads: for the network; features and decoding use one.
            beam: hypotheses of a search, 10 where it is None; without `method`, a search is by
                prefix_beam, and there is none where beam is 1 or None.
            batch_size: most recordings to run through the network together.
            timestamps: find out when each token was said.
            public_key: insist on a bundle that is signed by this Ed25519 key, a PEM file.
            method: greedy, prefix_beam, rescoring or attention.
            ctc_weight, reverse_weight: of rescoring; as the bundle was judged where None.
            hotwords: phrase -> how much its log-probability is raised; searches by prefix_beam
                where no method is given.
            language_model: fused into the search, likewise.
            streams_only: do without the graph for whole recordings, and its memory. Otherwise the
                one for streams is loaded besides it when the first stream is opened.
        Raises:
            BadBundle: damaged, tampered with, or not loadable; no streaming graph where only
                streams are wanted.
            BadSignature, MissingExtra: see `asrcompress.bundles.bundle.read_bundle`.
            BadRecipe: a setting out of range, or what this bundle or method cannot do.
            BadLanguageModel: not readable, or of other units than the network's.
        """
        for name, value in (("threads", threads), ("batch_size", batch_size)):
            if value < 1:
                raise BadRecipe(f"{name}: out of range, got {value}, expected 1 or more")
        self.bundle: Bundle = read_bundle(
            Path(bundle_dir), public_key=None if public_key is None else Path(public_key)
        )
        manifest = self.bundle.manifest
        if manifest.features.sample_rate_hz != SAMPLE_RATE_HZ:
            raise BadBundle(
                f"{bundle_dir}: wants {manifest.features.sample_rate_hz} Hz, "
                f"expected {SAMPLE_RATE_HZ} Hz"
            )
        self._fbank = Fbank(manifest.features)
        self._decoder = open_decoder(
            self.bundle,
            choose_decoding(
                manifest.decoder,
                method=method,
                beam=beam,
                ctc_weight=ctc_weight,
                reverse_weight=reverse_weight,
                searching=bool(hotwords) or language_model is not None,
            ),
            scorers=open_scorers(self.bundle.tokens, hotwords, language_model),
            threads=threads,
        )
        self._threads = threads
        self._batch_size = batch_size
        self._timestamps = timestamps
        self._utterances = None if streams_only else _open_model(self.bundle, threads=threads)
        self._chunks = _open_chunks(self.bundle, threads=threads) if streams_only else None

    def transcribe(self, audio: Audio) -> Transcript:
        """What was said in one recording.

        Raises:
            BadAudio: not readable, or too short or too long for the network.
        """
        item = self._prepare(0, audio)
        return self._decode(item, self._whole.encode([item.features])[0])

    def self_test(self) -> SelfTest | None:
        """Compare what this device computes with what was computed at export; takes seconds.

        Returns:
            the result, passed or not: `asrcompress.bundles.golden.check_self_test` raises. None
            where the bundle has no golden recordings.
        Raises:
            BadBundle, BadAudio: its golden part cannot be used.
        """
        from asrcompress.bundles.golden import SelfTest, judge_case, read_references

        manifest = self.bundle.manifest
        if manifest.golden is None:
            return None
        references = read_references(
            manifest.golden, self.bundle.path, vocab_size=manifest.vocab_size
        )
        results = []
        for case, reference in zip(manifest.golden.cases, references, strict=True):
            item = self._prepare(0, self.bundle.path / case.audio)
            log_probs = self._whole.log_probs([item.features])[0]
            text = self.bundle.tokens.ids_to_text(greedy(log_probs, manifest.blank_id))
            results.append(judge_case(case, reference=reference, log_probs=log_probs, text=text))
        return SelfTest(results=tuple(results), tolerance_nats=manifest.golden.tolerance_nats)

    def stream(
        self, chunks: Iterable[np.ndarray], *, endpoint: Endpoint | None = None
    ) -> Iterator[Partial]:
        """What is being said, while it is said.

        Args:
            chunks: pieces of one stream of audio, as a microphone gives them: float32 in [-1, 1)
                or int16, 16 kHz, of any lengths.
            endpoint: when an utterance is over; Kaldi's rules where None.
        Yields:
            the text of the present utterance, each time it changes; ``is_final`` with its end.
        Raises:
            BadBundle: the bundle has no streaming graph.
            BadAudio: samples that are none.
        """
        return self.open_stream(endpoint=endpoint).transcribe(chunks)

    def open_stream(self, *, endpoint: Endpoint | None = None) -> Stream:
        """As `stream`, for a program that pushes samples instead of being asked for them.

        Raises:
            BadBundle: the bundle has no streaming graph, or one without what the method needs.
        """
        from asrcompress.runtime.streaming import Stream

        if self._chunks is None:
            self._chunks = _open_chunks(self.bundle, threads=self._threads)
        return Stream(
            self._chunks,
            self._fbank,
            self.bundle.tokens,
            decoder=self._decoder,
            endpoint=endpoint,
        )

    def transcribe_batch(self, audio: Sequence[Audio]) -> list[Transcript]:
        """What was said in each of some recordings, in their order."""
        return list(self.transcribe_stream(audio))

    def transcribe_stream(self, audio: Iterable[Audio]) -> Iterator[Transcript]:
        """As `transcribe_batch`, for any number of recordings, in constant memory."""
        recordings = iter(audio)
        while window := list(islice(recordings, _WINDOW)):
            items = [self._prepare(index, one) for index, one in enumerate(window)]
            done: dict[int, Transcript] = {}
            for batch in self._batches(items):
                outputs = self._whole.encode([item.features for item in batch])
                for item, encoded in zip(batch, outputs, strict=True):
                    done[item.index] = self._decode(item, encoded)
            yield from (done[index] for index in range(len(window)))

    @property
    def _whole(self) -> OnnxAcousticModel | LiteAcousticModel:
        """The network for whole recordings."""
        if self._utterances is None:
            raise BadRecipe(
                f"{self.bundle.path}: was opened with streams_only, expected a stream",
                hint="open it without, to transcribe whole recordings",
            )
        return self._utterances

    def _prepare(self, index: int, audio: Audio) -> _Item:
        if isinstance(audio, np.ndarray):
            name, samples = "samples", check_samples(audio)
        else:
            name, samples = str(audio), read_audio(Path(audio))
        manifest = self.bundle.manifest
        n_frames = manifest.features.n_frames(len(samples))
        duration_s = len(samples) / SAMPLE_RATE_HZ
        shift_s = manifest.features.frame_shift_ms / 1000
        if n_frames > manifest.max_frames:
            raise BadAudio(
                f"{name}: too long, got {duration_s:.1f} s, "
                f"expected at most {manifest.max_frames * shift_s:.1f} s",
                hint="split it at pauses, and transcribe the parts",
            )
        if n_frames < manifest.min_frames:
            raise BadAudio(
                f"{name}: too short, got {n_frames} frames of {shift_s * 1000:g} ms, "
                f"expected at least {manifest.min_frames}"
            )
        return _Item(index, self._fbank(samples), duration_s)

    def _batches(self, items: Sequence[_Item]) -> Iterator[list[_Item]]:
        """`items` by length, cut where a batch is full; the longest first, to fail early."""
        batch: list[_Item] = []
        for item in sorted(items, key=lambda item: -len(item.features)):
            longest = len(batch[0].features) if batch else 0
            if len(batch) == self._batch_size or (len(batch) + 1) * longest > _MAX_BATCH_FRAMES:
                yield batch
                batch = []
            batch.append(item)
        if batch:
            yield batch

    def _decode(self, item: _Item, encoded: EncodedUtterance) -> Transcript:
        tokens, best = self.bundle.tokens, self._decoder.decode(encoded)
        transcript = Transcript(
            text=tokens.ids_to_text(best.tokens),
            tokens=tuple(tokens.symbols[id_] for id_ in best.tokens),
            duration_s=item.duration_s,
            score=best.score,
        )
        if not self._timestamps:
            return transcript
        return self._timed(transcript, best.tokens, encoded.log_probs)

    def _timed(
        self, transcript: Transcript, ids: Sequence[int], log_probs: np.ndarray
    ) -> Transcript:
        """`transcript` with the times of its tokens, whichever search found them."""
        from asrcompress.runtime.alignment import forced_alignment
        from asrcompress.runtime.timestamps import time_tokens, time_words

        manifest, tokens = self.bundle.manifest, self.bundle.tokens
        spans = forced_alignment(log_probs, ids, manifest.blank_id)
        frame_s = manifest.subsampling_factor * manifest.features.frame_shift_ms / 1000
        return replace(
            transcript,
            timestamps=time_tokens(ids, spans, tokens, frame_s=frame_s),
            words=time_words(ids, spans, tokens, frame_s=frame_s),
        )


def _open_model(bundle: Bundle, *, threads: int) -> OnnxAcousticModel | LiteAcousticModel:
    """The network of a bundle, in whichever runtime it is for."""
    manifest = bundle.manifest
    if manifest.lite is not None:
        from asrcompress.runtime.lite import LiteAcousticModel

        return LiteAcousticModel(bundle.path, manifest, threads=threads)
    model = OnnxAcousticModel(
        bundle.model_path, threads=threads, exact_sums=needs_exact_sums(manifest.target)
    )
    model.check_against(manifest)
    return model


def _open_chunks(bundle: Bundle, *, threads: int) -> ChunkModel:
    """The network of a bundle that takes a stream chunk by chunk."""
    from asrcompress.runtime.chunk_model import open_chunk_model

    manifest = bundle.manifest
    if manifest.streaming is None:
        raise BadBundle(
            f"{bundle.path}: has no streaming graph, expected one",
            hint="quantize the checkpoint with --chunk-size",
        )
    return open_chunk_model(
        bundle.path / manifest.streaming.model,
        manifest.streaming,
        threads=threads,
        exact_sums=needs_exact_sums(manifest.target),
    )
