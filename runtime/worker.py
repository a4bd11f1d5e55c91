"""The child process of `asrcompress.runtime.benchmark`: one bundle, nothing else in memory.

It speaks JSON lines: an order on stdin, an answer on stdout. Started as
``python -c "from asrcompress.runtime.worker import main; main()"`` and not by multiprocessing,
which would import the caller's main module and count its memory too.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from asrcompress.audio import read_audio
from asrcompress.errors import AsrCompressError
from asrcompress.runtime.transcriber import Transcriber


def main() -> None:
    """Serve one benchmark: the first order loads, each further one transcribes a recording."""
    with _answers() as answers:
        try:
            for answer in _serve(json.loads(line) for line in sys.stdin):
                print(json.dumps(answer), file=answers, flush=True)
        except AsrCompressError as error:
            failure = {"error": type(error).__name__, "message": str(error), "hint": error.hint}
            print(json.dumps(failure), file=answers, flush=True)


def _answers() -> TextIO:
    """The real stdout. What libraries print goes to stderr, and not between the answers."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _serve(orders: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    setup = next(orders)
    started = time.perf_counter()
    transcriber = Transcriber(setup["bundle"], threads=setup["threads"], beam=setup["beam"])
    load_s = time.perf_counter() - started
    recordings = [read_audio(Path(path)) for path in setup["audio"]]
    yield {"load_s": load_s, "peak_rss_bytes": peak_rss_bytes()}
    for order in orders:
        samples = recordings[order["index"]]
        started = time.perf_counter()
        transcript = transcriber.transcribe(samples)
        seconds = time.perf_counter() - started
        yield {
            "seconds": seconds,
            "duration_s": transcript.duration_s,
            "text": transcript.text,
            "peak_rss_bytes": peak_rss_bytes(),
        }


def peak_rss_bytes() -> int:
    """Most memory that this process ever held.

    On Linux VmHWM: getrusage's ru_maxrss survives exec, so that the child of a large process
    would report its parent's peak.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
