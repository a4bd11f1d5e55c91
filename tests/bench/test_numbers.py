"""What the benchmark computes of times, texts and peaks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bench.measure import rotated
from bench.summary import Peaks, agreement, ratio, relative_error, timing

PEAKS = Peaks(float_=50e9, integer=200e9, float_row=2e9, integer_row=40e9)


def test_ratios_are_taken_within_a_round() -> None:
    """Everybody slow in one round: nobody's ratio changes."""
    assert ratio([1.0, 10.0, 1.0], [3.0, 30.0, 3.0]) == 3.0
    assert ratio([1.0, 1.0, 4.0], [2.0, 2.0, 2.0]) == 2.0  # one disturbed call is no result
    assert ratio([1.0], [4.0, 2.0]) == 4.0  # a slow one has the first rounds only


def test_latency_and_real_time_factor() -> None:
    own = [0.010 * (1 + index) for index in range(21)]
    found = timing(own, [2 * item for item in own], threads=2, audio_s=10.0)
    assert found.p50_s == pytest.approx(0.11)
    assert found.p95_s == pytest.approx(0.20)
    assert found.rtf == pytest.approx(0.011)
    assert found.speedup == pytest.approx(2.0)
    assert (found.threads, found.audio_s) == (2, 10.0)
    with pytest.raises(ValueError, match="got p50 0"):
        dataclasses.replace(found, p50_s=0.0)


def test_agreement_counts_frames_and_missing_ones() -> None:
    same = np.array([1, 2, 3, 4])
    assert agreement([same, same], [same, same]) == 1.0
    assert agreement([np.array([1, 2, 0, 4])], [same]) == 0.75
    assert agreement([same[:3]], [same]) == 0.75
    assert agreement([np.array([9, 9, 9, 9])], [same]) == 0.0
    assert agreement([], []) == 0.0


def test_nonsense_has_a_large_error() -> None:
    expected = np.log(np.random.default_rng(0).dirichlet(np.ones(50), 30)).astype(np.float32)
    assert relative_error([expected], [expected]) == 0.0
    spread = (expected - expected.mean(axis=1, keepdims=True)).std()
    assert relative_error([expected + 0.01 * spread], [expected]) == pytest.approx(0.01, rel=1e-3)
    assert relative_error([expected[::-1]], [expected]) > 1.0
    assert relative_error([expected[:15]], [expected]) == pytest.approx(0.7, abs=0.1)


def test_every_contender_begins_a_round_once() -> None:
    names = ["a", "b", "c"]
    turns = [list(rotated(names, turn)) for turn in range(3)]
    assert all(sorted(turn) == names for turn in turns)
    assert {turn[0] for turn in turns} == set(names)


@pytest.mark.parametrize(
    ("integer", "serial", "seconds"),
    [
        (0.0, 0.0, 2.0),  # 100e9 at 50e9 a second
        (1.0, 0.0, 0.5),
        (0.5, 0.0, 1.25),
        (0.0, 0.5, 1.0 + 25.0),
        (1.0, 0.5, 0.25 + 1.25),
    ],
)
def test_the_limit_is_the_sum_of_the_parts(integer: float, serial: float, seconds: float) -> None:
    found = PEAKS.limit_s(macs=int(100e9), integer_share=integer, serial_share=serial)
    assert found == pytest.approx(seconds)
