"""``asrcompress doctor``: what this machine has, what is wrong with it, and the cure.

Packages are judged by their metadata, without importing them, because the failure to look for is
a crash of the interpreter. Whether the chain really loads is tried in a process of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

OK, WARN, FAIL = "ok", "warn", "fail"
GROUPS = ("base", "compress", "traps", "machine")
"""The base install, the [compress] extra, what its parts do to each other, and the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One thing about the machine.

    Attributes:
        group: one of `GROUPS`.
        verdict: `OK`, `WARN`, or `FAIL`, which means that asrcompress cannot work.
        cure: one line to type or to know; empty where nothing is wrong.
    """

    group: str
    name: str
    value: str
    verdict: str = OK
    cure: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in (OK, WARN, FAIL) or self.group not in GROUPS:
            raise ValueError(f"{self.name}: verdict {self.verdict!r} in group {self.group!r}")
        if self.verdict != OK and not self.cure:
            raise ValueError(f"{self.name}: {self.verdict} without a cure")


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """All facts."""

    facts: tuple[Fact, ...]

    @property
    def usable(self) -> bool:
        """Whether nothing stands in the way of what is installed."""
        return all(fact.verdict != FAIL for fact in self.facts)

    @property
    def findings(self) -> tuple[Fact, ...]:
        """The facts that are not ok, the worst first."""
        found = [fact for fact in self.facts if fact.verdict != OK]
        return tuple(sorted(found, key=lambda fact: fact.verdict != FAIL))

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"usable": self.usable, "facts": [asdict(fact) for fact in self.facts]}


def examine(folder: Path) -> Diagnosis:
    """Look at everything; takes the seconds that Paddle's import takes.

    Args:
        folder: where runs would be written, to look at its disk.
    """
    from asrcompress.doctor.machine import machine_facts
    from asrcompress.doctor.packages import (
        installed_versions,
        judge_packages,
        try_base_imports,
        try_compress_imports,
    )

    versions = installed_versions()
    facts: list[Fact] = list(judge_packages(versions, python=sys.version_info[:2]))
    facts += try_base_imports()
    facts += try_compress_imports(versions)
    facts += machine_facts(folder)
    return Diagnosis(facts=tuple(sorted(facts, key=lambda fact: GROUPS.index(fact.group))))


def suspects() -> tuple[Fact, ...]:
    """What could be behind a failed import, from metadata alone: takes no time and cannot fail."""
    from asrcompress.doctor.packages import installed_versions, judge_packages

    return Diagnosis(
        facts=tuple(judge_packages(installed_versions(), python=sys.version_info[:2]))
    ).findings


def lines(facts: Iterable[Fact]) -> list[str]:
    """Facts as plain lines, for stderr."""
    return [f"{fact.verdict}: {fact.name} {fact.value}; {fact.cure}" for fact in facts]
