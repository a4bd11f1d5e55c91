"""What a folder for sherpa-onnx is: its files as sherpa-onnx wants them, and a record about them.

sherpa-onnx reads the model and ``tokens.txt`` and nothing else. ``asrcompress.json`` beside them
says where they come from and what is to be expected of them, for ``asrcompress verify``.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from asrcompress import strict_json
from asrcompress.bundles.manifest import FileRecord, Source, StreamingModel
from asrcompress.errors import BadBundle, OutputExists
from asrcompress.features import FeatureSpec
from asrcompress.files import (
    reading,
    refuse_overwrite,
    sha256_file,
    temporary_beside,
    write_atomically,
    writing,
)

RECORD_NAME = "asrcompress.json"
TOKENS = "tokens.txt"
WAVS = "test_wavs"
SCHEMA_VERSION = 1
# Name of the slot -> whether it hears exactly the features of training.
FIRE_RED, WENET, WENET_STREAM = "fire_red_asr_ctc", "wenet_ctc", "wenet_ctc streaming"
SLOTS = {FIRE_RED: True, WENET: False, WENET_STREAM: False}


@dataclass(frozen=True, slots=True, kw_only=True)
class SherpaModel:
    """One precision of the network.

    Attributes:
        file: name of the graph.
        origin_sha256: of the verified graph that it was made from.
        texts: test recording -> what it has to give, by this project's runtime.
        quality: CER in sherpa-onnx and the verdict, as
            `asrcompress.pipeline.shipping.described` has them; None where nothing was
            measured there.
    """

    file: str
    origin_sha256: str
    texts: dict[str, str] = field(default_factory=dict)
    quality: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SherpaRecord:
    """``asrcompress.json``.

    Attributes:
        slot: one of `SLOTS`.
        models: precision -> model.
        features: what the network was trained on.
        streaming: how the graph is fed, in the streaming slot.
        quality: of the bundle that the INT8 model comes from.
        files: path from the folder -> digest, of every file but the record.
    Raises:
        BadBundle: an unknown slot, or no model.
    """

    schema_version: int = SCHEMA_VERSION
    slot: str
    family: str
    models: dict[str, SherpaModel]
    features: FeatureSpec
    subsampling_factor: int
    min_frames: int
    max_frames: int
    streaming: StreamingModel | None = None
    target: str = ""
    source: Source
    tools: dict[str, str]
    quality: dict[str, Any] | None = None
    files: dict[str, FileRecord] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise BadBundle(f"schema_version: got {self.schema_version}, expected {SCHEMA_VERSION}")
        if self.slot not in SLOTS:
            raise BadBundle(f"slot: got {self.slot}, expected one of {', '.join(SLOTS)}")
        if not self.models:
            raise BadBundle("models: got none, expected int8, fp32 or both")
        if (self.slot == WENET_STREAM) != (self.streaming is not None):
            raise BadBundle(f"streaming: does not fit the slot {self.slot}")

    @property
    def hears_training_features(self) -> bool:
        """Whether sherpa-onnx computes the very features of training for this slot."""
        return SLOTS[self.slot]


def is_sherpa_folder(path: Path) -> bool:
    """Whether `path` is one that was written here."""
    return os.path.isfile(path / RECORD_NAME)


def write_sherpa_folder(draft: Path, output: Path, record: SherpaRecord, *, force: bool) -> None:
    """Write the record of all that is in `draft` beside it, and move everything to `output`.

    Raises:
        OutputExists: there is something at `output` that is not to be replaced.
        FileFailed: the system refuses.
    """
    refuse_replacing(output, force=force)
    paths = sorted(path for path in draft.rglob("*") if path.is_file())
    files = {
        path.relative_to(draft).as_posix(): FileRecord(
            sha256=sha256_file(path), size_bytes=path.stat().st_size
        )
        for path in paths
    }
    tree = strict_json.to_json(replace(record, files=files))
    text = json.dumps(tree, ensure_ascii=False, indent=2, allow_nan=False)
    write_atomically(draft / RECORD_NAME, f"{text}\n")
    previous = temporary_beside(output)
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(output):
            os.replace(output, previous)
        shutil.move(draft, output)
        shutil.rmtree(previous, ignore_errors=True)


def refuse_replacing(output: Path, *, force: bool) -> None:
    """Only ever replace a folder of this kind, and only with `force`.

    Raises:
        OutputExists: there is something else, or `force` is missing.
    """
    refuse_overwrite(output, force)
    if not os.path.lexists(output) or is_sherpa_folder(output):
        return
    if output.is_symlink() or not output.is_dir() or any(output.iterdir()):
        raise OutputExists(
            f"{output}: is no folder of this kind, and only such a one is replaced",
            hint="choose a new folder",
        )


def read_sherpa_folder(path: Path) -> SherpaRecord:
    """The record of a folder, every digest checked.

    Raises:
        BadBundle: no such folder, not readable, or a file that was changed, is missing or foreign.
    """
    source = path / RECORD_NAME
    with reading(source, BadBundle):
        content = source.read_text(encoding="utf-8")
    try:
        tree = strict_json.parse(content)
    except ValueError as error:
        raise BadBundle(f"{source}: is not JSON, {error}") from error
    record = strict_json.from_json(SherpaRecord, tree, item=str(source), error=BadBundle)
    found = {item.relative_to(path).as_posix() for item in path.rglob("*") if not item.is_dir()} - {
        RECORD_NAME
    }
    missing, foreign = sorted(record.files.keys() - found), sorted(found - record.files.keys())
    if missing or foreign:
        raise BadBundle(
            f"{path}: is missing {', '.join(missing) or 'nothing'}, "
            f"does not belong: {', '.join(foreign) or 'nothing'}"
        )
    for name in (TOKENS, *(model.file for model in record.models.values())):
        if name not in record.files:
            raise BadBundle(f"{source}: {name} is not among its files")
    for name, expected in record.files.items():
        seen = sha256_file(path / name)
        if seen != expected.sha256:
            raise BadBundle(
                f"{path / name}: was changed, got sha256 {seen}, expected {expected.sha256}",
                hint="get the folder again, or export it again",
            )
    return record
