"""What a run does besides where its recipe decodes with the attention decoder.

The decoder becomes a graph of its own, with the ranges that were learned along with the encoder's;
what it is worth is measured by the CER gate, which decodes as the recipe says before and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asrcompress import strict_json
from asrcompress.audio import read_audio
from asrcompress.bundles.manifest import DecoderModel
from asrcompress.checkpoints.attention_decoder import PARAMETERS, AttentionDecoder, forced
from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.checkpoints.network import (
    PaddleAcousticModel,
    PaddleAttentionDecoder,
    build_network,
)
from asrcompress.checkpoints.subject import trained_of
from asrcompress.console import Console
from asrcompress.errors import BadRecipe
from asrcompress.files import sha256_file
from asrcompress.manifests.manifest import Utterance
from asrcompress.paddle_imports import import_paddle
from asrcompress.pipeline.measurement import PARITY_UTTERANCES, measure_kernels
from asrcompress.ranges import read_ranges
from asrcompress.recipe import Decoding, Recipe
from asrcompress.run import Run
from asrcompress.runtime.features import Fbank
from asrcompress.runtime.onnx_decoder import OnnxAttentionDecoder
from asrcompress.runtime.session import OnnxAcousticModel

SUFFIX = "-decoder"
_FP32_MODEL = "decoder.fp32.onnx"
# What the integer share is counted on: texts of this length about ten seconds of speech.
_TEXTS, _TOKENS, _FRAMES = 10, 30, 250


def check_decodable(checkpoint: Checkpoint, settings: Decoding) -> None:
    """Refuse to decode with a decoder that is not there or was never trained.

    Raises:
        BadRecipe: names the setting of the checkpoint that rules it out.
    """
    if not settings.uses_decoder:
        return
    training = checkpoint.network.get("model_conf") or {}
    if not checkpoint.family.startswith("u2-") or training.get("ctc_weight", 0.5) >= 1:
        raise BadRecipe(
            f"decoding.method: got {settings.method}, but {checkpoint.name} has no trained "
            "attention decoder, expected greedy or prefix_beam"
        )
    both = checkpoint.network.get("decoder") == "bitransformer"
    if settings.uses_reverse and not (both and training.get("reverse_weight", 0.0) > 0):
        raise BadRecipe(
            f"decoding.reverse_weight: got {settings.reverse_weight}, but {checkpoint.name} has no "
            "trained right-to-left decoder, expected 0"
        )


def decoder_stages(
    run: Run,
    recipe: Recipe,
    checkpoint: Checkpoint,
    gate: Sequence[Utterance],
    console: Console,
) -> float | None:
    """Run every stage of the decoder that is not done yet.

    Returns:
        share of its multiply-accumulates that run on integers; None where none is wanted.
    Raises:
        AsrCompressError: anything that stops the job before a verdict.
    """
    if not recipe.decoding.uses_decoder:
        return None
    _export(run, recipe, checkpoint, console)
    share = measure_kernels(
        run,
        run.decoder_model,
        console,
        feed=lambda: example_feed(run.decoder_spec()),
        suffix=SUFFIX,
        where=" in the decoder",
    )
    _check_forms(run, recipe, checkpoint, gate, console)
    return share


def export_decoder_of(checkpoint: Checkpoint, recipe: Recipe) -> tuple[Any, DecoderModel]:
    """FP32 graph of a checkpoint's attention decoder, and its description but for the file name."""
    from asrcompress.export.decoder_graph import export_decoder
    from asrcompress.export.onnx_bundle import tensor_specs

    settings = recipe.decoding
    # Numbering tensors anew makes the same bytes of the same checkpoint.
    with import_paddle().utils.unique_name.guard():
        network = build_network(checkpoint)
        graph = export_decoder(network, opset=recipe.export.opset, reverse=settings.uses_reverse)
    inputs, outputs = tensor_specs(graph)
    described = DecoderModel(
        model=_FP32_MODEL,
        inputs=inputs,
        outputs=outputs,
        sos=int(network.sos),
        eos=int(network.eos),
        method=settings.method,
        beam=settings.beam,
        ctc_weight=settings.ctc_weight,
        reverse_weight=settings.reverse_weight if settings.uses_reverse else 0.0,
    )
    return graph, described


