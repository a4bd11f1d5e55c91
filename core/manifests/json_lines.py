"""The JSON-lines manifests: which format a record is in, and what it says.

| name | a line |
|---|---|
| paddlespeech | `{"input": [{"feat", "shape": [sec, dim], "filetype": "sound"}],
  "output": [{"text", "token"}], "utt", "utt2spk"}` |
| paddlespeech-raw | `{"utt", "utt2spk", "feat", "feat_shape": [sec], "text"}` |
| nemo | `{"audio_filepath", "duration", "text" [, "offset"]}`, DeepSpeech2's too |
| wenet | `{"key", "wav", "txt" [, "start", "end"]}` |
| plain | `{"audio", "text" [, "utt", "duration", "speaker", "lang", "start", "end"]}` |

Keys that are not named here are ignored. Audio paths come out as written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from asrcompress.errors import BadManifest
from asrcompress.manifests.lines import decode, seen

# Kaldi archives come with an offset: feats.ark:1234
_FEATURE_FILE = re.compile(r"\.(ark|npy|npz|h5|hdf5|pt|pkl|scp)(:\d+)?$", re.IGNORECASE)
# What PaddleSpeech's format_data.py writes where the raw manifest names no speaker.
_NO_SPEAKER = "global"
_MAX_SECONDS = 1e7  # four months: beyond it a number is samples or a date


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One utterance as its manifest states it: nothing resolved, nothing looked up.

    Attributes:
        audio: path as written.
        utt: utterance id, or None where the format has none.
        duration_s, start_s, end_s: seconds; start and end are a span of a longer recording.
    """

    audio: str
    text: str
    utt: str | None = None
    duration_s: float | None = None
    speaker: str | None = None
    lang: str | None = None
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonFormat:
    """A JSON-lines format: the keys that tell it from the others, and its reader."""

    name: str
    keys: frozenset[str]
    read: Callable[[Mapping[str, object]], Entry]


def parse_record(line: bytes) -> dict[str, object]:
    """One line as a JSON object.

    Raises:
        BadManifest: not UTF-8, not JSON, not an object, or NaN or Infinity in it.
    """
    text = decode(line)
    try:
        record = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise BadManifest(
            f"not JSON: {error.msg} at column {error.colno}, got {seen(text)}, "
            "expected one JSON object a line"
        ) from error
    except (ValueError, RecursionError) as error:  # numbers of 5,000 digits, 10,000 brackets
        raise BadManifest(f"not JSON: {error}, expected one JSON object a line") from error
    if not isinstance(record, dict):
        raise BadManifest(f"not a JSON object, got {seen(record)}, expected {{...}}")
    return record


def recognise(record: Mapping[str, object]) -> JsonFormat | None:
    """The format of a record, told by its keys; None where it is none of ours."""
    return next((known for known in JSON_FORMATS if known.keys <= record.keys()), None)


def _refuse_constant(name: str) -> NoReturn:
    raise BadManifest(f"not JSON: {name} is not a number, expected a finite one")


def _formatted(record: Mapping[str, object]) -> Entry:
    source, target = _first(record, "input"), _first(record, "output")
    filetype = source.get("filetype", "sound")
    if filetype != "sound":
        _refuse_features(f"filetype {seen(filetype)}")
    text = target.get("text")
    return Entry(
        utt=_name(record, "utt"),
        audio=_audio(source, "feat"),
        text=_string(target, "text") if text is not None else _text_of_tokens(target),
        duration_s=_seconds_of_shape(source, "shape"),
        speaker=_speaker(record, "utt2spk"),
    )


def _raw(record: Mapping[str, object]) -> Entry:
    return Entry(
        utt=_name(record, "utt"),
        audio=_audio(record, "feat"),
        text=_string(record, "text"),
        duration_s=_seconds_of_shape(record, "feat_shape"),
        speaker=_speaker(record, "utt2spk"),
    )


def _nemo(record: Mapping[str, object]) -> Entry:
    duration_s = _seconds(record, "duration", above=0.0)
    start_s = _seconds(record, "offset")
    if start_s is not None and duration_s is None:
        raise BadManifest("duration: missing, expected one where there is an offset")
    return Entry(
        utt=_optional_name(record, "utt", "utt_id", "id"),
        audio=_audio(record, "audio_filepath"),
        text=_string(record, "text"),
        duration_s=duration_s,
        speaker=_optional_name(record, "speaker", "speaker_id"),
        lang=_optional_name(record, "lang", "language"),
        start_s=start_s,
        end_s=start_s + duration_s if start_s is not None and duration_s is not None else None,
    )


