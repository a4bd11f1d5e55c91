"""A PaddleSpeech experiment as it lies on disk: configuration, vocabulary, CMVN, weights.

Layouts that are understood, relative to the experiment folder:

    conf/*.yaml  data/**/vocab.txt  data/mean_std.json  checkpoints/*.pdparams
    conf/*.yaml  exp/<model>/checkpoints/*.pdparams     (examples/aishell/asr1 after training)
    model.yaml   exp/<model>/checkpoints/*.pdparams     (the released tarballs)

Nothing here imports Paddle; `asrcompress.network` builds the network.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from asrcompress import strict_json
from asrcompress.audio import SAMPLE_RATE_HZ
from asrcompress.errors import BadCheckpoint, BadRecipe, MissingExtra
from asrcompress.features import FeatureSpec
from asrcompress.files import reading, sha256_file
from asrcompress.tokens import Vocabulary

# Steps of conf/preprocess.yaml that only training runs (PaddleSpeech's SpecAugment and noise).
_TRAINING_ONLY = {
    "time_warp",
    "freq_mask",
    "time_mask",
    "speed_perturbation",
    "volume_perturbation",
}
# The front-end sections that PaddleSpeech up to r1.0 nested the settings in; later ones are flat.
_OLD_SECTIONS = ("data", "collator", "model", "training", "decoding")
# Beyond it a number of the YAML is no size.
_MOST = 1_000_000
# Old spelling -> the one of PaddleSpeech 1.x.
_RENAMED = {"augmentation_config": "preprocess_config", "mean_std_filepath": "cmvn_path"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecAugment:
    """Masks of SpecAugment (Park et al. 2019, arXiv:1904.08779), as in conf/preprocess.yaml."""

    freq_masks: int = 0
    freq_mask_width: int = 0
    """Largest width in mel bins."""
    time_masks: int = 0
    time_mask_width: int = 0
    """Largest width in feature frames of 10 ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What is needed to rebuild a trained network and feed it.

    Attributes:
        root: the experiment folder; relative paths in the configuration start here.
        config_path: the YAML file that describes the network.
        weights_path: the ``.pdparams`` file.
        sha256: of the weights file.
        family: ``u2-conformer`` or ``u2-transformer`` or ``deepspeech2``.
        network: PaddleSpeech's own settings, in the flat spelling of 1.x.
        vocabulary: output symbols in the order of the network's outputs.
        features: the front end, CMVN of the preprocess step included.
        front_end: the same as PaddleSpeech's ``Transformation`` takes it, paths made absolute.
        spec_augment: the masks that the checkpoint was trained with.
    """

    root: Path
    config_path: Path
    weights_path: Path
    sha256: str
    family: str
    network: Mapping[str, Any]
    vocabulary: Vocabulary
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
    vocabulary = Vocabulary.from_vocab_txt(_find_vocabulary(path, settings, config_path))
    family = family_of(settings, config_path)
    features, front_end, spec_augment = _read_front_end(path, settings, config_path)
    weights_path = weights or _find_weights(path)
    if not os.path.isfile(weights_path):
        raise BadCheckpoint(f"{weights_path}: no such file, expected .pdparams weights")
    return Checkpoint(
        root=path,
        config_path=config_path,
        weights_path=weights_path,
        sha256=sha256_file(weights_path),
        family=family,
        network={**settings, "input_dim": features.n_mels, "output_dim": len(vocabulary)},
        vocabulary=vocabulary,
        features=features,
        front_end=front_end,
        spec_augment=spec_augment,
    )


def read_settings(path: Path) -> dict[str, Any]:
    """Settings of a PaddleSpeech YAML, old nested sections and spellings made flat and new."""
    raw = _read_yaml(path)
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
    encoder = settings.get("encoder")
    if isinstance(encoder, str) and isinstance(settings.get("encoder_conf"), dict):
        return f"u2-{encoder}"
    if "rnn_layer_size" in settings or "rnn_size" in settings:
        return "deepspeech2"
    raise BadCheckpoint(
        f"{path}: describes no known network, expected the keys encoder and encoder_conf (U2) "
        "or rnn_layer_size (DeepSpeech2)"
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtra("PyYAML", "compress") from error
    try:
        with reading(path, BadCheckpoint):
            loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    # A date of 2026-13-45 is a ValueError.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        reason = "nested too deeply" if deep else " ".join(str(error).split())
        raise BadCheckpoint(f"{path}: is not YAML, {reason}") from error
    if not isinstance(loaded, dict):
        raise BadCheckpoint(f"{path}: holds {type(loaded).__name__}, expected settings by name")
    return loaded


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


def _resolve(root: Path, value: object, key: str, source: Path) -> Path:
    """A path of the configuration: relative to the experiment, as PaddleSpeech's scripts run."""
    if not isinstance(value, str) or not value:
        raise BadCheckpoint(f"{source}: {key} is {value!r}, expected a path")
    for candidate in (root / value, source.parent / value, source.parent / Path(value).name):
        if os.path.isfile(candidate):
            return candidate
    raise BadCheckpoint(f"{source}: {key} names {value}, which is not in {root}")


