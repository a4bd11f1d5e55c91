"""When each token and each word was said, in seconds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from asrcompress.accuracy.normalisation import CJK
from asrcompress.runtime.alignment import Span
from asrcompress.tokens import SPACE, WORD_BOUNDARY, Vocabulary

# Words by themselves.
_CJK = re.compile(f"[{CJK}]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timestamp:
    """A token or a word, and when it was said.

    Attributes:
        text: the symbol, in PaddleSpeech's spelling; of a word, its text.
        start_s: the audio that the token's first output frame looks at begins here: frame u at
            u times subsampling factor times frame shift.
        end_s: the same of the first output frame after it.
    """

    text: str
    start_s: float
    end_s: float


def time_tokens(
    ids: Sequence[int], spans: Sequence[Span], vocabulary: Vocabulary, *, frame_s: float
) -> tuple[Timestamp, ...]:
    """Each token with its times.

    Args:
        ids: of the tokens.
        spans: one for each token.
        frame_s: from one output frame to the next, in seconds.
    """
    return tuple(
        _timestamp(vocabulary.symbols[id_], span.start, span.stop, frame_s)
        for id_, span in zip(ids, spans, strict=True)
    )


def time_words(
    ids: Sequence[int], spans: Sequence[Span], vocabulary: Vocabulary, *, frame_s: float
) -> tuple[Timestamp, ...]:
    """Each word with its times, from its first token's start to its last one's end.

    Spaces and ``▁`` part words; a Chinese character is a word by itself. What is no text, such as
    ``<unk>``, is left out.
    """
    words: list[tuple[list[int], list[Span]]] = []
    apart = True
    for id_, span in zip(ids, spans, strict=True):
        symbol = vocabulary.symbols[id_]
        if symbol in (SPACE, WORD_BOUNDARY):
            apart = True
            continue
        own = bool(_CJK.search(symbol))
        whole = vocabulary.unit_type == "word" or symbol.startswith(WORD_BOUNDARY)
        if apart or own or whole:
            words.append(([], []))
        words[-1][0].append(id_)
        words[-1][1].append(span)
        apart = own
    timed = [
        _timestamp(vocabulary.ids_to_text(word), parts[0].start, parts[-1].stop, frame_s)
        for word, parts in words
    ]
    return tuple(word for word in timed if word.text)


def _timestamp(text: str, start: int, stop: int, frame_s: float) -> Timestamp:
    # To the millisecond: 27 * 0.04 is 1.08, not 1.0800000000000001.
    return Timestamp(text=text, start_s=round(start * frame_s, 3), end_s=round(stop * frame_s, 3))
