"""Train the example's checkpoint: PaddleSpeech's own offline Conformer U2, in float32, on a CPU.

    python synthesize.py --out work/data
    python train.py --data work/data --out work/checkpoint

Writes a PaddleSpeech experiment under --out: conf/model.yaml, conf/preprocess.yaml,
data/vocab.txt, data/mean_std.json, checkpoints/last.pdparams after every epoch and
checkpoints/best.pdparams with the lowest CER on dev. --resume goes on from last.pdparams; the
optimizer's moments are not kept. An epoch takes minutes on one core: finish_training.py goes on
faster from here.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import grammar
from asrcompress.audio import read_audio
from asrcompress.checkpoints.network import PaddleAcousticModel
from asrcompress.features import FeatureSpec
from asrcompress.manifests.manifest import load_manifest
from asrcompress.paddle_imports import import_paddle, import_u2
from asrcompress.runtime.decode import greedy
from asrcompress.runtime.features import Fbank
from asrcompress.tokens import Vocabulary

N_MELS = 80
WIDTH, BLOCKS = 96, 4
SPEC_AUGMENT = {"freq_mask": {"F": 12, "n_mask": 2}, "time_mask": {"T": 15, "n_mask": 2}}
IGNORED = -1  # U2's padding of targets

MODEL: dict[str, Any] = {
    "cmvn_file": None,  # normalised by preprocess.yaml, outside the network
    "cmvn_file_type": "json",
    "encoder": "conformer",
    "encoder_conf": {
        "output_size": WIDTH,
        "attention_heads": 4,
        "linear_units": 4 * WIDTH,
        "num_blocks": BLOCKS,
        "dropout_rate": 0.05,
        "positional_dropout_rate": 0.05,
        "attention_dropout_rate": 0.0,
        "input_layer": "conv2d",
        "normalize_before": True,
        "cnn_module_kernel": 15,
        "use_cnn_module": True,
        "activation_type": "swish",
        "pos_enc_layer_type": "rel_pos",
        "selfattention_layer_type": "rel_selfattn",
    },
    "decoder": "transformer",
    "decoder_conf": {
        "attention_heads": 4,
        "linear_units": 4 * WIDTH,
        "num_blocks": 1,
        "dropout_rate": 0.05,
        "positional_dropout_rate": 0.05,
        "self_attention_dropout_rate": 0.0,
        "src_attention_dropout_rate": 0.0,
    },
    "model_conf": {
        "ctc_weight": 0.7,
        "lsm_weight": 0.1,
        "length_normalized_loss": False,
        "init_type": "kaiming_uniform",
    },
    "vocab_filepath": "data/vocab.txt",
    "unit_type": "char",
    "spm_model_prefix": "",
    "preprocess_config": "conf/preprocess.yaml",
    "feat_dim": N_MELS,
    "stride_ms": 10.0,
    "window_ms": 25.0,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One utterance: log-mel frames (n_frames, 80), normalised, and what was said."""

    features: np.ndarray
    ids: list[int]
    text: str


