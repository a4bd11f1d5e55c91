"""A long stream through a bundle: does it get slower, does it keep memory?

    python -m bench.stream BUNDLE --minutes 60

Synthetic speech without end: seconds of coloured noise, then a pause, so that utterances end as
they do in life; now and then one goes on for longer than any endpoint rule waits.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asrcompress.audio import SAMPLE_RATE_HZ
from asrcompress.runtime import Transcriber
from bench.inputs import coloured_noise
from bench.worker import memory

_VARIANTS = 40  # different utterances; noise is slower to make than to recognise
_LONGEST_EVERY, _LONGEST_S = 10, 30.0
REPO = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Some minutes of the stream.

    Attributes:
        rtf: time over audio, features, network and search together; of the CPU, since over an
            hour others come and go on the machine, and the stream has one thread.
        rtf_p50, rtf_p95: the same per chunk.
        rss_bytes: memory at the end.
        utterances: that ended in it.
    """

    rtf: float
    rtf_p50: float
    rtf_p95: float
    rss_bytes: int
    utterances: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamResult:
    """A stream, window by window; the first one is there to warm up as well."""

    subject: str
    minutes: float
    windows: tuple[Window, ...]

    def __post_init__(self) -> None:
        if len(self.windows) < 2:
            raise ValueError(f"stream: got {len(self.windows)} windows, expected at least 2")

    @property
    def growth_bytes(self) -> int:
        """Of the memory, from the end of the first window to that of the last."""
        return self.windows[-1].rss_bytes - self.windows[0].rss_bytes

    @property
    def drift(self) -> float:
        """Median time per chunk, last window against first."""
        return self.windows[-1].rtf_p50 / self.windows[0].rtf_p50


def stream_for(
    transcriber: Transcriber, *, minutes: float, windows: int, subject: str = ""
) -> StreamResult:
    """Stream `minutes` of audio, a chunk's worth of samples at a time.

    Raises:
        BadBundle: the bundle has no streaming graph.
    """
    stream = transcriber.open_stream()
    manifest = transcriber.bundle.manifest
    assert manifest.streaming is not None  # or there would be no stream
    size = manifest.streaming.hop_frames * manifest.features.shift_samples
    chunk_s = size / SAMPLE_RATE_HZ
    per_window = round(minutes * 60 / chunk_s / windows)
    chunks, found = _chunks(size), []
    for _ in range(windows):
        times, ended = np.zeros(per_window), 0
        for index in range(per_window):
            samples = next(chunks)
            start = time.process_time()
            ended += sum(item.is_final for item in stream.accept(samples))
            times[index] = time.process_time() - start
        rtf = times / chunk_s
        found.append(
            Window(
                rtf=float(rtf.mean()),
                rtf_p50=float(np.percentile(rtf, 50)),
                rtf_p95=float(np.percentile(rtf, 95)),
                rss_bytes=memory()["rss_bytes"],
                utterances=ended,
            )
        )
    return StreamResult(subject=subject, minutes=minutes, windows=tuple(found))


def _chunks(size: int) -> Iterator[np.ndarray]:
    """Samples of one chunk each, for ever."""
    rng = np.random.default_rng(0)
    utterances = [coloured_noise(_length(number, rng), seed=number) for number in range(_VARIANTS)]
    rest = np.empty(0, np.float32)
    while True:
        pause = np.zeros(round(rng.uniform(0.2, 3.0) * SAMPLE_RATE_HZ), np.float32)
        rest = np.concatenate([rest, utterances[rng.integers(_VARIANTS)], pause])
        while len(rest) >= size:
            yield rest[:size]
            rest = rest[size:]


def _length(number: int, rng: np.random.Generator) -> float:
    return _LONGEST_S if number % _LONGEST_EVERY == 0 else float(rng.uniform(1.0, 8.0))


def stream_in_process(bundle: Path, *, minutes: float, windows: int, subject: str) -> StreamResult:
    """`stream_for` in a fresh process, whose memory is the stream's only."""
    command = [sys.executable, "-m", "bench.stream", str(bundle), "--json"]
    command += ["--minutes", str(minutes), "--windows", str(windows)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=REPO, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    tree = json.loads(done.stdout)
    found = tuple(Window(**item) for item in tree["windows"])
    return StreamResult(subject=subject, minutes=minutes, windows=found)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="bench.stream", description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--windows", type=int, default=6)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = stream_for(
        Transcriber(arguments.bundle, streams_only=True),
        minutes=arguments.minutes,
        windows=arguments.windows,
    )
    if arguments.json:
        print(json.dumps(dataclasses.asdict(result)))
        return
    for number, item in enumerate(result.windows, start=1):
        print(
            f"window {number}: RTF {item.rtf:.4f}, per chunk p50 {item.rtf_p50:.4f} "
            f"p95 {item.rtf_p95:.4f}, {item.rss_bytes / 1e6:.1f} MB, {item.utterances} utterances"
        )
    print(f"growth {result.growth_bytes / 1e6:.2f} MB, drift {result.drift:.3f}")


if __name__ == "__main__":
    main()
