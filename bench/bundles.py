"""From audio to text: what ships, in this project's runtime and in sherpa-onnx."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from asrcompress.bundles.bundle import read_bundle
from asrcompress.export.integer_share import measure_integer_share
from asrcompress.sherpa.forms import model_name, slot_of, write_form
from asrcompress.sherpa.record import SLOTS
from bench.artifact import Artifact, NotRun, Settings, size_of
from bench.subject import Subject


def build_fp32(subject: Subject, folder: Path, settings: Settings) -> Artifact:
    """The checkpoint's bundle."""
    return _bundle(subject.fp32_bundle)


def build_int8(subject: Subject, folder: Path, settings: Settings) -> Artifact:
    """The run's bundle."""
    return _bundle(subject.bundle)


def _bundle(path: Path) -> Artifact:
    bundle = read_bundle(path)
    return Artifact(
        engine="asrcompress bundle",
        spec={"bundle": str(path)},
        size_bytes=size_of(bundle.model_path),
        integer_share=bundle.manifest.integer_share,
    )


def build_sherpa_fp32(subject: Subject, folder: Path, settings: Settings) -> Artifact:
    """The checkpoint's bundle in sherpa-onnx."""
    return _sherpa(subject.fp32_bundle, folder, "fp32")


def build_sherpa_int8(subject: Subject, folder: Path, settings: Settings) -> Artifact:
    """The run's bundle in sherpa-onnx."""
    return _sherpa(subject.bundle, folder, "int8")


def _sherpa(path: Path, folder: Path, precision: str) -> Artifact:
    """A bundle's graph in the form of its slot, as ``export --format sherpa-onnx`` writes it."""
    if importlib.util.find_spec("sherpa_onnx") is None:
        raise NotRun("sherpa-onnx is not installed: pip install 'asrcompress[sherpa]'")
    bundle = read_bundle(path)
    slot = slot_of(bundle.manifest, streaming=False)
    model, tokens = folder / model_name(slot, precision), folder / "tokens.txt"
    vocabulary = len(bundle.tokens)
    write_form(model, bundle.model_path, bundle.manifest, slot, vocabulary=vocabulary)
    shutil.copyfile(bundle.path / bundle.manifest.tokens, tokens)
    return Artifact(
        engine="sherpa-onnx",
        spec={
            "slot": slot,
            "model": str(model),
            "tokens": str(tokens),
            "width": bundle.manifest.features.width,
        },
        size_bytes=size_of(model),
        integer_share=measure_integer_share(model).share if precision == "int8" else 0.0,
        note=_note(slot, precision),
    )


def _note(slot: str, precision: str) -> str:
    notes = []
    if precision == "int8":
        notes.append("integer share: of the same file in the ONNX Runtime of this environment")
    if not SLOTS[slot]:
        notes.append(
            "its slot hears features that are nearly those of training, see sherpa-onnx.md"
        )
    return "; ".join(notes)
