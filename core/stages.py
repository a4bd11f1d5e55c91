"""What each stage of a run made, what it cost and what it gained: ``stages.json``.

A stage is an artifact: the checkpoint, the pruned network before and after its recovery, the INT8
graph. Each is measured on the gate's speech; only the last one is judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from asrcompress import strict_json
from asrcompress.errors import BadRun

NAME, SCHEMA_VERSION = "stages.json", 1
FP32, PRUNED, RECOVERED, INT8 = "fp32", "pruned", "recovered", "int8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One artifact.

    Attributes:
        name: `FP32`, `PRUNED`, `RECOVERED` or `INT8`.
        artifact: where it lies, relative to the run; absolute for the checkpoint.
        edits, reference_chars: on the gate's speech.
        parameters: of the encoder.
        nonzero: of those, how many are not zero.
        size_bytes: of the weights at 4 bytes, or of the graph's file where there is one.
        zipped_bytes: of the same file in a ZIP archive (deflate); None where there is no file.
    """

    name: str
    artifact: str
    edits: int
    reference_chars: int
    parameters: int
    nonzero: int
    size_bytes: int
    zipped_bytes: int | None = None

    @property
    def cer(self) -> float:
        """Character error rate, 0.05 for 5 %."""
        return self.edits / self.reference_chars


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """All stages of a run, in order."""

    stages: tuple[Stage, ...]
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        tree: dict[str, Any] = strict_json.to_json(self)
        return tree

    @staticmethod
    def from_json(tree: object, *, item: str = NAME) -> Stages:
        """The inverse of `to_json`.

        Raises:
            BadRun: not the stages of a run, or of another version.
        """
        found: Stages = strict_json.from_json(Stages, tree, item=item, error=BadRun)
        if found.schema_version != SCHEMA_VERSION:
            raise BadRun(
                f"{item}: schema_version is {found.schema_version}, expected {SCHEMA_VERSION}"
            )
        return found
