"""What everybody hears: recordings of the benchmark's lengths, as WAV and as features.

An input is a path without suffix: ``.wav`` for contenders that begin with audio, ``.npy`` with the
features of that very file for those that begin behind the front end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from asrcompress.audio import SAMPLE_RATE_HZ, read_audio
from asrcompress.manifests.manifest import Utterance
from asrcompress.runtime.features import Fbank

_SEGMENT_S = 0.08


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One recording.

    Attributes:
        path: without suffix.
        seconds: of audio.
    """

    path: Path
    seconds: float

    @property
    def features(self) -> np.ndarray:
        """Float32 (frames, width)."""
        found: np.ndarray = np.load(f"{self.path}.npy")
        return found


def write_input(path: Path, samples: np.ndarray, fbank: Fbank) -> Input:
    """Both files; the features are those of the samples as the file has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wav = Path(f"{path}.wav")
    soundfile.write(wav, samples, SAMPLE_RATE_HZ, subtype="PCM_16")
    np.save(f"{path}.npy", fbank(read_audio(wav)))
    return Input(path=path, seconds=len(samples) / SAMPLE_RATE_HZ)


def coloured_noise(seconds: float, *, seed: int) -> np.ndarray:
    """Noise whose colour and level change every 80 ms, as those of speech do, float32."""
    rng = np.random.default_rng(seed)
    length, parts = round(_SEGMENT_S * SAMPLE_RATE_HZ), []
    for _ in range(-(-round(seconds * SAMPLE_RATE_HZ) // length)):
        kernel = rng.standard_normal(32) * np.exp(-np.arange(32) / rng.uniform(2, 12))
        coloured = np.convolve(rng.standard_normal(length + 31), kernel, "valid")
        parts.append(coloured / np.abs(coloured).max() * rng.uniform(0.02, 0.5))
    samples: np.ndarray = np.concatenate(parts)[: round(seconds * SAMPLE_RATE_HZ)]
    return samples.astype(np.float32)


def speech_of(utterances: Sequence[Utterance], seconds: float) -> np.ndarray:
    """The beginning of some utterances, one behind the other, again and again until it is full."""
    wanted = round(seconds * SAMPLE_RATE_HZ)
    parts, length = [], 0
    for samples in _forever(utterances):
        parts.append(samples)
        length += len(samples)
        if length >= wanted:
            break
    joined: np.ndarray = np.concatenate(parts)[:wanted]
    return joined


def _forever(utterances: Sequence[Utterance]) -> Iterator[np.ndarray]:
    while True:
        for item in utterances:
            yield read_audio(item.audio, start_s=item.start_s, end_s=item.end_s)
