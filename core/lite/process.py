"""A process of Paddle Lite's own Python: programs to ``.nb`` files, and ``.nb`` files run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asrcompress.errors import SidecarFailed
from asrcompress.worker_process import WorkerProcess

WORKER = Path(__file__).with_name("worker.py")
_TAIL = 600  # characters of its last words that an error repeats


class LiteProcess(WorkerProcess):
    """The worker of `asrcompress.lite.worker`, for as long as the ``with`` block lasts."""

    def __init__(self, python: Path, *, threads: int = 1) -> None:
        """Start it.

        Args:
            python: interpreter that has paddlelite, see `asrcompress.lite.environment`.
            threads: of its kernels.
        Raises:
            SidecarFailed: it cannot be started.
        """
        try:
            super().__init__(python, WORKER, threads=threads)
        except OSError as error:
            raise SidecarFailed(f"{python}: cannot be run, {error.strerror}") from error

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
        cause, said = self._last_words(_TAIL)
        item = order.get("path") or order.get("model") or order.get("name")
        return SidecarFailed(f"{item}: Paddle Lite ended with {cause} in {order['do']}, {said}")
