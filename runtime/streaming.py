"""Speech to text while somebody speaks: samples in pieces of any size, text as it becomes known.

    samples -> FeatureStream -> ChunkWalk -> search -> text, and an endpoint after silence

After an endpoint everything starts anew: the network forgets, its positions count from zero, and
the next text is a new one. So memory stays bounded, and a stream may go on for ever although the
positional table of a U2 network ends: where no endpoint comes before that, the utterance is cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from asrcompress.audio import check_samples
from asrcompress.decoding import GREEDY
from asrcompress.errors import BadBundle
from asrcompress.runtime.chunk_model import ChunkModel, ChunkWalk, Step, joined
from asrcompress.runtime.decode import Hypothesis
from asrcompress.runtime.decoder import Decoder
from asrcompress.runtime.endpoint import Endpoint
from asrcompress.runtime.feature_stream import FeatureStream
from asrcompress.runtime.features import Fbank
from asrcompress.tokens import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """What an utterance of the stream is so far.

    Attributes:
        text: of this utterance only; may still change while `is_final` is false.
        is_final: the utterance is over; the next text belongs to another one.
        start_s, end_s: the audio that the text was read from, from the beginning of the stream.
        tokens: the symbols behind the text, in PaddleSpeech's spelling; never a blank.
        score: natural log of a probability, as in `Transcript`.
    """

    text: str
    is_final: bool
    start_s: float
    end_s: float
    tokens: tuple[str, ...]
    score: float


class Stream:
    """One stream of audio.

    Args:
        model: the network.
        fbank: its features.
        vocabulary: its symbols.
        decoder: how log-probabilities become text; greedily where None. Where an attention decoder
            judges, it does so at the end of each utterance, the text being greedy until then.
        endpoint: when an utterance is over; the default is Kaldi's rules.
    Raises:
        BadBundle: features that can only be computed from a whole recording, or a decoder that
            reads hidden states which the graph does not give.
    """

    def __init__(
        self,
        model: ChunkModel,
        fbank: Fbank,
        vocabulary: Vocabulary,
        *,
        decoder: Decoder | None = None,
        endpoint: Endpoint | None = None,
    ) -> None:
        self._features, self._walk = FeatureStream(fbank), ChunkWalk(model)
        self._vocabulary = vocabulary
        self._shown: tuple[str, ...] = ()  # tokens of the last partial that was given
        self._decoder = decoder or Decoder(GREEDY, blank=vocabulary.blank_id)
        has_hidden = any(item.name == "hidden" for item in model.spec.outputs)
        if self._decoder.needs_hidden and not has_hidden:
            raise BadBundle(
                f"{model.spec.model}: gives no hidden states, the attention decoder reads them",
                hint="decode the stream with the method greedy or prefix_beam",
            )
        self._endpoint = endpoint or Endpoint()
        self._frame_s = fbank.spec.frame_shift_ms / 1000
        self._output_s = self._frame_s * model.spec.subsampling_factor
        self._begin()

    def accept(self, samples: np.ndarray) -> Iterator[Partial]:
        """What became known with these samples: nothing, a changed text, or an utterance's end.

        Args:
            samples: what follows the samples before, 16 kHz, float32 in [-1, 1) or int16, of any
                length; typically 10 to 100 ms from a microphone.
        Raises:
            BadAudio: not one channel, not finite, not scaled.
        """
        if len(samples):
            self._walk.push(self._features.accept(check_samples(samples, at_least=1)))
            yield from self._decode(ending=False)

    def finish(self) -> Iterator[Partial]:
        """The last utterance, with all that the end of the audio leaves to decode."""
        self._walk.push(self._features.finish())
        yield from self._decode(ending=True)
        yield from self._close()

    def transcribe(self, chunks: Iterable[np.ndarray]) -> Iterator[Partial]:
        """`accept` of every piece, then `finish`."""
        for samples in chunks:
            yield from self.accept(samples)
        yield from self.finish()

    def _decode(self, *, ending: bool) -> Iterator[Partial]:
        while n_frames := self._walk.ready(ending=ending):
            if not self._walk.fits(n_frames):
                yield from self._close()
            step = self._walk.step(n_frames)
            self._search.accept(step.log_probs)
            if self._decoder.needs_hidden:
                self._heard.append(step)
            self._note_silence(step)
            now = self._partial(self._search.hypotheses()[0], is_final=False)
            length_s = now.end_s - now.start_s
            spoken = bool(now.tokens)
            if self._endpoint.reached(spoken=spoken, silence_s=self._silence_s, length_s=length_s):
                yield from self._close()
            elif now.tokens != self._shown:
                self._shown = now.tokens
                yield now

    def _begin(self) -> None:
        self._search = self._decoder.open_search(len(self._vocabulary))
        self._heard: list[Step] = []  # of this utterance, where the end decides
        self._began_at = self._walk.position
        self._silence_s = 0.0
        self._shown = ()

    def _close(self) -> Iterator[Partial]:
        """End the utterance; one in which nothing was said is not worth a word."""
        best = self._search.hypotheses()[0]
        if self._heard and best.tokens:  # an attention decoder finds words in silence, too
            best = self._decoder.decode(joined(self._heard))
        last = self._partial(best, is_final=True)
        self._walk.restart()  # features that were not decoded yet belong to the next utterance
        self._begin()
        if last.tokens:
            yield last

    def _note_silence(self, step: Step) -> None:
        heard = np.flatnonzero(step.log_probs.argmax(axis=1) != self._vocabulary.blank_id)
        n_silent = len(step.log_probs) - (heard[-1] + 1 if len(heard) else 0)
        before = 0.0 if len(heard) else self._silence_s
        self._silence_s = before + float(n_silent) * self._output_s

    def _partial(self, best: Hypothesis, *, is_final: bool) -> Partial:
        return Partial(
            text=self._vocabulary.ids_to_text(best.tokens),
            is_final=is_final,
            start_s=self._began_at * self._frame_s,
            end_s=self._walk.position * self._frame_s,
            tokens=tuple(self._vocabulary.symbols[id_] for id_ in best.tokens),
            score=best.score,
        )