def _wenet(record: Mapping[str, object]) -> Entry:
    start_s, end_s = _seconds(record, "start"), _seconds(record, "end")
    if (start_s is None) != (end_s is None):
        raise BadManifest("start, end: only one of them given, expected both or neither")
    span_s = end_s - start_s if start_s is not None and end_s is not None else None
    return Entry(
        utt=_name(record, "key"),
        audio=_audio(record, "wav"),
        text=_string(record, "txt"),
        duration_s=_seconds(record, "duration", above=0.0) if span_s is None else span_s,
        speaker=_optional_name(record, "speaker"),
        start_s=start_s,
        end_s=end_s,
    )


def _plain(record: Mapping[str, object]) -> Entry:
    return Entry(
        utt=_optional_name(record, "utt"),
        audio=_audio(record, "audio"),
        text=_string(record, "text"),
        duration_s=_seconds(record, "duration", above=0.0),
        speaker=_optional_name(record, "speaker"),
        lang=_optional_name(record, "lang"),
        start_s=_seconds(record, "start"),
        end_s=_seconds(record, "end"),
    )


# In the order of recognition: the first whose keys are all there.
JSON_FORMATS = (
    JsonFormat(name="paddlespeech", keys=frozenset({"input", "output"}), read=_formatted),
    JsonFormat(name="paddlespeech-raw", keys=frozenset({"feat"}), read=_raw),
    JsonFormat(name="nemo", keys=frozenset({"audio_filepath"}), read=_nemo),
    JsonFormat(name="wenet", keys=frozenset({"key", "wav"}), read=_wenet),
    JsonFormat(name="plain", keys=frozenset({"audio"}), read=_plain),
)


def _first(record: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = record.get(key)
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        raise BadManifest(f"{key}: got {seen(value)}, expected a list with one object")
    return value[0]


def _string(record: Mapping[str, object], key: str) -> str:
    if key not in record:
        raise BadManifest(f"{key}: missing, got the keys {seen(sorted(record))}")
    value = record[key]
    if not isinstance(value, str):
        raise BadManifest(f"{key}: got {seen(value)}, expected a string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # "\ud800" is JSON, but no text
        raise BadManifest(f"{key}: half a character, got {seen(value)}") from error
    return value


def _name(record: Mapping[str, object], key: str) -> str:
    """An id or a label: a string that is not blank; whole numbers are taken as written."""
    value = record.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    name = _string(record, key).strip()
    if not name:
        raise BadManifest(f"{key}: empty, expected a name")
    return name


def _optional_name(record: Mapping[str, object], *keys: str) -> str | None:
    given = (key for key in keys if record.get(key) not in (None, ""))
    return next((_name(record, key) for key in given), None)


def _speaker(record: Mapping[str, object], key: str) -> str | None:
    speaker = _optional_name(record, key)
    return None if speaker == _NO_SPEAKER else speaker


def _audio(record: Mapping[str, object], key: str) -> str:
    path = _string(record, key).strip()
    if not path:
        raise BadManifest(f"{key}: empty, expected the path of an audio file")
    if _FEATURE_FILE.search(path):
        _refuse_features(f"{key}: {seen(path)}")
    return path


def _refuse_features(what: str) -> NoReturn:
    raise BadManifest(
        f"precomputed features, got {what}, expected an audio file",
        hint="features are computed from audio here, as the runtime will: "
        "list the audio files (PaddleSpeech: the manifest that local/data.py writes)",
    )


def _seconds(record: Mapping[str, object], key: str, *, above: float = -1.0) -> float | None:
    """A finite number of seconds, >= 0 and > `above`; None where there is none."""
    value = record.get(key)
    if value is None:
        return None
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not max(0.0, above) <= value <= _MAX_SECONDS  # false for NaN, too
        or value == above
    ):
        least = "above 0" if above == 0.0 else "from 0"
        raise BadManifest(f"{key}: got {seen(value)}, expected seconds, {least}")
    return float(value)


def _seconds_of_shape(record: Mapping[str, object], key: str) -> float | None:
    """PaddleSpeech states the duration of audio as the first entry of the shape."""
    shape = record.get(key)
    if shape is None:
        return None
    if not isinstance(shape, list) or not shape:
        raise BadManifest(f"{key}: got {seen(shape)}, expected [seconds, ...]")
    return _seconds({f"{key}[0]": shape[0]}, f"{key}[0]", above=0.0)


def _text_of_tokens(target: Mapping[str, object]) -> str:
    """The text, rebuilt from characters, sentence pieces or words."""
    tokens = _string(target, "token").split(" ")
    tokens = [token for token in tokens if token]
    lost = next((token for token in tokens if token in ("<unk>", "<blank>", "<eos>")), None)
    if lost:
        raise BadManifest(f"token: the text cannot be rebuilt, got {lost} and no text")
    if any(token.startswith("▁") for token in tokens):
        return "".join(tokens).replace("▁", " ").strip()
    if all(len(token) == 1 or token == "<space>" for token in tokens):
        return "".join(" " if token == "<space>" else token for token in tokens)
    return " ".join(tokens)
