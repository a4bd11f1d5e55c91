"""The checkpoint's network in Paddle's own engines, in FP32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asrcompress.checkpoints import u2_settings
from asrcompress.checkpoints.acoustic import is_u2, subsampling_factor
from asrcompress.checkpoints.batch_norm import fold_batch_norm
from asrcompress.checkpoints.network import build_network
from asrcompress.lite.environment import Sidecar, sidecar_python
from asrcompress.paddle_imports import import_paddle
from asrcompress.pipeline.quantize import max_frames
from bench.artifact import Artifact, Settings, size_of
from bench.subject import Subject


def build_inference(subject: Subject, folder: Path, settings: Settings) -> Artifact:
    """Paddle Inference with Paddle's own kernels."""
    return _inference(subject, folder, onednn=False)


def build_inference_onednn(subject: Subject, folder: Path, settings: Settings) -> Artifact:
    """Paddle Inference with oneDNN's kernels."""
    return _inference(subject, folder, onednn=True)


def _inference(subject: Subject, folder: Path, *, onednn: bool) -> Artifact:
    """``paddle.jit.save`` of the very layer that the ONNX graph is made from."""
    paddle = import_paddle()
    from asrcompress.export.onnx_graph import quiet_stderr

    network = _network(subject)
    layer = _layer(subject, network)
    layer.eval()
    spec = [
        paddle.static.InputSpec([-1, -1, subject.checkpoint.features.width], "float32", "x"),
        paddle.static.InputSpec([-1], "int64", "x_lens"),
    ]
    with quiet_stderr():
        paddle.jit.save(layer, str(folder / "model"), input_spec=spec)
    model, params = folder / "model.pdmodel", folder / "model.pdiparams"
    return Artifact(
        engine="paddle inference",
        spec={"model": str(model), "params": str(params), "onednn": onednn},
        size_bytes=size_of(model, params),
        integer_share=0.0,
    )


def build_lite(subject: Subject, folder: Path, settings: Settings) -> Artifact:
    """Paddle Lite for x86, one file for each length of the benchmark."""
    from asrcompress.export.lite_graph import interface_of, trace_bucket
    from asrcompress.export.lite_opt import optimize

    python = sidecar_python(Sidecar(python=settings.python38))
    network, width = _network(subject), subject.checkpoint.features.width
    first, factor = u2_settings.min_frames(subject.checkpoint.network), subsampling_factor(network)
    buckets, states = [], {}
    for seconds in settings.lengths_s:
        frames = round(seconds * 1000 / subject.checkpoint.features.frame_shift_ms)
        sizes = {"frames": frames, "outputs": (frames - first) // factor + 1, "n_mels": width}
        path = folder / f"{seconds:g}s.nb"
        optimize(trace_bucket(network, **sizes), path, target="x86", python=python)
        buckets.append({"file": str(path), "frames": frames})
        if not is_u2(network):
            states = {item.name: list(item.dims) for item in interface_of(network, **sizes)[1:]}
    return Artifact(
        engine="paddle lite",
        spec={"buckets": buckets, "states": states, "min_frames": first, "subsampling": factor},
        size_bytes=size_of(Path(str(buckets[0]["file"]))),
        integer_share=0.0,
        python=str(python),
        note="one file per length, each with all weights; MB of one, memory of all",
    )


def _network(subject: Subject) -> Any:
    network = build_network(subject.checkpoint)
    fold_batch_norm(network)
    return network


def _layer(subject: Subject, network: Any) -> Any:
    """The layer that `asrcompress.export.families` exports."""
    from asrcompress.export.deepspeech2_graph import ExportedDeepSpeech2
    from asrcompress.export.graph import ExportedEncoder

    if not is_u2(network):
        return ExportedDeepSpeech2(network)
    frames = max_frames(subject.checkpoint, subject.recipe)
    return ExportedEncoder(network, max_frames=frames // subsampling_factor(network))
