"""From a run or a checkpoint to a bundle for Paddle Lite.

What is executed, and where: kernels for x86 run here, in Paddle Lite's own predictor, before they
are shipped. Kernels for ARM cannot; the same program is run by Paddle in their place, which shows
that the program is right and what the grids cost, not that the kernels are right.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from asrcompress.bundles.bundle import Bundle, BundleManifest, Source, TensorSpec, write_bundle
from asrcompress.checkpoints import u2_settings
from asrcompress.checkpoints.acoustic import head_of, is_u2, subsampling_factor
from asrcompress.checkpoints.batch_norm import fold_batch_norm
from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.checkpoints.network import PaddleAcousticModel, build_network
from asrcompress.console import Console
from asrcompress.errors import BadRecipe
from asrcompress.files import refuse_overwrite
from asrcompress.lite.checks import compare, gate_cer_of
from asrcompress.lite.environment import PADDLE_LITE, sidecar_python
from asrcompress.lite.manifest import LiteBucket, LiteModel
from asrcompress.lite.origin import LiteOptions, Origin, find_origin
from asrcompress.lite.process import LiteProcess
from asrcompress.pipeline.golden_recording import record_golden
from asrcompress.pipeline.quantize import max_frames
from asrcompress.pipeline.recognizer import AcousticModel, Recognizer
from asrcompress.recipe import Recipe
from asrcompress.runtime.features import Fbank
from asrcompress.runtime.lite import BucketedModel

if TYPE_CHECKING:
    from asrcompress.export.lite_opt import Optimized
    from asrcompress.export.lite_program import Program

_REFERENCES = {"fp32": "PaddleSpeech's forward", "int8": "the quantized program run by Paddle"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """The network for one length."""

    bucket: LiteBucket
    program: Program
    optimized: Optimized


def ship_lite(
    source: Path | None,
    recipe: Recipe,
    output: Path,
    options: LiteOptions,
    *,
    force: bool,
    console: Console,
) -> Bundle:
    """Convert, execute what can be executed, gate what is quantized, and write the bundle.

    Args:
        source: a run directory, or for FP32 a checkpoint; None is the run that passed last, or
            the recipe's checkpoint.
    Raises:
        BadRecipe, BadRun, BadCheckpoint, CerGateFailed: see
            `asrcompress.pipeline.shipping.ship_run`; the gate is also held on the form that is
            shipped here.
        IntegerGateFailed: too few integer kernels.
        ParityFailed: the predictor gives something else than its reference.
        ExportFailed, SidecarFailed, OutputExists: with what is wrong.
    """
    refuse_overwrite(output, force)
    origin = find_origin(source, recipe, options)
    python = sidecar_python(options.sidecar)
    network = build_network(origin.checkpoint)
    exact = PaddleAcousticModel(network)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="asrcompress-")))
        with console.status("converting to Paddle Lite"):
            fold_batch_norm(network)
            made = _convert(network, origin, options, folder, python)
        lite = _describe(network, origin, made)
        simulated = _bucketed(lite, network, origin, _simulation(made))
        model: AcousticModel = simulated
        if origin.executed:
            process = stack.enter_context(LiteProcess(python))
            for item in made:
                process.load(item.bucket.file, item.optimized.path)
            model = _bucketed(
                lite, network, origin, lambda bucket, feeds: process.run(bucket.file, feeds)
            )
        with console.status("comparing"):
            reference = exact if origin.precision == "fp32" else simulated
            error = compare(model, reference, lite, origin)
        lite = replace(lite, relative_error=error if origin.executed else None)
        recognizer = _recognizer(model, origin)
        manifest = _manifest(network, origin, lite, made, gate_cer_of(recognizer, origin, console))
        golden = record_golden(recognizer, folder) if origin.executed else None
        extra = [item.optimized.path for item in made[:-1]]
        extra += [folder / name for name in (golden.files if golden else ())]
        return write_bundle(
            output,
            replace(manifest, golden=golden),
            model=made[-1].optimized.path,
            vocabulary=origin.checkpoint.vocabulary,
            extra=extra,
            force=force,
        )


def _convert(
    network: Any, origin: Origin, options: LiteOptions, folder: Path, python: Path
) -> list[_Made]:
    """One ``.nb`` file per length."""
    from asrcompress.export.lite_graph import trace_bucket
    from asrcompress.export.lite_int8 import quantize_program
    from asrcompress.export.lite_opt import check_integer_kernels, optimize

    made = []
    for seconds in options.buckets_s:
        frames = _frames(seconds, origin)
        outputs = _outputs(frames, network, origin.checkpoint)
        program = trace_bucket(
            network, frames=frames, outputs=outputs, n_mels=origin.checkpoint.features.width
        )
        if origin.ranges is not None:
            quantize_program(program, origin.ranges, origin.hardware)
        name = f"model.{origin.precision}.{seconds:g}s.nb"
        optimized = optimize(program, folder / name, target=origin.hardware, python=python)
        if origin.ranges is not None:
            check_integer_kernels(optimized, minimum=origin.recipe.gate.min_integer_share)
        bucket = LiteBucket(
            file=name, frames=frames, outputs=outputs, kernels=dict(optimized.kernels)
        )
        made.append(_Made(bucket=bucket, program=program, optimized=optimized))
    return made


def _frames(seconds: float, origin: Origin) -> int:
    checkpoint = origin.checkpoint
    frames = int(seconds * 1000 / checkpoint.features.frame_shift_ms)
    if origin.precision == "int8" and origin.executed:
        # The x86 kernels convert a tensor right if its size % 32 < 8. 8k + 6 frames of 80 mels are
        # 4k + 2 and then 2k frames: right for every convolution of a width that 16 divides.
        frames += (6 - frames) % 8
    least, most = _min_frames(checkpoint), u2_settings.max_frames(checkpoint.network)
    if frames < least or (most is not None and frames > most):
        raise BadRecipe(
            f"--buckets: {seconds:g} s is {frames} frames, expected {least} to {most or 'any'}"
        )
    return frames


def _min_frames(checkpoint: Checkpoint) -> int:
    return u2_settings.min_frames(checkpoint.network)


def _outputs(frames: int, network: Any, checkpoint: Checkpoint) -> int:
    """Output frames of `frames` feature frames."""
    return (frames - _min_frames(checkpoint)) // subsampling_factor(network) + 1


def _describe(network: Any, origin: Origin, made: Sequence[_Made]) -> LiteModel:
    return LiteModel(
        kind="u2" if is_u2(network) else "deepspeech2",
        hardware=origin.hardware,
        version=PADDLE_LITE,
        buckets=tuple(item.bucket for item in made),
        weight_share=min(item.optimized.weight_share for item in made),
        executed=origin.executed,
        reference=_REFERENCES[origin.precision],
    )


def _inputs(network: Any, origin: Origin, bucket: LiteBucket) -> tuple[TensorSpec, ...]:
    from asrcompress.export.lite_graph import interface_of

    width = origin.checkpoint.features.width
    return interface_of(network, frames=bucket.frames, outputs=bucket.outputs, n_mels=width)


def _bucketed(lite: LiteModel, network: Any, origin: Origin, run: Any) -> BucketedModel:
    return BucketedModel(
        lite,
        run,
        inputs=_inputs(network, origin, lite.buckets[-1]),
        subsampling=subsampling_factor(network),
        min_frames=_min_frames(origin.checkpoint),
    )


def _simulation(made: Sequence[_Made]) -> Any:
    """Runs the programs themselves, by Paddle; each is loaded when it is first needed."""
    from asrcompress.export.lite_reference import PaddleProgram

    programs = {item.bucket.file: item.program for item in made}
    loaded: dict[str, PaddleProgram] = {}

    def run(bucket: LiteBucket, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        if bucket.file not in loaded:
            loaded[bucket.file] = PaddleProgram(programs[bucket.file])
        return loaded[bucket.file].run(feeds)

    return run


def _recognizer(model: AcousticModel, origin: Origin) -> Recognizer:
    checkpoint = origin.checkpoint
    return Recognizer(
        name=checkpoint.name,
        backend="paddle lite" if origin.executed else "paddle, in place of paddle lite",
        model=model,
        fbank=Fbank(checkpoint.features),
        vocabulary=checkpoint.vocabulary,
    )


def _manifest(
    network: Any,
    origin: Origin,
    lite: LiteModel,
    made: Sequence[_Made],
    quality: dict[str, object] | None,
) -> BundleManifest:
    from asrcompress.export.onnx_bundle import tool_versions

    checkpoint, longest = origin.checkpoint, made[-1]
    inputs = _inputs(network, origin, longest.bucket)
    vocabulary = head_of(network).weight.shape[1]
    first = TensorSpec(
        name="log_probs", dtype="float32", dims=(1, longest.bucket.outputs, vocabulary)
    )
    states = () if lite.kind == "u2" else inputs[1:]
    return BundleManifest(
        family=checkpoint.family,
        precision=origin.precision,
        model=longest.bucket.file,
        inputs=inputs,
        outputs=(first, *(replace(item, name=f"next_{item.name}") for item in states)),
        features=checkpoint.features,
        blank_id=checkpoint.vocabulary.blank_id,
        vocab_size=len(checkpoint.vocabulary),
        subsampling_factor=subsampling_factor(network),
        min_frames=_min_frames(checkpoint),
        max_frames=max(longest.bucket.frames, max_frames(checkpoint, origin.recipe)),
        lite=lite,
        opset=0,
        source=Source(checkpoint_name=checkpoint.name, checkpoint_sha256=checkpoint.sha256),
        tools={**tool_versions(), "paddlelite": PADDLE_LITE},
        integer_share=longest.optimized.share,
        target=origin.contract.name,
        quality=quality,
    )
