"""``asrcompress init``: a recipe file to start from."""

from __future__ import annotations

from pathlib import Path

from asrcompress.checkpoints.checkpoint import read_checkpoint
from asrcompress.files import refuse_overwrite, write_atomically
from asrcompress.manifests.manifest import load_manifest
from asrcompress.recipe import Data, Recipe, Source, format_toml

# Where PaddleSpeech's recipes put their manifests, relative to the experiment.
_TRAIN_NAMES = ("data/manifest.train", "data/manifest.train.raw", "data/train.jsonl")
_GATE_NAMES = ("data/manifest.test", "data/manifest.test.raw", "data/test.jsonl")


def write_starter(
    path: Path,
    checkpoint: Path,
    *,
    train: Path | None,
    gate: Path | None,
    config: Path | None = None,
    weights: Path | None = None,
    force: bool = False,
) -> Path:
    """Write a recipe for `checkpoint`, after reading it and the manifests once.

    Args:
        path: the recipe file to write.
        train, gate: manifests; None looks where PaddleSpeech's recipes put theirs.
    Raises:
        BadCheckpoint, BadManifest: what was named cannot be used.
        OutputExists: there is a recipe already.
    """
    refuse_overwrite(path, force)
    read_checkpoint(checkpoint, config=config, weights=weights)
    train = train or _first(checkpoint, _TRAIN_NAMES)
    gate = gate or _first(checkpoint, _GATE_NAMES)
    for manifest in (train, gate):
        if manifest is not None:
            load_manifest(manifest)
    recipe = Recipe(
        checkpoint=Source(path=checkpoint, config=config, weights=weights),
        data=Data(train=train, gate=gate),
    )
    write_atomically(path, format_toml(recipe))
    return path


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).exists()), None)
