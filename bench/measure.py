"""Contenders timed against each other: cold in fresh processes, warm in turns.

A machine's speed drifts by more than what is to be measured, so in every round each contender takes
its turn on the same recording, in rotating order; what is compared is the ratio within a round.
Each one lives in a process of its own, or its memory would be the others' too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asrcompress.runtime.decode import greedy
from asrcompress.tokens import Vocabulary, without_marks
from bench.artifact import Artifact, NotRun
from bench.inputs import Input
from bench.process import Worker

# Threads of some libraries poll for a moment behind a call, which the next one would pay for.
_PAUSE_S = 0.02
_WARM_UPS = 2
# Who takes longer than this for a recording is called a few times only: some need a minute.
_PATIENCE_S = 5.0
_FEW_ROUNDS = 3
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cold:
    """A fresh process that hears one recording.

    Attributes:
        import_s, load_s: of the library, then of the model.
        first_s: the first call.
        peak_rss_bytes: of the process, from its beginning to the end of the call.
    """

    import_s: float
    load_s: float
    first_s: float
    peak_rss_bytes: int


def measure_cold(name: str, artifact: Artifact, item: Input) -> Cold:
    """One thread.

    Raises:
        NotRun: it died.
    """
    with Worker(name, artifact, threads=1) as worker:
        answer = worker.run(item.path)
        return Cold(
            import_s=worker.import_s,
            load_s=worker.load_s,
            first_s=float(answer["seconds"]),
            peak_rss_bytes=int(answer["peak_rss_bytes"]),
        )


def measure_warm(
    artifacts: Mapping[str, Artifact],
    inputs: Sequence[Input],
    *,
    threads: int,
    rounds: Callable[[float], int],
    say: Say,
) -> tuple[dict[str, list[list[float]]], dict[str, str]]:
    """Seconds per call: name -> per input, per round; the slowest have the first rounds only.

    Args:
        rounds: how many for a recording of some seconds.
    Returns:
        the times, and who dropped out and why; no times are kept of those.
    """
    times: dict[str, list[list[float]]] = {}
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name, artifact in artifacts.items():
            try:
                worker = stack.enter_context(Worker(name, artifact, threads=threads))
                for item in inputs:
                    worker.run(item.path)
            except NotRun as error:
                failed[name] = str(error)
                continue
            workers[name], times[name] = worker, [[] for _ in inputs]
        for index, item in enumerate(inputs):
            count = rounds(item.seconds)
            say(f"  {item.seconds:g} s, {threads} thread(s), {count} rounds")
            for turn in range(count + _WARM_UPS):
                for name in rotated(list(workers), turn):
                    own = times[name][index]
                    if len(own) >= _FEW_ROUNDS and own[-1] > _PATIENCE_S:
                        continue
                    seconds = _timed(workers[name], item)
                    if turn >= _WARM_UPS:
                        own.append(seconds)
    return times, failed


def rotated(names: Sequence[str], turn: int) -> Iterator[str]:
    """All of them, beginning with another one each turn."""
    for step in range(len(names)):
        yield names[(turn + step) % len(names)]


def _timed(worker: Worker, item: Input) -> float:
    time.sleep(_PAUSE_S)
    return float(worker.run(item.path)["seconds"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What a contender made of some recordings.

    Attributes:
        symbols: best symbol of each frame, per recording; empty where only texts are known.
        log_probs: of the first recordings, as many as were asked for; likewise.
        texts: per recording, letter by letter as our runtime would print it.
    """

    symbols: tuple[np.ndarray, ...]
    log_probs: tuple[np.ndarray, ...]
    texts: tuple[str, ...]


def hear(
    name: str,
    artifact: Artifact,
    inputs: Sequence[Input],
    vocabulary: Vocabulary,
    scratch: Path,
    *,
    keep: int,
) -> Heard:
    """Everything once, one thread, greedily decoded.

    Args:
        scratch: folder for what workers write.
        keep: of how many recordings the log-probabilities are kept.
    Raises:
        NotRun: it died.
    """
    output = scratch / "log_probs.npy"
    symbols: list[np.ndarray] = []
    kept: list[np.ndarray] = []
    texts: list[str] = []
    with Worker(name, artifact, threads=1) as worker:
        for item in inputs:
            text = worker.hear(item.path, output)
            if text is None:
                log_probs = np.load(output)
                symbols.append(log_probs.argmax(axis=-1))
                kept += [log_probs] if len(kept) < keep else []
                text = vocabulary.ids_to_text(greedy(log_probs, vocabulary.blank_id))
            texts.append(without_marks(text.strip()))
    return Heard(symbols=tuple(symbols), log_probs=tuple(kept), texts=tuple(texts))


def integer_share(name: str, artifact: Artifact) -> float:
    """Of the multiply-accumulates: as built, or by what the library says.

    Raises:
        NotRun: it died.
    """
    if artifact.integer_share is not None:
        return artifact.integer_share
    with Worker(name, artifact, threads=1) as worker:
        return worker.integer_share()
