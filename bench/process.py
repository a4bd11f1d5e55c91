"""A worker process, from the side that asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from asrcompress.worker_process import WorkerProcess
from bench.artifact import Artifact, NotRun

_WORKER = Path(__file__).with_name("worker.py")
_TAIL = 400  # characters of its last words that a message repeats


class Worker(WorkerProcess):
    """One contender, loaded, for as long as the ``with`` block lasts.

    Attributes:
        import_s: time to import its library, in seconds.
        load_s: time to load the model after that.
    """

    def __init__(self, name: str, artifact: Artifact, *, threads: int) -> None:
        """Start it and load the model.

        Raises:
            NotRun: it died; says with which words.
        """
        self.name = name
        super().__init__(artifact.python, _WORKER, threads=threads)
        setup = {"engine": artifact.engine, "spec": artifact.spec, "threads": threads}
        try:
            loaded = self._ask(setup)
        except NotRun:
            self.close()
            raise
        self.import_s, self.load_s = float(loaded["import_s"]), float(loaded["load_s"])

    def run(self, item: Path) -> dict[str, Any]:
        """One timed call: ``seconds``, ``rss_bytes``, ``peak_rss_bytes``.

        Args:
            item: input without its suffix, see `bench.inputs`; kept in the worker's memory.
        """
        return self._ask({"do": "run", "input": str(item)})

    def hear(self, item: Path, output: Path) -> str | None:
        """Text of an input; None where log-probabilities were saved to `output` instead."""
        answer = self._ask({"do": "hear", "input": str(item), "output": str(output)})
        return answer.get("text")

    def integer_share(self) -> float:
        """By what the library says of the kernels that it ran."""
        return float(self._ask({"do": "integer_share"})["integer_share"])

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died(order) from None
        line = self._process.stdout.readline()
        if not line:
            raise self._died(order)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _died(self, order: dict[str, Any]) -> NotRun:
        cause, said = self._last_words(_TAIL)
        return NotRun(f"{self.name}: ended with {cause} in {order.get('do', 'load')}, {said}")
