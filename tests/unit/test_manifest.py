"""Manifests: every format, where audio is looked for, and what is refused and how it is said."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from asrcompress.errors import BadManifest
from asrcompress.manifests.lines import MAX_LINE_BYTES
from asrcompress.manifests.manifest import (
    Utterance,
    detect_format,
    load_manifest,
    read_manifest,
)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def write(path: Path, *records: object) -> Path:
    lines = [r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in records]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def plain(utt: str = "u1", **fields: object) -> dict[str, object]:
    return {"utt": utt, "audio": "a.wav", "text": "你好", **fields}


def refused(path: Path) -> BadManifest:
    with pytest.raises(BadManifest) as caught:
        load_manifest(path)
    return caught.value


# ---------------------------------------------------------------- formats


def test_plain_with_every_field(tmp_path: Path) -> None:
    touch(tmp_path, "audio/a.opus")
    record = {
        "utt": "u1", "audio": "audio/a.opus", "duration": 2.048, "text": "数字",
        "speaker": "d01", "lang": "zh",
    }  # fmt: skip
    path = write(tmp_path / "test.jsonl", record)
    assert load_manifest(path) == [
        Utterance(
            utt="u1",
            audio=tmp_path / "audio/a.opus",
            text="数字",
            duration_s=2.048,
            speaker="d01",
            lang="zh",
        )
    ]
    assert detect_format(path) == "plain"


def test_plain_with_the_least(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    (got,) = load_manifest(write(tmp_path / "m", {"audio": "a.wav", "text": ""}))
    assert (got.utt, got.utt_from_path, got.text) == ("a.wav", True, "")
    assert got.duration_s is got.speaker is got.start_s is got.end_s is got.lang is None


def test_paddlespeech_raw(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    record = {
        "utt": "BAC009S0764W0121", "utt2spk": "S0764", "feat": str(tmp_path / "a.wav"),
        "feat_shape": [4.2039375], "text": "甚至出现交易几乎停滞的情况",
    }  # fmt: skip
    path = write(tmp_path / "manifest.test.raw", record)
    (got,) = load_manifest(path)
    assert got == Utterance(
        utt="BAC009S0764W0121", audio=tmp_path / "a.wav", text="甚至出现交易几乎停滞的情况",
        duration_s=4.2039375, speaker="S0764",
    )  # fmt: skip
    assert detect_format(path) == "paddlespeech-raw"


def formatted(**target: object) -> dict[str, object]:
    source = {"name": "input1", "shape": [3.5, 80], "feat": "a.wav", "filetype": "sound"}
    return {
        "input": [source],
        "output": [{"name": "target1", "shape": [2, 4300], **target}],
        "utt": "u1",
        "utt2spk": "s1",
    }


def test_paddlespeech_formatted(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    record = formatted(text="你 好", token="你 好", tokenid="5 6")
    path = write(tmp_path / "manifest.test", record)
    (got,) = load_manifest(path)
    assert (got.text, got.duration_s, got.speaker, got.utt) == ("你 好", 3.5, "s1", "u1")
    assert detect_format(path) == "paddlespeech"


@pytest.mark.parametrize(
    ("token", "text"),
    [
        ("你 好", "你好"),
        ("h i <space> y o u", "hi you"),
        ("▁HELLO ▁W OR LD", "HELLO WORLD"),
        ("turn it off", "turn it off"),
        ("", ""),
    ],
)
def test_text_is_rebuilt_from_tokens(tmp_path: Path, token: str, text: str) -> None:
    touch(tmp_path, "a.wav")
    (got,) = load_manifest(write(tmp_path / "m", formatted(token=token)))
    assert got.text == text


def test_text_lost_to_unknown_tokens_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    error = refused(write(tmp_path / "m", formatted(token="你 <unk>")))
    assert "<unk>" in str(error)


def test_paddlespeechs_global_speaker_is_no_speaker(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    record = formatted(text="好") | {"utt2spk": "global"}
    assert load_manifest(write(tmp_path / "m", record))[0].speaker is None


def test_nemo(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "b/a.wav")
    path = write(
        tmp_path / "manifest.json",
        {"audio_filepath": "a.wav", "duration": 3.45, "text": "hello"},
        {"audio_filepath": "a.wav", "offset": 3.45, "duration": 1.5, "text": "there"},
        {"audio_filepath": "b/a.wav", "text": "", "speaker": 17},
    )
    one, two, three = load_manifest(path)
    assert (one.utt, one.utt_from_path, one.start_s, one.end_s) == ("a.wav", True, None, None)
    assert (two.utt, two.start_s, two.end_s, two.duration_s) == ("a.wav@3.45-4.95", 3.45, 4.95, 1.5)
    assert (three.utt, three.speaker, three.duration_s) == ("b/a.wav", "17", None)
    assert detect_format(path) == "nemo"


def test_wenet(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    path = write(
        tmp_path / "data.list",
        {"key": "u1", "wav": "a.wav", "txt": "你好"},
        {"key": "u2", "wav": "a.wav", "txt": "再见", "start": 1.5, "end": 4},
    )
    one, two = load_manifest(path)
    assert (one.utt, one.text, one.utt_from_path, one.start_s) == ("u1", "你好", False, None)
    assert (two.start_s, two.end_s, two.duration_s) == (1.5, 4.0, 2.5)
    assert detect_format(path) == "wenet"


def kaldi(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_scp", ".scp")).write_text(text, encoding="utf-8")
    return folder


def test_kaldi(tmp_path: Path) -> None:
    touch(tmp_path, "data/test/a b.wav", "data/test/c.wav")
    folder = kaldi(
        tmp_path / "data/test",
        wav_scp="u1 a b.wav\nu2\tc.wav\n",
        text="u1 你好\u3000世界\nu2\n",
        utt2spk="u1 s1\nu2 s2\n",
        utt2dur="u1 1.25\n",
    )
    one, two = load_manifest(folder)
    assert one == Utterance(
        utt="u1", audio=folder / "a b.wav", text="你好\u3000世界", duration_s=1.25, speaker="s1"
    )
    assert (two.text, two.speaker, two.duration_s) == ("", "s2", None)
    assert detect_format(folder) == "kaldi"


def test_kaldi_with_segments_and_without_speakers(tmp_path: Path) -> None:
    touch(tmp_path, "rec.flac")
    folder = kaldi(
        tmp_path,
        wav_scp="rec rec.flac\n",
        text="u1 a\nu2 b\nu3 c\n",
        segments="u1 rec 0 1.5\nu2 rec 1.5 -1\nu3 rec 2.0 3.0 A\n",
    )
    one, two, three = load_manifest(folder)
    assert (one.start_s, one.end_s, one.duration_s) == (0.0, 1.5, 1.5)
    assert (two.start_s, two.end_s, two.duration_s) == (1.5, None, None)
    assert (three.end_s, three.speaker) == (3.0, None)


def test_kaldi_pipe_is_refused_once_with_a_cure(tmp_path: Path) -> None:
    folder = kaldi(tmp_path, wav_scp="u1 sph2pipe -f wav a.sph |\n", text="u1 hello\n")
    error = refused(folder)
    assert "1 bad line" in str(error)
    assert "wav.scp line 1: a command, got 'sph2pipe -f wav a.sph |'" in str(error)
    assert "while read" in error.hint


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"wav_scp": "u1 a.ark:12\n", "text": "u1 x\n"}, "an archive"),
        ({"wav_scp": "u1\n", "text": "u1 x\n"}, "no path"),
        ({"wav_scp": "u1 a.wav\n", "text": "u2 x\n"}, "'u2' is not in wav.scp"),
        ({"wav_scp": "u1 a.wav\n", "text": "u2 x\n"}, "'u1' has no transcript"),
        ({"wav_scp": "u1 a.wav\nu1 a.wav\n", "text": "u1 x\n"}, "listed twice, first on line 1"),
        ({"wav_scp": "u1 a.wav\n", "text": "u1 x\nu1 y\n"}, "text line 2: 'u1': listed twice"),
        ({"wav_scp": "u1 a.wav\n", "text": "u1 x\n", "utt2spk": "u2 s\n"}, "not in utt2spk"),
        ({"wav_scp": "u1 a.wav\n", "text": "u1 x\n", "utt2spk": "u1\n"}, "no speaker"),
        ({"wav_scp": "u1 a.wav\n", "text": "u1 x\n", "utt2dur": "u1 -3\n"}, "utt2dur: got -3.0"),
        ({"wav_scp": "r a.wav\n", "text": "u1 x\n", "segments": "u1 r 2 1\n"}, "got 2 to 1"),
        ({"wav_scp": "r a.wav\n", "text": "u1 x\n", "segments": "u1 r nan 1\n"}, "got 'nan'"),
        ({"wav_scp": "r a.wav\n", "text": "u1 x\n", "segments": "u1 r zero 1\n"}, "got 'zero'"),
        ({"wav_scp": "r a.wav\n", "text": "u1 x\n", "segments": "u1 r 1\n"}, "recording start end"),
        ({"wav_scp": "r a.wav\n", "text": "u1 x\n", "segments": "u1 r 0 1 B\n"}, "expected"),
        ({"wav_scp": "r a.wav\n", "text": "u1 x\n", "segments": "u1 q 0 1\n"}, "'q' is not in wav"),
    ],
)
def test_kaldi_faults(tmp_path: Path, files: dict[str, str], said: str) -> None:
    touch(tmp_path, "a.wav")
    assert said in str(refused(kaldi(tmp_path, **files)))


def test_a_folder_that_is_not_kaldis(tmp_path: Path) -> None:
    touch(tmp_path, "wav.scp")
    error = refused(tmp_path)
    assert "not a Kaldi data directory" in str(error)
    assert "manifest file" in error.hint


# ---------------------------------------------------------------- where audio is looked for


def test_manifest_folder_comes_before_its_parent_and_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "root/data/m.jsonl", plain(audio="wav/a.wav"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    for folder in ("cwd", "root", "root/data"):  # each found one comes before the ones so far
        touch(tmp_path, f"{folder}/wav/a.wav")
        assert load_manifest(path)[0].audio == tmp_path / folder / "wav/a.wav"


def test_paths_are_absolute_though_the_manifests_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.wav")
    write(tmp_path / "m.jsonl", plain())
    monkeypatch.chdir(tmp_path)
    assert load_manifest("m.jsonl")[0].audio == tmp_path / "a.wav"


def test_kaldi_paths_may_start_at_the_experiment(tmp_path: Path) -> None:
    touch(tmp_path, "wavs/a.wav")
    folder = kaldi(tmp_path / "data/test", wav_scp="u1 wavs/a.wav\n", text="u1 x\n")
    assert load_manifest(folder)[0].audio == tmp_path / "wavs/a.wav"


def test_missing_audio_lists_what_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    error = refused(write(tmp_path / "root/data/m.jsonl", plain(audio="gone.wav")))
    for folder in ("root/data", "root", "cwd"):
        assert str(tmp_path / folder / "gone.wav") in str(error)
    assert error.hint


def test_missing_absolute_audio_is_tried_once(tmp_path: Path) -> None:
    error = refused(write(tmp_path / "m", plain(audio="/nowhere/a.wav")))
    assert str(error).count("/nowhere/a.wav") == 2  # as written, and as tried


@pytest.mark.parametrize("name", ["", " ", "a\x00b.wav", "x" * 5000, "."])
def test_names_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    assert "line 1: audio: " in str(refused(write(tmp_path / "m", plain(audio=name))))


# ---------------------------------------------------------------- the text of the file


def test_bom_blank_lines_and_crlf(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    lines = "\r\n".join(["", json.dumps(plain("u1")), "  ", json.dumps(plain("u2")), ""])
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert [item.utt for item in load_manifest(path)] == ["u1", "u2"]


def test_line_separators_inside_text_do_not_split_lines(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    path = write(tmp_path / "m", plain(text="a\u2028b\x85c"))
    assert load_manifest(path)[0].text == "a\u2028b\x85c"


def test_all_bad_lines_are_reported_at_once_with_their_numbers(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    path = write(
        tmp_path / "m",
        plain("u1"),
        "",
        plain("u2", duration=-1),
        "{not json",
        plain("u1"),
        {"audio": "a.wav"},
        {"key": "k", "wav": "a.wav", "txt": "x"},
        plain("u3"),
    )
    text = str(refused(path))
    assert "5 bad lines" in text
    assert "line 3: duration: got -1, expected seconds, above 0" in text
    assert "line 4: not JSON" in text
    assert "line 5: duplicate utterance id 'u1', first on line 1" in text
    assert "line 6: text: missing" in text
    assert "line 7: not a plain line" in text


def test_twenty_bad_lines_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    text = str(refused(write(tmp_path / "m", plain(), *["junk"] * 50)))
    assert text.count("not JSON") == 20
    assert "50 bad lines" in text
    assert text.endswith("... and 30 more")


def test_streaming_raises_before_the_first_utterance(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    path = write(tmp_path / "m", plain(), "junk")
    with pytest.raises(BadManifest, match="line 2"):
        read_manifest(path)


def test_streaming_yields_what_loading_returns(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    path = write(tmp_path / "m", *[plain(f"u{i}") for i in range(30)])
    stream = read_manifest(path)
    assert next(stream).utt == "u0"
    assert [item.utt for item in stream] == [f"u{i}" for i in range(1, 30)]


@pytest.mark.parametrize(
    "line",
    [
        '{"utt":"u","audio":"a.wav","text":"x","duration":NaN}',
        '{"utt":"u","audio":"a.wav","text":"x","duration":Infinity}',
        '{"utt":"u","audio":"a.wav","text":"x","duration":1e999}',
        '{"utt":"u","audio":"a.wav","text":"x","duration":' + "9" * 400 + "}",
        '{"utt":"u","audio":"a.wav","text":"x","duration":' + "9" * 5000 + "}",
        '{"utt":"u","audio":"a.wav","text":"x","duration":0}',
        '{"utt":"u","audio":"a.wav","text":"x","duration":true}',
        '{"utt":"u","audio":"a.wav","text":"x","duration":"3"}',
        '{"utt":"u","audio":"a.wav","text":"x","start":-1}',
        '{"utt":"u","audio":"a.wav","text":"x","start":2,"end":2}',
        '{"utt":"u","audio":"a.wav","text":"x","end":0}',
        '{"utt":"","audio":"a.wav","text":7}',
        '{"utt":"u","audio":"a.wav","text":null}',
        '{"utt":"u","audio":"a.wav","text":"\\ud800"}',
        '{"utt":["u"],"audio":"a.wav","text":"x"}',
        '{"utt":true,"audio":"a.wav","text":"x"}',
        '{"utt":"u","audio":3,"text":"x"}',
        "[" * 100_000,
        "[1, 2]",
        '"text"',
        '{"key":"u","wav":"a.wav","txt":"x","start":1}',
    ],
)
def test_bad_records(tmp_path: Path, line: str) -> None:
    touch(tmp_path, "a.wav")
    # First as the second line of a good manifest, then alone.
    good = {"key": "k", "wav": "a.wav", "txt": "x"} if '"key"' in line else plain("good")
    assert "line 2" in str(refused(write(tmp_path / "m", good, line)))
    refused(write(tmp_path / "m", line))


@pytest.mark.parametrize(
    "record",
    [
        {"utt": "u", "feat": "a.wav", "feat_shape": [0], "text": "x"},
        {"utt": "u", "feat": "a.wav", "feat_shape": 3.0, "text": "x"},
        {"utt": "u", "feat": "a.wav", "feat_shape": [], "text": "x"},
        {"utt": "u", "feat": "a.wav", "text": ["x", "y"]},
        {"feat": "a.wav", "text": "x"},
        {"input": [], "output": [], "utt": "u"},
        {"input": [{"feat": "a.wav"}], "output": ["x"], "utt": "u"},
        {"input": {"feat": "a.wav"}, "output": [{"text": "x"}], "utt": "u"},
        {"audio_filepath": "a.wav", "offset": 3, "text": "x"},
        {"key": "u", "wav": "a.wav"},
    ],
)
def test_bad_records_of_other_formats(tmp_path: Path, record: object) -> None:
    touch(tmp_path, "a.wav")
    assert "line 1" in str(refused(write(tmp_path / "m", record)))


@pytest.mark.parametrize("feat", ["raw_fbank.1.ark:4242", "x.ARK", "x.npy", "x.npz", "x.h5"])
def test_precomputed_features_are_refused_with_a_cure(tmp_path: Path, feat: str) -> None:
    error = refused(write(tmp_path / "m", {"utt": "u", "feat": feat, "text": "x"}))
    assert "precomputed features" in str(error)
    assert "audio" in error.hint


def test_features_by_filetype_are_refused(tmp_path: Path) -> None:
    record = formatted(text="x")
    record["input"] = [{"feat": "a", "filetype": "mat", "shape": [100, 80]}]
    assert "filetype 'mat'" in str(refused(write(tmp_path / "m", record)))


def test_not_utf8(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    path = tmp_path / "m"
    gbk = json.dumps(plain("u2"), ensure_ascii=False).encode("gbk")
    path.write_bytes(json.dumps(plain()).encode() + b"\n" + gbk + b"\n")
    error = refused(path)
    assert "line 2: wrong encoding" in str(error)
    assert "iconv -f GB18030" in error.hint


def test_utf16_says_so(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(json.dumps(plain()).encode("utf-16"))
    error = refused(path)
    assert "UTF-16" in str(error)
    assert "iconv -f UTF-16" in error.hint


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ('[{"utt": "u"}]', "one object a line"),
        ('{\n  "utt": "u"\n}', "one object a line"),
        ("shards/train-000.tar\nshards/train-001.tar", "raw data.list"),
        ("utt:u1\tfeat:a.wav\ttext:x", "data.list"),
        ("u1 a.wav", "folder that holds wav.scp"),
    ],
)
def test_what_looks_like_a_manifest_and_is_not(tmp_path: Path, content: str, hint: str) -> None:
    path = tmp_path / "m"
    path.write_text(content)
    error = refused(path)
    assert "not a manifest" in str(error)
    assert hint in error.hint


def test_unknown_keys_name_the_keys(tmp_path: Path) -> None:
    text = str(refused(write(tmp_path / "m", {"file": "a.wav", "transcript": "x"})))
    assert "['file', 'transcript']" in text
    assert "wenet" in text


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf\n"])
def test_empty_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m"
    path.write_bytes(content)
    assert "empty" in str(refused(path))


def test_an_empty_kaldi_directory_is_refused(tmp_path: Path) -> None:
    assert "no utterances" in str(refused(kaldi(tmp_path, wav_scp="", text="")))


def test_a_file_of_weights_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"x" * (MAX_LINE_BYTES + 10))
    assert "longer than" in str(refused(path))


def test_missing_unreadable_and_irregular_files(tmp_path: Path) -> None:
    assert "no such file" in str(refused(tmp_path / "gone"))
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in str(refused(tmp_path / "pipe"))
    if os.geteuid() != 0:  # root may read everything
        path = write(tmp_path / "m", plain())
        path.chmod(0)
        assert "cannot be read" in str(refused(path))


def test_a_bad_first_line_does_not_hide_the_format(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    text = str(refused(write(tmp_path / "m", "junk", plain())))
    assert "1 bad line" in text
    assert "line 1: not JSON" in text


# ---------------------------------------------------------------- Utterance


@pytest.mark.parametrize(
    "fields",
    [
        {"utt": ""},
        {"duration_s": float("nan")},
        {"duration_s": -1.0},
        {"start_s": -0.5},
        {"end_s": 0.0},
        {"start_s": 3.0, "end_s": 2.0},
        {"end_s": float("inf")},
    ],
)
def test_an_utterance_checks_itself(fields: dict[str, object]) -> None:
    with pytest.raises(BadManifest):
        Utterance(**{"utt": "u", "audio": Path("a.wav"), "text": "x", **fields})  # type: ignore[arg-type]


# ---------------------------------------------------------------- real data


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "utterances", "speakers"),
    [
        ("dsp20/train", 2880, 24), ("dsp20/dev", 420, 4), ("dsp20/test", 240, 2),
        ("commonvoice-zh/train", 1687, 116), ("commonvoice-zh/test", 212, 79),
        ("librispeech-mini/train", 1161, 22), ("librispeech-mini/test", 182, 3),
    ],
)  # fmt: skip
def test_real_manifests(shared: Path, name: str, utterances: int, speakers: int) -> None:
    found = load_manifest(shared / "data" / f"{name}.jsonl")
    assert len(found) == utterances
    assert len({item.speaker for item in found}) == speakers
    assert all(item.text and item.duration_s and item.audio.is_file() for item in found)
    assert not any(item.utt_from_path for item in found)
