"""Manifests: lists of utterances with their transcripts, in the formats that people have.

PaddleSpeech's formatted and raw JSON lines, NeMo's and DeepSpeech2's, WeNet's `data.list`,
plain JSON lines (`asrcompress.manifests.json_lines` has the keys of each) and Kaldi data
directories (`asrcompress.manifests.kaldi`). The format is told from the content, never from the
name.

A relative audio path is looked for in the manifest's folder, then in that folder's parent
(PaddleSpeech writes `data/manifest.test` with paths from the experiment's root), then in the
working directory; the first that exists is taken. A Kaldi directory is itself the first folder,
and the folder above its parent is looked in too (`data/test/wav.scp` is written from the root).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from asrcompress.errors import BadManifest
from asrcompress.manifests.json_lines import (
    JSON_FORMATS,
    Entry,
    JsonFormat,
    parse_record,
    recognise,
)
from asrcompress.manifests.kaldi import is_kaldi, kaldi_entries
from asrcompress.manifests.lines import BadLines, numbered_lines, seen

KALDI = "kaldi"


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """One recording, or a span of one, and what was said in it.

    Attributes:
        utt: id, unique in its manifest.
        audio: absolute path of an audio file.
        text: reference transcript as written; may be empty.
        duration_s: seconds as the manifest states them; None where it does not.
        speaker: None where unknown.
        start_s, end_s: span in seconds; an end of None is the end of the file.
        lang: language as the manifest states it.
        utt_from_path: the manifest has no ids and this one was made from the path as written, so
            it says nothing about another manifest's ids.
    """

    utt: str
    audio: Path
    text: str
    duration_s: float | None = None
    speaker: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    lang: str | None = None
    utt_from_path: bool = False

    def __post_init__(self) -> None:
        if not self.utt:
            raise BadManifest("utterance: id is empty, expected a name")
        for name in ("duration_s", "start_s", "end_s"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0.0):
                raise BadManifest(f"{seen(self.utt)}: {name}: got {value}, expected seconds")
        if self.end_s is not None and not (self.start_s or 0.0) < self.end_s:
            raise BadManifest(
                f"{seen(self.utt)}: span: got {self.start_s} to {self.end_s} s, "
                "expected the start before the end"
            )


def read_manifest(path: str | os.PathLike[str]) -> Iterator[Utterance]:
    """Check a whole manifest, then stream it; memory holds the ids, not the utterances.

    Args:
        path: a JSON-lines file or a Kaldi data directory.
    Returns:
        utterances in the order of the file. The file is read twice, so that a fault in the last
        line is known before the first utterance is used.
    Raises:
        BadManifest: of unknown format, empty, or with bad lines: all of them are listed.
    """
    for _ in _checked(Path(path)):
        pass
    return _checked(Path(path))


def load_manifest(path: str | os.PathLike[str]) -> list[Utterance]:
    """All utterances of a manifest, read once.

    Raises:
        BadManifest: as for `read_manifest`.
    """
    return list(_checked(Path(path)))


def detect_format(path: str | os.PathLike[str]) -> str:
    """The format's name: `kaldi`, or one of `asrcompress.manifests.json_lines`'s.

    Raises:
        BadManifest: no line is of a format that is known.
    """
    manifest = Path(path)
    return KALDI if _check_kind(manifest) == KALDI else _detect_json(manifest).name


def _checked(manifest: Path) -> Iterator[Utterance]:
    """Yield good utterances, gather bad lines, and raise for them at the end."""
    bad = BadLines(str(manifest))
    first_seen: dict[str, str] = {}
    if _check_kind(manifest) == KALDI:
        entries, folders = kaldi_entries(manifest, bad), _folders(manifest, levels=3)
    else:
        entries = _json_entries(manifest, _detect_json(manifest), bad)
        folders = _folders(manifest.parent, levels=2)
    for where, entry in entries:
        try:
            utterance = _utterance(entry, folders)
            if utterance.utt in first_seen:
                raise BadManifest(
                    f"duplicate utterance id {seen(utterance.utt)}, first on "
                    f"{first_seen[utterance.utt]}"
                )
        except BadManifest as error:
            bad.add(where, error)
            continue
        first_seen[utterance.utt] = where
        yield utterance
    bad.raise_if_any()
    if not first_seen:
        raise BadManifest(f"{manifest}: no utterances, expected at least one")


def _check_kind(manifest: Path) -> str:
    """`kaldi` for a data directory, `json` for a file, an error for anything else."""
    if manifest.is_dir():
        if is_kaldi(manifest):
            return KALDI
        raise BadManifest(
            f"{manifest}: not a Kaldi data directory, expected wav.scp and text in it",
            hint="give the manifest file itself, such as data/manifest.test or data.list",
        )
    if not manifest.exists():
        raise BadManifest(f"{manifest}: no such file, expected a manifest")
    if not manifest.is_file():  # it is read twice; a pipe would be empty the second time
        raise BadManifest(f"{manifest}: not a regular file, expected a manifest")
    return "json"


def _detect_json(manifest: Path) -> JsonFormat:
    """The format of the first line that is of any."""
    first_line: bytes | None = None
    first_error: BadManifest | None = None
    for _, line in numbered_lines(manifest):
        if first_line is None:
            first_line = line
        try:
            record = parse_record(line)
        except BadManifest as error:
            first_error = first_error or error
            continue
        known = recognise(record)
        if known:
            return known
        keys = f"keys {seen(sorted(record))}"
        first_error = first_error or BadManifest(f"unknown format, got {keys}")
    if first_line is None:
        raise BadManifest(f"{manifest}: empty, expected at least one utterance")
    raise BadManifest(
        f"{manifest}: not a manifest: first line: {first_error}, expected JSON lines of "
        f"{', '.join(known.name for known in JSON_FORMATS)}, or a Kaldi data directory",
        hint=_hint_for(first_line) or (first_error.hint if first_error else ""),
    )


def _hint_for(line: bytes) -> str:
    """The cure for lists that look like a manifest and are something else."""
    if line.endswith((b".tar", b".tar.gz", b".tgz")):
        return "a list of WeNet shards: give the raw data.list that the shards were made from"
    if line.startswith(b"utt:") and b"\t" in line:
        return "WeNet's old format.data: give data.list, one JSON object a line"
    if line.startswith(b"["):
        return "a JSON array: one object a line instead, for example `jq -c '.[]' old > new`"
    if line == b"{":
        return "an object spread over lines: one object a line instead, for example `jq -c .`"
    if b"\t" in line or (b" " in line and not line.startswith(b"{")):
        return "for Kaldi files, give the folder that holds wav.scp and text"
    return ""


def _json_entries(manifest: Path, known: JsonFormat, bad: BadLines) -> Iterator[tuple[str, Entry]]:
    for number, line in numbered_lines(manifest):
        where = f"line {number}"
        try:
            record = parse_record(line)
            if not known.keys <= record.keys():
                raise BadManifest(
                    f"not a {known.name} line, got the keys {seen(sorted(record))}, "
                    f"expected {', '.join(sorted(known.keys))}"
                )
            entry = known.read(record)
        except BadManifest as error:
            bad.add(where, error)
            continue
        yield where, entry


def _folders(nearest: Path, *, levels: int) -> tuple[Path, ...]:
    """Where relative audio paths may start, nearest first, each once."""
    folder = Path(os.path.abspath(nearest))
    climbed = [folder, *folder.parents][:levels]
    return tuple(dict.fromkeys([*climbed, Path.cwd()]))


def _utterance(entry: Entry, folders: tuple[Path, ...]) -> Utterance:
    return Utterance(
        utt=entry.utt or _utt_of_path(entry),
        utt_from_path=entry.utt is None,
        audio=_locate(entry.audio, folders),
        text=entry.text,
        duration_s=entry.duration_s,
        speaker=entry.speaker,
        start_s=entry.start_s,
        end_s=entry.end_s,
        lang=entry.lang,
    )


def _utt_of_path(entry: Entry) -> str:
    if entry.start_s is None and entry.end_s is None:
        return entry.audio
    end = "" if entry.end_s is None else f"{entry.end_s:g}"
    return f"{entry.audio}@{entry.start_s or 0.0:g}-{end}"


def _locate(written: str, folders: tuple[Path, ...]) -> Path:
    """The absolute path of an audio file; `os.path.isfile` is False for names no file can have."""
    tried = [written] if os.path.isabs(written) else [os.path.join(f, written) for f in folders]
    found = next((path for path in tried if os.path.isfile(path)), None)
    if found is None:
        places = ", ".join(seen(path, most=300) for path in tried)
        raise BadManifest(
            f"audio: no such file, got {seen(written)}, tried {places}",
            hint="relative paths start at the manifest's folder, its parent, or the folder "
            "you are in",
        )
    return Path(found)
