"""Attention decoders, whoever computes them: PaddleSpeech's layers or a graph in the runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

# What the names of a U2 attention decoder's parameters begin with; DeepSpeech2 calls its CTC head
# ``decoder.ctc_lo``.
PARAMETERS = (
    "decoder.decoders.",
    "decoder.output_layer.",
    "decoder.left_decoder.",
    "decoder.right_decoder.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedUtterance:
    """What an encoder made of one recording.

    Attributes:
        log_probs: CTC's, natural log, float32 (frames, vocabulary).
        hidden: what an attention decoder reads, float32 (frames, width); None where the encoder
            does not give it.
    """

    log_probs: np.ndarray
    hidden: np.ndarray | None = None


class AttentionDecoder(Protocol):
    """The probability of each token of a text, given those before it and the utterance.

    Attributes:
        sos: the token that begins every text.
        eos: the token that ends it.
        reverse: texts can be read back to front, too.
    """

    sos: int
    eos: int
    reverse: bool

    def log_probs(
        self, hidden: np.ndarray, tokens: np.ndarray, reversed_tokens: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Log-probabilities of the token behind each token.

        Args:
            hidden: of one utterance, float32 (frames, width).
            tokens: int64 (texts, length): sos, a text, and anything behind a shorter one.
            reversed_tokens: the same texts back to front, behind sos too.
        Returns:
            float32 (texts, length, vocabulary), natural log, for `tokens`; and for
            `reversed_tokens` where there are any.
        """


def behind_sos(
    decoder: AttentionDecoder, texts: Sequence[Sequence[int]], *, backwards: bool = False
) -> np.ndarray:
    """`texts` as a decoder reads them: int64 (texts, 1 + longest), sos in front, eos as padding."""
    longest = max((len(text) for text in texts), default=0)
    rows = np.full((len(texts), longest + 1), decoder.eos, np.int64)
    rows[:, 0] = decoder.sos
    for row, text in zip(rows, texts, strict=True):
        row[1 : len(text) + 1] = text[::-1] if backwards else text
    return rows


def forced(
    decoder: AttentionDecoder, hidden: np.ndarray, text: Sequence[int], *, reverse: bool
) -> np.ndarray:
    """Log-probabilities behind each token of one given text: teacher forcing.

    Returns:
        float32 (1 + length, vocabulary); with `reverse`, those of the other direction below.
    """
    tokens = behind_sos(decoder, [text])
    back = behind_sos(decoder, [text], backwards=True) if reverse else None
    left, right = decoder.log_probs(hidden, tokens, back)
    parts = [left[0]] if right is None else [left[0], right[0]]
    return np.concatenate(parts)
