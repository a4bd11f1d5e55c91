"""Manifests of every format with faults in them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

# How CPython words its limit on digits; 3.10 leaves the unit out.
DIGITS = "4300 digits" if sys.version_info >= (3, 11) else "4300"


def raw(place: Any, content: bytes | str) -> list[Any]:
    """A manifest of these bytes."""
    place.write("m", content)
    return ["evaluate", place.bundle, "--manifest", "m"]


def lines(place: Any, *records: object) -> list[Any]:
    """A manifest of these records; ``{wav}`` is the path of good audio."""
    text = [one if isinstance(one, str) else json.dumps(one) for one in records]
    return raw(place, "".join(f"{line}\n" for line in text).replace("{wav}", str(place.wav)))


def plain(place: Any, **changes: Any) -> list[Any]:
    """A plain line, changed; None removes a key."""
    record = {"utt": "a", "audio": "{wav}", "text": "开", **changes}
    return lines(place, {key: value for key, value in record.items() if value is not None})


def speech(place: Any, *, audio: dict[str, Any] | None = None, **changes: Any) -> list[Any]:
    """A formatted PaddleSpeech line, changed."""
    source = {"name": "input1", "shape": [1.0, 80], "feat": "{wav}", "filetype": "sound"}
    record = {
        "input": [{**source, **(audio or {})}],
        "output": [{"name": "target1", "text": "开", "token": "开"}],
        "utt": "a",
        "utt2spk": "s",
    }
    return lines(place, {**record, **changes})


def of(place: Any, **record: Any) -> list[Any]:
    """A line with these keys."""
    return lines(place, record)


def kaldi(place: Any, **files: str) -> list[Any]:
    """A Kaldi folder, changed; ``{wav}`` is good audio."""
    content = {"wav_scp": "a {wav}\n", "text": "a 开\n", **files}
    for name, text in content.items():
        place.write(f"k/{name.replace('_', '.')}", text.replace("{wav}", str(place.wav)))
    return ["evaluate", place.bundle, "--manifest", "k"]


def only(place: Any, name: str) -> list[Any]:
    """A folder with one file of a Kaldi folder."""
    place.write(f"k/{name}", "a b\n")
    return ["evaluate", place.bundle, "--manifest", "k"]


def named(name: str) -> Callable[[Any], list[Any]]:
    """A manifest of this name."""
    return lambda place: ["evaluate", place.bundle, "--manifest", name]


CASES: list[tuple[str, Callable[[Any], list[Any]], str]] = [
    ("missing", named("nowhere"), "nowhere: no such file, expected a manifest"),
    (
        "a name that is too long",
        named("m" * 300),
        "mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm: cannot be used, File name too long",
    ),
    ("a device", named("/dev/zero"), "/dev/zero: not a regular file, expected a manifest"),
    (
        "a folder without text",
        lambda p: only(p, "wav.scp"),
        "k: not a Kaldi data directory, expected wav.scp and text in it",
    ),
    (
        "a folder without wav.scp",
        lambda p: only(p, "text"),
        "k: not a Kaldi data directory, expected wav.scp and text in it",
    ),
    ("empty", lambda p: raw(p, ""), "m: empty, expected at least one utterance"),
    ("blank lines", lambda p: raw(p, "\n  \n\n"), "m: empty, expected at least one utterance"),
    (
        "audio",
        lambda p: ["evaluate", p.bundle, "--manifest", p.wav],
        "TMP/good.wav: not a manifest: first line: wrong encoding, got byte 0x80 at 24, expected UTF-8, expected JSON lines of paddlespeech, paddlespeech-raw, nemo, wenet, plain, or a Kaldi data directory",
    ),
    (
        "a graph",
        lambda p: ["evaluate", p.bundle, "--manifest", p.bundle / "model.onnx"],
        "TMP/bundle/model.onnx: not a manifest: first line: wrong encoding, got byte 0xd7 at 3, expected UTF-8, expected JSON lines of paddlespeech, paddlespeech-raw, nemo, wenet, plain, or a Kaldi data directory",
    ),
    (
        "UTF-16",
        lambda p: raw(p, '{"audio": "a"}'.encode("utf-16")),
        "m: wrong encoding, got UTF-16, expected UTF-8",
    ),
    (
        "GBK",
        lambda p: raw(p, '{"utt": "a", "audio": "b", "text": "你好"}\n'.encode("gbk")),
        "m: not a manifest: first line: wrong encoding, got byte 0xc4 at 36, expected UTF-8, expected JSON lines of paddlespeech, paddlespeech-raw, nemo, wenet, plain, or a Kaldi data directory",
    ),
    (
        "one line of 2 MB",
        lambda p: raw(p, b"a" * (2 << 20)),
        "m: line 1 is longer than 1048576 bytes, expected a text file with one utterance a line",
    ),
    (
        "CSV",
        lambda p: raw(p, "wav_filename,wav_filesize,transcript\na.wav,1,开\n"),
        "m: not a manifest: first line: not JSON: Expecting value at column 1, got 'wav_filename,wav_filesize,transcript', expected one JSON object a line, expected JSON lines of paddlespeech, paddlespeech-raw, nemo, wenet, plain, or a Kaldi data directory",
    ),
    (
        "a table with tabs",
        lambda p: raw(p, "a\ta.wav\t开\n"),
        "m: not a manifest: first line: not JSON: Expecting value at column 1, got 'a\\ta.wav\\t开', expected one JSON object a line, expected JSON lines of paddlespeech, paddlespeech-raw, nemo, wenet, plain, or a Kaldi data directory",
    ),
    (
        "a JSON array",
        lambda p: raw(p, '[\n{"audio": "a"}\n]\n'),
        "m: 3 bad lines\n  line 1: not JSON: Expecting value at column 2, got '[', expected one JSON object a line\n  line 2: text: missing, got the keys ['audio']\n  line 3: not JSON: Expecting value at column 1, got ']', expected one JSON object a line",
    ),
    (
        "JSON over several lines",
        lambda p: raw(p, '{\n"audio": "a"\n}\n'),
        "m: not a manifest: first line: not JSON: Expecting property name enclosed in double quotes at column 2, got '{', expected one JSON object a line, expected JSON lines of paddlespeech, paddlespeech-raw, nemo, wenet, plain, or a Kaldi data directory",
    ),
    (
        "WeNet's shards",
        lambda p: raw(p, "/data/shard_000.tar\n"),
        "m: not a manifest: first line: not JSON: Expecting value at column 1, got '/data/shard_000.tar', expected one JSON object a line, expected JSON lines of paddlespeech, paddlespeech-raw, nemo, wenet, plain, or a Kaldi data directory",
    ),
    (
        "numbers",
        lambda p: lines(p, "1", "2"),
        "m: not a manifest: first line: not a JSON object, got 1, expected {...}, expected JSON lines of paddlespeech, paddlespeech-raw, nemo, wenet, plain, or a Kaldi data directory",
    ),
    (
        "keys that are unknown",
        lambda p: of(p, file="a.wav", words="开"),
        "m: not a manifest: first line: unknown format, got keys ['file', 'words'], expected JSON lines of paddlespeech, paddlespeech-raw, nemo, wenet, plain, or a Kaldi data directory",
    ),
    (
        "JSON nested without end",
        lambda p: raw(p, "[" * 100_000),
        "m: not a manifest: first line: not JSON: maximum recursion depth exceeded while decoding a JSON array from a unicode string, expected one JSON object a line, expected JSON lines of paddlespeech, paddlespeech-raw, nemo, wenet, plain, or a Kaldi data directory",
    ),
    (
        "NaN in a line",
        lambda p: lines(p, '{"audio": "{wav}", "text": "开", "duration": NaN}'),
        "m: not a manifest: first line: not JSON: NaN is not a number, expected a finite one, expected JSON lines of paddlespeech, paddlespeech-raw, nemo, wenet, plain, or a Kaldi data directory",
    ),
    (
        "a number of 5,000 digits",
        lambda p: lines(p, '{"audio": ' + "1" * 5000 + "}"),
        f"m: not a manifest: first line: not JSON: Exceeds the limit ({DIGITS}) for integer string conversion: value has 5000 digits; use sys.set_int_max_str_digits() to increase the limit, expected one JSON object a line, expected JSON lines of paddlespeech, paddlespeech-raw, nemo, wenet, plain, or a Kaldi data directory",
    ),
    (
        "half a character",
        lambda p: lines(p, '{"audio": "{wav}", "text": "\\ud800"}'),
        "m: 1 bad line\n  line 1: text: half a character, got '\\ud800'",
    ),
    (
        "no text",
        lambda p: plain(p, text=None),
        "m: 1 bad line\n  line 1: text: missing, got the keys ['audio', 'utt']",
    ),
    (
        "text that is a list",
        lambda p: plain(p, text=["开"]),
        "m: 1 bad line\n  line 1: text: got ['开'], expected a string",
    ),
    (
        "audio that is missing",
        lambda p: plain(p, audio="/nowhere/a.wav"),
        "m: 1 bad line\n  line 1: audio: no such file, got '/nowhere/a.wav', tried '/nowhere/a.wav'",
    ),
    (
        "audio that is a folder",
        lambda p: plain(p, audio="/tmp"),
        "m: 1 bad line\n  line 1: audio: no such file, got '/tmp', tried '/tmp'",
    ),
    (
        "audio without a name",
        lambda p: plain(p, audio=" "),
        "m: 1 bad line\n  line 1: audio: empty, expected the path of an audio file",
    ),
    (
        "audio with a NUL",
        lambda p: plain(p, audio="/a\0b"),
        "m: 1 bad line\n  line 1: audio: no such file, got '/a\\x00b', tried '/a\\x00b'",
    ),
    (
        "audio of a name that is too long",
        lambda p: plain(p, audio="/" + "a" * 300),
        "m: 1 bad line\n  line 1: audio: no such file, got '/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa..., tried '/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...",
    ),
    (
        "audio that is a number",
        lambda p: plain(p, audio=5),
        "m: 1 bad line\n  line 1: audio: got 5, expected a string",
    ),
    (
        "an id that is blank",
        lambda p: plain(p, utt="  "),
        "m: 1 bad line\n  line 1: utt: empty, expected a name",
    ),
    (
        "an id that is true",
        lambda p: plain(p, utt=True),
        "m: 1 bad line\n  line 1: utt: got True, expected a string",
    ),
    (
        "an id twice",
        lambda p: lines(p, *['{"utt": "a", "audio": "{wav}", "text": "开"}'] * 2),
        "m: 1 bad line\n  line 2: duplicate utterance id 'a', first on line 1",
    ),
    (
        "a duration of 0",
        lambda p: plain(p, duration=0),
        "m: 1 bad line\n  line 1: duration: got 0, expected seconds, above 0",
    ),
    (
        "a duration in words",
        lambda p: plain(p, duration="long"),
        "m: 1 bad line\n  line 1: duration: got 'long', expected seconds, above 0",
    ),
    (
        "a duration in samples",
        lambda p: plain(p, duration=1e12),
        "m: 1 bad line\n  line 1: duration: got 1000000000000.0, expected seconds, above 0",
    ),
    (
        "a start below 0",
        lambda p: plain(p, start=-1.0),
        "m: 1 bad line\n  line 1: start: got -1.0, expected seconds, from 0",
    ),
    (
        "a start after the end",
        lambda p: plain(p, start=0.5, end=0.25),
        "m: 1 bad line\n  line 1: 'a': span: got 0.5 to 0.25 s, expected the start before the end",
    ),
    (
        "three faults",
        lambda p: lines(p, {"audio": "/no", "text": "开"}, "{", {"audio": "/no"}),
        "m: 3 bad lines\n  line 1: audio: no such file, got '/no', tried '/no'\n  line 2: not JSON: Expecting property name enclosed in double quotes at column 2, got '{', expected one JSON object a line\n  line 3: text: missing, got the keys ['audio']",
    ),
    (
        "no reference at all",
        lambda p: plain(p, text=" "),
        "references: not one character, got 1 utterances, expected transcripts to measure a character error rate on",
    ),
    (
        "PaddleSpeech: no input",
        lambda p: speech(p, input=[]),
        "m: 1 bad line\n  line 1: input: got [], expected a list with one object",
    ),
    (
        "PaddleSpeech: features",
        lambda p: speech(p, audio={"filetype": "mat"}),
        "m: 1 bad line\n  line 1: precomputed features, got filetype 'mat', expected an audio file",
    ),
    (
        "PaddleSpeech: features of numpy",
        lambda p: speech(p, audio={"feat": "/a.npy"}),
        "m: 1 bad line\n  line 1: precomputed features, got feat: '/a.npy', expected an audio file",
    ),
    (
        "PaddleSpeech: shape in words",
        lambda p: speech(p, audio={"shape": "1.0"}),
        "m: 1 bad line\n  line 1: shape: got '1.0', expected [seconds, ...]",
    ),
    (
        "PaddleSpeech: only tokens",
        lambda p: speech(p, output=[{"token": "开 <unk>"}]),
        "m: 1 bad line\n  line 1: token: the text cannot be rebuilt, got <unk> and no text",
    ),
    (
        "PaddleSpeech: no output",
        lambda p: speech(p, output={}),
        "m: 1 bad line\n  line 1: output: got {}, expected a list with one object",
    ),
    (
        "raw: no text",
        lambda p: of(p, utt="a", feat="{wav}", feat_shape=[1.0]),
        "m: 1 bad line\n  line 1: text: missing, got the keys ['feat', 'feat_shape', 'utt']",
    ),
    (
        "raw: no id",
        lambda p: of(p, feat="{wav}", feat_shape=[1.0], text="开"),
        "m: 1 bad line\n  line 1: utt: missing, got the keys ['feat', 'feat_shape', 'text']",
    ),
    (
        "raw: an empty shape",
        lambda p: of(p, utt="a", feat="{wav}", feat_shape=[], text="开"),
        "m: 1 bad line\n  line 1: feat_shape: got [], expected [seconds, ...]",
    ),
    (
        "NeMo: an offset only",
        lambda p: of(p, audio_filepath="{wav}", text="开", offset=1.0),
        "m: 1 bad line\n  line 1: duration: missing, expected one where there is an offset",
    ),
    (
        "NeMo: a duration below 0",
        lambda p: of(p, audio_filepath="{wav}", text="", duration=-1),
        "m: 1 bad line\n  line 1: duration: got -1, expected seconds, above 0",
    ),
    (
        "WeNet: a start without end",
        lambda p: of(p, key="a", wav="{wav}", txt="开", start=0.1),
        "m: 1 bad line\n  line 1: start, end: only one of them given, expected both or neither",
    ),
    (
        "WeNet: no txt",
        lambda p: of(p, key="a", wav="{wav}"),
        "m: 1 bad line\n  line 1: txt: missing, got the keys ['key', 'wav']",
    ),
    (
        "formats mixed",
        lambda p: lines(p, {"key": "a", "wav": "{wav}", "txt": ""}, {"audio": "{wav}"}),
        "m: 1 bad line\n  line 2: not a wenet line, got the keys ['audio'], expected key, wav",
    ),
    (
        "Kaldi: a pipe",
        lambda p: kaldi(p, wav_scp="a touch owned |\n"),
        "k: 1 bad line\n  wav.scp line 1: a command, got 'touch owned |', expected the path of an audio file",
    ),
    (
        "Kaldi: an archive",
        lambda p: kaldi(p, wav_scp="a wav.ark:15\n"),
        "k: 1 bad line\n  wav.scp line 1: an archive, got 'wav.ark:15', expected the path of an audio file",
    ),
    (
        "Kaldi: no path",
        lambda p: kaldi(p, wav_scp="a\n"),
        "k: 1 bad line\n  wav.scp line 1: no path, expected `id path`",
    ),
    (
        "Kaldi: an id twice",
        lambda p: kaldi(p, text="a 开\na 关\n"),
        "k: 1 bad line\n  text line 2: 'a': listed twice, first on line 1",
    ),
    (
        "Kaldi: text without audio",
        lambda p: kaldi(p, text="a 开\nb 关\n"),
        "k: 1 bad line\n  text line 2: 'b' is not in wav.scp",
    ),
    (
        "Kaldi: audio without text",
        lambda p: kaldi(p, wav_scp="a {wav}\nb {wav}\n"),
        "k: 1 bad line\n  wav.scp: utterance 'b' has no transcript",
    ),
    (
        "Kaldi: a segment of one number",
        lambda p: kaldi(p, segments="a a 0.5\n"),
        "k: 1 bad line\n  segments line 1: got ['a', '0.5'], expected `recording start end` after the id",
    ),
    (
        "Kaldi: a segment backwards",
        lambda p: kaldi(p, segments="a a 0.5 0.1\n"),
        "k: 1 bad line\n  segments line 1: got 0.5 to 0.1, expected 0 <= start < end in seconds",
    ),
    (
        "Kaldi: a segment in words",
        lambda p: kaldi(p, segments="a a zero one\n"),
        "k: 1 bad line\n  segments line 1: got 'zero', expected seconds",
    ),
    (
        "Kaldi: a segment of NaN",
        lambda p: kaldi(p, segments="a a nan 1\n"),
        "k: 1 bad line\n  segments line 1: got 'nan', expected a finite number of seconds",
    ),
    (
        "Kaldi: a segment of nothing",
        lambda p: kaldi(p, segments="a nothing 0 1\n"),
        "k: 1 bad line\n  text line 1: 'nothing' is not in wav.scp",
    ),
    (
        "Kaldi: utt2spk without a speaker",
        lambda p: kaldi(p, utt2spk="a\n"),
        "k: 1 bad line\n  text line 1: utt2spk: no speaker, expected `utterance speaker`",
    ),
    (
        "Kaldi: utt2spk of others",
        lambda p: kaldi(p, utt2spk="b s\n"),
        "k: 1 bad line\n  text line 1: 'a' is not in utt2spk",
    ),
    (
        "Kaldi: utt2dur of 0",
        lambda p: kaldi(p, utt2dur="a 0\n"),
        "k: 1 bad line\n  text line 1: utt2dur: got 0.0, expected seconds above 0",
    ),
]


@pytest.mark.parametrize(("make", "message"), [pytest.param(*c[1:], id=c[0]) for c in CASES])
def test_is_refused(check: Any, make: Any, message: str, tmp_path: Any) -> None:
    check(make, message)
    assert not (tmp_path / "owned").exists()


def test_a_thousand_bad_lines_are_counted(check: Any) -> None:
    record = json.dumps({"audio": "a.wav"})
    shown = [f"  line {n}: text: missing, got the keys ['audio']" for n in range(1, 21)]
    message = "\n".join(["m: 1000 bad lines", *shown, "  ... and 980 more"])
    check(lambda p: lines(p, *[record] * 1000), message)
