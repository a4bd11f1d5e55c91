"""Go on from train.py's checkpoint in PyTorch, whose CPU convolutions are several times faster.

    pip install torch              (asrcompress does not need it; training this example again does)
    python finish_training.py --data work/data --checkpoint work/checkpoint --minutes 18

Starts from CHECKPOINT/checkpoints/best.pdparams and replaces it whenever the CER on dev falls. The
file stays PaddleSpeech's: u2_torch.py has its parameter names, and before and after training
PaddleSpeech's own forward pass (paddle_forward.py) must give the same log-probabilities. What is
kept is the exponential moving average of the weights.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from asrcompress.checkpoints.weights import read_weights, write_weights
from asrcompress.runtime.decode import greedy
from asrcompress.tokens import Vocabulary
from train import Example, batches, edit_distance, mask, read_examples, warm_up_then_cosine
from u2_torch import U2, from_paddle, to_paddle

RESAMPLED_SHARE = 0.5
STRETCH = 0.1  # in time: speed without pitch
WARP = 0.05  # along the mel axis: length of the vocal tract
MOST_DIFFERENCE = 1e-3  # of log-probabilities, PyTorch's against PaddleSpeech's
WARM_UP_SHARE = 0.04
SCHEDULE_STEPS = 10_000  # the schedule goes by the clock; this is only its resolution


def to_batch(features: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Speech (N, T, 80) padded with zeros, and its lengths (N,)."""
    lengths = [len(item) for item in features]
    speech = np.zeros((len(features), max(lengths), features[0].shape[1]), np.float32)
    for row, item in zip(speech, features, strict=True):
        row[: len(item)] = item
    return torch.from_numpy(speech), torch.tensor(lengths)


def resample(features: np.ndarray, n_frames: int, warp: float) -> np.ndarray:
    """Linear interpolation to `n_frames` and to mel bins `warp` times as high."""
    times = np.linspace(0, len(features) - 1, n_frames, dtype=np.float32)
    mels = np.clip(np.arange(features.shape[1], dtype=np.float32) * warp, 0, features.shape[1] - 1)
    for axis, places in enumerate((times, mels)):
        low = np.minimum(places.astype(int), features.shape[axis] - 2)
        share = (places - low).reshape((-1, 1) if axis == 0 else (1, -1))
        below, above = features.take(low, axis), features.take(low + 1, axis)
        features = below * (1 - share) + above * share
    return features


def augment(example: Example, rng: random.Random) -> np.ndarray:
    """Another loudness, SpecAugment's masks, and for some another speed and another throat."""
    features = example.features
    if rng.random() < RESAMPLED_SHARE:
        n_frames = round(len(features) * rng.uniform(1 - STRETCH, 1 + STRETCH))
        features = resample(features, n_frames, rng.uniform(1 - WARP, 1 + WARP))
    return mask(features + np.float32(rng.gauss(0, 0.15)), rng)


def log_probs_of(network: U2, features: list[np.ndarray]) -> list[np.ndarray]:
    """CTC log-probabilities of a batch, padding removed."""
    network.eval()
    with torch.no_grad():
        encoded, counts = network.encoder(*to_batch(features))
        log_probs = network.ctc_log_probs(encoded).numpy()
    return [row[:n] for row, n in zip(log_probs, counts.sum(1).tolist(), strict=True)]


def dev_cer(network: U2, examples: list[Example], vocabulary: Vocabulary) -> float:
    """CER of greedy CTC, as a fraction."""
    edits = 0
    for batch in batches(examples, 6000, None):
        outputs = log_probs_of(network, [item.features for item in batch])
        for item, log_probs in zip(batch, outputs, strict=True):
            said = vocabulary.ids_to_text(greedy(log_probs, vocabulary.blank_id))
            edits += edit_distance(item.text, said)
    return edits / sum(len(item.text) for item in examples)


def check_against_paddle(checkpoint: Path, network: U2, examples: list[Example]) -> None:
    """End the run unless PaddleSpeech computes what `network` does from the checkpoint's file."""
    features = [item.features for item in examples]
    with tempfile.TemporaryDirectory() as folder:
        given, answer = Path(folder, "features.npz"), Path(folder, "log_probs.npz")
        np.savez(given, *features)
        script = Path(__file__).with_name("paddle_forward.py")
        subprocess.run([sys.executable, script, checkpoint, given, answer], check=True)
        with np.load(answer) as stored:
            theirs = [stored[f"arr_{index}"] for index in range(len(features))]
    ours = log_probs_of(network, features)
    most = max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))
    same = sum(int((a.argmax(1) == b.argmax(1)).sum()) for a, b in zip(ours, theirs, strict=True))
    n_frames = sum(map(len, theirs))
    print(
        f"PaddleSpeech's forward on {len(features)} utterances: log-probabilities differ by at "
        f"most {most:.1e}, best symbol the same in {same} of {n_frames} frames",
        flush=True,
    )
    if not most <= MOST_DIFFERENCE:
        sys.exit(f"{checkpoint}: expected a difference of at most {MOST_DIFFERENCE}")


