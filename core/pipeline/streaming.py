"""What a run does besides where its recipe asks for streaming: export, count, compare, gate.

The streaming graph has the utterance graph's weights and ranges, and is measured as it will be
used: the file that ships, driven by the streaming runtime, against PaddleSpeech's own forward with
the same chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from asrcompress import strict_json
from asrcompress.accuracy.gate import GateVerdict
from asrcompress.bundles.manifest import StreamingModel
from asrcompress.checkpoints.attention_decoder import PARAMETERS
from asrcompress.checkpoints.batch_norm import fold_batch_norm
from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.checkpoints.network import build_network
from asrcompress.checkpoints.streaming import chunk_context
from asrcompress.checkpoints.subject import trained_of
from asrcompress.console import Console
from asrcompress.files import sha256_file
from asrcompress.manifests.manifest import Utterance
from asrcompress.paddle_imports import import_paddle
from asrcompress.pipeline.measurement import check_forms, gate_cer, measure_kernels
from asrcompress.pipeline.recognizer import (
    Recognizer,
    from_checkpoint,
    from_chunks,
    from_network,
    from_run,
)
from asrcompress.ranges import read_ranges
from asrcompress.recipe import Recipe
from asrcompress.run import Run

SUFFIX = "-streaming"
_FP32_MODEL = "model-streaming.fp32.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamingOutcome:
    """What was measured on the streaming graph."""

    verdict: GateVerdict
    integer_share: float

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"integer_share": self.integer_share, "verdict": self.verdict.to_json()}


def stream_stages(
    run: Run,
    recipe: Recipe,
    checkpoint: Checkpoint,
    gate: Sequence[Utterance],
    console: Console,
) -> StreamingOutcome | None:
    """Run every streaming stage that is not done yet; None where the recipe wants no streaming.

    Raises:
        AsrCompressError: anything that stops the job before a verdict.
    """
    settings = recipe.streaming
    if not settings.wanted:
        return None
    share = make_stream(run, recipe, checkpoint, console)
    _check_forms(run, recipe, checkpoint, gate, console)
    verdict = gate_cer(
        run,
        recipe.gate,
        gate,
        console,
        before=lambda: from_checkpoint(
            checkpoint, context=chunk_context(settings), decoding=recipe.decoding
        ),
        after=lambda: from_run(run, checkpoint, streaming=settings, decoding=recipe.decoding),
        suffix=SUFFIX,
    )
    return StreamingOutcome(verdict=verdict, integer_share=share)


def make_stream(run: Run, recipe: Recipe, checkpoint: Checkpoint, console: Console) -> float:
    """The stages that hear nothing: export the streaming graphs, count kernels.

    Returns:
        share of the multiply-accumulates that run in integer kernels.
    """
    from asrcompress.export.streaming import example_feed

    _export(run, recipe, checkpoint, console)
    return measure_kernels(
        run,
        run.streaming_model,
        console,
        feed=lambda: example_feed(run.streaming_spec()),
        suffix=SUFFIX,
        where=" in a stream",
    )


def export_chunks_of(
    checkpoint: Checkpoint, recipe: Recipe, *, name: str, max_frames: int
) -> tuple[Any, StreamingModel]:
    """FP32 streaming graph of a checkpoint, to be called `name`, and its description."""
    from asrcompress.export.streaming import export_streaming

    # Numbering tensors anew makes the same bytes of the same checkpoint.
    with import_paddle().utils.unique_name.guard():
        network = build_network(checkpoint)
        fold_batch_norm(network)
        return export_streaming(
            network,
            recipe.streaming,
            name=name,
            opset=recipe.export.opset,
            max_frames=max_frames,
            n_mels=checkpoint.features.width,
            hidden=recipe.decoding.uses_decoder,
        )


def _export(run: Run, recipe: Recipe, checkpoint: Checkpoint, console: Console) -> None:
    """Write both streaming graphs, without the weights that the utterance graphs hold."""
    from asrcompress.export.int8 import quantize_graph
    from asrcompress.export.onnx_graph import save_graph
    from asrcompress.export.shared_weights import share_weights
    from asrcompress.export.streaming import describe_again

    most = run.field("run.json", "max_frames", kind=int)
    if not run.has(_FP32_MODEL):
        with console.status("exporting the checkpoint for streams"):
            graph, _ = export_chunks_of(checkpoint, recipe, name=_FP32_MODEL, max_frames=most)
            share_weights(graph, run.fp32_model)
            save_graph(graph, run.path / _FP32_MODEL)
    if not run.has(run.streaming_model.name):
        with console.status("exporting INT8 for streams"):
            trained = trained_of(run, checkpoint)
            name = run.streaming_model.name
            graph, spec = export_chunks_of(trained, recipe, name=name, max_frames=most)
            quantized = quantize_graph(
                graph,
                read_ranges(run.ranges).part(PARAMETERS, inside=False),
                operators=recipe.export.operators,
            )
            spec = describe_again(spec, quantized, name)
            share_weights(quantized, run.model)
            run.write_json("streaming.json", strict_json.to_json(spec))
            save_graph(quantized, run.streaming_model)
        run.update(streaming_sha256=sha256_file(run.streaming_model))


def _check_forms(
    run: Run,
    recipe: Recipe,
    checkpoint: Checkpoint,
    gate: Sequence[Utterance],
    console: Console,
) -> None:
    from asrcompress.compress.qat import restore_quantized

    context = chunk_context(recipe.streaming)

    def forms() -> dict[str, Recognizer]:
        fake = restore_quantized(run, checkpoint)
        return {
            "paddle_fp32": from_checkpoint(checkpoint, context=context),
            "onnx_fp32": from_chunks(
                run.path / _FP32_MODEL,
                replace(run.streaming_spec(), model=_FP32_MODEL),
                name=_FP32_MODEL,
                features=checkpoint.features,
                vocabulary=checkpoint.vocabulary,
            ),
            "onnx_int8": from_run(run, checkpoint, streaming=recipe.streaming),
            "paddle_qat": from_network(checkpoint, fake.network, context=context),
        }

    check_forms(run, checkpoint, forms, gate, console, suffix=SUFFIX)
