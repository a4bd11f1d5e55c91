"""``asrcompress init``: a recipe that works as it stands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asrcompress.cli.starter import write_starter
from asrcompress.errors import BadCheckpoint, BadManifest, OutputExists
from asrcompress.recipe import FILE_NAME, read_recipe

pytest.importorskip("yaml", reason="needs the [compress] extra")


@pytest.fixture
def experiment(
    make_plain_experiment: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """In the working directory, named relative to it."""
    make_plain_experiment(tmp_path / "asr1")
    monkeypatch.chdir(tmp_path)
    return Path("asr1")


def write_manifest(path: Path) -> Path:
    import soundfile

    soundfile.write(path.with_suffix(".wav"), np.zeros(16000), 16000)
    path.write_text(json.dumps({"audio": path.with_suffix(".wav").name, "text": "开"}) + "\n")
    return path


def start(experiment: Path, **options: object) -> Path:
    named = {"train": None, "gate": None, **options}
    return write_starter(Path(FILE_NAME), experiment, **named)  # type: ignore[arg-type]


def test_the_manifests_of_paddlespeech_are_found(experiment: Path, tmp_path: Path) -> None:
    write_manifest(experiment / "data/manifest.train")
    write_manifest(experiment / "data/manifest.test.raw")
    recipe = read_recipe(start(experiment))
    assert recipe.checkpoint.path == tmp_path / "asr1"
    assert recipe.data.train == tmp_path / "asr1/data/manifest.train"
    assert recipe.data.gate == tmp_path / "asr1/data/manifest.test.raw"
    assert recipe.training.epochs == 3  # commented out, so the default


def test_named_ones_win(experiment: Path, tmp_path: Path) -> None:
    write_manifest(experiment / "data/manifest.test")
    mine = write_manifest(tmp_path / "mine.jsonl")
    config, weights = experiment / "conf/conformer.yaml", experiment / "checkpoints/best.pdparams"
    recipe = read_recipe(start(experiment, gate=mine, config=config, weights=weights))
    assert recipe.data.gate == mine and recipe.data.train is None
    assert recipe.checkpoint.config == tmp_path / config
    assert recipe.checkpoint.weights == tmp_path / weights


def test_every_setting_is_shown(experiment: Path) -> None:
    text = start(experiment).read_text(encoding="utf-8")
    for name in ("epochs", "max_cer_increase", "opset", "observer", "calibration_utterances"):
        assert f"# {name} = " in text


def test_names_that_need_quoting(
    make_plain_experiment: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = 'a "b"\\c\nd\t中\x7f'
    make_plain_experiment(tmp_path / name)
    assert read_recipe(start(Path(name))).checkpoint.path == tmp_path / name


def test_nothing_is_overwritten_unasked(experiment: Path) -> None:
    Path(FILE_NAME).write_text("mine")
    with pytest.raises(OutputExists, match=r"asrcompress.toml: file exists"):
        start(experiment)
    assert Path(FILE_NAME).read_text() == "mine"
    assert read_recipe(start(experiment, force=True)).checkpoint.path


def test_what_cannot_be_used_is_refused_before_writing(experiment: Path) -> None:
    with pytest.raises(BadCheckpoint):
        start(Path("nowhere"))
    with pytest.raises(BadManifest):
        start(experiment, train=Path("nowhere.jsonl"))
    assert not Path(FILE_NAME).exists()
