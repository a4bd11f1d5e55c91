"""The example's synthetic speech: what it says, how it is resampled, that it can be repeated."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

MODULES = ("grammar", "acoustics", "voices", "synthesize")


@pytest.fixture(scope="module")
def example(repo: Path) -> Any:
    """The example's modules as attributes; it is a folder of scripts, not a package."""
    pytest.importorskip("espeakng_loader", reason="the dev extra is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repo / "examples" / "voice_commands"))
        found = ModuleType("example")
        for name in MODULES:
            setattr(found, name, __import__(name))
        yield found
        for name in MODULES:
            del sys.modules[name]


@pytest.mark.parametrize(
    ("number", "reading"),
    [(0, "零"), (2, "二"), (10, "十"), (11, "十一"), (20, "二十"), (45, "四十五"), (99, "九十九")],
)
def test_numbers_are_spelled(example: Any, number: int, reading: str) -> None:
    assert example.grammar.spell(number) == reading


def test_a_number_out_of_range_is_refused(example: Any) -> None:
    with pytest.raises(ValueError, match="got 100, expected 0 to 99"):
        example.grammar.spell(100)


def test_sentences_hold_no_unfilled_slot_and_only_listed_characters(example: Any) -> None:
    known = set(example.grammar.characters())
    said = {example.grammar.sentence(random.Random(seed)) for seed in range(2000)}
    assert set("".join(said)) <= known
    assert len(said) > 1000
    assert not known & set("{}abcdefghijklmnopqrstuvwxyz")


def test_splits_share_no_voice(example: Any) -> None:
    splits = [
        {s.name for s in example.voices.speakers(split, 0)} for split in example.voices.VARIANTS
    ]
    assert len(set.union(*splits)) == sum(map(len, splits))


def test_a_longer_plan_begins_with_the_shorter(example: Any) -> None:
    plan = example.synthesize.plan
    assert plan("train", 60, 0)[:25] == plan("train", 25, 0)
    assert plan("train", 25, 0) != plan("train", 25, 1)


def _tone(frequency_hz: float, rate_hz: int) -> np.ndarray:
    time_s = np.arange(rate_hz) / rate_hz
    return np.sin(2 * np.pi * frequency_hz * time_s).astype(np.float32)


@pytest.mark.parametrize("frequency_hz", [100, 1000, 4000, 6000])
def test_resampling_keeps_a_tone(example: Any, frequency_hz: int) -> None:
    got = example.acoustics.resample(_tone(frequency_hz, 22_050), 22_050, 16_000)
    assert got.dtype == np.float32
    assert len(got) == 16_000
    middle = slice(200, -200)  # the edges see the silence around the recording
    wanted = _tone(frequency_hz, 16_000)
    assert np.abs(got[middle] - wanted[middle]).max() < 0.002


@pytest.mark.parametrize("frequency_hz", [8700, 9500, 11000])
def test_resampling_folds_nothing_back(example: Any, frequency_hz: int) -> None:
    got = example.acoustics.resample(_tone(frequency_hz, 22_050), 22_050, 16_000)
    assert 20 * np.log10(np.abs(got[200:-200]).max()) < -70


@pytest.mark.parametrize("snr_db", [0.0, 10.0])
def test_noise_has_the_ratio_asked_for(example: Any, snr_db: float) -> None:
    voice = _tone(440, 16_000)
    for kind in example.acoustics.NOISES:
        noisy = example.acoustics.add_noise(voice, kind, snr_db, np.random.default_rng(0))
        ratio = np.mean(voice**2) / np.mean((noisy - voice).astype(np.float64) ** 2)
        assert 10 * np.log10(ratio) == pytest.approx(snr_db, abs=0.01)


def test_the_same_seed_gives_the_same_files(example: Any, tmp_path: Path) -> None:
    made = []
    for name, count in (("first", 20), ("second", 20), ("shorter", 12)):
        manifest = example.synthesize.synthesize(tmp_path / name, "gate", count)
        entries = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
        audio = [(manifest.parent / entry["audio"]).read_bytes() for entry in entries]
        made.append((entries, audio))
    assert made[0] == made[1]
    # 14 voices: in the first 20 some speak twice, and their second sentence changes nothing.
    assert [part[:12] for part in made[0]] == [part[:12] for part in made[2]]


def test_the_manifest_is_one_that_asrcompress_reads(example: Any, tmp_path: Path) -> None:
    from asrcompress.audio import read_audio
    from asrcompress.manifests.manifest import load_manifest

    utterances = load_manifest(example.synthesize.synthesize(tmp_path, "dev", 3))
    assert [item.utt for item in utterances] == ["dev-00000", "dev-00001", "dev-00002"]
    for item in utterances:
        samples = read_audio(item.audio)
        assert len(samples) / 16_000 == pytest.approx(item.duration_s, abs=1e-3)
        assert 0.05 < np.abs(samples).max() < 0.75  # peaks at -24 to -3 dB
        assert item.speaker is not None and item.text
