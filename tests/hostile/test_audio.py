"""Audio that is none, is another's, or is too much."""

from __future__ import annotations

import resource
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

NOISE = np.random.default_rng(0).normal(0, 0.1, 16000)


def audio(
    place: Any, name: str, samples: np.ndarray, rate: int = 16000, **options: Any
) -> list[Any]:
    """A file of these samples."""
    place.audio(name, samples, rate, **options)
    return ["transcribe", place.bundle, name]


def raw(place: Any, name: str, content: bytes | str) -> list[Any]:
    """A file of these bytes."""
    place.write(name, content)
    return ["transcribe", place.bundle, name]


def cut(place: Any, name: str, share: float) -> list[Any]:
    """The first part of a file."""
    audio(place, name, NOISE)
    whole = (place.path / name).read_bytes()
    return raw(place, name, whole[: int(len(whole) * share)])


def wav(
    n_bytes: int, *, rate: int = 16000, channels: int = 1, bits: int = 16, kind: int = 1
) -> bytes:
    """A WAV header that promises `n_bytes` of samples."""
    block = channels * bits // 8
    header = struct.pack("<HHIIHH", kind, channels, rate, rate * block, block, bits)
    size = min(n_bytes + 36, 2**32 - 1)
    return (
        b"RIFF"
        + struct.pack("<I", size)
        + b"WAVEfmt \x10\0\0\0"
        + header
        + b"data"
        + struct.pack("<I", n_bytes)
    )


def two_hours(place: Any, *, manifest: bool = False) -> list[Any]:
    """230 MB that take no room: a sparse file."""
    path = place.write("long.wav", wav(2 * 3600 * 32000))
    with path.open("r+b") as file:
        file.truncate(44 + 2 * 3600 * 32000)
    if manifest:
        place.lines("m", {"audio": str(path), "text": "开"})
        return ["evaluate", place.bundle, "--manifest", "m"]
    return ["transcribe", place.bundle, "long.wav"]


def folder(place: Any) -> list[Any]:
    (place.path / "a.wav").mkdir()
    return ["transcribe", place.bundle, "a.wav"]


def second(place: Any) -> list[Any]:
    """A good file and a bad one."""
    place.write("b.wav", "no audio")
    return ["transcribe", place.bundle, place.wav, "b.wav"]


def listed(place: Any, **span: float) -> list[Any]:
    """A manifest with a span that the audio does not have."""
    place.lines("m", {"utt": "u", "audio": str(place.wav), "text": "开", **span})
    return ["evaluate", place.bundle, "--manifest", "m"]