def _find_vocabulary(root: Path, settings: Mapping[str, Any], source: Path) -> Path:
    if settings.get("vocab_filepath"):
        return _resolve(root, settings["vocab_filepath"], "vocab_filepath", source)
    found = sorted((root / "data").rglob("vocab.txt"))
    return _only(found, what="vocab.txt", root=root, flag="vocab_filepath in the YAML")


def _read_front_end(
    root: Path, settings: Mapping[str, Any], source: Path
) -> tuple[FeatureSpec, dict[str, Any], SpecAugment]:
    path = _resolve(root, settings.get("preprocess_config"), "preprocess_config", source)
    steps = _read_yaml(path).get("process")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise BadCheckpoint(f"{path}: process is not a list of steps")
    spec: FeatureSpec | None = None
    masks: dict[str, int] = {}
    kept: list[dict[str, Any]] = []
    for step in steps:
        kind = step.get("type")
        if kind == "fbank_kaldi":
            spec = _fbank(step, path)
            kept.append(step)
        elif kind == "cmvn_json" and spec is not None:
            stats = _resolve(root, step.get("cmvn_path"), "cmvn_path", path)
            mean, istd = read_cmvn(stats, n_mels=spec.n_mels)
            spec = replace(spec, cmvn_mean=tuple(mean), cmvn_istd=tuple(istd))
            kept.append({**step, "cmvn_path": str(stats.absolute())})
        elif isinstance(kind, str) and kind in _TRAINING_ONLY:
            masks.update(_mask(step, path))
        else:
            raise BadCheckpoint(
                f"{path}: step {kind!r} is not understood, expected fbank_kaldi then cmvn_json"
            )
    if spec is None:
        raise BadCheckpoint(f"{path}: has no fbank_kaldi step")
    return spec, {"process": kept}, SpecAugment(**masks)


def _fbank(step: Mapping[str, Any], source: Path) -> FeatureSpec:
    """PaddleSpeech's LogMelSpectrogramKaldi (paddlespeech/audio/transform/spectrogram.py)."""
    rate = _whole(step, "fs", 16000, source)
    if rate != SAMPLE_RATE_HZ:
        raise BadCheckpoint(f"{source}: fs is {rate} Hz, expected {SAMPLE_RATE_HZ} Hz")
    try:
        return FeatureSpec(
            sample_rate_hz=rate,
            n_mels=_whole(step, "n_mels", 80, source),
            frame_shift_ms=_whole(step, "n_shift", 160, source) * 1000 / rate,
            frame_length_ms=_whole(step, "win_length", 400, source) * 1000 / rate,
        )
    except BadRecipe as error:
        raise BadCheckpoint(f"{source}: {error}") from error


def _whole(step: Mapping[str, Any], key: str, default: int, source: Path) -> int:
    value = step.get(key, default)
    if type(value) is not int or not 0 <= value < _MOST:
        raise BadCheckpoint(f"{source}: {key} is {value!r}, expected a whole number from 0")
    return value


def _mask(step: Mapping[str, Any], source: Path) -> dict[str, int]:
    for kind, key, default in (("freq", "F", 30), ("time", "T", 40)):
        if step["type"] == f"{kind}_mask":
            return {
                f"{kind}_masks": _whole(step, "n_mask", 2, source),
                f"{kind}_mask_width": _whole(step, key, default, source),
            }
    return {}


def read_cmvn(path: Path, *, n_mels: int) -> tuple[list[float], list[float]]:
    """Mean and inverse standard deviation of a PaddleSpeech ``mean_std.json``.

    The file holds sums: mean_stat, var_stat (sum of squares) and frame_num; the standard
    deviation is floored at 1e-20 (paddlespeech/audio/transform/cmvn.py, GlobalCMVN).
    """
    expected = "expected JSON with mean_stat, var_stat and frame_num > 0"
    try:
        with reading(path, BadCheckpoint):
            stats = strict_json.parse(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadCheckpoint(f"{path}: is not JSON, {error}") from error
    try:
        count = float(stats["frame_num"])
        sums = [np.asarray(stats[key], np.float64) for key in ("mean_stat", "var_stat")]
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise BadCheckpoint(f"{path}: is not CMVN statistics, {expected}") from error
    if not count > 0:
        raise BadCheckpoint(f"{path}: frame_num is {count}, {expected}")
    with np.errstate(all="ignore"):  # what is not finite is refused below
        mean = sums[0] / count
        variance = sums[1] / count - mean**2 if sums[0].shape == sums[1].shape else sums[1]
    if mean.shape != (n_mels,) or variance.shape != (n_mels,):
        raise BadCheckpoint(
            f"{path}: has {mean.size} means and {variance.size} variances, expected {n_mels}"
        )
    if not (np.isfinite(mean).all() and np.isfinite(variance).all() and (variance > 0).all()):
        raise BadCheckpoint(f"{path}: has a variance that is not positive and finite")
    istd = 1.0 / np.maximum(np.sqrt(variance), 1e-20)
    return mean.tolist(), istd.tolist()
