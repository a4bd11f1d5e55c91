"""Audio files in, 16 kHz mono float32 out, and a cure for what is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asrcompress.audio import SAMPLE_RATE_HZ, check_samples, read_audio, to_int16
from asrcompress.errors import BadAudio

Speech = Callable[..., np.ndarray]


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_16_bit_formats_are_read_bit_for_bit(tmp_path: Path, suffix: str) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, 4000).astype(np.int16)
    samples[:2] = -32768, 32767
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, samples, SAMPLE_RATE_HZ, subtype="PCM_16")
    read = read_audio(path)
    assert read.dtype == np.float32
    assert np.array_equal(to_int16(read), samples)
    assert np.array_equal(to_int16(read), soundfile.read(path, dtype="int16")[0])


def test_opus_is_read(tmp_path: Path, speech: Speech) -> None:
    path = tmp_path / "a.opus"
    soundfile.write(path, speech(2.0), SAMPLE_RATE_HZ, format="OGG", subtype="OPUS")
    read = read_audio(path)
    assert len(read) == 2 * SAMPLE_RATE_HZ
    assert np.corrcoef(read, speech(2.0))[0, 1] > 0.9


def test_loud_opus_saturates_and_does_not_wrap_round(tmp_path: Path) -> None:
    path = tmp_path / "loud.opus"
    t = np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    square = np.sign(np.sin(2 * np.pi * 220 * t)).astype(np.float32)
    soundfile.write(path, square, SAMPLE_RATE_HZ, format="OGG", subtype="OPUS")
    decoded, _ = soundfile.read(path, dtype="float32")
    loud = np.abs(decoded) > 1.01  # what the decoder overshoots
    assert loud.sum() > 100
    ours = to_int16(read_audio(path))
    assert np.array_equal(np.sign(ours[loud]), np.sign(decoded[loud]))


def test_a_part_is_the_slice_of_the_whole(tmp_path: Path, speech: Speech) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, speech(3.0), SAMPLE_RATE_HZ, subtype="PCM_16")
    whole = read_audio(path)
    assert np.array_equal(read_audio(path, start_s=0.5, end_s=1.25), whole[8000:20000])
    assert np.array_equal(read_audio(path, start_s=2.0), whole[32000:])
    assert np.array_equal(read_audio(path, end_s=3.05), whole)  # Kaldi rounds ends up


@pytest.mark.parametrize(("start_s", "end_s"), [(-1, 1), (1, 1), (2, 1), (0, 3.2), (4, None)])
def test_refuses_times_outside(
    tmp_path: Path, speech: Speech, start_s: float, end_s: float | None
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, speech(3.0), SAMPLE_RATE_HZ)
    with pytest.raises(BadAudio, match=r"no audio from .* expected a part of 0 to 3\.000 s"):
        read_audio(path, start_s=start_s, end_s=end_s)


def test_refuses_another_rate_with_the_cure(tmp_path: Path) -> None:
    path = tmp_path / "it's 44k.wav"
    soundfile.write(path, np.zeros(44100), 44100)
    with pytest.raises(BadAudio, match="sample rate 44100 Hz, expected 16000 Hz") as caught:
        read_audio(path)
    assert caught.value.hint.startswith("ffmpeg -i '")
    assert "-ar 16000 -ac 1" in caught.value.hint


def test_refuses_two_channels(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((16000, 2)), 16000)
    with pytest.raises(BadAudio, match="2 channels, expected 1"):
        read_audio(tmp_path / "a.wav")


def test_refuses_what_is_not_audio(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("not audio")
    (tmp_path / "a.raw").write_bytes(bytes(32000))
    with pytest.raises(BadAudio, match="cannot be decoded"):
        read_audio(tmp_path / "a.wav")
    with pytest.raises(BadAudio, match="headerless"):
        read_audio(tmp_path / "a.raw")
    with pytest.raises(BadAudio, match="no such file"):
        read_audio(tmp_path / "b.wav")
    with pytest.raises(BadAudio, match="no such file"):
        read_audio(tmp_path)


def test_refuses_a_flac_that_was_cut_off(tmp_path: Path, speech: Speech) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, speech(3.0), SAMPLE_RATE_HZ)
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(BadAudio, match=r"a\.flac: c(ut off|annot be decoded)"):
        read_audio(path)


def test_refuses_empty_and_too_short(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16000)
    soundfile.write(tmp_path / "short.wav", np.zeros(399), 16000)
    soundfile.write(tmp_path / "frame.wav", np.zeros(400), 16000)
    with pytest.raises(BadAudio, match="is empty"):
        read_audio(tmp_path / "none.wav")
    with pytest.raises(BadAudio, match="too short, got 399 samples"):
        read_audio(tmp_path / "short.wav")
    assert len(read_audio(tmp_path / "frame.wav")) == 400


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_values_that_are_not_finite(tmp_path: Path, bad: float) -> None:
    samples = np.zeros(1000, np.float32)
    samples[500] = bad
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(BadAudio, match=r"a\.wav: has samples that are not finite"):
        read_audio(tmp_path / "a.wav")


def test_float_samples_on_the_16_bit_scale_are_refused_and_slight_overshoot_clipped() -> None:
    samples = np.zeros(1000, np.float32)
    samples[3] = 1.5
    assert check_samples(samples).max() == np.float32(32767 / 32768)
    assert samples[3] == 1.5  # the caller's array is its own
    samples[3] = 12000
    with pytest.raises(BadAudio, match="got a peak of 12000") as caught:
        check_samples(samples)
    assert "32768" in caught.value.hint


def test_arrays_may_be_int16_or_float64_and_nothing_else() -> None:
    counts = np.arange(-500, 500, dtype=np.int16)
    assert np.array_equal(to_int16(check_samples(counts)), counts)
    assert check_samples(np.zeros(400)).dtype == np.float32
    with pytest.raises(BadAudio, match="samples are int32, expected float32 or int16"):
        check_samples(counts.astype(np.int32))
    with pytest.raises(BadAudio, match=r"shape \(400, 1\)"):
        check_samples(np.zeros((400, 1)))
    with pytest.raises(BadAudio, match="shape list"):
        check_samples([0.0] * 400)  # type: ignore[arg-type]


def test_int16_rounds_half_to_even_and_saturates() -> None:
    values = np.array([0.5, 1.5, 2.4, -0.5, 40000, -40000], np.float32) / 32768
    assert to_int16(values).tolist() == [0, 2, 2, 0, 32767, -32768]