CASES: list[tuple[str, Callable[[Any], list[Any]], str]] = [
    ("missing", lambda p: ["transcribe", p.bundle, "no.wav"], "no.wav: no such file"),
    (
        "a name that is too long",
        lambda p: ["transcribe", p.bundle, "a" * 300],
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa: no such file",
    ),
    ("a folder", folder, "a.wav: no such file"),
    (
        "empty",
        lambda p: raw(p, "a.wav", b""),
        "a.wav: cannot be decoded, Error opening 'a.wav': Format not recognised.",
    ),
    (
        "text",
        lambda p: raw(p, "a.wav", "this is no audio\n"),
        "a.wav: cannot be decoded, Error opening 'a.wav': Format not recognised.",
    ),
    (
        "HTML",
        lambda p: raw(p, "a.flac", "<html>404</html>"),
        "a.flac: cannot be decoded, Error opening 'a.flac': Format not recognised.",
    ),
    (
        "headerless",
        lambda p: raw(p, "a.raw", bytes(32000)),
        "a.raw: headerless audio, expected a format that states its rate",
    ),
    ("a WAV header alone", lambda p: raw(p, "a.wav", wav(0)), "a.wav: is empty"),
    (
        "a WAV header cut off",
        lambda p: raw(p, "a.wav", wav(0)[:20]),
        "a.wav: cannot be decoded, Error opening 'a.wav': Error in WAV/W64/RF64 file. Malformed 'fmt ' chunk.",
    ),
    (
        "a WAV header that lies",
        lambda p: raw(p, "a.wav", wav(2**32 - 100) + bytes(200)),
        "a.wav: too short, got 100 samples, expected 400 (25 ms) or more",
    ),
    (
        "a FLAC cut off",
        lambda p: cut(p, "a.flac", 0.5),
        "a.flac: cannot be decoded, Error : flac decoder lost sync.",
    ),
    (
        "an Opus cut off",
        lambda p: cut(p, "a.ogg", 0.02),
        "a.ogg: cannot be decoded, Error opening 'a.ogg': Supported file format but file is malformed.",
    ),
    (
        "a WAV cut to 10 ms",
        lambda p: cut(p, "a.wav", 0.01),
        "a.wav: too short, got 138 samples, expected 400 (25 ms) or more",
    ),
    ("no samples", lambda p: audio(p, "a.wav", NOISE[:0]), "a.wav: is empty"),
    (
        "10 ms",
        lambda p: audio(p, "a.wav", NOISE[:160]),
        "a.wav: too short, got 160 samples, expected 400 (25 ms) or more",
    ),
    (
        "399 samples",
        lambda p: audio(p, "a.flac", NOISE[:399]),
        "a.flac: too short, got 399 samples, expected 400 (25 ms) or more",
    ),
    (
        "three frames",
        lambda p: audio(p, "a.wav", NOISE[:720]),
        "a.wav: too short, got 3 frames of 10 ms, expected at least 7",
    ),
    (
        "8 kHz",
        lambda p: audio(p, "a.wav", NOISE, 8000),
        "a.wav: sample rate 8000 Hz, expected 16000 Hz",
    ),
    (
        "44.1 kHz",
        lambda p: audio(p, "a.flac", NOISE, 44100),
        "a.flac: sample rate 44100 Hz, expected 16000 Hz",
    ),
    (
        "48 kHz Opus",
        lambda p: audio(p, "a.ogg", NOISE, 48000, format="OGG", subtype="OPUS"),
        "a.ogg: sample rate 48000 Hz, expected 16000 Hz",
    ),
    (
        "a rate of 1 Hz",
        lambda p: raw(p, "a.wav", wav(1000, rate=1) + bytes(1000)),
        "a.wav: sample rate 1 Hz, expected 16000 Hz",
    ),
    (
        "stereo",
        lambda p: audio(p, "a.wav", np.stack([NOISE, NOISE], 1)),
        "a.wav: 2 channels, expected 1",
    ),
    (
        "six channels",
        lambda p: audio(p, "a.flac", np.stack([NOISE] * 6, 1)),
        "a.flac: 6 channels, expected 1",
    ),
    (
        "NaN",
        lambda p: audio(p, "a.wav", np.full(16000, np.nan, "f4"), subtype="FLOAT"),
        "a.wav: has samples that are not finite",
    ),
    (
        "one infinity",
        lambda p: audio(p, "a.wav", np.r_[NOISE, np.inf], subtype="FLOAT"),
        "a.wav: has samples that are not finite",
    ),
    (
        "int16 stored as floats",
        lambda p: audio(p, "a.wav", NOISE * 32768, subtype="FLOAT"),
        "a.wav: not scaled, got a peak of 13183.1, expected [-1, 1)",
    ),
    (
        "6 s where 5 fit",
        lambda p: audio(p, "a.wav", np.tile(NOISE, 6)),
        "a.wav: too long, got 6.0 s, expected at most 5.0 s",
    ),
    ("two hours", two_hours, "long.wav: too long, got 7200.0 s, expected at most 1800 s"),
    (
        "two hours in a manifest",
        lambda p: two_hours(p, manifest=True),
        "TMP/long.wav: TMP/long.wav: too long, got 7200.0 s, expected at most 1800 s",
    ),
    (
        "the second of two",
        second,
        "b.wav: cannot be decoded, Error opening 'b.wav': Format not recognised.",
    ),
    (
        "a span past the end",
        lambda p: listed(p, start=0.5, end=2.0),
        "u: TMP/good.wav: no audio from 0.5 s to 2.0 s, expected a part of 0 to 1.000 s",
    ),
    (
        "a span of nothing",
        lambda p: listed(p, start=5.0),
        "u: TMP/good.wav: no audio from 5.0 s to None s, expected a part of 0 to 1.000 s",
    ),
    (
        "a span of 5 ms",
        lambda p: listed(p, start=0.5, end=0.505),
        "u: TMP/good.wav: too short, got 80 samples, expected 400 (25 ms) or more",
    ),
]


@pytest.mark.parametrize(("make", "message"), [pytest.param(*c[1:], id=c[0]) for c in CASES])
def test_is_refused(check: Any, make: Any, message: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check(make, message)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000, "KB"
