"""Every error that asrcompress raises on purpose.

    AsrCompressError            exit 3
    ├─ BadRecipe                a setting, a TOML file, a command-line value
    ├─ BadCheckpoint            a PaddleSpeech experiment folder or its weights
    ├─ BadManifest              a list of utterances
    │  └─ EmptyReference        nothing to measure a character error rate on
    ├─ BadAudio                 sample rate, channels, length, not finite
    ├─ DataLeak                 training or calibration data that is also gate data
    ├─ BadRun                   a run directory: none, unfinished, taken by another process
    ├─ BadSensitivity           a measurement of sensitivity: damaged, or of other weights
    ├─ CalibrationFailed        an activation range that could not be found
    ├─ TrainingFailed           a loss that is not finite
    ├─ ExportFailed             a graph that could not be written as asked
    │  └─ ParityFailed          the graph disagrees with the model it came from
    ├─ BadLanguageModel         an n-gram model for decoding
    ├─ BadBundle                hash, schema version, missing or foreign file
    │  └─ BadSignature          not signed by the key that was asked for, or a key that is none
    ├─ OutputExists             a file of the user's would have been overwritten
    ├─ FileFailed               what the system refuses: full disk, no permission
    ├─ MissingExtra             an optional dependency is not installed
    ├─ SidecarFailed            Paddle Lite's own Python: none to be had, or its process died
    ├─ SherpaFailed             sherpa-onnx cannot load or run a model: its process died
    └─ GateFailed               exit 4: measured, and not good enough
       ├─ CerGateFailed
       ├─ IntegerGateFailed
       ├─ SearchFailed          no candidate of a search keeps every limit
       ├─ BudgetFailed         a budget of speed that nothing measured keeps
       └─ SelfTestFailed        a device that does not compute what was measured

A message names the item, what was seen and what was expected; ``hint`` says what to do next.
Anything that is not an ``AsrCompressError`` is a bug and is not caught.
"""

from __future__ import annotations


class AsrCompressError(Exception):
    """Base of all errors that a user can act on.

    Args:
        message: ``<item>: <what is wrong>, got <seen>, expected <allowed>``.
        hint: the cure, as a command or a setting; empty where there is none to give.
    """

    exit_code = 3

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class BadRecipe(AsrCompressError):
    """A setting out of range, an unknown key, or a recipe file that cannot be read."""


class BadCheckpoint(AsrCompressError):
    """A PaddleSpeech experiment that is incomplete, inconsistent or of an unknown family."""


class BadManifest(AsrCompressError):
    """A manifest that cannot be read; the message lists every bad line with its number."""


class EmptyReference(BadManifest):
    """A set of references without one character: no character error rate exists."""


class BadAudio(AsrCompressError):
    """Audio that is not 16 kHz mono, is empty, is not finite, or cannot be decoded."""


class DataLeak(AsrCompressError):
    """The gate manifest shares utterances, audio or speakers with training or calibration."""


class BadRun(AsrCompressError):
    """A run directory that is missing, incomplete, or in use by another process."""


class BadSensitivity(AsrCompressError):
    """A measurement of sensitivity that is damaged, incomplete, or of another checkpoint."""


class CalibrationFailed(AsrCompressError):
    """An activation range that is zero, not finite, or was never observed."""


class TrainingFailed(AsrCompressError):
    """Training that cannot go on, for example because the loss is not finite."""


class ExportFailed(AsrCompressError):
    """A graph that could not be written in the form that was asked for."""


class ParityFailed(ExportFailed):
    """An exported graph whose outputs differ from the model's by more than is allowed."""


class BadBundle(AsrCompressError):
    """A bundle with a wrong hash, an unknown schema, or missing or foreign files."""


class BadSignature(BadBundle):
    """A bundle without the signature that was asked for, or a key that cannot be used."""


class BadLanguageModel(AsrCompressError):
    """An n-gram model that cannot be read, or that is over other units than the network's."""


class OutputExists(AsrCompressError):
    """Writing would overwrite what is already there; ``--force`` allows it."""


class FileFailed(AsrCompressError):
    """The system will not read or write a file: the disk is full, or nobody may."""


class MissingExtra(AsrCompressError):
    """An optional dependency is needed and not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package}: not installed, needed for this command",
            hint=f"pip install 'asrcompress[{extra}]'",
        )


class SidecarFailed(AsrCompressError):
    """Paddle Lite's Python 3.8 environment cannot be made, or its process died."""


class SherpaFailed(AsrCompressError):
    """sherpa-onnx could not load a model, or died while it ran."""


class GateFailed(AsrCompressError):
    """A measured quantity is outside its tolerance. Nothing is shipped."""

    exit_code = 4


class CerGateFailed(GateFailed):
    """The upper bound of the CER increase is above ``max_cer_increase``."""


class IntegerGateFailed(GateFailed):
    """Too small a share of the multiply-accumulates runs in integer kernels."""


class BudgetFailed(GateFailed):
    """Nothing that may be removed makes the model fast enough."""


class SearchFailed(GateFailed):
    """No candidate of a search keeps the CER and every budget; the message has the nearest."""


class SelfTestFailed(GateFailed):
    """A device on which a bundle's golden recordings give another text or other scores."""
