"""The whole benchmark of one subject: build, hear, cold, warm."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from asrcompress.accuracy.cer import score_all
from asrcompress.audio import read_audio
from asrcompress.errors import EmptyReference
from asrcompress.manifests.manifest import Utterance
from bench.artifact import Artifact, NotRun, Settings
from bench.contenders import BASELINE, OURS, Contender, built
from bench.inputs import Input, write_input
from bench.measure import Cold, Heard, hear, integer_share, measure_cold, measure_warm
from bench.onnx_forms import multiply_accumulates, serial_share
from bench.parts import Parts, measure_parts
from bench.subject import Subject
from bench.summary import Timing, agreement, ratio, relative_error, timing

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to measure.

    Attributes:
        lengths_s: of the audio.
        threads: each is measured by itself.
        rounds: of each length.
        utterances: of the gate manifest for the CER; 0 is all.
    """

    lengths_s: tuple[float, ...] = (2.0, 10.0, 30.0)
    threads: tuple[int, ...] = (1, 2)
    rounds: tuple[int, ...] = (31, 15, 7)
    utterances: int = 0

    def __post_init__(self) -> None:
        if not self.lengths_s or not self.threads or len(self.rounds) != len(self.lengths_s):
            raise ValueError(f"effort: got {self}, expected rounds for each length, and threads")
        if min(*self.lengths_s, *self.threads, *self.rounds) <= 0:
            raise ValueError(f"effort: got {self}, expected numbers above 0")

    def rounds_of(self, seconds: float) -> int:
        """Rounds for audio of some length."""
        nearest = min(self.lengths_s, key=lambda item: abs(item - seconds))
        return self.rounds[self.lengths_s.index(nearest)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A contender's numbers; only a name and a reason where it was not run.

    Attributes:
        agreement: with FP32: share of the frames with the same best symbol, or for text 1 - CER
            against its text.
        error: of the log-probabilities, see `bench.summary.relative_error`.
        cer: on the gate manifest, of trained weights, with its 95 % interval.
        cold: per length of audio.
        timings: warm, per threads and length.
        rival_ratio: of ours: how many times faster than the fastest of ONNX Runtime's own
            quantizers, per length, one thread.
    """

    name: str
    task: str
    not_run: str = ""
    note: str = ""
    is_fp32: bool = False
    size_bytes: int = 0
    integer_share: float = 0.0
    agreement: float | None = None
    error: float | None = None
    cer: tuple[float, float, float] | None = None
    cold: tuple[Cold, ...] = ()
    timings: tuple[Timing, ...] = ()
    rival_ratio: tuple[float, ...] = ()

    @property
    def load_s(self) -> float:
        """Median time to load the model."""
        return statistics.median(item.load_s for item in self.cold)

    def timing(self, threads: int, audio_s: float) -> Timing | None:
        """Of one measurement, if it was made."""
        wanted = (threads, audio_s)
        return next((t for t in self.timings if (t.threads, t.audio_s) == wanted), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One subject.

    Attributes:
        macs: multiply-accumulates per length of audio.
        serial_share: of them, in products of one row.
        parts: where our time goes.
    """

    subject: str
    family: str
    trained: bool
    effort: Effort
    macs: tuple[int, ...]
    serial_share: float
    parts: Parts
    rows: tuple[Row, ...] = field(default_factory=tuple)

    def row(self, name: str) -> Row | None:
        """Of a contender that was run."""
        return next((row for row in self.rows if row.name == name and not row.not_run), None)


def measure(
    subject: Subject,
    contenders: Sequence[Contender],
    effort: Effort,
    settings: Settings,
    say: Say,
) -> Result:
    """Everything about one subject. Who cannot be run gets a row that says why."""
    suite = _Suite(subject, contenders, effort, say)
    suite.build(settings)
    facts = suite.examine()
    colds = suite.cold()
    times = suite.warm()
    say(f"{subject.name}: parts")
    return Result(
        subject=subject.name,
        family=subject.checkpoint.family,
        trained=subject.trained,
        effort=effort,
        macs=tuple(multiply_accumulates(subject.fp32, item.seconds) for item in suite.inputs),
        serial_share=serial_share(subject.fp32),
        parts=measure_parts(subject, suite.inputs[len(suite.inputs) // 2]),
        rows=tuple(suite.row(item, facts, colds, times) for item in contenders),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What does not depend on the clock."""

    integer_share: float
    agreement: float | None
    error: float | None
    cer: tuple[float, float, float] | None


Times = dict[int, dict[str, list[list[float]]]]
"""Threads -> name -> per input, per round: seconds."""


class _Suite:
    """The stages; whoever fails in one of them is left out of the next ones."""

    def __init__(
        self, subject: Subject, contenders: Sequence[Contender], effort: Effort, say: Say
    ) -> None:
        self._subject, self._contenders, self._effort, self._say = subject, contenders, effort, say
        self.inputs = subject.inputs(effort.lengths_s)
        self._artifacts: dict[str, Artifact] = {}
        self._why: dict[str, str] = {}

    def build(self, settings: Settings) -> None:
        """Everybody's files."""
        for item in self._contenders:
            self._say(f"{self._subject.name}: {item.name}: building")
            try:
                self._artifacts[item.name] = built(item, self._subject, settings)
            except NotRun as error:
                self._why[item.name] = str(error)

    def examine(self) -> dict[str, _Facts]:
        """Integer share, agreement and CER; the baselines come first of the contenders."""
        utterances = self._utterances()
        heard: dict[str, Heard] = {}
        facts: dict[str, _Facts] = {}
        with tempfile.TemporaryDirectory(prefix="asrcompress-bench-") as scratch:
            spoken = _write(utterances, self._subject, Path(scratch))
            for item, artifact in self._left():
                self._say(f"{self._subject.name}: {item.name}: listening")
                try:
                    share = integer_share(item.name, artifact)
                    found = hear(
                        item.name,
                        artifact,
                        [*self.inputs, *spoken],
                        self._subject.checkpoint.vocabulary,
                        Path(scratch),
                        keep=len(self.inputs),
                    )
                except NotRun as error:
                    self._drop(item.name, error)
                    continue
                heard[item.name] = found
                reference = heard.get(BASELINE[item.task].name)
                facts[item.name] = _Facts(
                    integer_share=share,
                    agreement=None if reference is None else _agreement(found, reference),
                    error=None if reference is None else _error(found, reference),
                    cer=_cer(utterances, found.texts[len(self.inputs) :]),
                )
        return facts

    def cold(self) -> dict[str, list[Cold]]:
        """In fresh processes, one for each length."""
        found: dict[str, list[Cold]] = {item.name: [] for item in self._contenders}
        for recording in self.inputs:
            self._say(f"  {recording.seconds:g} s, cold")
            for item, artifact in self._left():
                try:
                    found[item.name].append(measure_cold(item.name, artifact, recording))
                except NotRun as error:
                    self._drop(item.name, error)
        return found

    def warm(self) -> Times:
        """In turns; the tasks are measured one after the other."""
        found: Times = {}
        for threads in self._effort.threads:
            found[threads] = {}
            for task in BASELINE:
                group = {
                    item.name: artifact for item, artifact in self._left() if item.task == task
                }
                times, failed = measure_warm(
                    group,
                    self.inputs,
                    threads=threads,
                    rounds=self._effort.rounds_of,
                    say=self._say,
                )
                found[threads] |= times
                for name, reason in failed.items():
                    self._drop(name, reason)
        return found

    def row(
        self,
        item: Contender,
        facts: Mapping[str, _Facts],
        colds: Mapping[str, list[Cold]],
        times: Times,
    ) -> Row:
        """All that was measured of a contender."""
        if item.name in self._why:
            return Row(name=item.name, task=item.task, not_run=self._why[item.name])
        artifact, known = self._artifacts[item.name], facts[item.name]
        return Row(
            name=item.name,
            task=item.task,
            note=artifact.note,
            is_fp32=item.is_fp32,
            size_bytes=artifact.size_bytes,
            integer_share=known.integer_share,
            agreement=known.agreement,
            error=known.error,
            cer=known.cer,
            cold=tuple(colds[item.name]),
            timings=tuple(self._timings(item, times)),
            rival_ratio=self._rival_ratio(times) if item.name == OURS else (),
        )

    def _timings(self, item: Contender, times: Times) -> Iterator[Timing]:
        baseline = BASELINE[item.task].name
        for threads, group in times.items():
            if baseline not in group:
                continue
            pairs = zip(self.inputs, group[item.name], group[baseline], strict=True)
            for recording, own, first in pairs:
                yield timing(own, first, threads=threads, audio_s=recording.seconds)

    def _rival_ratio(self, times: Times) -> tuple[float, ...]:
        """Per length, with the fewest threads: the least of the ratios to each rival."""
        group = times[min(times)]
        rivals = [
            group[item.name] for item in self._contenders if item.is_rival and item.name in group
        ]
        if not rivals:
            return ()
        return tuple(
            min(ratio(own, rival[index]) for rival in rivals)
            for index, own in enumerate(group[OURS])
        )

    def _left(self) -> list[tuple[Contender, Artifact]]:
        return [
            (item, self._artifacts[item.name])
            for item in self._contenders
            if item.name in self._artifacts
        ]

    def _drop(self, name: str, reason: object) -> None:
        self._why[name] = str(reason)
        del self._artifacts[name]

    def _utterances(self) -> Sequence[Utterance]:
        """That the CER is measured on; none of random weights."""
        if not self._subject.trained:
            return ()
        return self._subject.gate[: self._effort.utterances or None]


def _write(utterances: Sequence[Utterance], subject: Subject, folder: Path) -> list[Input]:
    return [
        write_input(
            folder / str(number),
            read_audio(item.audio, start_s=item.start_s, end_s=item.end_s),
            subject.fbank,
        )
        for number, item in enumerate(utterances)
    ]


def _agreement(found: Heard, reference: Heard) -> float | None:
    if found.symbols:
        return agreement(found.symbols, reference.symbols)
    spoken = [
        Utterance(utt=str(number), audio=Path("/"), duration_s=1.0, text=text, speaker=None)
        for number, text in enumerate(reference.texts)
    ]
    with suppress(EmptyReference):  # not one letter: nothing to agree on
        return 1.0 - float(score_all(spoken, list(found.texts)).cer)
    return None


def _error(found: Heard, reference: Heard) -> float | None:
    if not found.log_probs:
        return None
    return relative_error(found.log_probs, reference.log_probs)


def _cer(
    utterances: Sequence[Utterance], texts: Sequence[str]
) -> tuple[float, float, float] | None:
    if not utterances:
        return None
    report = score_all(utterances, list(texts))
    low, high = report.interval()
    return float(report.cer), float(low), float(high)