def _export(run: Run, recipe: Recipe, checkpoint: Checkpoint, console: Console) -> None:
    from asrcompress.export.int8 import quantize_graph
    from asrcompress.export.onnx_graph import save_graph

    if not run.has(_FP32_MODEL):
        with console.status("exporting the attention decoder"):
            save_graph(export_decoder_of(checkpoint, recipe)[0], run.path / _FP32_MODEL)
    if not run.has(run.decoder_model.name):
        with console.status("exporting the attention decoder in INT8"):
            graph, described = export_decoder_of(trained_of(run, checkpoint), recipe)
            run.write_json("decoder.json", strict_json.to_json(described))
            ranges = read_ranges(run.ranges).part(PARAMETERS)
            operators = recipe.export.operators
            save_graph(quantize_graph(graph, ranges, operators=operators), run.decoder_model)
        run.update(decoder_sha256=sha256_file(run.decoder_model))


def example_feed(spec: DecoderModel) -> dict[str, np.ndarray]:
    """Ten hypotheses about ten seconds of noise."""
    rng = np.random.default_rng(0)
    hidden, *texts = spec.inputs
    width, vocabulary = int(hidden.dims[-1]), int(spec.outputs[0].dims[-1])
    feed: dict[str, np.ndarray] = {
        hidden.name: rng.standard_normal((1, _FRAMES, width), np.float32)
    }
    for tensor in texts:
        feed[tensor.name] = rng.integers(0, vocabulary, (_TEXTS, _TOKENS))
    return feed


def _check_forms(
    run: Run,
    recipe: Recipe,
    checkpoint: Checkpoint,
    gate: Sequence[Utterance],
    console: Console,
) -> None:
    """What each form expects next in the references of some utterances; writes parity-decoder.json.

    Raises:
        ParityFailed: two forms that should be one decoder are not.
    """
    from asrcompress.export.parity import check_steps, compare_steps

    name = f"parity{SUFFIX}.json"
    if run.has(name):
        return
    forms, fbank = _forms(run, checkpoint), Fbank(checkpoint.features)
    some = gate[:PARITY_UTTERANCES]
    log_probs: dict[str, list[np.ndarray]] = {form: [] for form in forms}
    with console.progress(f"parity{SUFFIX}") as advance:
        for index, item in enumerate(some):
            features = fbank(read_audio(item.audio, start_s=item.start_s, end_s=item.end_s))
            text = checkpoint.tokenizer.text_to_ids(item.text)
            for form, (encoder, decoder) in forms.items():
                hidden = encoder.encode([features])[0].hidden
                reverse = recipe.decoding.uses_reverse
                log_probs[form].append(forced(decoder, hidden, text, reverse=reverse))
            advance(index + 1, len(some))
    texts = {form: [str(x.argmax(-1).tolist()) for x in found] for form, found in log_probs.items()}
    steps = compare_steps(log_probs, texts)
    check_steps(steps)
    run.write_json(name, strict_json.to_json({"steps": steps}))


def _forms(run: Run, checkpoint: Checkpoint) -> dict[str, tuple[Any, AttentionDecoder]]:
    """Encoder and decoder of every form, in the order of `asrcompress.export.parity`."""
    from asrcompress.compress.qat import restore_quantized

    exact, fake = build_network(checkpoint), restore_quantized(run, checkpoint).network

    def onnx(encoder: Path, decoder: Path) -> tuple[Any, AttentionDecoder]:
        return OnnxAcousticModel(encoder), OnnxAttentionDecoder(decoder, run.decoder_spec())

    return {
        "paddle_fp32": (PaddleAcousticModel(exact), PaddleAttentionDecoder(exact)),
        "onnx_fp32": onnx(run.fp32_model, run.path / _FP32_MODEL),
        "onnx_int8": onnx(run.model, run.decoder_model),
        "paddle_qat": (PaddleAcousticModel(fake), PaddleAttentionDecoder(fake)),
    }
