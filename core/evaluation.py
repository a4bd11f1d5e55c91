"""Character error rate and speed of anything that `asrcompress.recognizer` opens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from asrcompress.cer import CerReport, score_all
from asrcompress.console import Console
from asrcompress.errors import AsrCompressError, BadAudio
from asrcompress.manifest import Utterance
from asrcompress.normalisation import DEFAULT, Normalisation
from asrcompress.recognizer import Recognizer


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
    from asrcompress.audio import SAMPLE_RATE_HZ, read_audio

    hypotheses, audio_s, compute_s, durations = [], 0.0, 0.0, []
    with console.progress(title) as advance:
        for index, item in enumerate(utterances):
            try:
                samples = read_audio(item.audio, start_s=item.start_s, end_s=item.end_s)
            except AsrCompressError as error:
                raise BadAudio(f"{item.utt}: {error}", hint=error.hint) from error
            start = time.perf_counter()
            features = recognizer.fbank(samples)
            text = recognizer.text(recognizer.model.log_probs([features])[0])
            compute_s += time.perf_counter() - start
            durations.append(len(samples) / SAMPLE_RATE_HZ)
            audio_s += durations[-1]
            hypotheses.append(text)
            advance(index + 1, len(utterances))
    report = score_all(utterances, hypotheses, durations, normalisation)
    return Evaluation(
        name=recognizer.name,
        backend=recognizer.backend,
        cer=report,
        audio_s=audio_s,
        compute_s=compute_s,
    )
