"""The whole job: calibrate, train, export, gate. One function per stage, each resumable.

A stage whose output is in the run directory is not repeated, so the same command goes on after an
interruption. What a stage hands to the next one lies on disk: the graph that is exported is made
from the weights and ranges that were written, and the graph that is measured is the file that
``asrcompress export`` ships.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asrcompress import strict_json
from asrcompress.accuracy.gate import GateVerdict
from asrcompress.accuracy.leak import check_leak
from asrcompress.checkpoints import u2_settings
from asrcompress.checkpoints.acoustic import subsampling_factor
from asrcompress.checkpoints.attention_decoder import PARAMETERS
from asrcompress.checkpoints.batch_norm import fold_batch_norm
from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.checkpoints.network import build_network
from asrcompress.checkpoints.streaming import check_streamable
from asrcompress.checkpoints.subject import trained_of
from asrcompress.checkpoints.weights import write_weights
from asrcompress.console import Console
from asrcompress.errors import BadRecipe, CerGateFailed, IntegerGateFailed
from asrcompress.files import sha256_file
from asrcompress.manifests.manifest import Utterance, load_manifest
from asrcompress.paddle_imports import import_paddle
from asrcompress.pipeline.decoder import check_decodable, decoder_stages
from asrcompress.pipeline.measurement import check_forms, gate_cer, measure_kernels
from asrcompress.pipeline.pruning import prune_checkpoint
from asrcompress.pipeline.recognizer import Recognizer, from_checkpoint, from_network, from_run
from asrcompress.pipeline.reporting import report_on
from asrcompress.pipeline.stages import record_stages
from asrcompress.pipeline.streaming import StreamingOutcome, stream_stages
from asrcompress.ranges import read_ranges, write_ranges
from asrcompress.recipe import Recipe
from asrcompress.report.page import write_report
from asrcompress.run import FAILED, PASSED, Run, open_run

if TYPE_CHECKING:
    from asrcompress.compress.workers import Workers

NOISE_UTTERANCES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """The manifests of a run, loaded and proven disjoint."""

    train: tuple[Utterance, ...]
    calibration: tuple[Utterance, ...]
    dev: tuple[Utterance, ...]
    gate: tuple[Utterance, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended; `failure` is None exactly where the gate passed."""

    run: Run
    verdict: GateVerdict
    integer_share: float
    failure: CerGateFailed | IntegerGateFailed | None
    streaming: StreamingOutcome | None = None
    decoder_share: float | None = None
    report: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data: where the run is, and what was measured."""
        return {
            "run": str(self.run.path),
            "report": None if self.report is None else str(self.report),
            "passed": self.failure is None,
            "failure": None if self.failure is None else str(self.failure),
            "integer_share": self.integer_share,
            "decoder_integer_share": self.decoder_share,
            "verdict": self.verdict.to_json(),
            "streaming": None if self.streaming is None else self.streaming.to_json(),
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

    check_streamable(checkpoint, recipe.streaming)
    check_decodable(checkpoint, recipe.decoding)
    workers = join_workers()
    if not workers.leads:
        workers.wait()  # until the run directory is there
        run = open_run(kind, recipe, checkpoint, tools=tool_versions())
        speech = load_speech(recipe, console, guard=False)
        prune_subject(run, recipe, checkpoint, speech, console, workers)
        _train(run, recipe, checkpoint, speech, console, workers)
        return None
    run = open_run(kind, recipe, checkpoint, tools=tool_versions())
    with run.lock():
        console.say(f"run {run.path}")
        speech = load_speech(recipe, console)
        workers.wait()
        share = make_artifact(run, recipe, checkpoint, speech, console, workers)
        _check_forms(run, checkpoint, speech, console)
        decoder_share = decoder_stages(run, recipe, checkpoint, speech.gate, console)
        _measure_noise(run, checkpoint, speech, console)
        verdict = gate_cer(
            run,
            recipe.gate,
            speech.gate,
            console,
            before=lambda: from_checkpoint(checkpoint, decoding=recipe.decoding),
            after=lambda: from_run(run, checkpoint, decoding=recipe.decoding),
        )
        record_stages(run, recipe, checkpoint, speech.gate, console)
        streaming = stream_stages(run, recipe, checkpoint, speech.gate, console)
        outcome = _conclude(run, recipe, verdict, share, streaming, decoder_share)
        return replace(outcome, report=report_on(run, write_report, console))


def make_artifact(
    run: Run,
    recipe: Recipe,
    checkpoint: Checkpoint,
    speech: Speech,
    console: Console,
    workers: Workers,
) -> float:
    """The stages that hear nothing of the gate: prune, calibrate, train, export, count kernels.

    Args:
        run: held by this process.
    Returns:
        share of the multiply-accumulates that run in integer kernels.
    """
    prune_subject(run, recipe, checkpoint, speech, console, workers)
    _train(run, recipe, checkpoint, speech, console, workers)
    _export(run, recipe, checkpoint, console)
    return measure_kernels(run, run.model, console)


def load_speech(recipe: Recipe, console: Console, *, guard: bool = True) -> Speech:
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
    if data.train is None and recipe.prune.wanted:
        raise BadRecipe(
            "data.train: not set, expected a manifest to prune and recover with",
            hint="--train-manifest FILE",
        )
    train = load_manifest(data.train) if data.train else []
    if data.train_utterances:
        train = spread(train, data.train_utterances)
    calibration = load_manifest(data.calibration) if data.calibration else train
    dev = load_manifest(data.dev) if data.dev else []
    gate = load_manifest(data.gate)
    if guard:
        with console.progress("leak guard") as advance:
            check_leak(
                [*train, *dev, *(calibration if data.calibration else [])],
                gate,
                allow_shared_speakers=data.allow_shared_speakers,
                progress=advance,
            )
    return Speech(
        train=tuple(train),
        calibration=tuple(spread(calibration, data.calibration_utterances)),
        dev=tuple(dev),
        gate=tuple(gate),
    )


def spread(utterances: list[Utterance], count: int) -> list[Utterance]:
    """`count` utterances, evenly over the manifest: neighbours often share a speaker."""
    if count >= len(utterances):
        return utterances
    return [utterances[index * len(utterances) // count] for index in range(count)]


def prune_subject(
    run: Run,
    recipe: Recipe,
    checkpoint: Checkpoint,
    speech: Speech,
    console: Console,
    workers: Workers,
) -> None:
    """Make what is left the run's subject, where the recipe wants it smaller."""
    if recipe.prune.wanted:
        prune_checkpoint(
            run,
            recipe,
            checkpoint,
            train=speech.train,
            dev=speech.dev,
            console=console,
            workers=workers,
        )


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
            graph, subsampling = export_checkpoint(trained_of(run, checkpoint), recipe)
            ranges = read_ranges(run.ranges).part(PARAMETERS, inside=False)
            operators = recipe.export.operators
            save_graph(quantize_graph(graph, ranges, operators=operators), run.model)
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
            n_mels=checkpoint.features.width,
            hidden=recipe.decoding.uses_decoder,
        )
    return graph, factor


