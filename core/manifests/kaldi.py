"""A Kaldi data directory: `wav.scp`, `text` [, `utt2spk`, `segments`, `utt2dur`].

`segments` has `utterance recording start end` in seconds, an end of -1 being the end of the
recording; without it, utterances and recordings have the same ids.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from asrcompress.errors import BadManifest
from asrcompress.manifests.json_lines import Entry
from asrcompress.manifests.lines import BadLines, decode, numbered_lines, seen

_BLANKS = re.compile(r"[ \t]+")  # Kaldi's separators; U+3000 belongs to the transcript
_ARCHIVE = re.compile(r"\.(ark|scp)(:\d+)?$", re.IGNORECASE)
_FIX_DATA_DIR = "utils/fix_data_dir.sh drops the ids that are not in every file"

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    recording: str
    start_s: float
    end_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tables:
    """The files beside `text`; None stands for a line that was faulty, and reported as such."""

    recordings: Mapping[str, str | None]
    segments: Mapping[str, _Span | None] | None
    speakers: Mapping[str, str] | None
    durations: Mapping[str, str]


def is_kaldi(folder: Path) -> bool:
    """Whether a folder holds the two files that a data directory cannot do without."""
    return all((folder / name).is_file() for name in ("wav.scp", "text"))


def kaldi_entries(folder: Path, bad: BadLines) -> Iterator[tuple[str, Entry]]:
    """Stream `text` with the other files looked up: (file and line, entry).

    Faulty lines go to `bad`, those of the other files first.

    Raises:
        BadManifest: a file that cannot be read at all.
    """
    tables = _read_tables(folder, bad)
    found = set()
    for where, utt, text in _rows(folder / "text", bad):
        found.add(utt)
        try:
            entry = _entry(utt, text, tables)
        except BadManifest as error:
            bad.add(where, error)
            continue
        if entry:
            yield where, entry
    source = "wav.scp" if tables.segments is None else "segments"
    for utt in tables.recordings if tables.segments is None else tables.segments:
        if utt not in found:
            bad.add(
                source,
                BadManifest(f"utterance {seen(utt)} has no transcript", hint=_FIX_DATA_DIR),
            )


def _read_tables(folder: Path, bad: BadLines) -> _Tables:
    recordings: dict[str, str | None] = {}
    for where, recording, target in _rows(folder / "wav.scp", bad):
        recordings[recording] = None
        try:
            _check_target(target)
        except BadManifest as error:
            bad.add(where, error)
        else:
            recordings[recording] = target
    return _Tables(
        recordings=recordings,
        segments=_read_segments(folder / "segments", bad),
        speakers=_table(folder / "utt2spk", bad),
        durations=_table(folder / "utt2dur", bad) or {},
    )


def _rows(path: Path, bad: BadLines) -> Iterator[tuple[str, str, str]]:
    """(file and line, first field, rest of the line, which may be empty)."""
    first_seen: dict[str, int] = {}
    for number, line in numbered_lines(path):
        where = f"{path.name} line {number}"
        try:
            key, *rest = _BLANKS.split(decode(line), maxsplit=1)
            if key in first_seen:
                raise BadManifest(f"{seen(key)}: listed twice, first on line {first_seen[key]}")
        except BadManifest as error:
            bad.add(where, error)
            continue
        first_seen[key] = number
        yield where, key, rest[0] if rest else ""


def _table(path: Path, bad: BadLines) -> dict[str, str] | None:
    if not path.is_file():
        return None
    return {key: rest for _, key, rest in _rows(path, bad)}


def _check_target(target: str) -> None:
    if not target:
        raise BadManifest("no path, expected `id path`")
    if target.endswith("|"):
        raise BadManifest(
            f"a command, got {seen(target)}, expected the path of an audio file",
            hint="commands of a manifest are not run. Run them once and list the files: mkdir wav; "
            'while read -r id cmd; do bash -c "${cmd%|}" > wav/$id.wav < /dev/null; done '
            "< wav.scp",
        )
    if _ARCHIVE.search(target):
        raise BadManifest(
            f"an archive, got {seen(target)}, expected the path of an audio file",
            hint="unpack it into one file for each recording",
        )


def _read_segments(path: Path, bad: BadLines) -> dict[str, _Span | None] | None:
    if not path.is_file():
        return None
    segments: dict[str, _Span | None] = {}
    for where, utt, rest in _rows(path, bad):
        segments[utt] = None
        try:
            segments[utt] = _span(_BLANKS.split(rest))
        except BadManifest as error:
            bad.add(where, error)
    return segments


def _span(fields: list[str]) -> _Span:
    if len(fields) == 4 and fields[3] in ("0", "A"):  # the first channel, the only one of mono
        fields = fields[:3]
    if len(fields) != 3:
        raise BadManifest(f"got {seen(fields)}, expected `recording start end` after the id")
    start_s, end_s = _number(fields[1]), _number(fields[2])
    if end_s == -1.0:
        end_s = math.inf
    if not 0.0 <= start_s < end_s:
        raise BadManifest(f"got {fields[1]} to {fields[2]}, expected 0 <= start < end in seconds")
    return _Span(
        recording=fields[0], start_s=start_s, end_s=end_s if math.isfinite(end_s) else None
    )


def _number(field: str) -> float:
    try:
        value = float(field)
    except ValueError as error:
        raise BadManifest(f"got {seen(field)}, expected seconds") from error
    if not math.isfinite(value):
        raise BadManifest(f"got {seen(field)}, expected a finite number of seconds")
    return value


def _entry(utt: str, text: str, tables: _Tables) -> Entry | None:
    """The utterance, or None where it hangs on a line that is reported already."""
    span = None
    if tables.segments is not None:
        span = _look_up(utt, tables.segments, "segments")
        if span is None:
            return None
    audio = _look_up(span.recording if span else utt, tables.recordings, "wav.scp")
    if audio is None:
        return None
    speaker = None
    if tables.speakers is not None:
        speaker = _look_up(utt, tables.speakers, "utt2spk")
        if not speaker:
            raise BadManifest("utt2spk: no speaker, expected `utterance speaker`")
    return Entry(
        utt=utt,
        audio=audio,
        text=text,
        duration_s=_duration_s(utt, span, tables),
        speaker=speaker,
        start_s=span.start_s if span else None,
        end_s=span.end_s if span else None,
    )


def _duration_s(utt: str, span: _Span | None, tables: _Tables) -> float | None:
    if span and span.end_s is not None:
        return span.end_s - span.start_s
    if utt not in tables.durations:
        return None
    duration_s = _number(tables.durations[utt])
    if duration_s <= 0.0:
        raise BadManifest(f"utt2dur: got {duration_s}, expected seconds above 0")
    return duration_s


def _look_up(key: str, table: Mapping[str, _Value], name: str) -> _Value:
    if key not in table:
        raise BadManifest(f"{seen(key)} is not in {name}", hint=_FIX_DATA_DIR)
    return table[key]
