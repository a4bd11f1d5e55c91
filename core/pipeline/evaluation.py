"""Character error rate and speed of anything that `asrcompress.pipeline.recognizer` opens."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from asrcompress.accuracy.cer import CerReport, score_all
from asrcompress.accuracy.normalisation import DEFAULT, Normalisation
from asrcompress.audio import SAMPLE_RATE_HZ, read_audio
from asrcompress.console import Console
from asrcompress.errors import AsrCompressError, BadAudio
from asrcompress.manifests.manifest import Utterance
from asrcompress.pipeline.recognizer import Recognizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a recognizer made of a manifest.

    Attributes:
        audio_s: seconds of speech.
        compute_s: seconds of features, network and decoding; reading audio is not counted.
    """

    name: str
    backend: str
    cer: CerReport
    audio_s: float
    compute_s: float

    @property
    def rtf(self) -> float:
        """Real-time factor: seconds of work per second of speech."""
        return self.compute_s / self.audio_s

    def to_json(self) -> dict[str, Any]:
        """Plain data, the rates spelled out beside the counts."""
        return {
            "name": self.name,
            "backend": self.backend,
            "cer": self.cer.to_json(),
            "audio_s": self.audio_s,
            "compute_s": self.compute_s,
            "rtf": self.rtf,
        }


def evaluate(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    *,
    console: Console,
    normalisation: Normalisation = DEFAULT,
    title: str = "evaluating",
) -> Evaluation:
    """Transcribe every utterance by itself and compare it with its reference.

    One at a time, because that is how a device does it, and because PaddleSpeech's batched forward
    is not its single forward at the end of the shorter utterances.

    Raises:
        BadAudio: names the utterance whose audio cannot be used.
        EmptyReference: not one reference character in the manifest.
    """
    heard = []
    with console.progress(title) as advance:
        for index, item in enumerate(utterances):
            heard.append(_hear(recognizer, item))
            advance(index + 1, len(utterances))
    return _summed(recognizer.name, recognizer.backend, utterances, heard, normalisation)


def evaluate_in_processes(
    opener: Callable[[], Recognizer],
    utterances: Sequence[Utterance],
    *,
    processes: int,
    console: Console,
    normalisation: Normalisation = DEFAULT,
) -> Evaluation:
    """As `evaluate`, spread over processes that each open the recognizer; the same CER exactly.

    Args:
        opener: can be pickled; called once in each process.
        processes: how many. ``compute_s`` then adds up the work of all of them.
    """
    opener()  # here first: an error in a worker would only say that the pool is broken
    # Spawned, not forked: neither Paddle's nor ONNX Runtime's threads survive a fork.
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(processes, context, _open_in_worker, (opener,)) as pool,
        console.progress("evaluating") as advance,
    ):
        heard = []
        for number, item in enumerate(pool.map(_hear_in_worker, utterances, chunksize=4)):
            heard.append(item)
            advance(number + 1, len(utterances))
    recognizer = heard[0].recognizer
    return _summed(*recognizer, utterances, heard, normalisation)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heard:
    """One utterance, transcribed."""

    recognizer: tuple[str, str]
    text: str
    audio_s: float
    compute_s: float


_worker: Recognizer | None = None


def _open_in_worker(opener: Callable[[], Recognizer]) -> None:
    global _worker
    _worker = opener()


def _hear_in_worker(item: Utterance) -> _Heard:
    assert _worker is not None
    return _hear(_worker, item)


def _hear(recognizer: Recognizer, item: Utterance) -> _Heard:
    try:
        samples = read_audio(item.audio, start_s=item.start_s, end_s=item.end_s)
        recognizer.check_length(len(samples))
    except AsrCompressError as error:
        raise BadAudio(f"{item.utt}: {error}", hint=error.hint) from error
    start = time.perf_counter()
    text = recognizer.transcribe(samples)
    compute_s = time.perf_counter() - start
    return _Heard(
        recognizer=(recognizer.name, recognizer.backend),
        text=text,
        audio_s=len(samples) / SAMPLE_RATE_HZ,
        compute_s=compute_s,
    )


def _summed(
    name: str,
    backend: str,
    utterances: Sequence[Utterance],
    heard: Sequence[_Heard],
    normalisation: Normalisation,
) -> Evaluation:
    durations = [item.audio_s for item in heard]
    report = score_all(utterances, [item.text for item in heard], durations, normalisation)
    return Evaluation(
        name=name,
        backend=backend,
        cer=report,
        audio_s=sum(durations),
        compute_s=sum(item.compute_s for item in heard),
    )
