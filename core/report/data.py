"""What a run directory holds, read for its report; what is not there yet is None."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from asrcompress import strict_json
from asrcompress.accuracy.cer import CerReport
from asrcompress.accuracy.verdict import GateVerdict
from asrcompress.checkpoints.weights import read_weights
from asrcompress.errors import BadRecipe, BadRun
from asrcompress.histogram import Histogram, read_histograms
from asrcompress.ranges import Ranges, read_ranges
from asrcompress.recipe import Recipe
from asrcompress.run import Run
from asrcompress.sqnr import NoiseReport, weight_noise
from asrcompress.stages import NAME as STAGES
from asrcompress.stages import Stage, Stages

T = TypeVar("T")
METRICS = ("total", "ctc", "attention", "distillation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A model on the gate manifest."""

    backend: str
    report: CerReport
    rtf: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """Multiply-accumulates of one kind of kernel."""

    kernel: str
    integer: bool
    calls: int
    macs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """What integer_share.json says."""

    kernels: tuple[Kernel, ...]
    float_nodes: tuple[str, ...]
    bytes_by_dtype: dict[str, int]
    frames: int
    share: float
    macs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Two neighbouring forms of the model, from parity.json."""

    first: str
    second: str
    largest: float
    mean: float
    agreement: float
    same_texts: int
    utterances: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One optimizer step."""

    step: int
    epoch: int
    learning_rate: float
    losses: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One bundle of a benchmark, as ``asrcompress bench --json`` prints it."""

    name: str
    rtf: float
    speedup: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """All that is known of a run."""

    run: Run
    record: Mapping[str, Any]
    recipe: Recipe | None
    before: Side | None
    after: Side | None
    verdict: GateVerdict | None
    streaming_verdict: GateVerdict | None
    kernels: Kernels | None
    parity: tuple[Step, ...] | None
    ranges: Ranges | None
    noise: NoiseReport | None
    histograms: Mapping[str, Histogram]
    metrics: tuple[Metric, ...]
    bench: tuple[Measured, ...]
    stages: tuple[Stage, ...]

    @property
    def sizes(self) -> tuple[int, int] | None:
        """Bytes of the FP32 and the INT8 graph."""
        if not (self.run.fp32_model.is_file() and self.run.model.is_file()):
            return None
        return self.run.fp32_model.stat().st_size, self.run.model.stat().st_size


def collect(run: Run) -> Findings:
    """Read a run, finished or not.

    Raises:
        BadRun: a file of the run is broken; names it.
    """
    record = run.read_json("run.json")
    ranges = read_ranges(run.ranges) if run.ranges.is_file() else None
    has_histograms = run.has("histograms.json")
    return Findings(
        run=run,
        record=record,
        recipe=_recipe(run, record),
        before=_optional(run, "before.json", _side),
        after=_optional(run, "after.json", _side),
        verdict=_optional(run, "verdict.json", GateVerdict.from_json),
        streaming_verdict=_optional(run, "verdict-streaming.json", GateVerdict.from_json),
        kernels=_optional(run, "integer_share.json", _kernels),
        parity=_optional(run, "parity.json", _parity),
        ranges=ranges,
        noise=_noise(run, ranges),
        histograms=read_histograms(run.path / "histograms.json") if has_histograms else {},
        metrics=_metrics(run),
        bench=_optional(run, "bench.json", _bench) or (),
        stages=_optional(run, STAGES, lambda tree: Stages.from_json(tree).stages) or (),
    )


def percent(share: float, digits: int) -> str:
    """``18.71 %``."""
    return f"{100 * share:.{digits}f} %"


def _optional(run: Run, name: str, read: Callable[[Any], T]) -> T | None:
    """A file of the run, read by `read`; None where it is not there yet."""
    if not run.has(name):
        return None
    try:
        return read(run.read_json(name))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadRun(f"{run.path / name}: is not what a run writes, {error!r}") from error


def _recipe(run: Run, record: Mapping[str, Any]) -> Recipe | None:
    """None where another version wrote it: the report then shows what is recorded."""
    try:
        return Recipe.from_dict(record["recipe"], source=str(run.path), folder=run.path)
    except (BadRecipe, KeyError):
        return None


def _only(cls: type, tree: Any) -> dict[str, Any]:
    """The keys of `tree` that the report shows; a later version may write more."""
    return {item.name: tree[item.name] for item in dataclasses.fields(cls) if item.name in tree}


def _side(tree: Any) -> Side:
    return Side(
        backend=str(tree["backend"]),
        report=CerReport.from_json(tree["cer"]),
        rtf=float(tree["rtf"]),
    )


def _kernels(tree: Any) -> Kernels:
    chosen = {**tree, "kernels": [_only(Kernel, item) for item in tree["kernels"]]}
    return strict_json.from_json(
        Kernels, _only(Kernels, chosen), item="integer_share.json", error=BadRun
    )


def _parity(tree: Any) -> tuple[Step, ...]:
    return tuple(
        strict_json.from_json(Step, _only(Step, item), item="parity.json", error=BadRun)
        for item in tree["steps"]
    )


def _bench(tree: Any) -> tuple[Measured, ...]:
    return tuple(
        Measured(
            name=str(item["precision"]).upper(),
            rtf=float(item["rtf"]),
            speedup=float(item["speedup"]),
        )
        for item in tree["measurements"]
    )


def _noise(run: Run, ranges: Ranges | None) -> NoiseReport | None:
    """As measured; else that of the weights, which needs nothing but the files."""
    if run.has("sqnr.json"):
        return strict_json.from_json(
            NoiseReport, run.read_json("sqnr.json"), item="sqnr.json", error=BadRun
        )
    if ranges is None or not run.weights.is_file():
        return None
    return NoiseReport(layers=weight_noise(read_weights(run.weights), ranges))


def _metrics(run: Run) -> tuple[Metric, ...]:
    """Every complete line of metrics.jsonl; of a step that was repeated, the last."""
    path = run.path / "metrics.jsonl"
    if not path.is_file():
        return ()
    found: dict[int, Metric] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            tree = json.loads(line)
            losses = {name: float(tree[name]) for name in METRICS if tree.get(name) is not None}
            metric = Metric(
                step=int(tree["step"]),
                epoch=int(tree["epoch"]),
                learning_rate=float(tree["learning_rate"]),
                losses={name: loss for name, loss in losses.items() if math.isfinite(loss)},
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            continue  # the line that a killed run was writing
        found[metric.step] = metric
    return tuple(found[step] for step in sorted(found))
