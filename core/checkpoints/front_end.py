"""The front end of an experiment, from its configuration.

PaddleSpeech 1.x lists steps in conf/preprocess.yaml: a spectrum, CMVN, and what only training
does. Up to 0.2, DeepSpeech2's recipes named a ``spectrum_type`` in the network's YAML instead, with
``mean_std_filepath`` beside it and the masks in conf/augmentation.json.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asrcompress import strict_json
from asrcompress.audio import SAMPLE_RATE_HZ
from asrcompress.checkpoints.experiment_files import read_yaml, resolve
from asrcompress.cmvn import read_cmvn
from asrcompress.errors import BadCheckpoint, BadRecipe
from asrcompress.features import FeatureSpec
from asrcompress.files import reading

Settings = Mapping[str, Any]

# Steps of conf/preprocess.yaml that only training runs (PaddleSpeech's SpecAugment and noise).
_TRAINING_ONLY = {
    "time_warp",
    "freq_mask",
    "time_mask",
    "speed_perturbation",
    "volume_perturbation",
}
# Beyond it a number of the YAML is no size.
_MOST = 1_000_000
# Arguments of PaddleSpeech's classes. It computes `fbank` without fmin, fmax and eps, though it
# takes them (LogMelSpectrogram.__call__), and fbank_kaldi without energy_floor.
_OPTIONS = {
    "fbank_kaldi": {"fs", "n_mels", "n_shift", "win_length", "dither", "energy_floor"},
    "fbank": {"fs", "n_mels", "n_fft", "n_shift", "win_length", "window", "fmin", "fmax", "eps"},
    "spectrogram": {"n_fft", "n_shift", "win_length", "window"},
    "cmvn_json": {"cmvn_path", "norm_means", "norm_vars", "std_floor"},
}


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
class FrontEnd:
    """What a network was fed.

    Attributes:
        spec: for the runtime.
        reference: the same for PaddleSpeech, paths made absolute: ``process`` for its
            ``Transformation``, or ``featurizer`` for its ``AudioFeaturizer`` and ``cmvn_path``.
        spec_augment: masks of the training.
    """

    spec: FeatureSpec
    reference: Mapping[str, Any]
    spec_augment: SpecAugment


def read_front_end(root: Path, settings: Settings, source: Path) -> FrontEnd:
    """The front end that `settings` name.

    Args:
        root: the experiment folder.
        settings: of the network's YAML, in the flat spelling.
        source: that YAML.
    Raises:
        BadCheckpoint: a file that is missing or wrong, or a step that is not understood.
    """
    steps = settings.get("preprocess_config")
    # Recipes of the time between have a spectrum_type that PaddleSpeech no longer reads.
    if "spectrum_type" in settings and not str(steps).endswith((".yaml", ".yml")):
        return _from_spectrum_type(root, settings, source)
    return _from_steps(root, resolve(root, steps, "preprocess_config", source))


def _from_steps(root: Path, path: Path) -> FrontEnd:
    steps = read_yaml(path).get("process")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise BadCheckpoint(f"{path}: process is not a list of steps")
    spec: FeatureSpec | None = None
    masks: dict[str, int] = {}
    kept: list[dict[str, Any]] = []
    for step in steps:
        kind = step.get("type")
        if isinstance(kind, str) and kind in _SPECTRA and spec is None:
            spec = _spectrum(step, path)
            kept.append(step)
        elif kind == "cmvn_json" and spec is not None and not spec.has_cmvn:
            spec, absolute = _with_cmvn(spec, step, root, path)
            kept.append(absolute)
        elif isinstance(kind, str) and kind in _TRAINING_ONLY:
            masks.update(_mask(step, path))
        else:
            raise BadCheckpoint(
                f"{path}: step {kind!r} is not understood here, "
                f"expected one of {', '.join(_SPECTRA)}, then cmvn_json"
            )
    if spec is None:
        raise BadCheckpoint(f"{path}: has no step of features, expected {', '.join(_SPECTRA)}")
    return FrontEnd(spec=spec, reference={"process": kept}, spec_augment=SpecAugment(**masks))


def _spectrum(step: Settings, source: Path) -> FeatureSpec:
    _check_options(step, source)
    try:
        return _SPECTRA[step["type"]](step, source)
    except BadRecipe as error:
        raise BadCheckpoint(f"{source}: {error}") from error


def _fbank_kaldi(step: Settings, source: Path) -> FeatureSpec:
    """PaddleSpeech's LogMelSpectrogramKaldi (paddlespeech/audio/transform/spectrogram.py)."""
    _check_rate(_whole(step, "fs", 16000, source), "fs", source)
    return FeatureSpec(
        n_mels=_whole(step, "n_mels", 80, source),
        frame_shift_ms=_milliseconds(_whole(step, "n_shift", 160, source)),
        frame_length_ms=_milliseconds(_whole(step, "win_length", 400, source)),
    )


