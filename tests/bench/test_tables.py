"""Tables and goals of results that are made up."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("paddle", reason="the benchmark builds Paddle's contenders too")
from bench.contenders import AUDIO, FEATURES, OUR_BUNDLE, OURS
from bench.goals import Goal, goals_of
from bench.measure import Cold
from bench.parts import Parts
from bench.report import Report, markdown, table, write_report
from bench.roofline import Peak, best_of
from bench.stream import StreamResult, Window
from bench.suite import Effort, Result, Row
from bench.summary import timing

EFFORT = Effort(lengths_s=(2.0, 10.0), threads=(1,), rounds=(3, 3))
PEAKS = tuple(
    Peak(library=library, work=work, precision=precision, threads=1, gmacs=rate, shape=(1, 2, 3))
    for library, work, precision, rate in (
        ("MLAS", "gemm", "fp32", 50.0),
        ("MLAS", "gemm", "int8", 200.0),
        ("MLAS", "row", "fp32", 2.0),
        ("MLAS", "row", "int8", 40.0),
        ("oneDNN", "gemm", "int8", 220.0),
    )
)


def row(name: str, speed: float, **changes: Any) -> Row:
    cold = Cold(import_s=0.1, load_s=0.12, first_s=0.3, peak_rss_bytes=100_000_000)
    timings = tuple(
        timing([0.01 * s / speed] * 3, [0.01 * s] * 3, threads=1, audio_s=s)
        for s in EFFORT.lengths_s
    )
    plain = Row(
        name=name, task=FEATURES, size_bytes=40_000_000, integer_share=1.0, agreement=0.98,
        error=0.0123, cold=(cold, cold), timings=timings,
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def result(*rows: Row, **changes: Any) -> Result:
    plain = Result(
        subject="shape",
        family="u2-conformer",
        trained=False,
        effort=EFFORT,
        macs=(2_000_000_000, 10_000_000_000),
        serial_share=0.0,
        parts=Parts(audio_s=10.0, features_s=0.002, network_s=0.1, decoding_s=0.0005),
        rows=rows,
    )
    return dataclasses.replace(plain, **changes)


def windows(*megabytes: float, rtf: float = 0.01) -> tuple[Window, ...]:
    return tuple(
        Window(rtf=rtf, rtf_p50=rtf, rtf_p95=2 * rtf, rss_bytes=int(1e6 * held), utterances=3)
        for held in megabytes
    )


def report(*results: Result, **changes: Any) -> Report:
    plain = Report(
        machine={"CPU": "some core"}, busy=0.1, results=results, peaks=PEAKS, stream=None, goals=()
    )
    return dataclasses.replace(plain, **changes)


def test_a_table_is_markdown() -> None:
    assert table(["a", "b"], [["x|y", "1"]]) == "| a | b |\n|---|--:|\n| x/y | 1 |"
    with pytest.raises(ValueError, match="got 1 cells, expected 2"):
        table(["a", "b"], [["x"]])


def test_every_contender_is_in_the_page_also_who_was_not_run() -> None:
    page = markdown(
        report(
            result(
                row("first", 1.0),
                row("second", 3.0),
                Row(name="third", task=FEATURES, not_run="no such library"),
            )
        )
    )
    assert "| second | 40.0 | 1.000 | 120 | 100 | 100 | 98.0% | 0.0123 |" in page
    # 2 s: 20 ms / 3; 2e9 multiply-accumulates at 220e9 take 9.1 ms, more than were measured.
    assert "| second | 300.0 | 6.7 | 6.7 | 0.0033 | 3.00 | 136% |" in page
    assert "- third: **not run**: no such library" in page
    assert "| third |" not in page
    assert "some core" in page


def test_a_cer_is_shown_of_trained_weights_only() -> None:
    rows = (row("first", 1.0, cer=(0.0223, 0.0109, 0.046)),)
    assert "CER" not in markdown(report(result(*rows)))
    page = markdown(report(result(*rows, trained=True)))
    assert "2.23% (1.09% to 4.60%)" in page


def test_without_peaks_there_is_no_distance_to_them() -> None:
    page = markdown(report(result(row("first", 1.0)), peaks=()))
    assert "Roofline" not in page
    assert "| first | 300.0 | 20.0 | 20.0 | 0.0100 | 1.00 |  |" in page


def test_the_page_and_the_data_are_written(tmp_path: Path) -> None:
    page, data = write_report(report(result(row("first", 1.0))), tmp_path / "new")
    assert page.read_text(encoding="utf-8").startswith("Machine: CPU some core")
    tree = json.loads(data.read_text(encoding="utf-8"))
    assert tree["results"][0]["rows"][0]["timings"][1]["audio_s"] == 10.0


def test_the_best_library_sets_the_limit() -> None:
    best = best_of(PEAKS, 1)
    assert (best.float_, best.integer) == (50e9, 220e9)


# --- goals ---------------------------------------------------------------------------------------


def met(goals: list[Goal], beginning: str) -> bool:
    (found,) = [goal for goal in goals if goal.what.startswith(beginning)]
    return found.met


@pytest.mark.parametrize(
    ("speed", "rivals", "faster", "ahead"),
    [(3.7, (1.2, 1.3), True, True), (3.5, (1.2, 1.1), False, False)],
)
def test_speed_against_its_goals(
    speed: float, rivals: tuple[float, ...], faster: bool, ahead: bool
) -> None:
    goals = goals_of([result(row(OURS, speed, rival_ratio=rivals))], 0.2, None)
    assert met(goals, "× FP32 ONNX Runtime, 10 s") is faster
    assert met(goals, "× the fastest of ONNX") is ahead
    assert met(goals, "× FP32, worst")
    assert met(goals, "`import")


def test_slower_than_float_is_missed() -> None:
    goals = goals_of([result(row(OURS, 0.9))], 0.3, None)
    assert not met(goals, "× FP32, worst")
    assert not met(goals, "`import")


@pytest.mark.parametrize(("load_s", "peak", "good"), [(0.1, 120e6, True), (0.2, 130e6, False)])
def test_loading_and_memory_are_those_of_the_bundle(load_s: float, peak: float, good: bool) -> None:
    cold = Cold(import_s=0.1, load_s=load_s, first_s=0.3, peak_rss_bytes=int(peak))
    goals = goals_of([result(row(OUR_BUNDLE, 3.0, task=AUDIO, cold=(cold, cold)))], 0.1, None)
    assert met(goals, "load the bundle") is good
    assert met(goals, "peak memory, 2 s") is good  # 1.6 * 40 MB + 60 MB


def test_what_is_not_the_network() -> None:
    assert met(goals_of([result()], 0.1, None), "features and decoding")
    slow = Parts(audio_s=10.0, features_s=0.02, network_s=0.1, decoding_s=0.0)
    assert slow.beside_network == pytest.approx(1 / 6)
    assert not met(goals_of([result(parts=slow)], 0.1, None), "features and decoding")


@pytest.mark.parametrize(
    ("held", "flat"), [((50.0, 52.0, 53.0), True), ((50.0, 52.0, 56.0), False)]
)
def test_a_stream_that_grows_is_missed(held: tuple[float, ...], flat: bool) -> None:
    stream = StreamResult(subject="s", minutes=60.0, windows=windows(*held))
    goals = goals_of([], 0.1, stream)
    assert met(goals, "memory growth") is flat
    assert met(goals, "time per chunk")
    page = markdown(report(stream=stream, goals=tuple(goals)))
    assert "Stream of 60 minutes" in page
    assert ("missed" in page) is not flat


def test_a_stream_that_slows_down_is_missed() -> None:
    stream = StreamResult(
        subject="s", minutes=60.0, windows=(*windows(50.0), *windows(50.0, rtf=0.02))
    )
    assert stream.drift == pytest.approx(2.0)
    assert not met(goals_of([], 0.1, stream), "time per chunk")
    with pytest.raises(ValueError, match="got 1 windows"):
        StreamResult(subject="s", minutes=1.0, windows=windows(50.0))


@pytest.mark.parametrize(
    "changes", [{"lengths_s": ()}, {"rounds": (1,)}, {"threads": ()}, {"threads": (0,)}]
)
def test_an_effort_that_is_none(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="effort: got"):
        dataclasses.replace(EFFORT, **changes)
