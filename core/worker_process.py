"""Another Python process that answers orders, from the side that asks.

Libraries abort or crash on what they do not like, and take their process with it; here that leaves
last words to make an exception of.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

P = TypeVar("P", bound="WorkerProcess")


class WorkerProcess:
    """A script with pipes, for as long as the ``with`` block lasts."""

    def __init__(self, python: str | Path, script: Path, *, threads: int) -> None:
        """Start it.

        Args:
            python: interpreter; it need not be this one, and has no part of its environment.
            threads: of its kernels.
        Raises:
            OSError: it cannot be started.
        """
        self._log: Any = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        environment.pop("PYTHONPATH", None)  # of another Python
        try:
            self._process = subprocess.Popen(
                [str(python), "-I", str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=environment,
            )
        except OSError:
            self._log.close()
            raise

    def __enter__(self: P) -> P:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it; a second time does nothing."""
        if self._log.closed:
            return
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                try:
                    stream.close()
                except BrokenPipeError:  # an order that the process never read
                    continue
        self._log.close()

    def _last_words(self, limit: int) -> tuple[str, str]:
        """How it ended, a signal or an exit code, and the last `limit` characters that it said."""
        code = self._process.wait()
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self._log.seek(0)
        return cause, " ".join(self._log.read().decode("utf-8", "replace")[-limit:].split())
