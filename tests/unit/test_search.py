"""What a search concludes from its candidates: limits, front, order, words, and its file."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asrcompress import search_text, strict_json
from asrcompress.errors import BadRecipe, BadRun
from asrcompress.pareto import misses, nearest, pareto_front, ranked
from asrcompress.pipeline.audition import rungs
from asrcompress.search import (
    FAILED,
    MEASURED,
    STOPPED,
    Candidate,
    Choice,
    Goal,
    Heard,
    SearchResult,
    StageCost,
    Verification,
    Weight,
    read_search,
)

PLAIN = Choice(observer="mse", epochs=0, prune_amount=0.0, float_layers=0)
GOAL = Goal(
    max_cer_increase=0.005, relative=False, min_integer_share=0.95, max_size_mb=None,
    max_rtf=None, max_memory_mb=None, prefer="speed",
)  # fmt: skip


def candidate(
    number: int, *, upper: float | None = 0.001, size: float = 4.0, rtf: float = 0.01, **other: Any
) -> Candidate:
    heard = Heard(
        utterances=100, cer=0.05, increase=0.0, lower=-0.001, upper=upper,
        keeps=upper is not None and upper <= 0.005, reason="of 100 utterances",
    )  # fmt: skip
    weight = Weight(size_mb=size, rtf=rtf, speedup=0.03 / rtf, memory_mb=90.0)
    known: dict[str, Any] = {
        "run": f"ptq-{number:010}", "state": MEASURED, "choice": PLAIN, "heard": heard,
        "integer_share": 1.0, "weight": weight, "stages": (StageCost(name="made", seconds=2.0),),
    }  # fmt: skip
    return Candidate(number=number, **{**known, **other})


def result(*candidates: Candidate, **other: Any) -> SearchResult:
    known: dict[str, Any] = {
        "checkpoint": "asr1/best", "checkpoint_sha256": "0" * 64, "utterances": 100, "cer": 0.05,
        "goal": GOAL, "cpu": "a processor", "verified": (), "chosen": None, "why": "because",
        "reference": Weight(size_mb=16.0, rtf=0.03, speedup=1.0, memory_mb=150.0),
    }  # fmt: skip
    return SearchResult(candidates=candidates, **{**known, **other})


def numbers(items: Any) -> list[int]:
    return [item.number for item in items]


def test_the_front_is_what_nothing_beats() -> None:
    items = [
        candidate(0, upper=0.001, size=4.0, rtf=0.010),
        candidate(1, upper=0.002, size=4.0, rtf=0.010),  # beaten by 0
        candidate(2, upper=0.003, size=3.0, rtf=0.010),
        candidate(3, upper=0.003, size=3.5, rtf=0.005),
        candidate(4, upper=0.004, size=3.5, rtf=0.008),  # beaten by 3
        candidate(5, upper=None, size=0.1, rtf=0.001),  # no bound: not on the plot
        candidate(6, state=STOPPED, size=0.1, rtf=0.001),
    ]
    assert numbers(pareto_front(items)) == [0, 2, 3]


def test_noise_of_the_clock_puts_no_twin_on_the_front() -> None:
    items = [candidate(0, upper=0.001, rtf=0.0100), candidate(1, upper=0.002, rtf=0.0099)]
    assert numbers(pareto_front(items)) == [0]
    assert numbers(pareto_front([items[0], candidate(1, upper=0.002, rtf=0.0080)])) == [0, 1]


def test_the_front_by_brute_force() -> None:
    rng = random.Random(4)
    for _ in range(50):
        grid = [(u, s, r) for u in range(5) for s in range(1, 5) for r in range(1, 5)]
        points = {i: point for i, point in enumerate(rng.sample(grid, 12))}
        items = [candidate(i, upper=u / 1000, size=s, rtf=r) for i, (u, s, r) in points.items()]
        wanted = [
            number
            for number, point in points.items()
            if not any(
                other != point and all(a <= b for a, b in zip(other, point, strict=True))
                for other in points.values()
            )
        ]
        assert numbers(pareto_front(items)) == wanted


def test_every_limit_is_held_against_a_candidate() -> None:
    goal = replace(GOAL, max_size_mb=3.0, max_rtf=0.005, max_memory_mb=80.0)
    found = misses(candidate(0, upper=0.02, integer_share=0.9), goal)
    assert [miss.name for miss in found] == [
        "CER", "integer share", "size", "real-time factor", "memory",
    ]  # fmt: skip
    assert [miss.excess for miss in found] == pytest.approx([3.0, 0.05, 1 / 3, 1.0, 0.125])
    assert found[0].text == "CER increase up to +2.00 points, at most 0.50"
    assert found[2].text == "size 4 MB, at most 3"
    assert misses(candidate(0), GOAL) == ()


def test_a_verdict_that_fails_for_another_reason_is_a_miss() -> None:
    kept = candidate(0)
    assert kept.heard is not None
    heard = replace(kept.heard, keeps=False, reason="20-30 s: broken")
    (miss,) = misses(replace(kept, heard=heard), GOAL)
    assert miss.text == "20-30 s: broken" and miss.excess > 0


@pytest.mark.parametrize(
    ("prefer", "order"),
    [("speed", [2, 1, 0]), ("size", [1, 0, 2]), ("accuracy", [0, 2, 1]), ("memory", [0, 2, 1])],
)
def test_what_keeps_every_limit_is_ranked_by_preference(prefer: str, order: list[int]) -> None:
    items = [
        candidate(0, upper=0.000, size=4.0, rtf=0.010),
        candidate(1, upper=0.004, size=3.0, rtf=0.008),
        candidate(2, upper=0.001, size=5.0, rtf=0.006),
        candidate(3, upper=0.006, size=1.0, rtf=0.001),  # loses too much
        candidate(4, size=1.0, rtf=0.001, integer_share=0.5),
        candidate(5, size=1.0, state=STOPPED),
    ]
    assert numbers(ranked(items, replace(GOAL, prefer=prefer))) == order


def test_among_equals_the_cer_decides() -> None:
    items = [candidate(0, upper=0.003, rtf=0.00995), candidate(1, upper=0.001, rtf=0.01)]
    assert numbers(ranked(items, GOAL)) == [1, 0]
    said = search_text.why(items[1], ranked(items, GOAL), [_passed(1)], items, GOAL)
    assert said == (
        "Of 2 candidates, 2 keep every limit on the search set. #1 is the fastest to within 5 %, "
        "with #0, none of which has a lower CER bound. It passed the gate."
    )


def _passed(number: int, passed: bool = True) -> Verification:
    return Verification(number=number, passed=passed, reason="measured")


def test_a_rollback_is_told() -> None:
    items = [candidate(0, rtf=0.005), candidate(1)]
    looks = [_passed(0, False), _passed(1)]
    said = search_text.why(items[1], ranked(items, GOAL), looks, items, GOAL)
    assert "The gate refused #0. #1 is the fastest of the others." in said
    assert said.endswith("It passed the gate, at look number 2.")
    assert "refused 1 candidate\n  #0: measured" in search_text.failure(items, looks[:1], GOAL)


def test_the_nearest_say_what_they_miss() -> None:
    goal = replace(GOAL, max_size_mb=2.0)
    items = [
        candidate(0, size=4.0),
        candidate(1, size=2.2),
        candidate(2, state=STOPPED, upper=0.006, weight=None),
        candidate(3, state=FAILED, heard=None, weight=None, note="no"),
    ]
    assert numbers(nearest(items, goal, 9)) == [1, 0, 2]
    said = search_text.failure(items, [], goal)
    assert "none of 4 candidates keeps every limit" in said
    assert "#1 (PTQ, mse): size 2.2 MB, at most 2" in said
    assert search_text.why(None, [], [], items, goal).startswith("None of 4 candidates")


def test_the_file_reads_back(tmp_path: Path) -> None:
    found = result(candidate(0), candidate(1), verified=(_passed(1),), chosen=1)
    path = tmp_path / "search.json"
    path.write_text(json.dumps(strict_json.to_json(found)))
    assert read_search(path) == found
    assert found.best == found.candidates[1]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("chosen", 0, "did not pass the gate"),
        ("schema_version", 2, "expected 1"),
        ("cer", "low", "expected float"),
        ("surplus", 1, "unknown key surplus"),
    ],
)
def test_an_edited_file_is_refused(tmp_path: Path, key: str, value: object, said: str) -> None:
    tree = strict_json.to_json(result(candidate(0), verified=(_passed(0, False),)))
    path = tmp_path / "search.json"
    path.write_text(json.dumps({**tree, key: value}))
    with pytest.raises(BadRun, match=said):
        read_search(path)


def test_records_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(BadRecipe, match="not all of it"):
        candidate(0, weight=None)
    with pytest.raises(BadRecipe, match="stands twice"):
        result(candidate(0), candidate(0))
    with pytest.raises(BadRecipe, match="state"):
        candidate(0, state="good")
    with pytest.raises(BadRecipe, match="rtf"):
        Weight(size_mb=1.0, rtf=0.0, speedup=1.0, memory_mb=1.0)
    with pytest.raises(BadRecipe, match="max_rtf"):
        replace(GOAL, max_rtf=0.0)


def test_looks_are_doubled_from_the_gates_least() -> None:
    assert rungs(30) == [30]
    assert rungs(31) == [30, 31]
    assert rungs(420) == [30, 60, 120, 240, 420]
