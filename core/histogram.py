"""The shape of each activation as calibration saw it, kept for the report."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from asrcompress import strict_json
from asrcompress.errors import BadRun
from asrcompress.files import write_atomically

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Counts of one edge's values in equal bins over [-limit, limit].

    Attributes:
        absmax: the largest magnitude of all values, those that were not counted included.
        counts: of a sample of the values.
    """

    edge: str
    limit: float
    absmax: float
    counts: tuple[int, ...]


def write_histograms(path: Path, histograms: Iterable[Histogram]) -> None:
    """Write one line per edge, atomically."""
    lines = [json.dumps(strict_json.to_json(item), separators=(",", ":")) for item in histograms]
    body = ",\n".join(lines)
    write_atomically(path, f'{{"schema_version":{SCHEMA_VERSION},"edges":[\n{body}\n]}}\n')


def read_histograms(path: Path) -> dict[str, Histogram]:
    """Histograms by edge.

    Raises:
        BadRun: missing, or not what `write_histograms` wrote.
    """
    try:
        tree = strict_json.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadRun(f"{path}: cannot be read, {error}") from error
    if not isinstance(tree, dict) or tree.get("schema_version") != SCHEMA_VERSION:
        raise BadRun(f"{path}: not histograms of schema_version {SCHEMA_VERSION}")
    if not isinstance(tree.get("edges"), list):
        raise BadRun(f"{path}: edges: expected a list")
    found = [
        strict_json.from_json(Histogram, item, item=f"{path}: edge {index}", error=BadRun)
        for index, item in enumerate(tree["edges"])
    ]
    return {item.edge: item for item in found}
