"""When an utterance in a stream is over: Kaldi's three rules, on the silence that CTC shows.

Silence is a run of frames whose best symbol is the blank. An utterance ends where any one rule
holds (Kaldi's online2/online-endpoint.h, and sherpa-onnx with the same numbers).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from asrcompress.errors import BadRecipe


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointRule:
    """One way for an utterance to be over; all three conditions must hold.

    Attributes:
        after_speech: something must have been recognized.
        min_silence_s: of silence at the end.
        min_length_s: since the last endpoint.
    """

    after_speech: bool
    min_silence_s: float
    min_length_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("min_silence_s", "min_length_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise BadRecipe(f"endpoint.{name}: got {value}, expected 0 or more seconds")

    def holds(self, *, spoken: bool, silence_s: float, length_s: float) -> bool:
        """Whether the utterance is over by this rule."""
        return (
            (spoken or not self.after_speech)
            and silence_s >= self.min_silence_s
            and length_s >= self.min_length_s
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Rules, of which one is enough.

    By default: 2.4 s of nothing; 1.2 s after speech; and from 20 s on any pause of 0.32 s. Kaldi's
    third rule cuts at 20 s wherever that is; half a syllable is lost less often in a pause.
    """

    rules: tuple[EndpointRule, ...] = (
        EndpointRule(after_speech=False, min_silence_s=2.4),
        EndpointRule(after_speech=True, min_silence_s=1.2),
        EndpointRule(after_speech=False, min_silence_s=0.32, min_length_s=20.0),
    )

    def reached(self, *, spoken: bool, silence_s: float, length_s: float) -> bool:
        """Whether the utterance is over.

        Args:
            spoken: whether anything was recognized.
            silence_s: at the end.
            length_s: of the utterance, silence included.
        """
        return any(
            rule.holds(spoken=spoken, silence_s=silence_s, length_s=length_s) for rule in self.rules
        )


NO_ENDPOINT = Endpoint(rules=())
"""One utterance, until the audio ends or the positions of the network do."""