def write_experiment(out: Path, vocabulary: Vocabulary, statistics: dict[str, Any]) -> None:
    """Everything of PaddleSpeech's layout but the weights."""
    for folder in ("conf", "data", "checkpoints"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    masks = [{"type": kind, **settings} for kind, settings in SPEC_AUGMENT.items()]
    fbank = {
        "type": "fbank_kaldi",
        "fs": 16000,
        "n_mels": N_MELS,
        "n_shift": 160,
        "win_length": 400,
        "dither": 0.0,
    }
    cmvn = {"type": "cmvn_json", "cmvn_path": "data/mean_std.json"}
    files = {"model": MODEL, "preprocess": {"process": [fbank, cmvn, *masks]}}
    for name, content in files.items():
        (out / "conf" / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    (out / "data" / "vocab.txt").write_text(vocabulary.to_vocab_txt(), encoding="utf-8")
    (out / "data" / "mean_std.json").write_text(json.dumps(statistics))


def cmvn_statistics(features: list[np.ndarray]) -> dict[str, Any]:
    """PaddleSpeech's mean_std.json: sums and sums of squares per mel bin, and their count."""
    frames = np.concatenate(features).astype(np.float64)
    return {
        "mean_stat": frames.sum(0).tolist(),
        "var_stat": (frames**2).sum(0).tolist(),
        "frame_num": len(frames),
    }


def read_examples(
    manifest: Path, vocabulary: Vocabulary, statistics: dict[str, Any] | None
) -> tuple[list[Example], dict[str, Any]]:
    """All utterances of a manifest in memory; without statistics, they are taken from it."""
    fbank = Fbank(FeatureSpec())
    utterances = load_manifest(manifest)
    features = [fbank(read_audio(item.audio)) for item in utterances]
    statistics = statistics or cmvn_statistics(features)
    mean = np.array(statistics["mean_stat"]) / statistics["frame_num"]
    variance = np.array(statistics["var_stat"]) / statistics["frame_num"] - mean**2
    examples = [
        Example(
            features=((frames - mean) / np.sqrt(variance)).astype(np.float32),
            ids=vocabulary.text_to_ids(item.text),
            text=item.text,
        )
        for item, frames in zip(utterances, features, strict=True)
    ]
    return examples, statistics


def batches(
    examples: list[Example], max_frames: int, rng: random.Random | None
) -> list[list[Example]]:
    """Batches of like length holding up to `max_frames` with padding; shuffled where rng is."""
    jitter = (lambda: rng.uniform(0, 40)) if rng else (lambda: 0.0)
    ordered = sorted(examples, key=lambda item: len(item.features) + jitter())
    found: list[list[Example]] = [[]]
    longest = 0
    for item in ordered:
        longest = max(longest, len(item.features))
        if found[-1] and longest * (len(found[-1]) + 1) > max_frames:
            found.append([])
            longest = len(item.features)
        found[-1].append(item)
    if rng:
        rng.shuffle(found)
    return found


def mask(features: np.ndarray, rng: random.Random) -> np.ndarray:
    """SpecAugment without time warping: bands of frequency and of time set to the mean, zero."""
    masked = features.copy()
    n_frames, n_mels = masked.shape
    for _ in range(SPEC_AUGMENT["freq_mask"]["n_mask"]):
        width = rng.randint(0, SPEC_AUGMENT["freq_mask"]["F"])
        start = rng.randint(0, n_mels - width)
        masked[:, start : start + width] = 0.0
    for _ in range(SPEC_AUGMENT["time_mask"]["n_mask"]):
        width = rng.randint(0, min(SPEC_AUGMENT["time_mask"]["T"], n_frames // 8))
        start = rng.randint(0, n_frames - width)
        masked[start : start + width] = 0.0
    return masked


def to_tensors(batch: list[Example], rng: random.Random) -> tuple[Any, ...]:
    """Speech (N, T, 80), its lengths (N,), targets (N, U) padded with -1, their lengths (N,)."""
    paddle = import_paddle()
    n_frames = [len(item.features) for item in batch]
    n_tokens = [len(item.ids) for item in batch]
    speech = np.zeros((len(batch), max(n_frames), N_MELS), np.float32)
    targets = np.full((len(batch), max(n_tokens)), IGNORED, np.int64)
    for row, item in enumerate(batch):
        speech[row, : n_frames[row]] = mask(item.features, rng)
        targets[row, : n_tokens[row]] = item.ids
    lengths = (np.array(n_frames, np.int64), np.array(n_tokens, np.int64))
    return tuple(map(paddle.to_tensor, (speech, lengths[0], targets, lengths[1])))


def dev_cer(network: Any, examples: list[Example], vocabulary: Vocabulary) -> float:
    """CER of greedy CTC, as a fraction."""
    network.eval()
    model = PaddleAcousticModel(network)
    edits = characters = 0
    for batch in batches(examples, 8000, None):
        outputs = model.log_probs([item.features for item in batch])
        for item, log_probs in zip(batch, outputs, strict=True):
            said = vocabulary.ids_to_text(greedy(log_probs, vocabulary.blank_id))
            edits += edit_distance(item.text, said)
            characters += len(item.text)
    network.train()
    return edits / characters


def edit_distance(reference: str, hypothesis: str) -> int:
    """Levenshtein's, by characters."""
    row = list(range(len(hypothesis) + 1))
    for i, wanted in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, got in enumerate(hypothesis, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (wanted != got))
    return row[-1]


def warm_up_then_cosine(peak: float, warm_up: int, total: int) -> Callable[[int], float]:
    """Learning rate by step: linear to `peak`, then half a cosine down to a fiftieth of it."""

    def rate(step: int) -> float:
        if step < warm_up:
            return peak * (step + 1) / warm_up
        progress = min(1.0, (step - warm_up) / max(1, total - warm_up))
        return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))

    return rate


def train_epoch(
    network: Any, optimizer: Any, batches_: list[list[Example]], rng: random.Random
) -> Iterator[float]:
    """One pass; yields the loss of each step."""
    for batch in batches_:
        loss = network(*to_tensors(batch, rng))[0]
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        optimizer._learning_rate.step()
        yield float(loss)


def train(options: argparse.Namespace) -> None:
    """The whole run: see the module's docstring."""
    paddle = import_paddle()
    paddle.seed(options.seed)
    np.random.seed(options.seed)
    rng = random.Random(options.seed)
    out: Path = options.out
    vocabulary = Vocabulary(symbols=("<blank>", "<unk>", *grammar.characters(), "<eos>"))
    started = time.monotonic()
    training, statistics = read_examples(options.data / "train.jsonl", vocabulary, None)
    dev, _ = read_examples(options.data / "dev.jsonl", vocabulary, statistics)
    write_experiment(out, vocabulary, statistics)
    print(f"features of {len(training)} + {len(dev)} in {time.monotonic() - started:.0f} s")

    network = import_u2().from_config({**MODEL, "input_dim": N_MELS, "output_dim": len(vocabulary)})
    last, best = (out / "checkpoints" / f"{name}.pdparams" for name in ("last", "best"))
    if options.resume:
        network.set_state_dict(paddle.load(str(last)))
    n_parameters = sum(math.prod(p.shape) for p in network.parameters())
    per_epoch = len(batches(training, options.batch_frames, random.Random(0)))
    print(f"{n_parameters} parameters, {len(vocabulary)} symbols, {per_epoch} steps an epoch")

    rate = warm_up_then_cosine(options.lr, options.warm_up, options.epochs * per_epoch)
    optimizer = paddle.optimizer.AdamW(
        paddle.optimizer.lr.LambdaDecay(1.0, rate),
        parameters=network.parameters(),
        weight_decay=1e-4,
        grad_clip=paddle.nn.ClipGradByGlobalNorm(5.0),
    )
    network.train()
    lowest, history = math.inf, []
    for epoch in range(options.epochs):
        # The first epoch goes from short to long: CTC finds its alignments there.
        order = batches(training, options.batch_frames, rng)
        if epoch == 0 and not options.resume:
            order.sort(key=lambda batch: len(batch[0].features))
        losses = []
        for loss in train_epoch(network, optimizer, order, rng):
            losses.append(loss)
            if len(losses) % 50 == 0:
                print(f"  {len(losses)}/{len(order)} loss {np.mean(losses[-50:]):.3f}", flush=True)
        cer = dev_cer(network, dev, vocabulary)
        minutes = (time.monotonic() - started) / 60
        history.append({"loss": float(np.mean(losses)), "dev_cer": cer, "minutes": minutes})
        print(
            f"epoch {epoch}: loss {np.mean(losses):.3f} dev CER {cer:.4f} {minutes:.1f} min",
            flush=True,
        )
        paddle.save(network.state_dict(), str(last))
        if cer < lowest:
            lowest = cer
            paddle.save(network.state_dict(), str(best))
        (out / "checkpoints" / "history.json").write_text(json.dumps(history, indent=1))
        if minutes > options.max_minutes:
            break


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train the voice-command checkpoint.")
    parser.add_argument("--data", type=Path, required=True, help="folder of synthesize.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch-frames", type=int, default=2800)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--warm-up", type=int, default=200, metavar="STEPS")
    parser.add_argument("--max-minutes", type=float, default=45.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
