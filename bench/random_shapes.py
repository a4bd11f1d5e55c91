"""Checkpoints of well-known shapes with random weights, compressed by this project's own ptq.

Sizes and speed do not depend on the weights. Accuracy cannot be judged with them; whether somebody
computes nonsense shows in how far the log-probabilities are from those of FP32.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soundfile

from asrcompress.audio import SAMPLE_RATE_HZ
from bench.inputs import coloured_noise

REPO = Path(__file__).resolve().parent.parent
_CODE = ("calibration", "compress", "core", "export", "runtime")
# A gate takes 30 utterances at least.
_CALIBRATION, _GATE, _UTTERANCE_S = 12, 30, 2.0
_TEXT = chr(0x4E00)  # nobody says anything in noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A network.

    Attributes:
        script: of examples/ that writes its experiment.
        options: of the script's ``write_experiment``.
        chunk_size: of the streaming graph; 0 without one.
    """

    name: str
    script: str
    options: Mapping[str, Any] = field(default_factory=dict)
    chunk_size: int = 0


SHAPES = {
    shape.name: shape
    for shape in (
        # examples/aishell/asr1/conf/conformer.yaml: 47 million parameters.
        Shape(name="conformer-12x256", script="random_experiment"),
        # examples/aishell/asr0/conf/deepspeech2_online.yaml
        Shape(name="deepspeech2-5x1024", script="random_deepspeech2", options={"n_mels": 161}),
        Shape(
            name="deepspeech2-5x1024-gru",
            script="random_deepspeech2",
            options={"n_mels": 161, "gru": True},
        ),
        Shape(
            name="stream-6x144",
            script="random_experiment",
            options={
                "blocks": 6,
                "width": 144,
                "feed_forward": 576,
                "decoder_blocks": 1,
                "encoder_conf": {"causal": True, "use_dynamic_chunk": True},
                "seed": 1,  # of those tried, where the best symbol is furthest ahead of the next
            },
            chunk_size=16,
        ),
        Shape(
            name="tiny-conformer",  # this and the next for trying the suite itself
            script="random_experiment",
            options={
                "blocks": 2,
                "width": 64,
                "feed_forward": 128,
                "decoder_blocks": 1,
                "vocabulary": 200,
            },
        ),
        Shape(
            name="tiny-deepspeech2",
            script="random_deepspeech2",
            options={"n_mels": 161, "layers": 2, "width": 64, "vocabulary": 200},
        ),
    )
}
DEFAULT = ("conformer-12x256", "deepspeech2-5x1024")
STREAM = "stream-6x144"


def compress_shape(shape: Shape, work: Path, *, fresh: bool = False, reuse: bool = False) -> Path:
    """Run directory of a shape; made anew when the code that makes it has changed.

    Args:
        fresh: make it anew in any case.
        reuse: take the newest, whatever has changed since.
    Raises:
        RuntimeError: ``asrcompress ptq`` failed; its words are on stderr.
    """
    folder = work / shape.name / f"run-{code_digest()}"
    earlier = [path.parent for path in folder.parent.glob("run-*/finished.json")]
    if reuse and earlier:
        folder = max(earlier, key=lambda path: path.stat().st_mtime)
    elif fresh:
        shutil.rmtree(folder, ignore_errors=True)
    finished = folder / "finished.json"
    if not finished.is_file():
        if not (folder / "gate.jsonl").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            _prepare(shape, folder)
        _quantize(shape, folder)  # goes on where it was interrupted
        (run,) = (folder / "runs").iterdir()
        finished.write_text(json.dumps({"run": str(run.relative_to(folder))}))
    return folder / str(json.loads(finished.read_text())["run"])


def code_digest() -> str:
    """Of the source of everything that a run depends on."""
    digest = hashlib.sha256()
    for name in _CODE:
        for path in sorted((REPO / name).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:10]


def _prepare(shape: Shape, folder: Path) -> None:
    """The experiment, and two manifests of noise."""
    sys.path.insert(0, str(REPO / "examples"))
    try:
        script = __import__(shape.script)
    finally:
        sys.path.pop(0)
    script.write_experiment(folder / "checkpoint", **shape.options)
    (folder / "audio").mkdir()
    splits: dict[str, list[Path]] = {"calibration": [], "gate": []}
    for seed in range(_CALIBRATION + _GATE):
        split = "calibration" if seed < _CALIBRATION else "gate"
        path = folder / "audio" / f"{split}-{seed}.wav"
        noise = coloured_noise(_UTTERANCE_S, seed=100 + seed)
        soundfile.write(path, noise, SAMPLE_RATE_HZ, subtype="PCM_16")
        splits[split].append(path)
    for split, paths in splits.items():
        lines = [
            json.dumps(
                {
                    "utt": path.stem,
                    "audio": str(path),
                    "duration": _UTTERANCE_S,
                    "text": _TEXT,
                    "speaker": path.stem,
                },
                ensure_ascii=False,
            )
            for path in paths
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _quantize(shape: Shape, folder: Path) -> None:
    """``asrcompress ptq``; a random network may lose what it likes."""
    command = [sys.executable, "-m", "asrcompress", "ptq", "--quiet", "--max-cer-increase", "1"]
    command += ["--checkpoint", "checkpoint", "--calibration-manifest", "calibration.jsonl"]
    command += ["--gate-manifest", "gate.jsonl", "--runs", "runs"]
    command += ["--observer", "min_max"]  # the quickest
    if shape.chunk_size:
        command += ["--chunk-size", str(shape.chunk_size)]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise RuntimeError(f"{shape.name}: asrcompress ptq ended with {done.returncode}")
