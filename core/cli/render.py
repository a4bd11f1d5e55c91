"""Results as a person reads them, within 80 columns, on stdout."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import rich.console
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # what is rendered is imported by whoever made it
    from asrcompress.accuracy.cer import CerReport
    from asrcompress.bundles.bundle import Bundle
    from asrcompress.bundles.golden import SelfTest
    from asrcompress.compress.anatomy import Anatomy
    from asrcompress.doctor.diagnosis import Diagnosis
    from asrcompress.pipeline.evaluation import Evaluation
    from asrcompress.pipeline.prune import PruneOutcome
    from asrcompress.pipeline.quantize import Outcome
    from asrcompress.runtime.benchmark import Comparison
    from asrcompress.sherpa.check import SherpaVerification
    from asrcompress.stages import Stages


def show(data: dict[str, Any], rendered: RenderableType, *, json: bool) -> None:
    """Print one JSON object, or what a person reads."""
    if json:
        print(json_module.dumps(data, ensure_ascii=False, indent=1, default=str))
    elif isinstance(rendered, str):
        print(rendered)  # as it is: rich would expand tabs
    else:
        # What is printed are names and transcripts: "[noise]" and ":car:" mean themselves.
        # Tables are made to fit; what is wider is a path, which is for copying.
        console = rich.console.Console(highlight=False, markup=False, emoji=False)
        console.print(rendered, crop=False)


def evaluation(result: Evaluation, *, worst: int) -> RenderableType:
    """CER with interval, Kaldi's line, buckets, worst utterances, speed."""
    report = result.cer
    lines = [
        f"{result.name} ({result.backend})",
        f"CER {cer_text(report)}, {len(report.utterances)} utterances",
        report.kaldi_line(),
        f"RTF {result.rtf:.4f} ({result.compute_s:.1f} s for {result.audio_s:.1f} s of speech)",
    ]
    parts: list[RenderableType] = [Text("\n".join(lines)), _buckets(report)]
    if worst and report.worst(worst):
        parts.append(_worst(report, worst))
    return Group(*parts)


def pruning(outcome: PruneOutcome) -> RenderableType:
    """What was removed, what is left of each layer, what it cost, and the verdict."""
    record = outcome.record
    before, after = record["parameters"]
    if record["widths"]:
        layers = _table("layer", "units before", "after")
        for name, units, left in record["widths"]:
            layers.add_row(name, str(units), str(left) if left else "-")
        what = f"encoder {before:,} -> {after:,} parameters ({1 - after / before:.1%} removed)"
    else:
        layers = _table("weight", "zeros")
        for name, share in record["sparsity"].items():
            layers.add_row(name, f"{share:.1%}")
        before, after = record["nonzero"]
        what = f"encoder {before:,} -> {after:,} weights that are not zero"
    lines = [
        what,
        "MACs for {:g} s: {:,.3f} -> {:,.3f} billion".format(
            record["seconds"], *(macs / 1e9 for macs in record["macs"])
        ),
        outcome.to_json()["speed"],
        f"gate: {outcome.verdict.reason}",
        f"checkpoint {outcome.checkpoint}",
    ]
    return Group(layers, stages(outcome.stages), Text("\n".join(lines)))


def stages(item: Stages) -> Table:
    """What each stage of a run cost and gained."""
    table = _table("stage", "CER", "encoder", "not zero", "size")
    for stage in item.stages:
        table.add_row(
            stage.name,
            f"{stage.cer:.2%}",
            f"{stage.parameters:,}",
            f"{stage.nonzero / stage.parameters:.1%}",
            megabytes(stage.size_bytes),
        )
    return table


def cer_text(report: CerReport) -> str:
    """``5.75 % (95 %: 5.10 to 6.42)``."""
    low, high = report.interval()
    return f"{float(report.cer):.2%} (95 %: {low:.2%} to {high:.2%})"