def max_frames(checkpoint: Checkpoint, recipe: Recipe) -> int:
    """Most feature frames that an exported graph accepts: the recipe's, or what positions allow."""
    wanted = int(recipe.export.max_seconds * 1000 / checkpoint.features.frame_shift_ms)
    reach = u2_settings.max_frames(checkpoint.network)
    return wanted if reach is None else min(wanted, reach)


def _check_forms(run: Run, checkpoint: Checkpoint, speech: Speech, console: Console) -> None:
    """Compare the four forms on some gate utterances; writes parity.json."""
    from asrcompress.compress.qat import restore_quantized

    def forms() -> dict[str, Recognizer]:
        return {
            "paddle_fp32": from_checkpoint(checkpoint),
            "onnx_fp32": _onnx_form(run.fp32_model, checkpoint),
            "onnx_int8": from_run(run, checkpoint),
            "paddle_qat": from_network(checkpoint, restore_quantized(run, checkpoint).network),
        }

    check_forms(run, checkpoint, forms, speech.gate, console)


def _measure_noise(run: Run, checkpoint: Checkpoint, speech: Speech, console: Console) -> None:
    """Noise of every layer on some gate utterances, for the report; writes sqnr.json."""
    from asrcompress.compress.qat import restore_quantized
    from asrcompress.compress.sqnr import measure_noise

    if run.has("sqnr.json"):
        return
    network = build_network(trained_of(run, checkpoint))
    fold_batch_norm(network)
    fbank = from_run(run, checkpoint)
    features = [fbank.features(item) for item in spread(list(speech.gate), NOISE_UTTERANCES)]
    with console.progress("noise by layer") as advance:
        noise = measure_noise(
            network, restore_quantized(run, checkpoint), features, progress=advance
        )
    run.write_json("sqnr.json", strict_json.to_json(noise))


def _onnx_form(path: Any, checkpoint: Checkpoint) -> Recognizer:
    from asrcompress.pipeline.recognizer import from_onnx

    return from_onnx(
        path, name=path.name, features=checkpoint.features, vocabulary=checkpoint.vocabulary
    )


def _conclude(
    run: Run,
    recipe: Recipe,
    verdict: GateVerdict,
    share: float,
    streaming: StreamingOutcome | None,
    decoder_share: float | None,
) -> Outcome:
    """Judge every form of use by itself; the first that is not good enough is the failure."""
    forms = [("", share, verdict)]
    if decoder_share is not None:
        forms.append((" (attention decoder)", decoder_share, verdict))
    if streaming is not None:
        forms.append((" (streaming)", streaming.integer_share, streaming.verdict))
    failures = (_failure(run, recipe, what, share, verdict) for what, share, verdict in forms)
    failure = next((item for item in failures if item is not None), None)
    run.update(status=FAILED if failure else PASSED, finished=time.time())
    return Outcome(
        run=run,
        verdict=verdict,
        integer_share=share,
        failure=failure,
        streaming=streaming,
        decoder_share=decoder_share,
    )


def _failure(
    run: Run, recipe: Recipe, what: str, share: float, verdict: GateVerdict
) -> CerGateFailed | IntegerGateFailed | None:
    if share < recipe.gate.min_integer_share:
        return IntegerGateFailed(
            f"integer share{what}: got {share:.3f}, "
            f"expected at least {recipe.gate.min_integer_share:.3f}",
            hint=f"integer_share*.json in {run.path} names the nodes that ran in float",
        )
    if not verdict.passed:
        return CerGateFailed(
            f"CER gate{what}: {verdict.reason}",
            hint="train longer (--epochs), leave sensitive layers in float (--skip), or, where the "
            "interval is wide, gate on more speech",
        )
    return None
