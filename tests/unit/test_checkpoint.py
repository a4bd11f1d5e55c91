"""PaddleSpeech experiments of every age and layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asrcompress.checkpoints.checkpoint import read_checkpoint, read_settings
from asrcompress.checkpoints.front_end import SpecAugment
from asrcompress.cmvn import read_cmvn
from asrcompress.errors import BadCheckpoint

yaml = pytest.importorskip("yaml", reason="needs the [compress] extra")
Make = Callable[..., Path]


@pytest.fixture
def folder(make_plain_experiment: Make, tmp_path: Path) -> Path:
    return make_plain_experiment(tmp_path / "asr1")


def test_an_experiment_of_paddlespeech_1(folder: Path) -> None:
    checkpoint = read_checkpoint(folder)
    assert checkpoint.family == "u2-conformer"
    assert checkpoint.name == "asr1/best"
    assert checkpoint.weights_path == folder / "checkpoints/best.pdparams"
    assert checkpoint.config_path == folder / "conf/conformer.yaml"
    assert len(checkpoint.sha256) == 64
    assert checkpoint.vocabulary.symbols == ("<blank>", "<unk>", "开", "关", "灯", "<eos>")
    assert checkpoint.network["output_dim"] == 6 and checkpoint.network["input_dim"] == 80
    assert checkpoint.spec_augment == SpecAugment()
    spec = checkpoint.features
    assert (spec.n_mels, spec.frame_length_ms, spec.frame_shift_ms) == (80, 25.0, 10.0)
    assert spec.cmvn_mean == (13.0,) * 80
    assert spec.cmvn_istd == pytest.approx((1 / 4,) * 80)  # 185 - 13 ** 2 is 16


def nested(folder: Path) -> None:
    """PaddleSpeech r0 and r1.0: sections, augmentation_config, mean_std_filepath."""
    path = folder / "conf/conformer.yaml"
    flat = yaml.safe_load(path.read_text())
    path.write_text(
        yaml.safe_dump(
            {
                "data": {
                    "vocab_filepath": flat.pop("vocab_filepath"),
                    "mean_std_filepath": "data/mean_std.json",
                    "manifest_prefix": "",
                },
                "collator": {
                    "augmentation_config": flat.pop("preprocess_config"),
                    "batch_size": 32,
                },
                "model": flat,
                "training": {"n_epoch": 240, "optim": "adam"},
                "decoding": {"beam_size": 10},
            }
        )
    )


def test_the_nested_sections_of_old_releases(folder: Path) -> None:
    new = read_checkpoint(folder)
    nested(folder)
    old = read_checkpoint(folder)
    assert old.features == new.features and old.vocabulary == new.vocabulary
    assert old.family == new.family
    assert {key: old.network[key] for key in new.network} == new.network
    settings = read_settings(folder / "conf/conformer.yaml")
    assert settings["cmvn_path"] == "data/mean_std.json" and settings["n_epoch"] == 240
    assert not {"augmentation_config", "mean_std_filepath", "model"} & settings.keys()


def test_a_released_tarball(folder: Path) -> None:
    """model.yaml and conf/ beside exp/<model>/checkpoints/, data/ below."""
    (folder / "conf/conformer.yaml").rename(folder / "model.yaml")
    target = folder / "exp/conformer/checkpoints"
    target.parent.mkdir(parents=True)
    (folder / "checkpoints").rename(target)
    (target / "best.pdparams").rename(target / "avg_30.pdparams")
    checkpoint = read_checkpoint(folder)
    assert checkpoint.config_path.name == "model.yaml"
    assert checkpoint.name == "asr1/avg_30"
    by_weights = read_checkpoint(target / "avg_30.pdparams")
    assert by_weights.root == folder.resolve() and by_weights.sha256 == checkpoint.sha256


def test_only_the_yaml_of_a_network_counts(folder: Path) -> None:
    (folder / "conf/decode.yaml").write_text("beam_size: 10\n")
    assert read_checkpoint(folder).config_path.name == "conformer.yaml"


def test_of_several_networks_one_is_named(folder: Path) -> None:
    second = folder / "conf/chunk_conformer.yaml"
    shutil.copyfile(folder / "conf/conformer.yaml", second)
    with pytest.raises(BadCheckpoint, match=r"got conf/chunk_conformer.yaml, conf/con") as caught:
        read_checkpoint(folder)
    assert caught.value.hint == "name it with --config"
    assert read_checkpoint(folder, config=second).config_path == second


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["7"], "7"),
        (["best", "7", "avg_30"], "best"),
        (["7", "avg_5", "avg_30", "avg_10"], "avg_30"),
        (["7", "8"], None),
        ([], None),
    ],
)
def test_which_weights_are_taken(folder: Path, names: list[str], chosen: str | None) -> None:
    best = folder / "checkpoints/best.pdparams"
    content = best.read_bytes()
    best.unlink()
    for name in names:
        (folder / f"checkpoints/{name}.pdparams").write_bytes(content)
    if chosen:
        assert read_checkpoint(folder).weights_path.stem == chosen
    else:
        with pytest.raises(BadCheckpoint, match=r"expected one \.pdparams file") as caught:
            read_checkpoint(folder)
        assert caught.value.hint == "name it with --weights"
    if names:
        named = folder / f"checkpoints/{names[0]}.pdparams"
        assert read_checkpoint(folder, weights=named).weights_path == named


def test_paths_are_found_beside_the_yaml_too(folder: Path) -> None:
    """As in tarballs whose conf/ names ``data/lang_char/vocab.txt`` of another machine."""
    (folder / "data/vocab.txt").rename(folder / "conf/vocab.txt")
    assert len(read_checkpoint(folder).vocabulary) == 6


def test_masks_of_the_checkpoint(make_plain_experiment: Make, tmp_path: Path) -> None:
    steps: list[dict[str, Any]] = [
        {"type": "fbank_kaldi", "n_mels": 40, "fs": 16000, "n_shift": 200},
        {"type": "time_warp", "max_time_warp": 5},
        {"type": "freq_mask", "F": 27, "n_mask": 1},
        {"type": "time_mask", "T": 100},
    ]
    checkpoint = read_checkpoint(make_plain_experiment(tmp_path / "a", steps=steps))
    assert checkpoint.spec_augment == SpecAugment(
        freq_masks=1, freq_mask_width=27, time_masks=2, time_mask_width=100
    )
    assert checkpoint.features.n_mels == 40 and not checkpoint.features.has_cmvn
    assert checkpoint.features.frame_shift_ms == 12.5


def test_families(make_plain_experiment: Make, tmp_path: Path) -> None:
    transformer = make_plain_experiment(tmp_path / "a", settings={"encoder": "transformer"})
    assert read_checkpoint(transformer).family == "u2-transformer"
    old = make_plain_experiment(tmp_path / "b", settings={"encoder": None, "rnn_layer_size": 1024})
    assert read_checkpoint(old).family == "deepspeech2"


def test_cmvn_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "cmvn.json"
    path.write_text(json.dumps({"mean_stat": [2, 20], "var_stat": [6, 202], "frame_num": 2}))
    mean, istd = read_cmvn(path, width=2)
    assert mean == [1.0, 10.0]
    assert istd == pytest.approx([1 / np.sqrt(2), 1.0])


@pytest.mark.paddle
def test_a_random_experiment_is_built(make_experiment: Make, tmp_path: Path) -> None:
    from asrcompress.checkpoints.network import build_network
    from asrcompress.checkpoints.weights import read_weights

    checkpoint = read_checkpoint(make_experiment(tmp_path / "asr1"))
    network = build_network(checkpoint)
    weights = read_weights(checkpoint.weights_path)
    state = network.state_dict()
    assert state.keys() == weights.keys()
    assert all(np.array_equal(state[name].numpy(), weights[name]) for name in weights)
    assert not network.training


@pytest.mark.paddle
def test_half_and_double_precision_are_taken(make_experiment: Make, tmp_path: Path) -> None:
    from asrcompress.checkpoints.network import build_network
    from asrcompress.checkpoints.weights import read_weights, write_weights

    checkpoint = read_checkpoint(make_experiment(tmp_path / "asr1"))
    weights = dict(read_weights(checkpoint.weights_path))
    name = "encoder.after_norm.weight"
    for dtype in ("float16", "float64"):
        weights[name] = weights[name].astype(dtype)
        write_weights(checkpoint.weights_path, weights)
        assert build_network(checkpoint).state_dict()[name].numpy().dtype == np.float32
