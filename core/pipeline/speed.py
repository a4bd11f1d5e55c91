"""``asrcompress bench``: bundles side by side, on the user's audio or on noise."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from asrcompress.audio import SAMPLE_RATE_HZ
from asrcompress.runtime.benchmark import Comparison, compare

_NOISE_SECONDS = (2, 5, 10)


def compare_bundles(
    bundles: Sequence[Path],
    audio: Sequence[Path],
    *,
    threads: int,
    rounds: int,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Measure `bundles`; the first is the one that speed-ups are relative to.

    Args:
        audio: recordings; none means noise of 2, 5 and 10 seconds, since a CTC encoder takes as
            long for noise as for speech.
        progress: called with what is done and the total.
    Raises:
        BadBundle, BadAudio: see `asrcompress.runtime.benchmark.compare`.
    """
    if audio:
        return compare(bundles, audio, threads=threads, rounds=rounds, progress=progress)
    with tempfile.TemporaryDirectory(prefix="asrcompress-") as folder:
        paths = [_write_noise(Path(folder), seconds) for seconds in _NOISE_SECONDS]
        return compare(bundles, paths, threads=threads, rounds=rounds, progress=progress)


def _write_noise(folder: Path, seconds: int) -> Path:
    import soundfile

    samples = np.random.default_rng(seconds).normal(0, 0.05, seconds * SAMPLE_RATE_HZ)
    path = folder / f"noise-{seconds}s.wav"
    soundfile.write(path, samples.astype(np.float32), SAMPLE_RATE_HZ, subtype="PCM_16")
    return path
