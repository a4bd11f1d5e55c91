"""Noise in decibels, and histograms that widen without counting anything wrongly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from asrcompress import strict_json
from asrcompress.calibration.histograms import BINS, Recording, RunningHistogram
from asrcompress.errors import BadRun
from asrcompress.histogram import Histogram, read_histograms, write_histograms
from asrcompress.ranges import ActivationRange, Ranges, WeightRange
from asrcompress.sqnr import CEILING_DB, NoiseReport, sqnr_db, weight_noise


@pytest.mark.parametrize(
    ("signal", "noise", "db"),
    [(100.0, 1.0, 20.0), (1.0, 1.0, 0.0), (1.0, 0.0, CEILING_DB), (1.0, 10.0, -10.0)],
)
def test_decibels(signal: float, noise: float, db: float) -> None:
    assert sqnr_db(signal, noise) == pytest.approx(db)


@pytest.mark.parametrize(("signal", "noise"), [(0.0, 0.0), (0.0, 1.0), (float("nan"), 1.0)])
def test_no_ratio_without_a_signal(signal: float, noise: float) -> None:
    assert sqnr_db(signal, noise) is None


def _ranges(weight: np.ndarray, axis: int) -> Ranges:
    others = tuple(a for a in range(weight.ndim) if a != axis)
    absmax = np.maximum(np.abs(weight).max(others), 1e-8)
    item = WeightRange(
        parameter="a.weight", axis=axis, absmax=tuple(map(float, absmax)), input="a:input"
    )
    return Ranges(activations={"a:input": ActivationRange(absmax=1.0)}, weights=(item,))


@pytest.mark.parametrize(("shape", "axis"), [((64, 32), 1), ((32, 8, 3), 0), ((16, 8, 3, 3), 0)])
def test_a_weight_on_its_own_grid_is_exact_and_any_other_is_near_the_theory(
    shape: tuple[int, ...], axis: int
) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, shape).astype(np.float32)
    codes[tuple(0 if a != axis else slice(None) for a in range(len(shape)))] = 127.0
    (exact,) = weight_noise({"a.weight": codes}, _ranges(codes, axis))
    assert exact.weight_db == CEILING_DB
    uniform = rng.uniform(-1, 1, shape).astype(np.float32)
    (real,) = weight_noise({"a.weight": uniform}, _ranges(uniform, axis))
    # A uniform signal over 254 steps: 20 log10(254) = 48.1 dB.
    assert real.weight_db == pytest.approx(48.1, abs=1.0)


def test_swapped_scales_are_heard() -> None:
    rng = np.random.default_rng(0)
    weight = (rng.normal(size=(64, 8)) * 10.0 ** np.arange(-4, 4)).astype(np.float32)
    ranges = _ranges(weight, 1)
    wrong = ranges.weights[0].absmax[::-1]
    item = WeightRange(parameter="a.weight", axis=1, absmax=wrong, input="a:input")
    (found,) = weight_noise(
        {"a.weight": weight}, Ranges(activations=ranges.activations, weights=(item,))
    )
    assert found.weight_db is not None
    assert found.weight_db < 5.0


def test_a_missing_and_a_dead_weight_have_no_noise() -> None:
    dead = np.zeros((4, 4), np.float32)
    ranges = _ranges(dead, 1)
    assert [item.weight_db for item in weight_noise({}, ranges)] == [None]
    assert [item.weight_db for item in weight_noise({"a.weight": dead}, ranges)] == [None]


def test_reports_come_back_from_json() -> None:
    weight = np.ones((2, 2), np.float32)
    report = NoiseReport(layers=weight_noise({"a.weight": weight}, _ranges(weight, 1)))
    tree = strict_json.to_json(report)
    assert strict_json.from_json(NoiseReport, tree, item="x", error=BadRun) == report


def test_widening_counts_as_if_the_end_had_been_known() -> None:
    rng = np.random.default_rng(0)
    batches = [rng.normal(size=1000) * scale for scale in (0.1, 1.0, 7.0, 0.5)]
    running = RunningHistogram()
    for batch in batches:
        running.add(batch)
    largest = max(float(np.abs(batch).max()) for batch in batches)
    assert running.absmax == largest
    assert running.limit / 2 < largest <= running.limit
    expected, _ = np.histogram(
        np.concatenate(batches), bins=BINS, range=(-running.limit, running.limit)
    )
    assert running.counts.tolist() == expected.tolist()


def test_what_is_not_finite_and_what_is_zero_does_no_harm() -> None:
    running = RunningHistogram()
    running.add(np.zeros((2, 3)))
    running.add(np.array([]))
    assert (running.limit, running.absmax) == (0.0, 0.0)
    running.add(np.array([np.nan, np.inf, 1.0, -1.0]))
    assert (running.limit, running.absmax, running.counts.sum()) == (1.0, 1.0, 2)
    assert running.counts[-1] == running.counts[0] == 1


def test_histograms_come_back_from_disk(tmp_path: Path) -> None:
    recording = Recording()
    recording.add("b", np.array([0.5, -3.0]))
    recording.add("zero", np.zeros(3))
    recording.add("a", np.array([1.0]))
    path = tmp_path / "histograms.json"
    write_histograms(path, recording.histograms())
    found = read_histograms(path)
    assert list(found) == ["b", "a"]
    assert found["b"].limit == 4.0
    assert sum(found["b"].counts) == 2
    assert path.read_text().count("\n") == 4  # a line per edge


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"schema_version":2,"edges":[]}', '{"schema_version":1}']
)
def test_broken_histograms_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "histograms.json"
    path.write_text(text)
    with pytest.raises(BadRun, match=r"histograms\.json"):
        read_histograms(path)
    with pytest.raises(BadRun):
        read_histograms(tmp_path / "none.json")
    assert Histogram(edge="e", limit=1.0, absmax=1.0, counts=(1,)).edge == "e"
