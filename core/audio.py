"""Audio into the form that every part of asrcompress works on: 16 kHz, mono, float32.

Files are decoded as floating point and brought onto the 16-bit grid by `to_int16` where features
are computed. For 16-bit WAV and FLAC, which PaddleSpeech trains on, this is bit for bit what its
``soundfile.read(dtype="int16")`` gives. For Opus it is not, on purpose: libsndfile (1.2.2) scales
by 32767 and does not saturate, so that a sample of 1.05 comes out as -0.95, a click in place of a
loud vowel. Here it saturates.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import numpy as np

from asrcompress.errors import BadAudio
from asrcompress.files import reading

SAMPLE_RATE_HZ = 16000
MIN_SAMPLES = 400
"""One analysis frame: 25 ms at 16 kHz."""
MAX_SECONDS = 1800
"""Half an hour, 115 MB of samples. No network here takes even four minutes at once."""

# A declared end may lie this far past the audio: Kaldi's segments are rounded to 10 ms or more.
_END_SLACK_S = 0.1
# Decoders overshoot full scale a little (1.8 was seen); more means samples that were never scaled.
_MAX_PEAK = 8.0
_INT16_MAX = 32767
_FULL_SCALE = np.float32(32768.0)


def read_audio(
    path: Path, *, start_s: float | None = None, end_s: float | None = None
) -> np.ndarray:
    """Samples of an audio file, or of the part between two times.

    Args:
        path: WAV, FLAC, Ogg Opus or anything else that libsndfile reads; 16 kHz, mono.
        start_s: first moment to read, in seconds; the beginning where None.
        end_s: moment to stop at, in seconds; the end where None.
    Returns:
        float32, shape (n_samples,), in [-1, 1); louder samples are clipped.
    Raises:
        BadAudio: not there, not decodable, another rate, several channels, a time outside of the
            audio, shorter than one frame or longer than half an hour, not finite, or not scaled to
            [-1, 1).
    """
    path = Path(path)
    if not os.path.isfile(path):  # pathlib raises where a name is too long
        raise BadAudio(f"{path}: no such file")
    with reading(path, BadAudio), open(path, "rb"):  # libsndfile says only "System error"
        pass
    return check_samples(_decode(path, start_s, end_s), item=str(path))


def check_samples(
    samples: np.ndarray, *, item: str = "samples", at_least: int = MIN_SAMPLES
) -> np.ndarray:
    """`samples` as float32 in [-1, 1), or a `BadAudio` that says what is wrong with them.

    Args:
        samples: shape (n_samples,); floats in [-1, 1), or int16.
        item: what to call them in a message.
        at_least: fewer samples than this are refused; 1 or more.
    """
    if not isinstance(samples, np.ndarray) or samples.ndim != 1:
        shape = getattr(samples, "shape", type(samples).__name__)
        raise BadAudio(f"{item}: has shape {shape}, expected (n_samples,), one channel")
    if samples.dtype == np.int16:
        samples = samples / _FULL_SCALE
    elif samples.dtype.kind != "f":
        raise BadAudio(f"{item}: samples are {samples.dtype}, expected float32 or int16")
    if len(samples) < at_least:
        raise BadAudio(
            f"{item}: too short, got {len(samples)} samples, "
            f"expected {at_least} ({at_least * 1000 / SAMPLE_RATE_HZ:g} ms) or more"
        )
    # min and max see every NaN and infinity and allocate nothing.
    low, high = float(samples.min()), float(samples.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise BadAudio(f"{item}: has samples that are not finite")
    if max(-low, high) > _MAX_PEAK:
        raise BadAudio(
            f"{item}: not scaled, got a peak of {max(-low, high):.6g}, expected [-1, 1)",
            hint="divide 16-bit samples by 32768",
        )
    checked: np.ndarray = samples.astype(np.float32, copy=False)
    if low < -1.0 or high >= 1.0:
        checked = np.clip(checked, -1.0, _INT16_MAX / _FULL_SCALE)
    return checked


def to_int16(samples: np.ndarray) -> np.ndarray:
    """int16 of float samples in [-1, 1): times 32768, rounded half to even, saturated."""
    scaled: np.ndarray = np.rint(samples * _FULL_SCALE)
    np.clip(scaled, -_INT16_MAX - 1, _INT16_MAX, out=scaled)
    return scaled.astype(np.int16)


def _decode(path: Path, start_s: float | None, end_s: float | None) -> np.ndarray:
    import soundfile  # lazily: it loads a shared library, and arrays do not need it

    if path.suffix.lower() == ".raw":  # soundfile would ask for the format that the file lacks
        raise BadAudio(f"{path}: headerless audio, expected a format that states its rate")
    try:
        with soundfile.SoundFile(path) as file:
            _check_format(path, file.samplerate, file.channels)
            start, stop = _span(path, file.frames, start_s, end_s)
            if start:
                file.seek(start)
            samples: np.ndarray = file.read(stop - start, dtype="float32")
    except soundfile.SoundFileError as error:
        raise BadAudio(f"{path}: cannot be decoded, {error}", hint=_cure(path)) from error
    if len(samples) != stop - start:
        raise BadAudio(
            f"{path}: cut off, got {len(samples)} samples, expected the {stop - start} it declares"
        )
    return samples


def _check_format(path: Path, sample_rate_hz: int, channels: int) -> None:
    if sample_rate_hz != SAMPLE_RATE_HZ:
        raise BadAudio(
            f"{path}: sample rate {sample_rate_hz} Hz, expected {SAMPLE_RATE_HZ} Hz",
            hint=_cure(path),
        )
    if channels != 1:
        raise BadAudio(f"{path}: {channels} channels, expected 1", hint=_cure(path))


def _span(
    path: Path, n_samples: int, start_s: float | None, end_s: float | None
) -> tuple[int, int]:
    """First sample and the one after the last."""
    start = round((start_s or 0.0) * SAMPLE_RATE_HZ)
    stop = n_samples if end_s is None else round(end_s * SAMPLE_RATE_HZ)
    if n_samples < stop <= n_samples + _END_SLACK_S * SAMPLE_RATE_HZ:
        stop = n_samples
    if n_samples == 0:
        raise BadAudio(f"{path}: is empty")
    if not 0 <= start < stop <= n_samples:
        raise BadAudio(
            f"{path}: no audio from {start_s} s to {end_s} s, "
            f"expected a part of 0 to {n_samples / SAMPLE_RATE_HZ:.3f} s"
        )
    if stop - start > MAX_SECONDS * SAMPLE_RATE_HZ:
        raise BadAudio(
            f"{path}: too long, got {(stop - start) / SAMPLE_RATE_HZ:.1f} s, "
            f"expected at most {MAX_SECONDS} s",
            hint="split it at pauses, or let the manifest list parts of it",
        )
    return start, stop


def _cure(path: Path) -> str:
    source, target = shlex.quote(str(path)), shlex.quote(f"{path.stem}-16k.wav")
    return f"ffmpeg -i {source} -ar {SAMPLE_RATE_HZ} -ac 1 {target}"
