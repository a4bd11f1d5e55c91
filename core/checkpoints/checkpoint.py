"""A PaddleSpeech experiment as it lies on disk: configuration, vocabulary, CMVN, weights.

Layouts that are understood, relative to the experiment folder:

    conf/*.yaml  data/**/vocab.txt  data/mean_std.json  checkpoints/*.pdparams
    conf/*.yaml  exp/<model>/checkpoints/*.pdparams     (examples/aishell/asr1 after training)
    model.yaml   exp/<model>/checkpoints/*.pdparams     (the released tarballs)

Nothing here imports Paddle; `asrcompress.checkpoints.network` builds the network.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrcompress.checkpoints.experiment_files import read_yaml, resolve
from asrcompress.checkpoints.front_end import SpecAugment, read_front_end
from asrcompress.checkpoints.tokenizer import Tokenizer
from asrcompress.errors import BadCheckpoint
from asrcompress.features import FeatureSpec
from asrcompress.files import sha256_file
from asrcompress.tokens import UNIT_TYPES, Vocabulary

# The front-end sections that PaddleSpeech up to r1.0 nested the settings in; later ones are flat.
_OLD_SECTIONS = ("data", "collator", "model", "training", "decoding")
# Old spelling -> the one of PaddleSpeech 1.x.
_RENAMED = {
    "augmentation_config": "preprocess_config",
    "mean_std_filepath": "cmvn_path",
    "specgram_type": "spectrum_type",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What is needed to rebuild a trained network and feed it.

    Attributes:
        root: the experiment folder; relative paths in the configuration start here.
        config_path: the YAML file that describes the network.
        weights_path: the ``.pdparams`` file.
        sha256: of the weights file.
        family: ``u2-conformer``, ``u2-transformer``, ``u2-squeezeformer`` or ``deepspeech2``.
        network: PaddleSpeech's own settings, in the flat spelling of 1.x.
        vocabulary: output symbols in the order of the network's outputs.
        tokenizer: transcripts to output ids, for training.
        features: the front end, CMVN of the preprocess step included.
        front_end: the same as PaddleSpeech takes it, see `FrontEnd.reference`.
        spec_augment: the masks that the checkpoint was trained with.
    """

    root: Path
    config_path: Path
    weights_path: Path
    sha256: str
    family: str
    network: Mapping[str, Any]
    vocabulary: Vocabulary
    tokenizer: Tokenizer
    features: FeatureSpec
    front_end: Mapping[str, Any]
    spec_augment: SpecAugment

    @property
    def name(self) -> str:
        """Folder name and weights name, for reports: ``asr1/avg_20``."""
        return f"{self.root.resolve().name}/{self.weights_path.stem}"


def read_checkpoint(
    path: Path, *, config: Path | None = None, weights: Path | None = None
) -> Checkpoint:
    """Read the experiment at `path`: a folder, or a ``.pdparams`` file inside one.

    Args:
        path: the experiment folder.
        config: the network's YAML, where the folder has several.
        weights: the ``.pdparams`` file, where the folder has several.
    Raises:
        BadCheckpoint: with the file and the key that is missing, ambiguous or inconsistent.
    """
    # os.path, because pathlib raises where a name is too long or a folder may not be entered.
    if os.path.isfile(path) and path.suffix == ".pdparams":
        weights, path = path, _root_of_weights(path)
    if not os.path.isdir(path):
        raise BadCheckpoint(
            f"{path}: no such folder, expected a PaddleSpeech experiment",
            hint="give the folder that holds conf/ and checkpoints/",
        )
    config_path = config or _find_config(path)
    settings = read_settings(config_path)
    tokenizer = _read_tokenizer(path, settings, config_path)
    vocabulary = tokenizer.vocabulary
    family = family_of(settings, config_path)
    front_end = read_front_end(path, settings, config_path)
    weights_path = weights or _find_weights(path)
    if not os.path.isfile(weights_path):
        raise BadCheckpoint(f"{weights_path}: no such file, expected .pdparams weights")
    return Checkpoint(
        root=path,
        config_path=config_path,
        weights_path=weights_path,
        sha256=sha256_file(weights_path),
        family=family,
        network={
            **settings,
            "input_dim": front_end.spec.width,
            "output_dim": len(vocabulary),
        },
        vocabulary=vocabulary,
        tokenizer=tokenizer,
        features=front_end.spec,
        front_end=front_end.reference,
        spec_augment=front_end.spec_augment,
    )


