"""PaddleSpeech's own CTC log-probabilities of a batch, in a process of their own.

    python paddle_forward.py CHECKPOINT_FOLDER features.npz log_probs.npz

finish_training.py calls it: Paddle and PyTorch need not agree to live in one process.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from asrcompress.checkpoints.checkpoint import read_checkpoint
from asrcompress.checkpoints.network import PaddleAcousticModel, build_network


def main(checkpoint: Path, features: Path, log_probs: Path) -> None:
    """Both files hold arrays arr_0, arr_1, ..: (n_frames, n_mels), and (n_frames', symbols)."""
    with np.load(features) as stored:
        batch = [stored[f"arr_{index}"] for index in range(len(stored.files))]
    model = PaddleAcousticModel(build_network(read_checkpoint(checkpoint)))
    np.savez(log_probs, *model.log_probs(batch))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
