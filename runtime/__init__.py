"""The light runtime: bundles to text with numpy, ONNX Runtime and kaldi-native-fbank only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asrcompress.runtime.transcriber import Transcriber, Transcript

if TYPE_CHECKING:
    from asrcompress.runtime.language_model import LanguageModel

__all__ = ["LanguageModel", "Transcriber", "Transcript"]


def __getattr__(name: str) -> Any:
    """The language model's class, when it is asked for: few programs do, and all would wait."""
    if name != "LanguageModel":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from asrcompress.runtime.language_model import LanguageModel

    return LanguageModel
