"""Training curves for VisualDL, where it is installed: ``visualdl --logdir RUN/visualdl``.

PaddleSpeech brings VisualDL along, but nothing here depends on it: metrics.jsonl holds the same
numbers, and a writer that cannot be had costs the curves in VisualDL and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Scalars:
    """Curves by name.

    Args:
        writer: VisualDL's LogWriter, or None to write nothing.
    """

    def __init__(self, writer: Any | None) -> None:
        self._writer = writer

    def add(self, step: int, values: Mapping[str, float | None]) -> None:
        """Add a point to each curve; None is left out."""
        if self._writer is None:
            return
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(tag=f"train/{name}", step=step, value=value)


@contextmanager
def scalar_log(folder: Path) -> Iterator[Scalars]:
    """Curves written to `folder`, a new file each time; closed at the end."""
    writer = _writer(folder)
    try:
        yield Scalars(writer)
    finally:
        if writer is not None:
            writer.close()


def _writer(folder: Path) -> Any | None:
    try:
        from visualdl import LogWriter

        return LogWriter(logdir=str(folder))
    # VisualDL 2.5 needs pandas, a web framework and a matching protobuf: any may be amiss.
    except (ImportError, AttributeError, OSError, TypeError):
        return None
