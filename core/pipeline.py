"""The whole job: calibrate, train, export, gate. One function per stage, each resumable.

A stage whose output is in the run directory is not repeated, so the same command goes on after an
interruption. What a stage hands to the next one lies on disk: the graph that is exported is made
from the weights and ranges that were written, and the graph that is measured is the file that
``asrcompress export`` ships.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asrcompress import strict_json
from asrcompress.acoustic import subsampling_factor
from asrcompress.audio import read_audio
from asrcompress.batch_norm import fold_batch_norm
from asrcompress.cer import CerReport
from asrcompress.checkpoint import Checkpoint
from asrcompress.console import Console
from asrcompress.errors import AsrCompressError, BadRecipe, CerGateFailed, IntegerGateFailed
from asrcompress.evaluation import evaluate
from asrcompress.files import sha256_file
from asrcompress.gate import GateVerdict, judge
from asrcompress.leak import check_leak
from asrcompress.manifest import Utterance, load_manifest
from asrcompress.network import (
    PaddleAcousticModel,
    PaddleFrontEnd,
    build_network,
)
from asrcompress.paddle_imports import import_paddle
from asrcompress.ranges import read_ranges, write_ranges
from asrcompress.recipe import Recipe
from asrcompress.recognizer import Recognizer, from_checkpoint, from_run
from asrcompress.report import write_report
from asrcompress.run import FAILED, PASSED, Run, open_run
from asrcompress.weights import write_weights

if TYPE_CHECKING:
    from asrcompress.compress.workers import Workers

PARITY_UTTERANCES = 20
NOISE_UTTERANCES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """The manifests of a run, loaded and proven disjoint."""

    train: tuple[Utterance, ...]
    calibration: tuple[Utterance, ...]
    gate: tuple[Utterance, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended; `failure` is None exactly where the gate passed."""

    run: Run
    verdict: GateVerdict
    integer_share: float
    failure: CerGateFailed | IntegerGateFailed | None
    report: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data: where the run is, and what was measured."""
        return {
            "run": str(self.run.path),
            "report": None if self.report is None else str(self.report),
            "passed": self.failure is None,
            "failure": None if self.failure is None else str(self.failure),
            "integer_share": self.integer_share,
            "verdict": self.verdict.to_json(),
            "size_bytes": {
                "fp32": self.run.fp32_model.stat().st_size,
                "int8": self.run.model.stat().st_size,
            },
        }


def compress(kind: str, recipe: Recipe, checkpoint: Checkpoint, console: Console) -> Outcome | None:
    """Run every stage that is not done yet.

    Under ``paddle.distributed.launch`` all processes train, and the first does everything else.

    Args:
        kind: ``qat`` or ``ptq``; names the run.
        recipe: checked, with manifests.
    Returns:
        outcome with the verdict; a failed gate is returned, not raised, so that reports can be
        shown first. None in the processes that only trained along.
    Raises:
        AsrCompressError: anything that stops the job before a verdict.
    """
    from asrcompress.compress.workers import join_workers
    from asrcompress.export.onnx_bundle import tool_versions

    workers = join_workers()
    if not workers.leads:
        workers.wait()  # until the run directory is there
        run = open_run(kind, recipe, checkpoint, tools=tool_versions())
        speech = _load_speech(recipe, console, guard=False)
        _train(run, recipe, checkpoint, speech, console, workers)
        return None
    run = open_run(kind, recipe, checkpoint, tools=tool_versions())
    with run.lock():
        console.say(f"run {run.path}")
        speech = _load_speech(recipe, console)
        workers.wait()
        _train(run, recipe, checkpoint, speech, console, workers)
        _export(run, recipe, checkpoint, console)
        share = _measure_kernels(run, recipe, console)
        _check_forms(run, checkpoint, speech, console)
        _measure_noise(run, checkpoint, speech, console)
        verdict = _gate(run, recipe, checkpoint, speech, console)
        outcome = _conclude(run, recipe, verdict, share)
        return replace(outcome, report=_report_on(run, console))


def _load_speech(recipe: Recipe, console: Console, *, guard: bool = True) -> Speech:
    data = recipe.data
    if data.gate is None:
        raise BadRecipe("data.gate: not set, expected a manifest", hint="--gate-manifest FILE")
    if data.train is None and data.calibration is None:
        raise BadRecipe("data.train: not set, expected a manifest", hint="--train-manifest FILE")
    if data.train is None and recipe.training.epochs > 0:
        raise BadRecipe(
            "data.train: not set, expected a manifest to train on",
            hint="--train-manifest FILE, or asrcompress ptq to quantize without training",
        )
    train = load_manifest(data.train) if data.train else []
    if data.train_utterances:
        train = _spread(train, data.train_utterances)
    calibration = load_manifest(data.calibration) if data.calibration else train
    gate = load_manifest(data.gate)
    if guard:
        with console.progress("leak guard") as advance:
            check_leak(
                [*train, *(calibration if data.calibration else [])],
                gate,
                allow_shared_speakers=data.allow_shared_speakers,
                progress=advance,
            )
    return Speech(
        train=tuple(train),
        calibration=tuple(_spread(calibration, data.calibration_utterances)),
        gate=tuple(gate),
    )


def _spread(utterances: list[Utterance], count: int) -> list[Utterance]:
    """`count` utterances, evenly over the manifest: neighbours often share a speaker."""
    if count >= len(utterances):
        return utterances
    return [utterances[index * len(utterances) // count] for index in range(count)]


def _train(
    run: Run,
    recipe: Recipe,
    checkpoint: Checkpoint,
    speech: Speech,
    console: Console,
    workers: Workers,
) -> None:
    """Calibrate and train; the first worker writes weights.pdparams and ranges.json."""
    if run.has("weights.pdparams") and run.has("ranges.json"):
        return
    from asrcompress.compress.qat import train_quantized

    recognizer = from_checkpoint(checkpoint, device=recipe.training.device)
    trained = train_quantized(
        run,
        recipe,
        checkpoint,
        calibration=speech.calibration,
        train=speech.train,
        load_features=recognizer.features,
        console=console,
        workers=workers,
    )
    if not workers.leads:
        return
    write_ranges(run.ranges, trained.ranges())
    write_weights(run.weights, trained.plain_state_dict())
    run.state.unlink(missing_ok=True)


def _export(run: Run, recipe: Recipe, checkpoint: Checkpoint, console: Console) -> None:
    """Write model.fp32.onnx (the checkpoint) and model.int8.onnx (the run's weights)."""
    from asrcompress.export.int8 import quantize_graph
    from asrcompress.export.onnx_graph import save_graph

    if not run.has("model.fp32.onnx"):
        with console.status("exporting the checkpoint"):
            save_graph(export_checkpoint(checkpoint, recipe)[0], run.fp32_model)
    if not run.has("model.int8.onnx"):
        with console.status("exporting INT8"):
            trained = replace(checkpoint, weights_path=run.weights)
            graph, subsampling = export_checkpoint(trained, recipe)
            save_graph(quantize_graph(graph, read_ranges(run.ranges)), run.model)
        run.update(
            model_sha256=sha256_file(run.model),
            subsampling=subsampling,
            max_frames=max_frames(checkpoint, recipe),
        )


def export_checkpoint(checkpoint: Checkpoint, recipe: Recipe) -> tuple[Any, int]:
    """FP32 ONNX graph of a checkpoint, and its feature frames per output frame."""
    from asrcompress.export.families import export_utterances

    # Paddle numbers the tensors of a process; numbering anew makes the same bytes of the same
    # checkpoint, whatever was built before.
    with import_paddle().utils.unique_name.guard():
        network = build_network(checkpoint)
        fold_batch_norm(network)
        factor = subsampling_factor(network)
        graph = export_utterances(
            network,
            opset=recipe.export.opset,
            max_frames=max_frames(checkpoint, recipe),
            n_mels=checkpoint.features.n_mels,
        )
    return graph, factor


def max_frames(checkpoint: Checkpoint, recipe: Recipe) -> int:
    """Most feature frames that an exported graph accepts."""
    return int(recipe.export.max_seconds * 1000 / checkpoint.features.frame_shift_ms)


def _measure_kernels(run: Run, recipe: Recipe, console: Console) -> float:
    """Share of multiply-accumulates in integer kernels; writes integer_share.json."""
    from asrcompress.export.integer_share import measure_integer_share

    if not run.has("integer_share.json"):
        with console.status("counting integer kernels"):
            run.write_json("integer_share.json", measure_integer_share(run.model).to_json())
    share = run.field("integer_share.json", "share", kind=float)
    console.say(f"integer kernels: {share:.1%} of the multiply-accumulates")
    return share


def _check_forms(run: Run, checkpoint: Checkpoint, speech: Speech, console: Console) -> None:
    """Compare the four forms on some gate utterances; writes parity.json."""
    from asrcompress.compress.qat import restore_quantized
    from asrcompress.export.parity import check_parity, compare_features, compare_forms

    if run.has("parity.json"):
        return
    reference = from_checkpoint(checkpoint)
    fake = restore_quantized(run, checkpoint)
    forms = {
        "paddle_fp32": reference,
        "onnx_fp32": _onnx_form(run.fp32_model, checkpoint),
        "onnx_int8": from_run(run, checkpoint),
        "paddle_qat": replace(reference, model=PaddleAcousticModel(fake.network)),
    }
    some = speech.gate[:PARITY_UTTERANCES]
    front_end = PaddleFrontEnd(checkpoint)
    log_probs: dict[str, list[Any]] = {form: [] for form in forms}
    features: list[tuple[Any, Any]] = []
    with console.progress("parity") as advance:
        for index, item in enumerate(some):
            samples = read_audio(item.audio, start_s=item.start_s, end_s=item.end_s)
            features.append((front_end(samples), reference.fbank(samples)))
            for form, recognizer in forms.items():
                log_probs[form] += recognizer.model.log_probs([features[-1][1]])
            advance(index + 1, len(some))
    report = compare_forms(
        log_probs,
        {form: [reference.text(item) for item in log_probs[form]] for form in forms},
        features=compare_features([a for a, _ in features], [b for _, b in features]),
        utterances=[item.utt for item in some],
    )
    check_parity(report)
    run.write_json("parity.json", report.to_json())


def _measure_noise(run: Run, checkpoint: Checkpoint, speech: Speech, console: Console) -> None:
    """Noise of every layer on some gate utterances, for the report; writes sqnr.json."""
    from asrcompress.compress.qat import restore_quantized
    from asrcompress.compress.sqnr import measure_noise

    if run.has("sqnr.json"):
        return
    network = build_network(replace(checkpoint, weights_path=run.weights))
    fold_batch_norm(network)
    fbank = from_run(run, checkpoint)
    features = [fbank.features(item) for item in _spread(list(speech.gate), NOISE_UTTERANCES)]
    with console.progress("noise by layer") as advance:
        noise = measure_noise(
            network, restore_quantized(run, checkpoint), features, progress=advance
        )
    run.write_json("sqnr.json", strict_json.to_json(noise))


def _report_on(run: Run, console: Console) -> Path | None:
    """The page for people; a run whose page cannot be made is no less finished."""
    try:
        with console.status("writing the report"):
            return write_report(run)
    except AsrCompressError as error:
        console.warn(f"no report: {error}")
        return None


def _onnx_form(path: Any, checkpoint: Checkpoint) -> Recognizer:
    from asrcompress.recognizer import from_onnx

    return from_onnx(
        path, name=path.name, features=checkpoint.features, vocabulary=checkpoint.vocabulary
    )


def _gate(
    run: Run, recipe: Recipe, checkpoint: Checkpoint, speech: Speech, console: Console
) -> GateVerdict:
    """CER before and after on the gate manifest, and the verdict; writes all three."""
    before = _report(run, "before.json", lambda: from_checkpoint(checkpoint), speech.gate, console)
    after = _report(run, "after.json", lambda: from_run(run, checkpoint), speech.gate, console)
    verdict = judge(
        before,
        after,
        max_increase=recipe.gate.max_cer_increase,
        relative=recipe.gate.relative,
        draws=recipe.gate.draws,
    )
    run.write_json("verdict.json", verdict.to_json())
    return verdict


def _report(
    run: Run, name: str, opener: Any, utterances: Sequence[Utterance], console: Console
) -> CerReport:
    if not run.has(name):
        result = evaluate(opener(), utterances, console=console, title=name.removesuffix(".json"))
        run.write_json(name, result.to_json())
    return CerReport.from_json(run.field(name, "cer", kind=dict), item=str(run.path / name))


def _conclude(run: Run, recipe: Recipe, verdict: GateVerdict, share: float) -> Outcome:
    failure: CerGateFailed | IntegerGateFailed | None = None
    if share < recipe.gate.min_integer_share:
        failure = IntegerGateFailed(
            f"integer share: got {share:.3f}, "
            f"expected at least {recipe.gate.min_integer_share:.3f}",
            hint=f"{run.path / 'integer_share.json'} names the nodes that ran in float",
        )
    elif not verdict.passed:
        failure = CerGateFailed(
            f"CER gate: {verdict.reason}",
            hint="train longer (--epochs), leave sensitive layers in float (--skip), or, where the "
            "interval is wide, gate on more speech",
        )
    run.update(status=FAILED if failure else PASSED, finished=time.time())
    return Outcome(run=run, verdict=verdict, integer_share=share, failure=failure)