def outcome(result: Outcome) -> RenderableType:
    """Verdict first, then what it rests on."""
    verdict, run = result.verdict, result.run
    fp32, int8 = run.fp32_model.stat().st_size, run.model.stat().st_size
    table = _table("", "before", "after")
    table.add_row("CER", f"{float(verdict.before_cer):.2%}", f"{float(verdict.after_cer):.2%}")
    for name in ("substitutions", "deletions", "insertions"):
        before, after = getattr(verdict.before, name), getattr(verdict.after, name)
        table.add_row(name, str(before), str(after))
    table.add_row("model", megabytes(fp32), f"{megabytes(int8)} ({fp32 / int8:.2f}x smaller)")
    table.add_row("integer kernels", "0.0%", f"{result.integer_share:.1%} of the MACs")
    if result.streaming is not None:
        heard, share = result.streaming.verdict, result.streaming.integer_share
        cers = (f"{float(cer):.2%}" for cer in (heard.before_cer, heard.after_cer))
        table.add_row("CER in a stream", *cers)
        table.add_row("integer kernels in a stream", "0.0%", f"{share:.1%} of the MACs")
    state = "PASSED" if result.failure is None else "FAILED"
    style = "bold green" if result.failure is None else "bold red"
    reason = verdict.reason if result.failure is None else str(result.failure)
    paths = [Text(f"run: {run.path}", no_wrap=True, overflow="ignore")]
    if result.report is not None:
        paths.append(Text(f"report: {result.report}", no_wrap=True, overflow="ignore"))
    return Group(Text(f"{state}: {reason}", style=style), table, *paths)


def bundle(item: Bundle) -> Table:
    """What a bundle is and what it was proven to do."""
    manifest = item.manifest
    table = _table("bundle", str(item.path))
    table.add_row("family", manifest.family)
    table.add_row("precision", manifest.precision)
    if manifest.target:
        table.add_row("target", manifest.target)
    table.add_row("size", megabytes(item.size_bytes))
    if manifest.integer_share is not None:
        table.add_row("integer kernels", f"{manifest.integer_share:.1%} of the MACs")
    if manifest.streaming is not None:
        left = manifest.streaming.left_chunks
        context = "all" if left < 0 else f"{left} chunks"
        table.add_row("streams", f"chunks of {manifest.streaming.chunk_size}, history: {context}")
    for side in ("before", "after"):
        if cer := _promised(manifest.quality or {}, side):
            table.add_row(f"CER {side}", cer)
    table.add_row("sha256", manifest.bundle_sha256[:16] + "…")
    return table


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What ``asrcompress verify`` found.

    Attributes:
        self_test: None where the bundle has none.
        signed: whether a signature was asked for, and is right.
    """

    bundle: Bundle
    self_test: SelfTest | None
    signed: bool

    def to_json(self) -> dict[str, Any]:
        """The manifest, and what was checked on this device."""
        return {
            **self.bundle.manifest.to_json(),
            "self_test": None if self.self_test is None else self.self_test.to_json(),
            "signature": {
                "signer": None if self.bundle.signature is None else self.bundle.signature.signer,
                "checked": self.signed,
            },
        }


def verification(item: Verification) -> RenderableType:
    """A bundle, who vouches for it, and what this device makes of its golden recordings."""
    table = bundle(item.bundle)
    signature = item.bundle.signature
    if signature is None:
        table.add_row("signature", "none")
    else:
        state = "right" if item.signed else "not checked (--public-key KEY.pub)"
        table.add_row("signature", f"{state}, by {signature.signer[:16]}…")
    if item.self_test is None:
        table.add_row("self-test", "none in this bundle")
        return table
    test = item.self_test
    table.add_row(
        "self-test",
        f"{'passed' if test.passed else 'FAILED'}, {len(test.results)} recordings, "
        f"{test.judged_nats:.4f} of {test.tolerance_nats:g} nats",
    )
    return table


def sherpa_verification(item: SherpaVerification) -> RenderableType:
    """What sherpa-onnx heard with each model of a folder."""
    table = _table(item.record.slot, *(hearing.file for hearing in item.hearings))
    rows: dict[str, list[str]] = {
        "recordings": [str(hearing.recordings) for hearing in item.hearings],
        "same text as asrcompress": [str(hearing.same_texts) for hearing in item.hearings],
    }
    if any(hearing.theirs is not None for hearing in item.hearings):
        reports = [(hearing.ours, hearing.theirs) for hearing in item.hearings]
        rows["CER in asrcompress"] = [f"{float(a.cer):.2%}" if a else "-" for a, _ in reports]
        rows["CER in sherpa-onnx"] = [f"{float(b.cer):.2%}" if b else "-" for _, b in reports]
        rows["prints <unk> or <eos>"] = [str(hearing.marked) for hearing in item.hearings]
    for name, values in rows.items():
        table.add_row(name, *values)
    return table


def _promised(quality: Mapping[str, Any], side: str) -> str:
    """The CER that a bundle states, as far as it does: ``bundle.json`` is anybody's to write."""
    cer, interval = (quality.get(f"cer_{side}{what}") for what in ("", "_interval_95"))
    if not isinstance(cer, int | float):
        return ""
    if not (isinstance(interval, list | tuple) and len(interval) == 2):
        return f"{cer:.2%}"
    if not all(isinstance(end, int | float) for end in interval):
        return f"{cer:.2%}"
    return f"{cer:.2%} (95 %: {interval[0]:.2%} to {interval[1]:.2%})"


