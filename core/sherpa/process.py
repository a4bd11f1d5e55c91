"""sherpa-onnx in a process of its own: what it heard, or why it died."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrcompress.console import Advance
from asrcompress.errors import MissingExtra, SherpaFailed

_TAIL = 600  # characters of its last words that an error repeats
_MISSING_KEY = re.compile(r"'(\w+)' does not exist in the metadata")
_MISSING_BLANK = re.compile(r"We expect that tokens\.txt contains")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A piece of audio.

    Attributes:
        start_s, end_s: in the file, in seconds; all of it where None.
    """

    path: Path
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SherpaJob:
    """What sherpa-onnx is started with.

    Attributes:
        slot: see `asrcompress.sherpa.record.SLOTS`.
        width: features per frame.
        chunk_size, left_chunks: of the streaming slot; 0 in the others.
        padding_samples: silence behind each recording of the streaming slot.
    """

    slot: str
    model: Path
    tokens: Path
    width: int
    chunk_size: int = 0
    left_chunks: int = 0
    padding_samples: int = 0
    threads: int = 1

    def to_json(self, audio: Sequence[Recording]) -> dict[str, Any]:
        """As `asrcompress.sherpa.worker` reads it."""
        return {
            "slot": self.slot,
            "model": str(self.model.absolute()),
            "tokens": str(self.tokens.absolute()),
            "width": self.width,
            "chunk_size": self.chunk_size,
            "left_chunks": self.left_chunks,
            "padding_samples": self.padding_samples,
            "threads": self.threads,
            "audio": [
                {"path": str(item.path.absolute()), "start_s": item.start_s, "end_s": item.end_s}
                for item in audio
            ],
        }


def require_sherpa() -> None:
    """Refuse to go on without sherpa-onnx.

    Raises:
        MissingExtra: it is not installed.
    """
    if importlib.util.find_spec("sherpa_onnx") is None:
        raise MissingExtra("sherpa-onnx", "sherpa")


def hear_in_sherpa(job: SherpaJob, audio: Sequence[Recording], advance: Advance) -> list[str]:
    """What sherpa-onnx makes of each recording; text as it prints it, without ends of white space.

    Raises:
        MissingExtra: sherpa-onnx is not installed.
        SherpaFailed: it died; the message says where and, as far as it told, why.
    """
    require_sherpa()
    order = json.dumps(job.to_json(audio)) + "\n"
    command = [sys.executable, "-m", "asrcompress.sherpa.worker"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads)}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment
        )
        assert process.stdin and process.stdout
        try:
            try:
                process.stdin.write(order.encode())
                process.stdin.close()
            except BrokenPipeError:  # it died before it read; its end is seen below
                pass
            answers: list[dict[str, Any]] = []
            for line in process.stdout:
                answers.append(json.loads(line))
                advance(len(answers) - 1, len(audio))
            code = process.wait()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        log.seek(0)
        said = log.read().decode("utf-8", "replace")
    if code or len(answers) != len(audio) + 1:
        raise _died(job, audio, n_answers=len(answers), code=code, said=said)
    return [str(item["text"]).strip() for item in answers[1:]]


def _died(
    job: SherpaJob, audio: Sequence[Recording], *, n_answers: int, code: int, said: str
) -> SherpaFailed:
    cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    place = f"hearing {audio[n_answers - 1].path}" if n_answers else "loading"
    last_words = " ".join(said[-_TAIL:].split())
    hint = "export it again: asrcompress export --format sherpa-onnx"
    if key := _MISSING_KEY.search(said):
        hint = f"its metadata has no {key[1]}, which the slot {job.slot} reads; {hint}"
    elif _MISSING_BLANK.search(said):
        hint = f"{job.tokens} has no <blk>; {hint}"
    elif not n_answers:
        hint = f"the file is no model of the slot {job.slot}, or is damaged; {hint}"
    return SherpaFailed(
        f"{job.model}: sherpa-onnx ended with {cause} while {place}, {last_words}", hint=hint
    )
