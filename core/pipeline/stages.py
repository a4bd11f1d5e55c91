"""Measure every artifact of a run on the gate's speech and write ``stages.json``."""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asrcompress.accuracy.cer import CerReport, ErrorCounts
from asrcompress.checkpoints.checkpoint import Checkpoint, read_checkpoint
from asrcompress.checkpoints.network import build_network
from asrcompress.checkpoints.patterns import zero_pattern
from asrcompress.checkpoints.subject import CUT_FOLDER, PRUNED_FOLDER, subject_of, trained_of
from asrcompress.console import Console
from asrcompress.errors import ExportFailed
from asrcompress.manifests.manifest import Utterance
from asrcompress.pipeline.measurement import measured_cer
from asrcompress.pipeline.pruning_record import encoder_numbers
from asrcompress.pipeline.recognizer import from_checkpoint
from asrcompress.recipe import Recipe
from asrcompress.run import Run
from asrcompress.stages import FP32, INT8, NAME, PRUNED, RECOVERED, Stage, Stages

_BYTES_OF_FLOAT = 4
_MODEL, _FP32_MODEL = "model.int8.onnx", "model.fp32.onnx"


def record_stages(
    run: Run,
    recipe: Recipe,
    checkpoint: Checkpoint,
    utterances: Sequence[Utterance],
    console: Console,
) -> Stages:
    """Every stage that this run has gone through; writes stages.json.

    The gate has been measured before: its reports are the first and the last stage. Nothing is
    decided by the ones between.

    Args:
        utterances: of the gate.
    Raises:
        ExportFailed: a weight that was pruned to zero is none in the INT8 graph.
    """
    if run.has(NAME):
        return Stages.from_json(run.read_json(NAME), item=str(run.path / NAME))
    quantized = run.model.is_file()
    stages = [_stage(run, FP32, checkpoint, _counts(run, "before.json"), _FP32_MODEL)]
    for name, folder, report in (
        (PRUNED, CUT_FOLDER, "pruned.json"),
        (RECOVERED, PRUNED_FOLDER, "recovered.json" if quantized else "after.json"),
    ):
        if (run.path / folder).is_dir():
            subject = read_checkpoint(run.path / folder)
            opener = functools.partial(from_checkpoint, subject, decoding=recipe.decoding)
            counts = measured_cer(run, report, opener, utterances, console).counts
            stages.append(_stage(run, name, subject, counts, folder))
    if quantized:
        check_zeros(run, checkpoint)
        trained = trained_of(run, checkpoint)
        stages.append(_stage(run, INT8, trained, _counts(run, "after.json"), _MODEL))
    found = Stages(stages=tuple(stages))
    run.write_json(NAME, found.to_json())
    return found


def check_zeros(run: Run, checkpoint: Checkpoint) -> dict[str, int]:
    """What pruning set to zero is zero in the INT8 graph; for each weight, how many are.

    Raises:
        ExportFailed: names the weight in which there are fewer.
    """
    from asrcompress.export.zeros import count_int8_zeros

    subject = subject_of(run, checkpoint)
    pattern = zero_pattern(subject.network, item=str(subject.config_path))
    if pattern is None:
        return {}
    named = dict(build_network(subject).named_parameters())
    wanted: dict[str, int] = {}
    for name in pattern.layers:
        layer = name.rpartition(".")[0]
        wanted[layer] = wanted.get(layer, 0) + int((named[name].numpy() == 0).sum())
    found = count_int8_zeros(run.model, wanted)
    for layer, zeros in wanted.items():
        if layer in found and found[layer] < zeros:  # a layer that was skipped is float
            raise ExportFailed(
                f"{layer}: has {found[layer]} zeros in {run.model.name}, expected {zeros}",
                hint="pruned weights came back to life: please report this",
            )
    return found


def _counts(run: Run, name: str) -> ErrorCounts:
    return CerReport.from_json(run.field(name, "cer", kind=dict), item=str(run.path / name)).counts


def _stage(run: Run, name: str, subject: Checkpoint, counts: ErrorCounts, artifact: str) -> Stage:
    """A stage; its size is that of the graph, where the artifact is one that is there."""
    parameters, nonzero, everything = encoder_numbers(build_network(subject))
    path = run.path / artifact
    is_file = path.is_file()
    return Stage(
        name=name,
        artifact=artifact if path.exists() else str(subject.root),
        edits=counts.edits,
        reference_chars=counts.reference_chars,
        parameters=parameters,
        nonzero=nonzero,
        size_bytes=path.stat().st_size if is_file else _BYTES_OF_FLOAT * everything,
        zipped_bytes=zipped_bytes(path) if is_file else None,
    )


def zipped_bytes(path: Path) -> int:
    """Size of a file in a ZIP archive, deflated."""

    class Counter:
        """A file that only counts."""

        def __init__(self) -> None:
            self.size = 0

        def write(self, data: Any) -> int:
            self.size += len(data)
            return len(data)

        def flush(self) -> None:
            """Nothing is kept."""

    counter = Counter()
    with zipfile.ZipFile(counter, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[call-overload]
        archive.write(path, path.name)
    return counter.size
