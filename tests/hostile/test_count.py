"""How many bad inputs there are, and that they are different ones."""

from __future__ import annotations

from typing import Any


def test_there_are_at_least_150(tables: dict[str, list[Any]]) -> None:
    names = [(table, case[0]) for table, cases in tables.items() for case in cases]
    assert len(set(names)) == len(names) >= 400
    assert all(len(cases) >= 8 for table, cases in tables.items() if table != "test_count")
