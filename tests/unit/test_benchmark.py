"""Bundles are compared side by side, each in a process of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from asrcompress.bundles.bundle import Bundle
from asrcompress.errors import BadAudio, BadBundle, BadManifest, BadRecipe
from asrcompress.runtime import benchmark
from asrcompress.runtime.benchmark import Comparison, compare

MakeBundle = Callable[..., Bundle]


@pytest.fixture
def recordings(tmp_path: Path, speech: Callable[..., np.ndarray]) -> list[Path]:
    paths = [tmp_path / f"{index}.wav" for index in range(3)]
    for index, path in enumerate(paths):
        soundfile.write(path, speech(0.5 + 0.25 * index, seed=index), 16000)
    return paths


@pytest.fixture(autouse=True)
def _one_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "_LOADS", 1)


def test_numbers_of_two_bundles(make_bundle: MakeBundle, recordings: list[Path]) -> None:
    same, other = make_bundle("same"), make_bundle("other", model={"seed": 1})
    held = np.ones(50_000_000)  # this process's memory is not the children's
    result = compare([same.path, other.path], recordings, rounds=3)
    assert (result.rounds, result.n_recordings, result.threads) == (3, 3, 1)
    assert result.audio_s == pytest.approx(2.25)
    first, second = result.measurements
    assert (first.speedup, first.speedup_min, first.speedup_max) == (1.0, 1.0, 1.0)
    assert (first.same_texts, second.same_texts) == (3, 0)
    for bundle, numbers in zip((same, other), result.measurements, strict=True):
        assert numbers.bundle == str(bundle.path)
        assert numbers.size_bytes == bundle.size_bytes
        assert 0 < numbers.latency_p50_s <= numbers.latency_p95_s < 1
        assert 0 < numbers.rtf < 1
        assert 0 < numbers.load_s < 10
        assert numbers.speedup_min <= numbers.speedup <= numbers.speedup_max
        assert 20_000_000 < numbers.peak_rss_bytes < held.nbytes
    tree = json.loads(json.dumps(result.to_json()))
    assert tree["measurements"][1]["bundle"] == str(other.path)
    assert isinstance(result, Comparison)


class FakeWorker:
    """Answers with times that are known; the machine slows down steadily."""

    log: list[tuple[str, int]]
    clock = 0

    def __init__(self, bundle: Bundle, setup: dict[str, Any]) -> None:
        self.name = bundle.path.name
        self.load_s = {"slow": 0.5, "fast": 0.25}[self.name]
        self.peak_rss_bytes = 1

    def __enter__(self) -> FakeWorker:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        FakeWorker.log.append((self.name, order["index"]))
        FakeWorker.clock += 1
        own = {"slow": 4.0, "fast": 1.0}[self.name]
        drift = 1.02**FakeWorker.clock
        return {"seconds": own * drift, "duration_s": 8.0, "text": "x"}


def test_bundles_take_turns_and_drift_cancels(
    make_bundle: MakeBundle, recordings: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeWorker.log, FakeWorker.clock = [], 0
    monkeypatch.setattr(benchmark, "_Worker", FakeWorker)
    slow, fast = make_bundle("slow"), make_bundle("fast")
    result = compare([slow.path, fast.path], recordings, rounds=20)
    turns = FakeWorker.log[2:]  # after one run each that warms up
    assert turns[:4] == [("slow", 0), ("fast", 0), ("fast", 1), ("slow", 1)]
    assert all(
        {a[0], b[0]} == {"slow", "fast"} for a, b in zip(turns[::2], turns[1::2], strict=True)
    )
    # 1.02**120 is a machine ten times slower at the end.
    assert result.measurements[1].speedup == pytest.approx(4.0, rel=0.02)
    assert [m.load_s for m in result.measurements] == [0.5, 0.25]


def test_errors_of_the_child_arrive_as_themselves(
    make_bundle: MakeBundle, recordings: list[Path], tmp_path: Path
) -> None:
    bundle = make_bundle()
    soundfile.write(tmp_path / "8k.wav", np.zeros(8000), 8000)
    with pytest.raises(BadAudio, match=r"8k\.wav: sample rate 8000 Hz") as caught:
        compare([bundle.path], [*recordings, tmp_path / "8k.wav"])
    assert "ffmpeg" in caught.value.hint
    with pytest.raises(BadBundle, match=r"inputs are .*int32"):
        compare([make_bundle("bad", model={"lengths": "INT32"}).path], recordings)


def test_a_child_that_dies_is_reported(
    make_bundle: MakeBundle, recordings: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "_CHILD", "import os; os._exit(9)")
    with pytest.raises(BadBundle, match="its process ended in the benchmark, exit code 9"):
        compare([make_bundle().path], recordings)


def test_refuses_nothing_to_measure(make_bundle: MakeBundle, recordings: list[Path]) -> None:
    with pytest.raises(BadManifest, match="no recordings"):
        compare([make_bundle().path], [])
    with pytest.raises(BadRecipe, match="got 0 bundles"):
        compare([], recordings)
    with pytest.raises(BadRecipe, match="0 rounds"):
        compare([make_bundle("b").path], recordings, rounds=0)


def test_no_child_is_left(make_bundle: MakeBundle, recordings: list[Path]) -> None:
    before = _children()  # other tests may have left some, multiprocessing's tracker for one
    compare([make_bundle().path], recordings, rounds=1)
    assert _children() <= before


def _children() -> set[str]:
    """Process ids of this process's children, zombies included."""
    lists = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {pid for item in lists for pid in item.read_text().split()}