def _fbank(step: Settings, source: Path) -> FeatureSpec:
    """PaddleSpeech's LogMelSpectrogram: librosa's, from 0 Hz to Nyquist whatever the step says."""
    _check_rate(_whole(step, "fs", None, source), "fs", source)
    return _centred(step, source, n_mels=_whole(step, "n_mels", None, source), log_floor=1e-10)


def _spectrogram(step: Settings, source: Path) -> FeatureSpec:
    """PaddleSpeech's Spectrogram: magnitudes, without a logarithm."""
    return _centred(step, source, n_mels=0, log_floor=0.0)


def _centred(step: Settings, source: Path, *, n_mels: int, log_floor: float) -> FeatureSpec:
    n_fft = _whole(step, "n_fft", None, source)
    window = n_fft if step.get("win_length") is None else _whole(step, "win_length", None, source)
    return FeatureSpec(
        kind=step["type"],
        n_mels=n_mels,
        n_fft=n_fft,
        frame_shift_ms=_milliseconds(_whole(step, "n_shift", None, source)),
        frame_length_ms=_milliseconds(window),
        low_freq_hz=0.0,
        window=str(step.get("window", "hann")),
        preemphasis=0.0,
        log_floor=log_floor,
    )


_SPECTRA: dict[str, Callable[[Settings, Path], FeatureSpec]] = {
    "fbank_kaldi": _fbank_kaldi,
    "fbank": _fbank,
    "spectrogram": _spectrogram,
}


def _with_cmvn(
    spec: FeatureSpec, step: Settings, root: Path, source: Path, *, variance_floor: float = 0.0
) -> tuple[FeatureSpec, dict[str, Any]]:
    """`spec` with the step's statistics, and the step with an absolute path."""
    _check_options(step, source)
    path = resolve(root, step.get("cmvn_path"), "cmvn_path", source)
    mean, istd = read_cmvn(path, width=spec.width, variance_floor=variance_floor)
    if not step.get("norm_means", True):
        mean = [0.0] * spec.width
    if not step.get("norm_vars", True):
        istd = [1.0] * spec.width
    absolute = {**step, "cmvn_path": str(path.absolute())}
    return replace(spec, cmvn_mean=tuple(mean), cmvn_istd=tuple(istd)), absolute


def _from_spectrum_type(root: Path, settings: Settings, source: Path) -> FrontEnd:
    """PaddleSpeech's AudioFeaturizer (paddlespeech/s2t/frontend/featurizer/audio_featurizer.py).

    It evens the level of every recording. Its dither, which it adds in tests too, is left out.
    """
    kind, even = settings["spectrum_type"], bool(settings.get("use_dB_normalization", True))
    target_db = _number(settings, "target_dB", -20, source) if even else None
    _refuse_rare_options(settings, source)
    featurizer = {
        "spectrum_type": kind,
        "stride_ms": _number(settings, "stride_ms", 10.0, source),
        "window_ms": _number(settings, "window_ms", 20.0, source),
        "use_dB_normalization": even,
        "target_dB": target_db,
        "dither": 0.0,
    }
    frames = {
        "frame_shift_ms": featurizer["stride_ms"],
        "frame_length_ms": featurizer["window_ms"],
        "target_db": target_db,
    }
    if kind == "fbank":
        featurizer["feat_dim"] = frames["n_mels"] = _whole(settings, "feat_dim", None, source)
    elif kind == "linear":
        frames |= {"kind": "linear", "n_mels": 0, "low_freq_hz": 0.0, "window": "hanning"}
        frames |= {"preemphasis": 0.0, "sample_scale": 1.0, "round_samples": False}
        frames["log_floor"] = 1e-14
    else:
        raise BadCheckpoint(f"{source}: spectrum_type is {kind!r}, expected linear or fbank")
    spec = FeatureSpec.from_json(frames, item=str(source), error=BadCheckpoint)
    reference: dict[str, Any] = {"featurizer": featurizer}
    if settings.get("cmvn_path"):
        step = {"type": "cmvn_json", "cmvn_path": settings["cmvn_path"]}
        spec, absolute = _with_cmvn(spec, step, root, source, variance_floor=1e-20)
        reference["cmvn_path"] = absolute["cmvn_path"]
    masks = _old_masks(root, settings, source)
    return FrontEnd(spec=spec, reference=reference, spec_augment=masks)