def comparison(result: Comparison) -> RenderableType:
    """Bundles side by side; the first row is what the others are relative to."""
    table = _table("bundle", "MB", "RTF", "p50 ms", "p95 ms", "speed", "load ms", "RSS MB")
    for item in result.measurements:
        table.add_row(
            item.bundle.rstrip("/").rpartition("/")[2],
            f"{item.size_bytes / 1e6:.1f}",
            f"{item.rtf:.4f}",
            f"{1000 * item.latency_p50_s:.1f}",
            f"{1000 * item.latency_p95_s:.1f}",
            f"{item.speedup:.2f}x",
            f"{1000 * item.load_s:.0f}",
            f"{item.peak_rss_bytes / 1e6:.0f}",
        )
    note = (
        f"{result.threads} thread(s), {result.rounds} interleaved rounds, "
        f"{result.n_recordings} recordings, {result.audio_s:.0f} s, {result.cpu}"
    )
    return Group(table, Text(note))


def anatomy(item: Anatomy, *, layers: bool) -> RenderableType:
    """Parameters and operations per block, and the names that ``quantization.skip`` takes."""
    table = _table("block", "parameters", f"MMACs/{item.seconds:g} s", "INT8 MACs", "shipped")
    for block in item.blocks:
        share = f"{block.int8_macs / block.macs:.0%}" if block.macs else "-"
        table.add_row(
            block.name,
            f"{block.parameters:,}",
            f"{block.macs / 1e6:,.1f}" if block.shipped else "-",
            share if block.shipped else "-",
            "yes" if block.shipped else "no",
        )
    lines = (
        f"{item.name}: {item.family}, {item.vocabulary} symbols\n"
        f"expected size: FP32 {megabytes(item.fp32_bytes)}, INT8 {megabytes(item.int8_bytes)}"
    )
    names = [name for block in item.blocks for name in block.layers]
    return Group(Text(lines), table, *([Text("\n".join(names))] if layers else []))


_GROUPS = {
    "base": "Runtime",
    "compress": "[compress] extra",
    "traps": "Version traps",
    "machine": "Machine",
}
_VERDICT_STYLE = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def diagnosis(item: Diagnosis) -> RenderableType:
    """Facts by group, each with its verdict, and under it the cure where one is needed."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    group = ""
    for fact in item.facts:
        if fact.group != group:
            group = fact.group
            table.add_row(*([""] * 3))
            table.add_row("", Text(_GROUPS[group], style="bold"), "")
        seen = Text(fact.value)
        if fact.cure:
            seen.append(f"\n{fact.cure}", style=_VERDICT_STYLE[fact.verdict])
        table.add_row(Text(fact.verdict, style=_VERDICT_STYLE[fact.verdict]), fact.name, seen)
    counts = [sum(f.verdict == v for f in item.facts) for v in ("fail", "warn")]
    state = "usable" if item.usable else "not usable"
    summary = f"\n{state}: {counts[0]} failures, {counts[1]} warnings"
    return Group(table, Text(summary))


def megabytes(size_bytes: int) -> str:
    """``4.2 MB``, a megabyte being a million bytes."""
    return f"{size_bytes / 1e6:.1f} MB"


def _buckets(report: CerReport) -> Table:
    table = _table("duration", "utterances", "CER", "S", "D", "I")
    for bucket in report.buckets():
        counts = bucket.counts
        cer = "-" if counts.cer is None else f"{float(counts.cer):.2%}"
        table.add_row(
            bucket.label,
            str(bucket.utterances),
            cer,
            str(counts.substitutions),
            str(counts.deletions),
            str(counts.insertions),
        )
    return table


def _worst(report: CerReport, count: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("worst", overflow="fold", max_width=24)
    table.add_column("edits", justify="right")
    table.add_column("reference / hypothesis", overflow="fold")
    for item in report.worst(count):
        texts = f"{item.reference}\n{item.hypothesis or '(empty)'}"
        table.add_row(_printable(item.utt), str(item.edits), _printable(texts))
    return table


def _printable(text: str) -> str:
    """Manifests can hold anything, and a terminal obeys its control characters."""
    return "".join(
        char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text
    )


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    return table
