"""Bundles on disk: a folder with a graph, its tokens, and ``bundle.json``, which vouches for both.

A bundle is written completely or not at all, and read only if every byte is as it was written.
The digests find damage and mix-ups; they are no signature (docs/bundle.md says what to compare).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrcompress import strict_json
from asrcompress.bundles.manifest import (
    MANIFEST_NAME,
    READABLE_VERSIONS,
    SIGNATURE_NAME,
    BundleManifest,
    DecoderModel,
    FileRecord,
    Source,
    StreamingModel,
    TensorSpec,
    check_file_name,
)
from asrcompress.bundles.signature import Signature, check_signature, read_signature, sign
from asrcompress.errors import BadBundle, OutputExists
from asrcompress.files import (
    reading,
    refuse_overwrite,
    sha256_file,
    temporary_beside,
    write_atomically,
    writing,
)
from asrcompress.tokens import Vocabulary

__all__ = [
    "Bundle",
    "BundleManifest",
    "DecoderModel",
    "FileRecord",
    "Source",
    "StreamingModel",
    "TensorSpec",
    "read_bundle",
    "sign_bundle",
    "write_bundle",
]

_UNSEALED = b"0" * 64
_SEAL = re.compile(rb'("bundle_sha256": ")([0-9a-f]{64})(")')
_EXPORT_AGAIN = "get the bundle again, or export it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle that was checked.

    Attributes:
        path: its folder.
        tokens: the output symbols, in the order of the graph's outputs.
        signature: as it lies beside ``bundle.json``, or None. Only `read_bundle` with a public key
            has checked it.
    """

    path: Path
    manifest: BundleManifest
    tokens: Vocabulary
    signature: Signature | None = None

    @property
    def model_path(self) -> Path:
        """The ONNX graph."""
        return self.path / self.manifest.model

    @property
    def size_bytes(self) -> int:
        """Everything on disk, ``bundle.json`` included."""
        listed = sum(record.size_bytes for record in self.manifest.files.values())
        return listed + (self.path / MANIFEST_NAME).stat().st_size


def write_bundle(
    directory: Path,
    manifest: BundleManifest,
    *,
    model: Path,
    vocabulary: Vocabulary,
    extra: Sequence[Path] = (),
    force: bool = False,
) -> Bundle:
    """Write a bundle; `directory` appears when all of it is there, and has been read back.

    Args:
        directory: new, empty, or with `force` a bundle to replace.
        manifest: its ``files`` and ``bundle_sha256`` are filled in here.
        model: the graph, copied under the name ``manifest.model``.
        extra: further files to ship, copied under their own names (a README, external weights).
        force: replace a bundle that is there. A folder that is no bundle is never replaced.
    Raises:
        OutputExists: there is something at `directory` that is not to be replaced.
        BadBundle: the parts do not fit each other.
        FileFailed: the system refuses, for example because the disk is full.
    """
    refuse_overwrite(directory, force)
    _refuse_to_replace_other_things(directory)
    draft = temporary_beside(directory)
    with writing(directory):
        try:
            draft.mkdir(parents=True)
            shutil.copyfile(model, draft / manifest.model)
            write_atomically(draft / manifest.tokens, vocabulary.to_tokens_txt())
            for path in extra:
                _copy_extra(path, draft)
            files = {path.name: _record(path) for path in sorted(draft.iterdir())}
            sealed = _seal(dataclasses.replace(manifest, files=files))
            write_atomically(draft / MANIFEST_NAME, sealed)
            read_bundle(draft)
            _replace_directory(draft, directory)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return read_bundle(directory, verify=False)


