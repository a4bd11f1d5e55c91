"""The leak guard: every way in which gate data can have been trained on, and what is no leak."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asrcompress.accuracy.leak import check_leak
from asrcompress.errors import BadAudio, DataLeak
from asrcompress.manifests.manifest import Utterance, load_manifest


def audio(path: Path, *, seed: int, seconds: float = 0.5) -> Path:
    """Noise, as 16-bit samples, in the format of the suffix."""
    samples = np.random.default_rng(seed).integers(-9000, 9000, int(16000 * seconds), np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, 16000, subtype="PCM_16")
    return path


def utterance(utt: str, path: Path, **fields: object) -> Utterance:
    return Utterance(utt=utt, audio=path, text="x", **fields)  # type: ignore[arg-type]


def leak(train: list[Utterance], gate: list[Utterance], *, allow: bool = False) -> DataLeak:
    with pytest.raises(DataLeak) as caught:
        check_leak(train, gate, allow_shared_speakers=allow)
    assert caught.value.hint
    return caught.value


@pytest.fixture
def train(tmp_path: Path) -> list[Utterance]:
    return [
        utterance(f"t{i}", audio(tmp_path / f"train/{i}.wav", seed=i), speaker=f"s{i % 2}")
        for i in range(4)
    ]


@pytest.fixture
def gate(tmp_path: Path) -> list[Utterance]:
    return [
        utterance(f"g{i}", audio(tmp_path / f"gate/{i}.wav", seed=100 + i), speaker="s9")
        for i in range(3)
    ]


def test_disjoint_sets_pass_and_say_what_was_compared(
    train: list[Utterance], gate: list[Utterance]
) -> None:
    steps: list[tuple[int, int]] = []
    got = check_leak(train, gate, progress=lambda done, total: steps.append((done, total)))
    assert (got.train_utterances, got.gate_utterances, got.recordings) == (4, 3, 7)
    assert got.speakers_compared
    assert steps == [(i, 7) for i in range(1, 8)]


def test_utterances_listed_twice_are_read_once(
    train: list[Utterance], gate: list[Utterance]
) -> None:
    """The calibration manifest is often the training manifest."""
    assert check_leak([*train, *train], gate).recordings == 7


def test_a_shared_id(train: list[Utterance], gate: list[Utterance], tmp_path: Path) -> None:
    again = utterance("t2", audio(tmp_path / "new.wav", seed=77))
    assert "1 shared utterance ids: 't2'" in str(leak(train, [*gate, again]))


def test_ids_made_from_paths_are_not_compared(tmp_path: Path) -> None:
    one = utterance("001.wav", audio(tmp_path / "a/001.wav", seed=1), utt_from_path=True)
    two = utterance("001.wav", audio(tmp_path / "b/001.wav", seed=2), utt_from_path=True)
    named = utterance("001.wav", audio(tmp_path / "c/001.wav", seed=3))
    check_leak([one], [two])
    check_leak([named], [two])


def test_a_shared_file_also_through_a_link(
    train: list[Utterance], gate: list[Utterance], tmp_path: Path
) -> None:
    link = tmp_path / "link.wav"
    os.symlink(train[1].audio, link)
    for path in (train[1].audio, link):
        text = str(leak(train, [*gate, utterance("new", path)]))
        assert "1 shared audio files" in text
        assert "'new', there 't1'" in text


def test_a_copy_under_another_name(
    train: list[Utterance], gate: list[Utterance], tmp_path: Path
) -> None:
    copy = tmp_path / "copy.wav"
    copy.write_bytes(train[3].audio.read_bytes())
    text = str(leak(train, [*gate, utterance("new", copy)]))
    assert "1 equal recordings: 'new' is 't3' (samples sha256 " in text


@pytest.mark.parametrize("name", ["same.flac", "same.aiff", "same.w64"])
def test_the_same_samples_in_another_container(
    train: list[Utterance], gate: list[Utterance], tmp_path: Path, name: str
) -> None:
    other = audio(tmp_path / name, seed=2)  # the noise of t2
    assert other.read_bytes() != train[2].audio.read_bytes()
    assert "'new' is 't2'" in str(leak(train, [*gate, utterance("new", other)]))


def test_a_part_of_a_recording_that_is_a_file_elsewhere(tmp_path: Path) -> None:
    whole = audio(tmp_path / "whole.wav", seed=1, seconds=2.0)
    samples, _ = soundfile.read(whole, dtype="int16")
    cut = tmp_path / "cut.wav"
    soundfile.write(cut, samples[8000:20000], 16000, subtype="PCM_16")
    part = utterance("part", whole, start_s=0.5, end_s=1.25)
    assert "'cut' is 'part'" in str(leak([part], [utterance("cut", cut)]))
    assert "'part' is 'cut'" in str(leak([utterance("cut", cut)], [part]))


def test_equal_beginnings_are_no_leak(tmp_path: Path) -> None:
    """Silence at the start, or the same prompt tone, and then other speech."""
    paths = []
    for i in range(2):
        noise = np.random.default_rng(i).integers(-9000, 9000, 8000, np.int16)
        samples = np.concatenate([np.zeros(4000, np.int16), noise])
        paths.append(tmp_path / f"{i}.wav")
        soundfile.write(paths[-1], samples, 16000, subtype="PCM_16")
    check_leak([utterance("a", paths[0])], [utterance("b", paths[1])])


def test_audio_as_short_as_can_be(tmp_path: Path) -> None:
    one = audio(tmp_path / "a.wav", seed=1, seconds=0.025)
    two = audio(tmp_path / "b.flac", seed=1, seconds=0.025)
    three = audio(tmp_path / "c.wav", seed=2, seconds=0.025)
    leak([utterance("a", one)], [utterance("b", two)])
    check_leak([utterance("a", one)], [utterance("c", three)])


def test_shared_speakers_unless_allowed(train: list[Utterance], gate: list[Utterance]) -> None:
    known = [utterance(item.utt, item.audio, speaker="s1") for item in gate]
    error = leak(train, known)
    assert "1 shared speakers: 's1'" in str(error)
    assert "--allow-shared-speakers" in error.hint
    assert check_leak(train, known, allow_shared_speakers=True).recordings == 7


def test_unknown_speakers_are_not_compared_and_that_is_said(
    train: list[Utterance], gate: list[Utterance]
) -> None:
    unknown = [utterance(item.utt, item.audio) for item in gate]
    assert not check_leak(train, unknown).speakers_compared


def test_overlapping_spans_of_a_recording(tmp_path: Path) -> None:
    path = audio(tmp_path / "long.wav", seed=1, seconds=3.0)
    first = utterance("a", path, start_s=0.0, end_s=1.2)
    later = utterance("b", path, start_s=1.1, end_s=2.0)
    whole = utterance("c", path)
    assert "1 shared audio files" in str(leak([first], [later], allow=True))
    leak([whole], [later], allow=True)
    leak([first], [whole], allow=True)


def test_separate_spans_of_a_recording_count_as_one_speaker(tmp_path: Path) -> None:
    path = audio(tmp_path / "long.wav", seed=1, seconds=3.0)
    first = utterance("a", path, start_s=0.0, end_s=1.0)
    later = utterance("b", path, start_s=1.0, end_s=2.0)
    error = leak([first], [later])
    assert "1 recordings with parts in both" in str(error)
    assert "--allow-shared-speakers" in error.hint
    check_leak([first], [later], allow_shared_speakers=True)


def test_everything_is_reported_at_once_with_counts_and_first_examples(
    train: list[Utterance],
) -> None:
    text = str(leak(train, train))
    assert "4 shared utterance ids: 't0'; 't1'; 't2'; ..." in text
    assert "4 shared audio files" in text
    assert "2 shared speakers: 's0'; 's1'" in text


def test_a_leak_is_found_though_speakers_may_be_shared(train: list[Utterance]) -> None:
    error = leak(train, train[:1], allow=True)
    assert "speakers" not in str(error)
    assert "take these utterances out" in error.hint


def test_audio_that_cannot_be_read_is_named(
    train: list[Utterance], gate: list[Utterance], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    with pytest.raises(BadAudio, match=r"bad: .*broken\.wav"):
        check_leak(train, [*gate, utterance("bad", broken)])


@pytest.mark.shared
def test_real_splits_are_disjoint_and_a_planted_leak_is_found(shared: Path, tmp_path: Path) -> None:
    dev = load_manifest(shared / "data/commonvoice-zh/dev.jsonl")
    test = load_manifest(shared / "data/commonvoice-zh/test.jsonl")[:40]
    assert check_leak(dev, test).speakers_compared
    copy = tmp_path / "renamed.opus"
    copy.write_bytes(dev[57].audio.read_bytes())
    planted = utterance("planted", copy)
    assert f"'planted' is {dev[57].utt!r}" in str(leak(dev, [*test, planted]))
