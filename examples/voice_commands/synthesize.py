"""Make the voice-command set: synthetic Mandarin speech with manifests for train, dev and gate.

    python synthesize.py --out work/data --train 600 --dev 0 --gate 280

The same seed gives the same files; a smaller count gives the first utterances of a larger one.
Splits share no voice. Each manifest is JSON lines: utt, audio (relative), duration (s), text,
speaker, lang.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

import acoustics
from grammar import sentence
from voices import ESPEAK_RATE_HZ, Espeak, Speaker, speakers

FULL_SIZE = {"train": 2500, "dev": 250, "gate": 280}
# Signal-to-noise ratios are drawn between these; None: one utterance in so many has no noise.
SNR_DB = {"train": (0.0, 30.0), "dev": (2.0, 25.0), "gate": (2.0, 25.0)}
CLEAN_SHARE = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One utterance before it is spoken."""

    utt: str
    split: str
    text: str
    speaker: Speaker
    seed: int


def plan(split: str, count: int, seed: int) -> list[Plan]:
    """What will be said, and by whom; the first N of a longer plan are the plan of length N."""
    voices = speakers(split, seed)
    plans = []
    for index in range(count):
        rng = random.Random(f"{seed}:{split}:{index}")
        plans.append(
            Plan(
                utt=f"{split}-{index:05d}",
                split=split,
                text=sentence(rng),
                speaker=voices[index % len(voices)],
                seed=rng.getrandbits(32),
            )
        )
    return plans


def record(espeak: Espeak, item: Plan) -> np.ndarray:
    """Speak one utterance and put it in a room with noise: float32 (n_samples,) at 16 kHz."""
    rng = np.random.default_rng(item.seed)
    dry = espeak.say(
        item.text,
        item.speaker,
        pitch=int(np.clip(item.speaker.pitch + rng.integers(-8, 9), 0, 99)),
        words_per_minute=round(item.speaker.words_per_minute * rng.uniform(0.9, 1.1)),
    )
    voice = acoustics.resample(dry, ESPEAK_RATE_HZ, acoustics.SAMPLE_RATE_HZ)
    before, after = rng.integers(800, 4000, size=2)  # 50 to 250 ms of room tone on each side
    voice = np.pad(voice, (before, after))
    voice = acoustics.reverberate(voice, rng, decay_s=rng.uniform(0.1, 0.4))
    if rng.random() >= CLEAN_SHARE:
        kind = acoustics.NOISES[rng.integers(len(acoustics.NOISES))]
        voice = acoustics.add_noise(voice, kind, rng.uniform(*SNR_DB[item.split]), rng)
    return acoustics.set_peak(voice, rng.uniform(-24.0, -3.0))


def record_speaker(task: tuple[Path, list[Plan]]) -> dict[str, float]:
    """Write every utterance of one speaker; returns utterance -> duration in seconds."""
    folder, plans = task
    espeak = Espeak()
    durations = {}
    for item in plans:
        samples = record(espeak, item)
        soundfile.write(
            folder / f"{item.utt}.flac", samples, acoustics.SAMPLE_RATE_HZ, subtype="PCM_16"
        )
        durations[item.utt] = len(samples) / acoustics.SAMPLE_RATE_HZ
    return durations


def synthesize(out: Path, split: str, count: int, *, seed: int = 0, jobs: int = 1) -> Path:
    """Write one split: ``out/split/*.flac`` and the manifest ``out/split.jsonl``.

    Args:
        out: folder, made if missing.
        split: ``train``, ``dev`` or ``gate``.
        count: how many utterances.
        seed: other seeds give other sentences, speakers and noise.
        jobs: processes at a time.
    Returns:
        The manifest.
    """
    folder = out / split
    folder.mkdir(parents=True, exist_ok=True)
    plans = plan(split, count, seed)
    by_speaker: dict[str, list[Plan]] = {}
    for item in plans:
        by_speaker.setdefault(item.speaker.name, []).append(item)
    tasks = [(folder, items) for items in by_speaker.values()]
    durations: dict[str, float] = {}
    # A new process for each speaker: see voices.py.
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=1) as pool:
        for part in pool.imap_unordered(record_speaker, tasks, chunksize=1):
            durations.update(part)
    manifest = out / f"{split}.jsonl"
    lines = [_manifest_line(item, durations[item.utt]) for item in plans]
    temporary = manifest.with_suffix(".tmp")
    temporary.write_text("".join(lines), encoding="utf-8")
    temporary.replace(manifest)
    return manifest


def _manifest_line(item: Plan, duration_s: float) -> str:
    fields = {
        "utt": item.utt,
        "audio": f"{item.split}/{item.utt}.flac",
        "duration": round(duration_s, 4),
        "text": item.text,
        "speaker": item.speaker.name,
        "lang": "zh",
    }
    return json.dumps(fields, ensure_ascii=False) + "\n"


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description="Make the synthetic voice-command set.")
    parser.add_argument("--out", type=Path, required=True)
    for split, count in FULL_SIZE.items():
        parser.add_argument(f"--{split}", type=int, default=count, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    for split in FULL_SIZE:
        count = getattr(options, split)
        if count > 0:
            manifest = synthesize(options.out, split, count, seed=options.seed, jobs=options.jobs)
            print(f"{manifest}: {count} utterances")


if __name__ == "__main__":
    main()