def read_bundle(directory: Path, verify: bool = True, public_key: Path | None = None) -> Bundle:
    """Read a bundle and check all of it.

    Args:
        directory: the bundle's folder.
        verify: hash every file; without it, names, sizes and ``bundle.json`` are still checked.
        public_key: insist on a signature by this key, before anything in the folder is believed.
    Raises:
        BadBundle: says which file and what is wrong with it.
        BadSignature: with `public_key`, not signed, by another key, or changed since.
        MissingExtra: with `public_key`, cryptography is not installed.
    """
    directory = Path(directory)
    content = _manifest_bytes(directory)
    signature = read_signature(directory / SIGNATURE_NAME)
    if public_key is not None:
        check_signature(content, signature, public_key, item=str(directory))
    manifest = _parse_manifest(directory / MANIFEST_NAME, content)
    _check_names(directory, manifest)
    for name, record in manifest.files.items():
        _check_file(directory / name, record, verify)
    path = directory / manifest.tokens
    tokens = Vocabulary.from_tokens_txt(path)
    if len(tokens) != manifest.vocab_size:
        raise BadBundle(f"{path}: {len(tokens)} symbols, expected {manifest.vocab_size}")
    if tokens.blank_id != manifest.blank_id:
        raise BadBundle(f"{path}: blank has id {tokens.blank_id}, expected {manifest.blank_id}")
    return Bundle(path=directory, manifest=manifest, tokens=tokens, signature=signature)


def sign_bundle(directory: Path, private_key: Path, *, force: bool = False) -> Path:
    """Check a bundle, and write the signature of its ``bundle.json`` beside it.

    Args:
        force: replace a signature that is there.
    Returns:
        path of the signature.
    Raises:
        BadBundle: the bundle is not whole.
        BadSignature: the key cannot be used.
        OutputExists: it is signed already.
        MissingExtra: cryptography is not installed.
    """
    path = directory / SIGNATURE_NAME
    refuse_overwrite(path, force)
    content = _manifest_bytes(directory)
    read_bundle(directory)
    write_atomically(path, sign(content, private_key).to_bytes())
    return path


def _manifest_bytes(directory: Path) -> bytes:
    path = directory / MANIFEST_NAME
    if not directory.is_dir():
        raise BadBundle(f"{directory}: no such folder, expected a bundle")
    if path.is_symlink():
        raise BadBundle(f"{path}: is a symbolic link, expected a file", hint=_EXPORT_AGAIN)
    if not path.is_file():
        raise BadBundle(
            f"{directory}: has no {MANIFEST_NAME}, expected a bundle",
            hint="asrcompress export --format onnx writes one",
        )
    with reading(path, BadBundle):
        return path.read_bytes()


def _parse_manifest(path: Path, content: bytes) -> BundleManifest:
    try:
        tree = strict_json.parse(content.decode("utf-8"))
    except ValueError as error:
        raise BadBundle(f"{path}: is not JSON, {error}", hint=_EXPORT_AGAIN) from error
    _check_schema_version(path, tree)
    _check_seal(path, content)
    return BundleManifest.from_json(tree, item=str(path))


def _check_schema_version(path: Path, tree: Any) -> None:
    """First of all: what a later schema means by its other keys cannot be known here."""
    version = tree.get("schema_version") if isinstance(tree, dict) else None
    if version not in READABLE_VERSIONS or isinstance(version, bool):
        known = " or ".join(str(item) for item in READABLE_VERSIONS)
        raise BadBundle(
            f"{path}: unknown schema_version, got {version!r}, expected {known}",
            hint="use a release of asrcompress that knows it, or export the bundle again",
        )


def _seal(manifest: BundleManifest) -> bytes:
    """``bundle.json``, its digest filled in: SHA-256 of these very bytes with 64 zeros there."""
    unsealed = dataclasses.replace(manifest, bundle_sha256=_UNSEALED.decode())
    text = json.dumps(unsealed.to_json(), ensure_ascii=False, indent=2, allow_nan=False)
    content = f"{text}\n".encode()
    if len(_SEAL.findall(content)) != 1:
        raise BadBundle(f"{MANIFEST_NAME}: the key bundle_sha256 is reserved, expected it once")
    return _with_seal(content, hashlib.sha256(content).hexdigest().encode())


