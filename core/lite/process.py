"""A process of Paddle Lite's own Python: programs to ``.nb`` files, and ``.nb`` files run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from asrcompress.errors import SidecarFailed

WORKER = Path(__file__).with_name("worker.py")
_TAIL = 600  # characters of its last words that an error repeats


class LiteProcess:
    """The worker of `asrcompress.lite.worker`, for as long as the ``with`` block lasts.

    The library aborts or crashes on what it does not like, and takes its process with it; here
    that becomes an exception.
    """

    def __init__(self, python: Path, *, threads: int = 1) -> None:
        """Start it.

        Args:
            python: interpreter that has paddlelite, see `asrcompress.lite.environment`.
            threads: of its kernels.
        Raises:
            SidecarFailed: it cannot be started.
        """
        self._log: Any = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        environment.pop("PYTHONPATH", None)  # of another Python
        try:
            self._process = subprocess.Popen(
                [str(python), "-I", str(WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=environment,
            )
        except OSError as error:
            self._log.close()
            raise SidecarFailed(f"{python}: cannot be run, {error.strerror}") from error

    def __enter__(self) -> LiteProcess:
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

    def optimize(self, model: Path, params: Path, *, target: str, output: Path) -> None:
        """``opt``: a Paddle program to ``output``, which ends in ``.nb``.

        Args:
            target: Paddle Lite's name of the hardware, ``arm`` or ``x86``.
        Raises:
            SidecarFailed: the process died; the file may be good all the same.
        """
        order = {"do": "optimize", "model": str(model), "params": str(params), "target": target}
        self._ask({**order, "output": str(output.with_suffix(""))})

    def load(self, name: str, path: Path) -> None:
        """Load a ``.nb`` file, to be called `name`.

        Raises:
            SidecarFailed: the process died.
        """
        self._ask({"do": "load", "name": name, "path": str(path)})

    def run(self, name: str, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Outputs of a loaded model for inputs by name.

        Raises:
            SidecarFailed: the process died.
        """
        order = {"do": "run", "name": name, "inputs": list(feeds)}
        return self._ask(order, list(feeds.values()))

    def _ask(self, order: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> list[np.ndarray]:
        assert self._process.stdin and self._process.stdout
        specs = [{"dtype": item.dtype.str, "shape": list(item.shape)} for item in arrays]
        try:
            line = json.dumps({**order, "arrays": specs}).encode() + b"\n"
            self._process.stdin.write(line)
            for item in arrays:
                self._process.stdin.write(np.ascontiguousarray(item).tobytes())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died(order) from None
        answer = self._process.stdout.readline()
        if not answer:
            raise self._died(order)
        return [self._array(spec, order) for spec in json.loads(answer)["arrays"]]

    def _array(self, spec: dict[str, Any], order: dict[str, Any]) -> np.ndarray:
        assert self._process.stdout
        dtype, shape = np.dtype(spec["dtype"]), tuple(spec["shape"])
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        data = self._process.stdout.read(size)
        if len(data) != size:
            raise self._died(order)
        return np.frombuffer(data, dtype).reshape(shape)

    def _died(self, order: dict[str, Any]) -> SidecarFailed:
        code = self._process.wait()
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self._log.seek(0)
        said = " ".join(self._log.read().decode("utf-8", "replace")[-_TAIL:].split())
        item = order.get("path") or order.get("model") or order.get("name")
        return SidecarFailed(f"{item}: Paddle Lite ended with {cause} in {order['do']}, {said}")
