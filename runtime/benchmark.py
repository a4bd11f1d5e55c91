"""Bundles against each other on one machine: speed, memory, load time, size.

A machine's speed drifts by more than what is to be measured, so each recording goes through every
bundle in turn, in rotating order, before the next one does; what is compared is the ratio within
a round, and what is reported is the median of the ratios. Each bundle lives in a process of its
own, or its memory and load time would be the others' too.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from asrcompress import errors, strict_json
from asrcompress.bundles.bundle import Bundle, read_bundle
from asrcompress.errors import AsrCompressError, BadBundle, BadManifest, BadRecipe

_LOADS = 3
_CHILD = "from asrcompress.runtime.worker import main; main()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One bundle's numbers. Latency is from samples in memory to text, features included.

    Attributes:
        size_bytes: on disk, everything in the bundle.
        load_s: median time to check and load it.
        peak_rss_bytes: most memory of a process that did nothing else.
        rtf: median over rounds of processing time over duration of audio.
        latency_p50_s, latency_p95_s: per recording, over all rounds.
        speedup: median over rounds of (the first bundle's time / this one's); 1 for the first.
        speedup_min, speedup_max: over rounds.
        same_texts: recordings with the same text as from the first bundle.
    """

    bundle: str
    precision: str
    size_bytes: int
    load_s: float
    peak_rss_bytes: int
    rtf: float
    latency_p50_s: float
    latency_p95_s: float
    speedup: float
    speedup_min: float
    speedup_max: float
    same_texts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Bundles measured side by side; the first is the one that others are compared with."""

    cpu: str
    onnxruntime: str
    threads: int
    beam: int
    rounds: int
    n_recordings: int
    audio_s: float
    measurements: tuple[Measurement, ...]

    def to_json(self) -> dict[str, Any]:
        """All fields as a JSON object."""
        tree: dict[str, Any] = strict_json.to_json(self)
        return tree


def compare(
    bundles: Sequence[Path],
    audio: Sequence[Path],
    *,
    threads: int = 1,
    rounds: int = 5,
    beam: int = 1,
    loads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Measure `bundles` on the recordings `audio`, interleaved.

    Args:
        loads: fresh processes per bundle that the load time is the median of; None: three.
        progress: called between measurements, with turns done and in all.
    Raises:
        BadBundle: one cannot be loaded, or its process died.
        BadManifest: there is no recording.
        BadAudio: a recording cannot be read.
        BadRecipe: no bundle, or fewer than one round.
    """
    _refuse_nothing(len(bundles), len(audio), rounds)
    checked = [read_bundle(Path(path)) for path in bundles]
    setup = {
        "audio": [str(Path(path).resolve()) for path in audio],
        "threads": threads,
        "beam": beam,
    }
    load_s = _measure_loads(checked, setup, times=loads or _LOADS)
    with ExitStack() as stack:
        workers = [stack.enter_context(_Worker(bundle, setup)) for bundle in checked]
        runs = _run_rounds(workers, len(audio), rounds, progress)
        peaks = [worker.peak_rss_bytes for worker in workers]
    measurements = [
        _summarise(bundle, load_s=load_s[b], peak_rss_bytes=peaks[b], runs=runs, b=b)
        for b, bundle in enumerate(checked)
    ]
    return Comparison(
        cpu=cpu_name(),
        onnxruntime=onnxruntime.__version__,
        threads=threads,
        beam=beam,
        rounds=rounds,
        n_recordings=len(audio),
        audio_s=runs.audio_s,
        measurements=tuple(measurements),
    )


def _refuse_nothing(n_bundles: int, n_recordings: int, rounds: int) -> None:
    if not n_recordings:
        raise BadManifest("benchmark: no recordings, expected at least one")
    if not n_bundles or rounds < 1:
        raise BadRecipe(f"benchmark: got {n_bundles} bundles and {rounds} rounds, expected >= 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Runs:
    """Attributes:
    seconds: float64, shape (n_bundles, n_rounds, n_recordings).
    texts: per bundle, per recording.
    audio_s: duration of all recordings together.
    """

    seconds: np.ndarray
    texts: list[list[str]]
    audio_s: float


def _run_rounds(
    workers: Sequence[_Worker],
    n_recordings: int,
    rounds: int,
    progress: Callable[[int, int], None] | None,
) -> _Runs:
    seconds = np.zeros((len(workers), rounds, n_recordings))
    texts = [[""] * n_recordings for _ in workers]
    durations = [0.0] * n_recordings
    for worker in workers:
        worker.ask({"index": 0})  # the first run of all allocates what later ones find there
    for turn in range(rounds * n_recordings):
        round_, index = divmod(turn, n_recordings)
        for step in range(len(workers)):
            b = (turn + step) % len(workers)
            answer = workers[b].ask({"index": index})
            seconds[b, round_, index] = answer["seconds"]
            texts[b][index] = answer["text"]
            durations[index] = answer["duration_s"]
        if progress is not None:
            progress(turn + 1, rounds * n_recordings)
    return _Runs(seconds=seconds, texts=texts, audio_s=sum(durations))


def _summarise(
    bundle: Bundle, *, load_s: float, peak_rss_bytes: int, runs: _Runs, b: int
) -> Measurement:
    own, first = runs.seconds[b], runs.seconds[0]
    ratios = first.sum(axis=1) / own.sum(axis=1)
    same = [mine == theirs for mine, theirs in zip(runs.texts[b], runs.texts[0], strict=True)]
    return Measurement(
        bundle=str(bundle.path),
        precision=bundle.manifest.precision,
        size_bytes=bundle.size_bytes,
        load_s=load_s,
        peak_rss_bytes=peak_rss_bytes,
        rtf=float(np.median(own.sum(axis=1)) / runs.audio_s),
        latency_p50_s=float(np.percentile(own, 50)),
        latency_p95_s=float(np.percentile(own, 95)),
        speedup=float(np.median(ratios)),
        speedup_min=float(ratios.min()),
        speedup_max=float(ratios.max()),
        same_texts=sum(same),
    )


def _measure_loads(bundles: Sequence[Bundle], setup: dict[str, Any], *, times: int) -> list[float]:
    """Median time to load each bundle, in seconds, in fresh processes, one at a time."""
    nothing = {**setup, "audio": []}
    seconds = np.zeros((times, len(bundles)))
    for round_ in range(times):
        for b, bundle in enumerate(bundles):
            with _Worker(bundle, nothing) as worker:
                seconds[round_, b] = worker.load_s
    medians: list[float] = np.median(seconds, axis=0).tolist()
    return medians


class _Worker:
    """A child process with one bundle loaded (see `asrcompress.runtime.worker`)."""

    def __init__(self, bundle: Bundle, setup: dict[str, Any]) -> None:
        self._path = bundle.path
        self.peak_rss_bytes = 0
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        )
        try:
            self.load_s: float = self.ask({**setup, "bundle": str(bundle.path.resolve())})["load_s"]
        except AsrCompressError:
            self.close()
            raise

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """The child's answer to an order; its error, raised here."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died: what it said last, or nothing, is still to be read
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise BadBundle(f"{self._path}: its process ended in the benchmark, exit code {code}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            kind: type[AsrCompressError] = getattr(errors, answer["error"])
            raise kind(answer["message"], hint=answer["hint"])
        self.peak_rss_bytes = answer["peak_rss_bytes"]
        return answer

    def close(self) -> None:
        """End the child: it stops when its stdin does."""
        self._process.communicate()


def cpu_name() -> str:
    """Of this machine's processor, as the system calls it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