def _with_seal(content: bytes, digits: bytes) -> bytes:
    return _SEAL.sub(rb"\g<1>" + digits + rb"\g<3>", content)


def _check_seal(path: Path, content: bytes) -> None:
    seals = _SEAL.findall(content)
    if len(seals) != 1:
        raise BadBundle(
            f"{path}: has {len(seals)} digests of its own, expected 1", hint=_EXPORT_AGAIN
        )
    expected = seals[0][1].decode()
    seen = hashlib.sha256(_with_seal(content, _UNSEALED)).hexdigest()
    if seen != expected:
        raise BadBundle(
            f"{path}: was changed after it was written, got sha256 {seen}, expected {expected}",
            hint=_EXPORT_AGAIN,
        )


def _check_names(directory: Path, manifest: BundleManifest) -> None:
    """Exactly the files that the manifest lists, each a plain file."""
    with os.scandir(directory) as entries:
        found = {entry.name: entry for entry in entries if entry.name != MANIFEST_NAME}
    for name, entry in sorted(found.items()):
        if not entry.is_file(follow_symlinks=False):
            kind = "a symbolic link" if entry.is_symlink() else "no plain file"
            raise BadBundle(f"{directory / name}: is {kind}, expected a file", hint=_EXPORT_AGAIN)
    parts = [part.model for part in (manifest.streaming, manifest.decoder) if part is not None]
    named = (*parts, *manifest.golden_files, *manifest.lite_files)
    for name in (manifest.model, manifest.tokens, *named):
        if name not in manifest.files:
            raise BadBundle(f"{directory / MANIFEST_NAME}: {name} is not among its files")
    foreign = sorted(found.keys() - manifest.files.keys() - {SIGNATURE_NAME})
    if foreign:
        raise BadBundle(
            f"{directory}: does not belong to the bundle, got {', '.join(foreign)}",
            hint="remove it: a bundle holds only the files that bundle.json lists",
        )
    missing = sorted(manifest.files.keys() - found.keys())
    if missing:
        raise BadBundle(f"{directory}: is missing {', '.join(missing)}", hint=_EXPORT_AGAIN)


def _check_file(path: Path, record: FileRecord, verify: bool) -> None:
    size_bytes = path.stat().st_size
    if size_bytes != record.size_bytes:
        raise BadBundle(
            f"{path}: was changed, got {size_bytes} bytes, expected {record.size_bytes}",
            hint=_EXPORT_AGAIN,
        )
    if verify and (seen := sha256_file(path)) != record.sha256:
        raise BadBundle(
            f"{path}: was changed, got sha256 {seen}, expected {record.sha256}",
            hint=_EXPORT_AGAIN,
        )


def _copy_extra(path: Path, draft: Path) -> None:
    check_file_name(path.name)
    if (draft / path.name).exists():
        raise BadBundle(f"{path}: the bundle has a file of this name already")
    shutil.copyfile(path, draft / path.name)


def _record(path: Path) -> FileRecord:
    return FileRecord(sha256=sha256_file(path), size_bytes=path.stat().st_size)


def _refuse_to_replace_other_things(directory: Path) -> None:
    """--force replaces a whole folder: only ever one that is a bundle."""
    if not os.path.lexists(directory):
        return
    is_folder = directory.is_dir() and not directory.is_symlink()
    if not is_folder or (any(directory.iterdir()) and not (directory / MANIFEST_NAME).is_file()):
        raise OutputExists(
            f"{directory}: is not a bundle, and only a bundle is replaced",
            hint="choose a new folder",
        )


def _replace_directory(draft: Path, directory: Path) -> None:
    """Rename `draft` to `directory`. A folder cannot be renamed over one that is not empty."""
    if not directory.exists() or not any(directory.iterdir()):
        os.replace(draft, directory)
        return
    previous = temporary_beside(directory)
    os.replace(directory, previous)
    try:
        os.replace(draft, directory)
    except OSError:
        os.replace(previous, directory)
        raise
    shutil.rmtree(previous)
