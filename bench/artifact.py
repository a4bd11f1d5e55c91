"""What a contender is once it is built: files, and how its worker is started with them."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class NotRun(Exception):
    """A contender that cannot be built or run here; the table says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What some contenders have to know.

    Attributes:
        work: folder of environments.
        lengths_s: of the benchmark's audio; Paddle Lite has a file for each.
        python38: for Paddle Lite; looked up where None.
    """

    work: Path
    lengths_s: tuple[float, ...]
    python38: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A built contender.

    Attributes:
        engine: a key of `bench.worker.ENGINES`.
        spec: what the engine is made with.
        size_bytes: of its model file, weights included.
        integer_share: of the multiply-accumulates; None where the worker has to be asked.
        python: interpreter that has its library.
        note: what a reader of the table has to know.
    """

    engine: str
    spec: dict[str, Any] = field(default_factory=dict)
    size_bytes: int
    integer_share: float | None
    python: str = sys.executable
    note: str = ""

    def __post_init__(self) -> None:
        if self.size_bytes <= 0:
            raise ValueError(f"{self.engine}: size_bytes: got {self.size_bytes}, expected > 0")
        if self.integer_share is not None and not 0 <= self.integer_share <= 1:
            raise ValueError(
                f"{self.engine}: integer_share: got {self.integer_share}, expected 0 to 1"
            )

    def write(self, path: Path) -> None:
        """As JSON, for the next time."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Artifact:
        """What `write` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def size_of(*paths: Path) -> int:
    """Bytes of some files together."""
    return sum(path.stat().st_size for path in paths)