def _refuse_rare_options(settings: Settings, source: Path) -> None:
    _check_rate(_whole(settings, "target_sample_rate", 16000, source), "target_sample_rate", source)
    # YAML has null for what these files spell None.
    if settings.get("max_freq") not in (None, "None", ""):
        raise BadCheckpoint(f"{source}: max_freq is {settings['max_freq']!r}, expected None")
    if settings.get("delta_delta"):
        raise BadCheckpoint(f"{source}: delta_delta is {settings['delta_delta']!r}, expected False")


def _old_masks(root: Path, settings: Settings, source: Path) -> SpecAugment:
    """Masks of conf/augmentation.json: a list of ``{"type", "params", "prob"}``."""
    if not settings.get("preprocess_config"):
        return SpecAugment()
    path = resolve(root, settings["preprocess_config"], "augmentation_config", source)
    try:
        with reading(path, BadCheckpoint):
            steps = strict_json.parse(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadCheckpoint(f"{path}: is not JSON, {error}") from error
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise BadCheckpoint(f"{path}: is not a list of steps")
    for step in steps:
        params = step.get("params")
        if step.get("type") == "specaug" and isinstance(params, dict) and step.get("prob"):
            return SpecAugment(
                freq_masks=_whole(params, "n_freq_masks", None, path),
                freq_mask_width=_whole(params, "F", None, path),
                time_masks=_whole(params, "n_time_masks", None, path),
                time_mask_width=_whole(params, "T", None, path),
            )
    return SpecAugment()


def _mask(step: Settings, source: Path) -> dict[str, int]:
    for kind, key, default in (("freq", "F", 30), ("time", "T", 40)):
        if step["type"] == f"{kind}_mask":
            return {
                f"{kind}_masks": _whole(step, "n_mask", 2, source),
                f"{kind}_mask_width": _whole(step, key, default, source),
            }
    return {}


def _check_options(step: Settings, source: Path) -> None:
    unknown = sorted(str(key) for key in step.keys() - _OPTIONS[step["type"]] - {"type"})
    if unknown:
        raise BadCheckpoint(
            f"{source}: {step['type']} has the option {', '.join(unknown)}, "
            f"expected some of {', '.join(sorted(_OPTIONS[step['type']]))}"
        )


def _check_rate(rate_hz: int, key: str, source: Path) -> None:
    if rate_hz != SAMPLE_RATE_HZ:
        raise BadCheckpoint(f"{source}: {key} is {rate_hz} Hz, expected {SAMPLE_RATE_HZ} Hz")


def _milliseconds(n_samples: int) -> float:
    return n_samples * 1000 / SAMPLE_RATE_HZ


def _whole(step: Settings, key: str, default: int | None, source: Path) -> int:
    value = step.get(key, default)
    if type(value) is not int or not 0 <= value < _MOST:
        raise BadCheckpoint(f"{source}: {key} is {value!r}, expected a whole number from 0")
    return value


def _number(step: Settings, key: str, default: float, source: Path) -> float:
    value = step.get(key, default)
    if type(value) not in (int, float) or not abs(value) < _MOST:
        raise BadCheckpoint(f"{source}: {key} is {value!r}, expected a number")
    return float(value)
