"""What ``bundle.json`` says. The format is specified in docs/bundle.md."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from asrcompress import strict_json
from asrcompress.errors import BadBundle
from asrcompress.features import FeatureSpec

SCHEMA_VERSION = 1
MANIFEST_NAME = "bundle.json"
PRECISIONS = ("int8", "fp32")
DTYPES = ("float32", "int64")

# One plain name: no folder, no leading dot, nothing that a shell or another system reads specially.
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """An input or output of the graph.

    Attributes:
        dims: sizes; a name such as ``N`` or ``T`` where the size is free.
    """

    name: str
    dtype: str
    dims: tuple[int | str, ...]

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            _refuse(f"{self.name}.dtype", self.dtype, " or ".join(DTYPES))


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """A file of the bundle as it was when the bundle was written."""

    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256):
            _refuse("sha256", self.sha256, "64 lower-case hexadecimal digits")
        if self.size_bytes < 0:
            _refuse("size_bytes", self.size_bytes, ">= 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The checkpoint that the bundle was made from."""

    checkpoint_name: str
    checkpoint_sha256: str

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.checkpoint_sha256):
            _refuse("checkpoint_sha256", self.checkpoint_sha256, "64 hexadecimal digits")


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleManifest:
    """Everything that a runtime must know, and where it all came from.

    Attributes:
        family: kind of network, such as ``u2-conformer``; for reports, never for geometry.
        model: file name of the ONNX graph.
        inputs, outputs: of the graph, in order: features and their lengths, log-probabilities and
            theirs.
        blank_id: the output that is CTC's blank.
        vocab_size: number of outputs, which is the number of lines of `tokens`.
        subsampling_factor: feature frames per output frame.
        min_frames, max_frames: how many feature frames the graph accepts.
        opset: of ONNX's own domain.
        tools: name -> version of what made the bundle.
        integer_share: share of the encoder's multiply-accumulates that run in integer kernels.
        quality: measured results as a JSON object, CER and verdict of the gate; not interpreted.
        files: every file but ``bundle.json``, by name; filled in by `write_bundle`.
        bundle_sha256: digest of ``bundle.json``; filled in by `write_bundle`.
    Raises:
        BadBundle: a value that no bundle of this schema can have.
    """

    schema_version: int = SCHEMA_VERSION
    family: str
    precision: str
    model: str
    tokens: str = "tokens.txt"
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    features: FeatureSpec
    blank_id: int
    vocab_size: int
    subsampling_factor: int
    min_frames: int = 1
    max_frames: int
    opset: int
    source: Source
    tools: dict[str, str]
    integer_share: float | None = None
    quality: dict[str, Any] | None = None
    files: dict[str, FileRecord] = field(default_factory=dict)
    bundle_sha256: str = "0" * 64

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            _refuse("schema_version", self.schema_version, SCHEMA_VERSION)
        if self.precision not in PRECISIONS:
            _refuse("precision", self.precision, " or ".join(PRECISIONS))
        for name in (self.model, self.tokens, *self.files):
            check_file_name(name)
        if not 0 <= self.blank_id < self.vocab_size:
            _refuse("blank_id", self.blank_id, f"0 to {self.vocab_size - 1}")
        if self.subsampling_factor < 1:
            _refuse("subsampling_factor", self.subsampling_factor, ">= 1")
        if not 1 <= self.min_frames <= self.max_frames:
            _refuse("min_frames", self.min_frames, f"1 to max_frames {self.max_frames}")
        if self.integer_share is not None and not 0 <= self.integer_share <= 1:
            _refuse("integer_share", self.integer_share, "0 to 1")
        for side, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            dtypes = [tensor.dtype for tensor in tensors]
            if dtypes != ["float32", "int64"]:
                _refuse(side, dtypes, "a float32 tensor and its int64 lengths")

    def to_json(self) -> dict[str, Any]:
        """All fields, as ``bundle.json`` has them."""
        tree: dict[str, Any] = strict_json.to_json(self)
        return tree

    @staticmethod
    def from_json(tree: object, *, item: str = MANIFEST_NAME) -> BundleManifest:
        """The inverse of `to_json`.

        Raises:
            BadBundle: an unknown or missing key, a wrong type, or a value out of range.
        """
        return strict_json.from_json(BundleManifest, tree, item=item, error=BadBundle)


def check_file_name(name: str) -> None:
    """Refuse names that could lead out of the bundle's folder.

    Raises:
        BadBundle: not a plain file name, or the name of the manifest itself.
    """
    if not _FILE_NAME.fullmatch(name) or name == MANIFEST_NAME:
        _refuse("file name", repr(name), "letters, digits and . _ - only, no folder")


def _refuse(key: str, seen: object, allowed: object) -> None:
    raise BadBundle(f"{key} is not allowed, got {seen}, expected {allowed}")
