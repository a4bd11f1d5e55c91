"""A small random network and features that look like speech after CMVN."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asrcompress.checkpoints.checkpoint import Checkpoint, read_checkpoint

SYMBOLS = list("开关灯空调音乐天气一二三四五六七八")


@pytest.fixture(scope="session")
def checkpoint(make_experiment: Any, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Two blocks of width 32; random weights, batch norms that are not the identity."""
    folder = tmp_path_factory.mktemp("experiment")
    make_experiment(
        folder,
        blocks=2,
        width=32,
        heads=4,
        feed_forward=64,
        decoder_blocks=1,
        kernel=7,
        symbols=SYMBOLS,
        seed=3,
    )
    return read_checkpoint(folder)


@pytest.fixture(scope="session")
def noise_to_train_on() -> Callable[..., Any]:
    """Makes a training set of four utterances of noise, 80 frames each, in batches of two."""
    from asrcompress.compress.batches import TrainingSet
    from asrcompress.manifests.manifest import Utterance

    def make(checkpoint: Checkpoint, *, n_mels: int, seed: int) -> TrainingSet:
        rng = np.random.default_rng(seed)
        features = {f"u{i}": rng.standard_normal((80, n_mels), np.float32) for i in range(4)}
        return TrainingSet(
            [
                Utterance(utt=utt, audio=Path(utt), text="开灯", duration_s=0.815, speaker=None)
                for utt in features
            ],
            load_features=lambda item: features[item.utt],
            frame_shift_ms=10.0,
            tokenizer=checkpoint.tokenizer,
            subsampling=4,
            max_duration_s=20.0,
            batch_frames=200,
            spec_augment=None,
            seed=0,
        )

    return make


@pytest.fixture
def features() -> list[np.ndarray]:
    """Five utterances of 0.6 to 2.2 s, smooth in time and frequency, float32 (frames, 80)."""
    rng = np.random.default_rng(7)
    kernel = np.ones(9) / 9
    found = []
    for frames in (61, 97, 140, 180, 222):
        noise = rng.standard_normal((frames + 8, 80))
        smooth = np.apply_along_axis(lambda x: np.convolve(x, kernel, "valid"), 0, noise)
        found.append((3 * smooth).astype(np.float32))
    return found
