"""The light runtime: bundles to text with numpy, ONNX Runtime and kaldi-native-fbank only."""

from __future__ import annotations

from asrcompress.runtime.language_model import LanguageModel
from asrcompress.runtime.transcriber import Transcriber, Transcript

__all__ = ["LanguageModel", "Transcriber", "Transcript"]