class Average:
    """Exponential moving average of weights and of batch norm's statistics."""

    def __init__(self, network: U2, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._decay, self._steps = decay, 0
        ours, theirs = self.network.state_dict(), network.state_dict()
        floats = [name for name, tensor in ours.items() if tensor.is_floating_point()]
        self._pairs = [ours[name] for name in floats], [theirs[name] for name in floats]

    def update(self) -> None:
        """After a step. Early on the average forgets faster: the first weights are the worst."""
        self._steps += 1
        decay = min(self._decay, self._steps / (10 + self._steps))
        torch._foreach_lerp_(*self._pairs, 1 - decay)


def make_optimizer(network: U2, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW; biases and norms do not decay."""
    trained = [item for item in network.parameters() if item.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [item for item in trained if item.dim() > 1], "weight_decay": weight_decay},
        {"params": [item for item in trained if item.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def train(options: argparse.Namespace) -> None:
    """The whole run: see the module's docstring."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    rng = random.Random(options.seed)
    checkpoint: Path = options.checkpoint
    best = checkpoint / "checkpoints" / "best.pdparams"
    vocabulary = Vocabulary.from_vocab_txt(checkpoint / "data" / "vocab.txt")
    statistics = json.loads((checkpoint / "data" / "mean_std.json").read_text())
    training, _ = read_examples(options.data / "train.jsonl", vocabulary, statistics)
    dev, _ = read_examples(options.data / "dev.jsonl", vocabulary, statistics)

    network = U2(yaml.safe_load((checkpoint / "conf" / "model.yaml").read_text()), len(vocabulary))
    weights = read_weights(best)
    network.load_state_dict(from_paddle(weights), strict=False)
    if set(to_paddle(network.state_dict())) != set(weights):
        sys.exit(f"{best}: has other parameters than u2_torch.py")
    check_against_paddle(checkpoint, network, dev[:8])
    lowest = dev_cer(network, dev, vocabulary)
    history = [{"minutes": 0.0, "dev_cer": lowest}]
    print(f"dev CER {lowest:.4f} to begin with", flush=True)

    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = options.dropout
    rate = warm_up_then_cosine(options.lr, round(WARM_UP_SHARE * SCHEDULE_STEPS), SCHEDULE_STEPS)
    optimizer, average = make_optimizer(network, options.weight_decay), Average(network, 0.999)
    started, progress = time.monotonic(), 0.0
    while progress < 1:
        network.train()
        losses = []
        for batch in batches(training, options.batch_frames, rng):
            progress = (time.monotonic() - started) / 60 / options.minutes
            if progress >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = rate(int(progress * SCHEDULE_STEPS))
            speech = to_batch([augment(item, rng) for item in batch])
            with torch.autocast("cpu", torch.bfloat16, enabled=options.bfloat16):
                loss = network.loss(*speech, [item.ids for item in batch])
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 2.0)
            if math.isfinite(norm):
                optimizer.step()
                average.update()
                losses.append(loss.item())
        cer = dev_cer(average.network, dev, vocabulary)
        minutes = (time.monotonic() - started) / 60
        mean = float(np.mean(losses)) if losses else None
        history.append({"minutes": minutes, "steps": len(losses), "loss": mean, "dev_cer": cer})
        print(f"{minutes:.1f} min, {len(losses)} steps, loss {mean}, dev CER {cer:.4f}", flush=True)
        if cer < lowest:
            lowest = cer
            tensors = to_paddle(average.network.state_dict())
            write_weights(best, {name: tensors[name] for name in weights})
        (checkpoint / "checkpoints" / "finish.json").write_text(json.dumps(history, indent=1))

    network.load_state_dict(from_paddle(read_weights(best)), strict=False)
    check_against_paddle(checkpoint, network, dev[:8])
    print(f"dev CER {dev_cer(network, dev, vocabulary):.4f}, in {best}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Finish the voice-command checkpoint.")
    parser.add_argument("--data", type=Path, required=True, help="folder of synthesize.py")
    parser.add_argument("--checkpoint", type=Path, required=True, help="train.py's --out")
    parser.add_argument("--minutes", type=float, default=18.0)
    parser.add_argument("--batch-frames", type=int, default=2000)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=1e-2)
    parser.add_argument("--dropout", type=float, default=0.0, help="0: so short a run underfits")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bfloat16", action="store_true", help="faster where the CPU has it")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
