"""Transcripts to output ids, as PaddleSpeech's TextFeaturizer makes them for training.

Nothing is normalised, neither case nor width, but what a sentencepiece model normalises itself.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrcompress.errors import BadCheckpoint, MissingExtra
from asrcompress.files import reading
from asrcompress.tokens import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenizer:
    """A vocabulary, with the sentencepiece model that cuts text into its pieces.

    Attributes:
        spm_model: for a vocabulary of pieces; opened when the first text is cut, since nothing but
            training needs it.
    """

    vocabulary: Vocabulary
    spm_model: Path | None = None

    def text_to_ids(self, text: str) -> list[int]:
        """Output ids of a transcript; what the vocabulary does not have is ``<unk>``.

        Raises:
            BadCheckpoint: such a symbol in a vocabulary without ``<unk>``, or no sentencepiece
                model where the units are pieces.
            MissingExtra: sentencepiece is needed and not installed.
        """
        if self.vocabulary.unit_type != "spm":
            return self.vocabulary.text_to_ids(text)
        if self.spm_model is None:
            raise BadCheckpoint("spm_model_prefix: is missing, expected it with unit_type spm")
        pieces = _processor(self.spm_model).EncodeAsPieces(text.strip())
        return self.vocabulary.symbols_to_ids(pieces)


@functools.lru_cache(maxsize=2)
def _processor(path: Path) -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise MissingExtra("sentencepiece", "compress") from error
    with reading(path, BadCheckpoint):
        model = path.read_bytes()
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    except (RuntimeError, OSError) as error:
        raise BadCheckpoint(f"{path}: is not a sentencepiece model, {error}") from error
