"""``transcribe --stream``: files and standard input as if a microphone gave them."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from asrcompress.console import Console

if TYPE_CHECKING:
    import numpy as np

    from asrcompress.runtime import Transcriber

STDIN = Path("-")
# 100 ms, which is also what most microphones deliver at a time.
_PIECE_SAMPLES = 1600


def hear(transcriber: Transcriber, audio: Sequence[Path], *, console: Console, json: bool) -> None:
    """Print every utterance as soon as it is over: path, beginning and end in seconds, text.

    What is being said is shown on stderr while it changes; with `json`, one object at the end.
    """
    from asrcompress.cli import render

    found: list[dict[str, Any]] = []
    for path in audio:
        utterances = []
        for item in transcriber.stream(_pieces(path)):
            if not item.is_final:
                console.say(f"... {item.text}")
                continue
            utterances.append({**dataclasses.asdict(item)})
            if not json:
                typer.echo(f"{path}\t{item.start_s:.2f}\t{item.end_s:.2f}\t{item.text}")
        found.append({"audio": str(path), "utterances": utterances})
    if json:
        render.show({"transcripts": found}, "", json=True)


def _pieces(path: Path) -> Iterator[np.ndarray]:
    """Samples, 100 ms at a time; of stdin as they come, signed 16-bit little-endian at 16 kHz."""
    import numpy as np

    from asrcompress.audio import read_audio

    if path == STDIN:
        rest = b""
        while piece := sys.stdin.buffer.read(2 * _PIECE_SAMPLES):
            piece = rest + piece
            even = len(piece) - len(piece) % 2
            rest = piece[even:]
            yield np.frombuffer(piece[:even], "<i2")
        return
    samples = read_audio(path)
    for start in range(0, len(samples), _PIECE_SAMPLES):
        yield samples[start : start + _PIECE_SAMPLES]
