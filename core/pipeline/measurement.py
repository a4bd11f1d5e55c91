"""Measurements of a run on the gate's speech, each written as JSON: parity of forms, CER, verdict.

A model that is used in two ways (whole utterances, and chunk by chunk) is measured once for each;
`suffix` keeps the files of the second apart: ``verdict.json`` and ``verdict-streaming.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asrcompress.accuracy.cer import CerReport
from asrcompress.accuracy.gate import GateVerdict, judge
from asrcompress.audio import read_audio
from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.checkpoints.network import PaddleFrontEnd
from asrcompress.console import Console
from asrcompress.files import write_atomically
from asrcompress.manifests.manifest import Utterance
from asrcompress.pipeline.evaluation import evaluate
from asrcompress.pipeline.recognizer import Recognizer
from asrcompress.recipe import Gate
from asrcompress.run import Run

PARITY_UTTERANCES = 20


def share_before(source: Path, target: Path) -> None:
    """Hand on what the float checkpoint made of the gate's speech, whole and in a stream.

    That is the same for every model of one checkpoint, and often takes longer than all else.

    Args:
        source, target: folders; what `target` has stays as it is.
    """
    for path in source.glob("before*.json"):
        if not (target / path.name).exists():
            write_atomically(target / path.name, path.read_bytes())


def measure_kernels(
    run: Run,
    model: Path,
    console: Console,
    *,
    feed: Callable[[], Mapping[str, np.ndarray]] | None = None,
    suffix: str = "",
    where: str = "",
) -> float:
    """Share of a graph's multiply-accumulates in integer kernels; writes integer_share.json.

    Args:
        feed: inputs to run it on, where they are not whole utterances; called if it is needed.
        where: what to call the graph in messages, such as `` in a stream``.
    Raises:
        ExportFailed: see `measure_integer_share`.
    """
    from asrcompress.export.integer_share import measure_integer_share

    name = f"integer_share{suffix}.json"
    if not run.has(name):
        with console.status(f"counting integer kernels{where}"):
            measured = measure_integer_share(model, feed=feed() if feed else None)
            run.write_json(name, measured.to_json())
    share = run.field(name, "share", kind=float)
    console.say(f"integer kernels{where}: {share:.1%} of the multiply-accumulates")
    return share


def check_forms(
    run: Run,
    checkpoint: Checkpoint,
    forms: Callable[[], Mapping[str, Recognizer]],
    utterances: Sequence[Utterance],
    console: Console,
    *,
    suffix: str = "",
) -> None:
    """Compare neighbouring forms of the model on some utterances; writes parity.json.

    Args:
        forms: opens them, in the order of `asrcompress.export.parity`; called if it is needed.
    Raises:
        ParityFailed: two forms that should be one model are not.
    """
    from asrcompress.export.parity import check_parity, compare_features, compare_forms

    name = f"parity{suffix}.json"
    if run.has(name):
        return
    opened, front_end = forms(), PaddleFrontEnd(checkpoint)
    reference = next(iter(opened.values()))
    some = utterances[:PARITY_UTTERANCES]
    log_probs: dict[str, list[Any]] = {form: [] for form in opened}
    features: list[tuple[Any, Any]] = []
    with console.progress(f"parity{suffix}") as advance:
        for index, item in enumerate(some):
            samples = read_audio(item.audio, start_s=item.start_s, end_s=item.end_s)
            features.append((front_end(samples), reference.fbank(samples)))
            for form, recognizer in opened.items():
                log_probs[form] += recognizer.model.log_probs([features[-1][1]])
            advance(index + 1, len(some))
    report = compare_forms(
        log_probs,
        {form: [reference.text(item) for item in log_probs[form]] for form in opened},
        features=compare_features([a for a, _ in features], [b for _, b in features]),
        utterances=[item.utt for item in some],
    )
    check_parity(report)
    run.write_json(name, report.to_json())


def gate_cer(
    run: Run,
    settings: Gate,
    utterances: Sequence[Utterance],
    console: Console,
    *,
    before: Callable[[], Recognizer],
    after: Callable[[], Recognizer],
    suffix: str = "",
) -> GateVerdict:
    """CER before and after, and the verdict; writes before.json, after.json and verdict.json."""
    reports = [
        measured_cer(run, f"{side}{suffix}.json", opener, utterances, console)
        for side, opener in (("before", before), ("after", after))
    ]
    verdict = judge(
        *reports,
        max_increase=settings.max_cer_increase,
        relative=settings.relative,
        draws=settings.draws,
    )
    run.write_json(f"verdict{suffix}.json", verdict.to_json())
    return verdict


def measured_cer(
    run: Run,
    name: str,
    opener: Callable[[], Recognizer],
    utterances: Sequence[Utterance],
    console: Console,
) -> CerReport:
    """CER of what `opener` opens, which is done once; writes `name`."""
    if not run.has(name):
        result = evaluate(opener(), utterances, console=console, title=name.removesuffix(".json"))
        run.write_json(name, result.to_json())
    return CerReport.from_json(run.field(name, "cer", kind=dict), item=str(run.path / name))
