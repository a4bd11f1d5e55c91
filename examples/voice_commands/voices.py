"""The voices: espeak-ng, from the library that the package ``espeakng-loader`` carries.

espeak-ng keeps state between utterances that nothing resets, so the same sentence comes out a few
samples different each time. One process says all of one speaker's sentences in order: that makes
the whole set repeatable, and any prefix of it too.
"""

from __future__ import annotations

import ctypes
import random
from dataclasses import dataclass

import espeakng_loader
import numpy as np

ESPEAK_RATE_HZ = 22_050

_AUDIO_OUTPUT_SYNCHRONOUS = 2
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4  # espeak_PARAMETER
_UTF8 = 1
_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)

# Variants of espeak-ng's Mandarin voice. The splits share none, whisperers and robots are left out.
VARIANTS: dict[str, tuple[str, ...]] = {
    "train": (
        "m1", "f1", "m2", "f2", "m3", "f4", "m4", "m5", "Alex", "Andrea", "Andy", "adam", "anika",
        "antonio", "belinda", "benjamin", "boris", "caleb", "david", "Diogo", "ed", "edward2",
        "Gene", "grandma", "gustave", "Henrique", "Hugo", "ian", "iven2", "iven3", "Jacky", "john",
        "kaukovalta", "klatt2", "Lee", "linda", "marcelo", "Mario", "Michael", "miguel", "Mike",
        "norbert", "pablo", "pedro", "quincy", "rob", "sandro", "shelby", "steph2", "travis", "zac",
    ),
    "dev": ("m6", "f5", "Annie", "robert", "iven", "steph", "Marco", "paul"),
    "gate": (
        "m7", "f3", "Alicia", "m8", "Denis", "edward", "Gene2", "grandpa", "iven4", "max", "mike2",
        "steph3", "victor", "klatt3",
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Speaker:
    """A voice variant with its own habitual pitch, liveliness and speed."""

    name: str
    variant: str
    pitch: int  # espeak's 0-100, 50 is the variant's own
    pitch_range: int  # espeak's 0-100
    words_per_minute: int


def speakers(split: str, seed: int) -> list[Speaker]:
    """The speakers of one split, always in the same order."""
    found = []
    for variant in VARIANTS[split]:
        rng = random.Random(f"{seed}:speaker:{variant}")
        found.append(
            Speaker(
                name=f"cmn-{variant}",
                variant=variant,
                pitch=rng.randint(30, 70),
                pitch_range=rng.randint(35, 65),
                words_per_minute=rng.randint(165, 235),
            )
        )
    return found


class Espeak:
    """One initialised espeak-ng; at most one per process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        rate = self._library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, data, 0)
        if rate != ESPEAK_RATE_HZ:
            raise RuntimeError(f"espeak-ng: sample rate, got {rate}, expected {ESPEAK_RATE_HZ}")
        self._library.espeak_ng_SetRandSeed(1)
        self._chunks: list[np.ndarray] = []
        self._callback = _CALLBACK(self._receive)  # kept: C holds only the address
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples, n_samples: int, _events) -> int:  # type: ignore[no-untyped-def]
        if samples and n_samples > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (n_samples,)).copy())
        return 0

    def say(self, text: str, speaker: Speaker, *, pitch: int, words_per_minute: int) -> np.ndarray:
        """Speak a sentence.

        Args:
            text: Mandarin characters.
            speaker: the voice variant and its liveliness.
            pitch: espeak's 0-100, for this utterance.
            words_per_minute: espeak's speed, for this utterance.
        Returns:
            float32 (n_samples,) in [-1, 1) at ``ESPEAK_RATE_HZ``.
        """
        library = self._library
        if library.espeak_SetVoiceByName(f"cmn+{speaker.variant}".encode()) != 0:
            raise RuntimeError(f"espeak-ng: no voice cmn+{speaker.variant}")
        library.espeak_SetParameter(_RATE, words_per_minute, 0)
        library.espeak_SetParameter(_VOLUME, 80, 0)
        library.espeak_SetParameter(_PITCH, pitch, 0)
        library.espeak_SetParameter(_RANGE, speaker.pitch_range, 0)
        self._chunks.clear()
        encoded = text.encode()
        if library.espeak_Synth(encoded, len(encoded) + 1, 0, 0, 0, _UTF8, None, None) != 0:
            raise RuntimeError(f"espeak-ng: could not speak {text}")
        library.espeak_Synchronize()
        if not self._chunks:
            raise RuntimeError(f"espeak-ng: no sound for {text}")
        return np.concatenate(self._chunks).astype(np.float32) / 32768.0
