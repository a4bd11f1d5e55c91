"""Whatever a manifest holds, it is read or refused as a manifest; nothing else ever happens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrcompress.errors import BadManifest
from asrcompress.manifests.manifest import Utterance, load_manifest, read_manifest

KEYS = [
    "utt", "utt2spk", "feat", "feat_shape", "text", "input", "output", "token", "shape",
    "filetype", "audio_filepath", "duration", "offset", "key", "wav", "txt", "start", "end",
    "audio", "speaker", "lang",
]  # fmt: skip

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["a.wav", "b c.wav", "x.ark:3", "global", "<unk> a", "\ud800", "", "sound"])
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=6)
    ),
    max_leaves=12,
)
RECORDS = st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=10).map(json.dumps)
LINES = RECORDS | st.text(max_size=30)

# Unicode text as a transcript may hold it: no surrogates, and nothing that UTF-8 lacks.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
IDS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1)
SECONDS = st.floats(0.001, 1e6, allow_nan=False)
SPANS = st.none() | st.tuples(st.floats(0, 1e5), SECONDS).map(lambda t: (t[0], t[0] + t[1]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the audio that manifests name: contents are rewritten by each example."""
    found = tmp_path_factory.mktemp("manifests")
    for name in ("a.wav", "b c.wav"):
        (found / name).write_bytes(b"")
    return found


def read_or_refuse(path: Path) -> list[Utterance] | None:
    """The utterances, or None where they were refused; both readers must agree."""
    try:
        loaded = load_manifest(path)
    except BadManifest as error:
        assert str(error).startswith(str(path))
        with pytest.raises(BadManifest):
            list(read_manifest(path))
        return None
    assert list(read_manifest(path)) == loaded
    assert len({item.utt for item in loaded}) == len(loaded) > 0
    return loaded


@settings(max_examples=50)
@given(content=st.binary(max_size=300))
def test_any_bytes(folder: Path, content: bytes) -> None:
    path = folder / "bytes"
    path.write_bytes(content)
    read_or_refuse(path)


@given(lines=st.lists(LINES, max_size=6), end=st.sampled_from(["\n", "\r\n"]))
@settings(max_examples=100)
def test_any_lines(folder: Path, lines: list[str], end: str) -> None:
    path = folder / "lines"
    path.write_bytes(end.join(lines).encode("utf-8", "surrogatepass"))
    read_or_refuse(path)


WORDS = st.sampled_from(["u1", "u2", "a.wav", "b c.wav", "0", "1.5", "-1", "nan", "s", "|", "\t"])
TABLES = st.lists(
    st.lists(WORDS | st.text(max_size=4), max_size=5).map(" ".join), max_size=4
).map(lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass"))  # fmt: skip


@given(
    files=st.fixed_dictionaries(
        {"wav.scp": TABLES | st.just(b"u1 a.wav\nu2 b c.wav"), "text": TABLES},
        optional={"utt2spk": TABLES, "segments": TABLES, "utt2dur": TABLES},
    )
)
@settings(max_examples=100)
def test_any_kaldi_directory(folder: Path, files: dict[str, bytes]) -> None:
    data = folder / "data"
    data.mkdir(exist_ok=True)
    for name in ("wav.scp", "text", "utt2spk", "segments", "utt2dur"):
        (data / name).unlink(missing_ok=True)
        if name in files:
            (data / name).write_bytes(files[name])
    read_or_refuse(data)


UTTERANCES = st.lists(
    st.tuples(IDS, TEXT, SECONDS, SPANS, st.none() | IDS, st.sampled_from(["a.wav", "b c.wav"])),
    min_size=1,
    max_size=5,
    unique_by=lambda item: item[0],
)


@settings(max_examples=50)
@given(items=UTTERANCES, kind=st.sampled_from(["plain", "wenet", "paddlespeech", "raw"]))
def test_what_is_written_is_read(folder: Path, items: list, kind: str) -> None:
    path = folder / "roundtrip"
    lines = [json.dumps(WRITERS[kind](*item)) for item in items]
    path.write_text("\n".join(lines))
    loaded = read_or_refuse(path)
    assert loaded is not None
    for got, (utt, text, seconds, span, speaker, audio) in zip(loaded, items, strict=True):
        assert (got.utt, got.text, got.audio) == (utt, text, folder / audio)
        if kind in ("plain", "wenet"):
            assert (got.start_s, got.end_s) == (span or (None, None))
        if kind != "wenet":
            assert got.speaker == (None if speaker == "global" and kind != "plain" else speaker)
            assert got.duration_s == seconds


def _plain(utt, text, seconds, span, speaker, audio):
    start, end = span or (None, None)
    return {
        "utt": utt, "audio": audio, "text": text, "duration": seconds, "speaker": speaker,
        "start": start, "end": end,
    }  # fmt: skip


def _wenet(utt, text, seconds, span, speaker, audio):
    cut = {"start": span[0], "end": span[1]} if span else {}
    return {"key": utt, "wav": audio, "txt": text, **cut}


def _paddlespeech(utt, text, seconds, span, speaker, audio):
    source = {"name": "input1", "feat": audio, "shape": [seconds, 80], "filetype": "sound"}
    target = {"name": "target1", "text": text, "token": "x", "tokenid": "1", "shape": [1, 2]}
    return {"input": [source], "output": [target], "utt": utt, "utt2spk": speaker}


def _raw(utt, text, seconds, span, speaker, audio):
    return {"utt": utt, "feat": audio, "feat_shape": [seconds], "text": text, "utt2spk": speaker}


WRITERS = {"plain": _plain, "wenet": _wenet, "paddlespeech": _paddlespeech, "raw": _raw}
