"""The page for people at the end of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from asrcompress.console import Console
from asrcompress.errors import AsrCompressError
from asrcompress.run import Run


def report_on(run: Run, write: Callable[[Run], Path], console: Console) -> Path | None:
    """Write it; a run whose page cannot be made is no less finished."""
    try:
        with console.status("writing the report"):
            return write(run)
    except AsrCompressError as error:
        console.warn(f"no report: {error}")
        return None
