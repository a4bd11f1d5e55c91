"""The process that holds sherpa-onnx: audio in, text out, until it is done or dies.

sherpa-onnx ends its process where a model lacks a key of its metadata, and it brings an ONNX
Runtime of its own: so it never runs in the process that asks. Started as
``python -m asrcompress.sherpa.worker``; the job is one line of JSON on stdin, then one line of JSON
with a text comes back for each recording.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import sherpa_onnx

from asrcompress.audio import SAMPLE_RATE_HZ, read_audio

# 100 ms, as a microphone would give them.
_PIECE = SAMPLE_RATE_HZ // 10


def main() -> None:
    """Load the model and transcribe every recording of the job."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever the library prints is no answer
    job = json.loads(sys.stdin.readline())
    recognizer = _open(job)
    _answer(answers, {"loaded": True})
    hear = _stream if job["slot"].endswith("streaming") else _whole
    for item in job["audio"]:
        samples = read_audio(Path(item["path"]), start_s=item["start_s"], end_s=item["end_s"])
        _answer(answers, {"text": hear(recognizer, samples, job)})


def _answer(answers: Any, tree: dict[str, Any]) -> None:
    answers.write(json.dumps(tree, ensure_ascii=False) + "\n")
    answers.flush()


def _open(job: dict[str, Any]) -> Any:
    """The recognizer of a slot, exactly as sherpa-onnx's own examples open it."""
    files = {"model": job["model"], "tokens": job["tokens"], "num_threads": job["threads"]}
    if job["slot"] == "fire_red_asr_ctc":
        return sherpa_onnx.OfflineRecognizer.from_fire_red_asr_ctc(**files)
    if job["slot"] == "wenet_ctc":
        return sherpa_onnx.OfflineRecognizer.from_wenet_ctc(**files, feature_dim=job["width"])
    return sherpa_onnx.OnlineRecognizer.from_wenet_ctc(
        **files,
        feature_dim=job["width"],
        chunk_size=job["chunk_size"],
        num_left_chunks=job["left_chunks"],
    )


def _whole(recognizer: Any, samples: np.ndarray, job: dict[str, Any]) -> str:
    stream = recognizer.create_stream()
    stream.accept_waveform(SAMPLE_RATE_HZ, samples)
    recognizer.decode_stream(stream)
    return str(stream.result.text)


def _stream(recognizer: Any, samples: np.ndarray, job: dict[str, Any]) -> str:
    """In pieces; silence behind the end, or the last frames would never be decoded."""
    stream = recognizer.create_stream()
    padded = np.concatenate([samples, np.zeros(job["padding_samples"], np.float32)])
    for at in range(0, len(padded), _PIECE):
        stream.accept_waveform(SAMPLE_RATE_HZ, padded[at : at + _PIECE])
        while recognizer.is_ready(stream):
            recognizer.decode_stream(stream)
    stream.input_finished()
    while recognizer.is_ready(stream):
        recognizer.decode_stream(stream)
    return str(recognizer.get_result(stream))


if __name__ == "__main__":
    main()
