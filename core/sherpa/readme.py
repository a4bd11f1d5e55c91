"""The README of a folder for sherpa-onnx."""

from __future__ import annotations

from asrcompress.sherpa.record import FIRE_RED, TOKENS, WAVS, WENET_STREAM, SherpaRecord

_HEARS = {
    True: "sherpa-onnx computes exactly the features that this network was trained on.",
    False: "sherpa-onnx computes other features for this slot than the network was trained on: mel "
    "bins end 400 Hz below Nyquist, frames lie around their middles (snip_edges=false)",
}


def readme(record: SherpaRecord) -> str:
    """How to run it, what it hears, and what was measured."""
    return "\n".join(
        [
            f"# {record.family} for sherpa-onnx",
            "",
            f"Slot: {record.slot}. Made by asrcompress from PaddleSpeech's checkpoint "
            f"{record.source.checkpoint_name}.",
            "",
            "```sh",
            *_commands(record),
            "```",
            "",
            _features(record),
            "",
            *_limits(record),
            *_measured(record),
            f"`{WAVS}` holds sounds made by arithmetic, not speech; `asrcompress.json` has the "
            "text that each model gives for them.",
            "",
        ]
    )


def _commands(record: SherpaRecord) -> list[str]:
    file = next(iter(record.models.values())).file
    if record.slot == FIRE_RED:
        flags = ["sherpa-onnx-offline", f"--fire-red-asr-ctc-model={file}"]
    elif record.slot == WENET_STREAM:
        assert record.streaming is not None
        flags = [
            "sherpa-onnx",
            f"--wenet-ctc-model={file}",
            f"--wenet-ctc-chunk-size={record.streaming.chunk_size}",
            f"--wenet-ctc-num-left-chunks={record.streaming.left_chunks}",
        ]
    else:
        flags = ["sherpa-onnx-offline", f"--wenet-ctc-model={file}"]
        flags.append(f"--feat-dim={record.features.width}")
    return [" ".join([*flags, f"--tokens={TOKENS}", f"{WAVS}/0.wav"])]


def _features(record: SherpaRecord) -> str:
    said = _HEARS[record.hears_training_features]
    if record.hears_training_features:
        return said
    dither = "" if record.slot == WENET_STREAM else ", and dither is added"
    return (
        f"{said}{dither}. The graph begins with a conversion of the mel bins and with the CMVN; "
        "what is left of the difference is in the CER below."
    )


def _limits(record: SherpaRecord) -> list[str]:
    spec = record.streaming
    if spec is None:
        most_s = record.max_frames * record.features.frame_shift_ms / 1000
        return [f"Recordings of up to {most_s:g} s; longer ones fail.", ""]
    return [
        f"Chunks of {spec.chunk_size} frames after subsampling, {spec.left_chunks} chunks of "
        "history: give sherpa-onnx these numbers, it does not read them from the file. It decodes "
        f"full windows only: put {spec.window_frames * 10 + 20} ms of silence behind the end of a "
        "recording.",
        "",
    ]


def _measured(record: SherpaRecord) -> list[str]:
    lines = []
    for precision, model in record.models.items():
        quality = model.quality
        if quality is not None:
            lines.append(
                f"{precision}: CER {quality['cer_after']:.2%} in sherpa-onnx, "
                f"{quality['cer_before']:.2%} before compression in PaddleSpeech, "
                f"{quality['utterances']} utterances of {quality['gate_manifest']}."
            )
    if not lines and record.quality is not None and record.hears_training_features:
        lines.append(
            f"int8: CER {record.quality['cer_after']:.2%} in asrcompress, on the same graph and "
            f"features, {record.quality['cer_before']:.2%} before compression, "
            f"{record.quality['utterances']} utterances of {record.quality['gate_manifest']}."
        )
    return [*(lines or ["No CER was measured."]), ""]
