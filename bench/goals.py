"""What the project wants to reach, against what was measured. Reported, never a test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.contenders import OUR_BUNDLE, OURS
from bench.stream import StreamResult
from bench.suite import Result

_SPEEDUP = {"u2-conformer": 3.6, "deepspeech2": 4.0}  # DeepSpeech2: the LSTM
_RIVALS, _LOAD_S, _IMPORT_S, _BESIDE = 1.15, 0.150, 0.25, 0.03
_RSS_FACTOR, _RSS_BYTES = 1.6, 60e6
_GROWTH_BYTES = 5e6
# Of the real-time factor, last ten minutes against first: what counts as stable.
_DRIFT = 1.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One goal.

    Attributes:
        subject: what it was measured on.
        wanted, seen: as text, units included.
        met: whether `seen` is good enough.
    """

    subject: str
    what: str
    wanted: str
    seen: str
    met: bool


def goals_of(results: Sequence[Result], import_s: float, stream: StreamResult | None) -> list[Goal]:
    """All goals that the measurements speak of."""
    found = [_at_most("", "`import asrcompress.runtime`", 1000 * _IMPORT_S, 1000 * import_s, "ms")]
    for result in results:
        found += _of_result(result)
    if stream is not None:
        name = stream.subject
        growth = stream.growth_bytes / 1e6
        hour = f"memory growth over {stream.minutes:g} min of stream"
        found.append(_at_most(name, hour, _GROWTH_BYTES / 1e6, growth, "MB"))
        found.append(
            _at_most(name, "time per chunk, last / first window", _DRIFT, stream.drift, "×")
        )
    return found


def _of_result(result: Result) -> Iterator[Goal]:
    ours, bundle, name = result.row(OURS), result.row(OUR_BUNDLE), result.subject
    middle = len(result.effort.lengths_s) // 2
    length, threads = result.effort.lengths_s[middle], min(result.effort.threads)
    if ours is not None:
        wanted = _SPEEDUP.get(result.family)
        at = ours.timing(threads, length)
        if wanted is not None and at is not None:
            yield _at_least(name, f"× FP32 ONNX Runtime, {length:g} s", wanted, at.speedup, "×")
        if ours.rival_ratio:
            what = "× the fastest of ONNX Runtime's quantizers, worst length"
            yield _at_least(name, what, _RIVALS, min(ours.rival_ratio), "×")
        if ours.timings:
            slowest = min(item.speedup for item in ours.timings)
            yield _at_least(name, "× FP32, worst length and threads", 1.0, slowest, "×")
    if bundle is not None:
        yield _at_most(name, "load the bundle", 1000 * _LOAD_S, 1000 * bundle.load_s, "ms")
        for seconds, cold in zip(result.effort.lengths_s, bundle.cold, strict=True):
            allowed = _RSS_FACTOR * bundle.size_bytes + _RSS_BYTES
            what = f"peak memory, {seconds:g} s"
            yield _at_most(name, what, allowed / 1e6, cold.peak_rss_bytes / 1e6, "MB")
    what = f"features and decoding, {result.parts.audio_s:g} s"
    yield _at_most(name, what, 100 * _BESIDE, 100 * result.parts.beside_network, "%")


def _at_least(subject: str, what: str, wanted: float, seen: float, unit: str) -> Goal:
    return Goal(
        subject=subject,
        what=what,
        wanted=f"≥ {wanted:g} {unit}",
        seen=f"{seen:.2f} {unit}",
        met=seen >= wanted,
    )


def _at_most(subject: str, what: str, wanted: float, seen: float, unit: str) -> Goal:
    return Goal(
        subject=subject,
        what=what,
        wanted=f"≤ {wanted:.4g} {unit}",
        seen=f"{seen:.3g} {unit}",
        met=seen <= wanted,
    )
