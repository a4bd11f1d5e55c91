"""A pruned network as an experiment folder in PaddleSpeech's layout.

The folder is complete: it can be evaluated, quantized, or pruned again like any other. Its YAML is
the original's with the new widths where PaddleSpeech has a setting for them, ``pruned_shape`` for
all of them (see `asrcompress.checkpoints.shapes`), and ``pruned_pattern`` where weights inside of
tensors were set to zero.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from asrcompress.checkpoints.checkpoint import Checkpoint, read_checkpoint, read_settings
from asrcompress.checkpoints.patterns import KEY as PATTERN
from asrcompress.checkpoints.patterns import ZeroPattern
from asrcompress.checkpoints.shapes import KEY, EncoderShape, NetworkShape
from asrcompress.checkpoints.weights import write_weights
from asrcompress.files import temporary_beside, write_atomically, writing

# What `read_checkpoint` adds to the settings of the file.
_DERIVED = ("input_dim", "output_dim")


def write_experiment(
    folder: Path,
    checkpoint: Checkpoint,
    shape: NetworkShape | None,
    weights: Mapping[str, np.ndarray],
    pattern: ZeroPattern | None = None,
) -> Checkpoint:
    """Write the experiment and read it back; `folder` appears when all of it is there.

    Args:
        checkpoint: what was pruned; its vocabulary and front end are taken over.
        shape: of the network that is left; None where it is the checkpoint's.
        weights: under PaddleSpeech's names, of that shape.
        pattern: of the zeros in them; None where it is the checkpoint's, if any.
    Raises:
        FileFailed: the system refuses.
    """
    draft = temporary_beside(folder)
    with writing(folder):
        try:
            for name in ("conf", "data", "checkpoints"):
                (draft / name).mkdir(parents=True)
            _write_yaml(draft / "conf/model.yaml", _settings(checkpoint, shape, pattern))
            _write_front_end(draft, checkpoint)
            write_atomically(draft / "data/vocab.txt", checkpoint.vocabulary.to_vocab_txt())
            _copy_spm(draft, checkpoint)
            write_weights(draft / "checkpoints/best.pdparams", dict(weights))
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return read_checkpoint(folder)


def _settings(
    checkpoint: Checkpoint, shape: NetworkShape | None, pattern: ZeroPattern | None
) -> dict[str, Any]:
    settings = copy.deepcopy(dict(checkpoint.network))
    for key in _DERIVED:
        settings.pop(key, None)
    if isinstance(shape, EncoderShape):
        encoder = settings["encoder_conf"]
        encoder["num_blocks"] = len(shape.blocks)
        encoder["linear_units"] = max(block.feed_forward for block in shape.blocks)
    elif shape is not None:
        settings["rnn_layer_size"] = shape.hidden
        settings["fc_layers_size_list"] = list(shape.dense) or [-1]
    if shape is not None:
        settings[KEY] = shape.to_settings()
    if pattern is not None:
        settings[PATTERN] = pattern.to_settings()
    settings |= {
        "vocab_filepath": "data/vocab.txt",
        "preprocess_config": "conf/preprocess.yaml",
    }
    if settings.get("spm_model_prefix"):
        settings["spm_model_prefix"] = f"data/{Path(settings['spm_model_prefix']).name}"
    return settings


def _write_front_end(draft: Path, checkpoint: Checkpoint) -> None:
    """preprocess.yaml with its masks, and the statistics that it names."""
    source = _found(checkpoint, read_settings(checkpoint.config_path)["preprocess_config"])
    process = yaml.safe_load(source.read_text(encoding="utf-8"))
    for step in process["process"]:
        if "cmvn_path" in step:
            statistics = _found(checkpoint, step["cmvn_path"])
            shutil.copyfile(statistics, draft / "data/mean_std.json")
            step["cmvn_path"] = "data/mean_std.json"
    _write_yaml(draft / "conf/preprocess.yaml", process)


def _copy_spm(draft: Path, checkpoint: Checkpoint) -> None:
    prefix = checkpoint.network.get("spm_model_prefix")
    if prefix:
        model = _found(checkpoint, f"{prefix}.model")
        shutil.copyfile(model, draft / "data" / model.name)


def _found(checkpoint: Checkpoint, value: str) -> Path:
    """A path of the configuration, where `read_checkpoint` found it."""
    source = checkpoint.config_path.parent
    candidates = (checkpoint.root / value, source / value, source / Path(value).name)
    return next(path for path in candidates if path.is_file())


def _write_yaml(path: Path, data: object) -> None:
    write_atomically(path, yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