def read_settings(path: Path) -> dict[str, Any]:
    """Settings of a PaddleSpeech YAML, old nested sections and spellings made flat and new."""
    raw = read_yaml(path)
    settings: dict[str, Any] = {}
    for key, value in raw.items():
        if key in _OLD_SECTIONS and isinstance(value, dict):
            settings.update(value)
        else:
            settings[key] = value
    return {_RENAMED.get(key, key): value for key, value in settings.items()}


def family_of(settings: Mapping[str, Any], path: Path) -> str:
    """Family of the network that `settings` describe.

    Raises:
        BadCheckpoint: neither a U2 model (``encoder``) nor a DeepSpeech2 (``rnn_layer_size``).
    """
    encoder = settings.get("encoder", "transformer")  # U2Model's own default
    if isinstance(encoder, str) and isinstance(settings.get("encoder_conf"), dict):
        return f"u2-{encoder}"
    if "rnn_layer_size" in settings or "rnn_size" in settings:
        return "deepspeech2"
    raise BadCheckpoint(
        f"{path}: describes no known network, expected the keys encoder and encoder_conf (U2) "
        "or rnn_layer_size (DeepSpeech2)"
    )


def _root_of_weights(weights: Path) -> Path:
    """The nearest folder above `weights` that has a conf/ or a model.yaml."""
    for folder in weights.resolve().parents:
        if (folder / "conf").is_dir() or (folder / "model.yaml").is_file():
            return folder
    raise BadCheckpoint(f"{weights}: no folder above it has conf/ or model.yaml")


def _find_config(root: Path) -> Path:
    candidates = [*sorted((root / "conf").glob("*.yaml")), *sorted(root.glob("*.yaml"))]
    networks = []
    for candidate in candidates:
        settings = read_settings(candidate)
        if "encoder_conf" in settings or "rnn_layer_size" in settings or "rnn_size" in settings:
            networks.append(candidate)
    return _only(networks, what="YAML file that describes a network", root=root, flag="--config")


def _find_weights(root: Path) -> Path:
    """``best.pdparams``, else the average over most epochs, else the only one there is."""
    patterns = ("checkpoints/*.pdparams", "exp/*/checkpoints/*.pdparams")
    found = sorted(path for pattern in patterns for path in root.glob(pattern))
    best = [path for path in found if path.stem == "best"]
    averages = [path for path in found if re.fullmatch(r"avg_\d+", path.stem)]
    if best:
        found = best
    elif averages:
        most = max(int(path.stem[4:]) for path in averages)
        found = [path for path in averages if int(path.stem[4:]) == most]
    return _only(found, what=".pdparams file", root=root, flag="--weights")


def _only(found: list[Path], *, what: str, root: Path, flag: str) -> Path:
    if len(found) == 1:
        return found[0]
    names = ", ".join(str(path.relative_to(root)) for path in found) or "none"
    raise BadCheckpoint(f"{root}: got {names}, expected one {what}", hint=f"name it with {flag}")


def _find_vocabulary(root: Path, settings: Mapping[str, Any], source: Path) -> Path:
    if settings.get("vocab_filepath"):
        return resolve(root, settings["vocab_filepath"], "vocab_filepath", source)
    found = sorted((root / "data").rglob("vocab.txt"))
    return _only(found, what="vocab.txt", root=root, flag="vocab_filepath in the YAML")


def _read_tokenizer(root: Path, settings: Mapping[str, Any], source: Path) -> Tokenizer:
    """Vocabulary and units; the sentencepiece model only where it is there, see `Tokenizer`."""
    prefix = settings.get("spm_model_prefix")
    unit_type = settings.get("unit_type") or ("spm" if prefix else "char")
    path = _find_vocabulary(root, settings, source)
    if unit_type not in UNIT_TYPES:
        raise BadCheckpoint(
            f"{source}: unit_type is {unit_type!r}, expected one of {', '.join(UNIT_TYPES)}"
        )
    vocabulary = Vocabulary.from_vocab_txt(path, unit_type=unit_type)
    if unit_type != "spm":
        return Tokenizer(vocabulary=vocabulary)
    if not isinstance(prefix, str):
        raise BadCheckpoint(f"{source}: spm_model_prefix is {prefix!r}, expected a path")
    name = f"{prefix}.model"
    beside = path.parent / Path(name).name
    found = [p for p in (root / name, source.parent / name, beside) if os.path.isfile(p)]
    return Tokenizer(vocabulary=vocabulary, spm_model=found[0] if found else root / name)
