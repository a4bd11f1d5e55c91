"""Which network a run is about: the checkpoint, what pruning left of it, or what was trained."""

from __future__ import annotations

from dataclasses import replace

from asrcompress.checkpoints.checkpoint import Checkpoint, read_checkpoint
from asrcompress.run import Run

PRUNED_FOLDER = "pruned"
CUT_FOLDER = "pruned-before-recovery"


def subject_of(run: Run, checkpoint: Checkpoint) -> Checkpoint:
    """What the run quantizes: the pruned network where it pruned one, else the checkpoint.

    Raises:
        BadCheckpoint: the pruned experiment is damaged.
    """
    pruned = run.path / PRUNED_FOLDER
    return read_checkpoint(pruned) if pruned.is_dir() else checkpoint


def trained_of(run: Run, checkpoint: Checkpoint) -> Checkpoint:
    """The same network with the weights that the run trained."""
    return replace(subject_of(run, checkpoint), weights_path=run.weights)
