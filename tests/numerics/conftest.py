"""A small random network and features that look like speech after CMVN."""

from __future__ import annotations

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
