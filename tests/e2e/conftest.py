"""A tiny experiment on disk with speech-like noise, whose own FP32 transcripts are the references.

So the CER before is zero by construction, and every edit that is counted is quantization's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytest.importorskip("paddle", reason="needs the [compress] extra")
from asrcompress.checkpoints.checkpoint import read_checkpoint
from asrcompress.checkpoints.network import PaddleAcousticModel, build_network
from asrcompress.checkpoints.weights import read_weights, write_weights
from asrcompress.pipeline.recognizer import from_checkpoint
from asrcompress.runtime.features import Fbank


@dataclass(frozen=True)
class Workplace:
    """A checkpoint and its manifests."""

    checkpoint: Path
    train: Path
    gate: Path

    def write_recipe(self, folder: Path, extra: str = "") -> Path:
        """An asrcompress.toml in `folder`; `extra` holds further tables."""
        path = folder / "asrcompress.toml"
        path.write_text(
            f'[checkpoint]\npath = "{self.checkpoint}"\n'
            f'[data]\ntrain = "{self.train}"\ngate = "{self.gate}"\n'
            f"calibration_utterances = 12\n{extra}"
        )
        return path


@pytest.fixture(scope="session")
def workplace(make_experiment: Any, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Experiment, 16 training and 40 gate utterances."""
    return _workplace(tmp_path_factory.mktemp("workplace"), make_experiment)


@pytest.fixture(scope="session")
def streaming_workplace(
    make_experiment: Any, tmp_path_factory: pytest.TempPathFactory
) -> Workplace:
    """The same with a causal network that was trained for chunks."""
    return _workplace(
        tmp_path_factory.mktemp("streaming"),
        make_experiment,
        encoder_conf={"causal": True, "use_dynamic_chunk": True},
    )


@pytest.fixture(scope="session")
def dev(workplace: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest to choose by: the gate's texts, said by others."""
    return _said_by_others(workplace.gate, tmp_path_factory.mktemp("dev"))


@pytest.fixture(scope="session")
def streaming_dev(streaming_workplace: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for `streaming_workplace`."""
    return _said_by_others(streaming_workplace.gate, tmp_path_factory.mktemp("streaming_dev"))


def _said_by_others(manifest: Path, folder: Path) -> Path:
    """Its utterances under other ids, with audio that is a little louder."""
    lines = []
    for line in manifest.read_text().splitlines():
        item = json.loads(line)
        samples, rate = soundfile.read(item["audio"], dtype="float32")
        name = "dev" + item["utt"]
        soundfile.write(folder / f"{name}.flac", 1.1 * samples, rate, subtype="PCM_16")
        item |= {"utt": name, "speaker": name, "audio": str(folder / f"{name}.flac")}
        lines.append(json.dumps(item, ensure_ascii=False))
    (folder / "dev.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "dev.jsonl"


def _workplace(root: Path, make_experiment: Any, **options: Any) -> Workplace:
    make_experiment(
        root / "checkpoint", blocks=2, width=32, heads=4, feed_forward=64, decoder_blocks=1,
        kernel=7, symbols=list("开关灯空调音乐天气一二三四五六七八"), dropout=0.0, seed=5,
        **options,
    )  # fmt: skip
    # Of one length: PaddleSpeech's losses depend a little on how a batch is padded, which would
    # hide what tests compare.
    train = [_noise(root / "audio", f"train{i}", seed=i, pieces=16) for i in range(16)]
    gate = [_noise(root / "audio", f"gate{i}", seed=100 + i) for i in range(40)]
    _balance_outputs(root / "checkpoint", [path for _, path in train])
    recognizer = from_checkpoint(read_checkpoint(root / "checkpoint"))
    for name, items in (("train", train), ("gate", gate)):
        lines = []
        for utt, path in items:
            samples, _ = soundfile.read(path, dtype="float32")
            text = recognizer.text(recognizer.model.log_probs([recognizer.fbank(samples)])[0])
            line = {"utt": utt, "audio": str(path), "duration": len(samples) / 16000}
            # What training needs fits the frames; what the gate needs is what FP32 hears.
            line |= {"text": text[:3] if name == "train" else text, "speaker": utt}
            lines.append(json.dumps(line, ensure_ascii=False))
        (root / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Workplace(
        checkpoint=root / "checkpoint", train=root / "train.jsonl", gate=root / "gate.jsonl"
    )


def _noise(folder: Path, utt: str, *, seed: int, pieces: int | None = None) -> tuple[str, Path]:
    """Noise whose colour and level change every 80 ms, 1 to 2 s, as FLAC."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(pieces or int(rng.integers(12, 25))):
        white = rng.standard_normal(1280 + 31)
        kernel = rng.standard_normal(32) * np.exp(-np.arange(32) / rng.uniform(2, 12))
        coloured = np.convolve(white, kernel, "valid")
        parts.append(coloured / np.abs(coloured).max() * rng.uniform(0.02, 0.5))
    folder.mkdir(exist_ok=True)
    soundfile.write(folder / f"{utt}.flac", np.concatenate(parts), 16000, subtype="PCM_16")
    return utt, folder / f"{utt}.flac"


def _balance_outputs(root: Path, audio: list[Path]) -> None:
    """Centre and widen the logits, or a random network emits one symbol for everything."""
    checkpoint = read_checkpoint(root)
    network = build_network(checkpoint)
    outputs: list[np.ndarray] = []
    hook = network.encoder.register_forward_post_hook(
        lambda layer, inputs, output: outputs.append(output[0].numpy()[0])
    )
    fbank = Fbank(checkpoint.features)
    for path in audio:
        samples, _ = soundfile.read(path, dtype="float32")
        PaddleAcousticModel(network).log_probs([fbank(samples)])
    hook.remove()
    hidden = np.concatenate(outputs)
    weights = dict(read_weights(checkpoint.weights_path))
    # Singular vectors of what varies: directions that tell frames apart, not the common part.
    _, _, directions = np.linalg.svd(hidden - hidden.mean(0), full_matrices=False)
    mixing = np.random.default_rng(0).standard_normal((8, len(checkpoint.vocabulary)))
    matrix = (directions[:8].T @ mixing).astype(np.float32)
    matrix *= 4.0 / (hidden @ matrix).std()
    weights["ctc.ctc_lo.weight"] = matrix
    weights["ctc.ctc_lo.bias"] = -(hidden @ matrix).mean(0)
    write_weights(checkpoint.weights_path, weights)
