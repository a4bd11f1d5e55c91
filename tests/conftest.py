"""Shared fixtures: one thread, fixed seeds, a working directory that is not the repository."""

from __future__ import annotations

import os

# Before numpy, ONNX Runtime or Paddle is imported: they read these once, when they load.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import importlib.util
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

REPO = Path(__file__).resolve().parent.parent
SOURCE_FOLDERS = (
    "core", "compress", "export", "runtime", "calibration", "tests", "examples", "bench", "docs",
)  # fmt: skip
# Caches of the tools, which may come and go while tests run.
CACHE_FOLDERS = frozenset({"__pycache__", ".hypothesis", ".pytest_cache", "work"})


def pytest_configure(config: pytest.Config) -> None:
    """Keep Hypothesis's example database out of the working directory."""
    os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(REPO / ".hypothesis"))
    # A busy machine is no failure.
    hypothesis.settings.register_profile("asrcompress", deadline=None)
    hypothesis.settings.load_profile("asrcompress")


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the repository."""
    return REPO


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real speech and trained checkpoints, which is not part of the project."""
    given = os.environ.get("ASRCOMPRESS_SHARED")
    folder = Path(given) if given else REPO.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"no real speech in {folder}: set ASRCOMPRESS_SHARED to a folder with data/")
    return folder


@pytest.fixture(scope="session")
def make_experiment(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Factory of PaddleSpeech experiments with random weights: ``make_experiment(folder)``.

    The keyword arguments are those of examples/random_experiment.py. Building one takes Paddle and
    some seconds, so each is built once a session and then copied.
    """
    path = repo / "examples" / "random_experiment.py"
    spec = importlib.util.spec_from_file_location("random_experiment", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    built: dict[str, Path] = {}

    def make(
        folder: Path,
        *,
        blocks: int = 1,
        width: int = 16,
        heads: int = 2,
        feed_forward: int = 32,
        decoder_blocks: int = 1,
        symbols: tuple[str, ...] = ("开", "关", "灯", "<space>"),
        **others: Any,
    ) -> Path:
        pytest.importorskip("paddle", reason="needs the [compress] extra")
        if not built:
            spec.loader.exec_module(module)
        options = {
            **others,
            "blocks": blocks,
            "width": width,
            "heads": heads,
            "feed_forward": feed_forward,
            "decoder_blocks": decoder_blocks,
            "symbols": list(symbols),
        }
        key = json.dumps(options, sort_keys=True)
        if key not in built:
            built[key] = module.write_experiment(tmp_path_factory.mktemp("experiment"), **options)
        shutil.copytree(built[key], folder, dirs_exist_ok=True)
        return folder

    return make


@pytest.fixture(scope="session")
def make_deepspeech2(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Factory of DeepSpeech2 experiments with random weights: ``make_deepspeech2(folder)``.

    The keyword arguments are those of examples/random_deepspeech2.py. Each is built once a session.
    """
    path = repo / "examples" / "random_deepspeech2.py"
    spec = importlib.util.spec_from_file_location("random_deepspeech2", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    built: dict[str, Path] = {}

    def make(
        folder: Path,
        *,
        layers: int = 2,
        width: int = 32,
        symbols: tuple[str, ...] = ("开", "关", "灯", "空", "调", "<space>"),
        **others: Any,
    ) -> Path:
        pytest.importorskip("paddle", reason="needs the [compress] extra")
        if not built:
            spec.loader.exec_module(module)
        options = {**others, "layers": layers, "width": width, "symbols": list(symbols)}
        key = json.dumps(options, sort_keys=True)
        if key not in built:
            built[key] = module.write_experiment(tmp_path_factory.mktemp("deepspeech2"), **options)
        shutil.copytree(built[key], folder, dirs_exist_ok=True)
        return folder

    return make


@pytest.fixture(scope="session")
def position_rows() -> Callable[[Path], set[str]]:
    """Names of the only products of a graph that are meant to stay in float.

    They multiply by the learned biases of relative positions, one column each.
    """

    def find(model: Path) -> set[str]:
        onnx = pytest.importorskip("onnx", reason="needs the [compress] extra")
        nodes = onnx.load(model, load_external_data=False).graph.node
        products = [node for node in nodes if node.op_type == "MatMul"]
        return {node.name for node in products if "pos_bias_" in node.input[1]}

    return find


@pytest.fixture(scope="session")
def make_plain_experiment() -> Callable[..., Path]:
    """Factory of experiments that are read without Paddle: ``make_plain_experiment(folder)``.

    Everything but the tensors is as in a real one. `settings` replaces keys of the network's YAML,
    `steps` the steps of preprocess.yaml.
    """
    return _write_plain_experiment


def _write_plain_experiment(
    folder: Path,
    *,
    symbols: tuple[str, ...] = ("<blank>", "<unk>", "开", "关", "灯", "<eos>"),
    steps: list[dict[str, Any]] | None = None,
    settings: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
) -> Path:
    yaml = pytest.importorskip("yaml", reason="needs the [compress] extra")
    from asrcompress.checkpoints.weights import write_weights

    for name in ("conf", "data", "checkpoints"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "data/vocab.txt").write_text("".join(f"{s}\n" for s in symbols), encoding="utf-8")
    statistics = {"mean_stat": [130.0] * 80, "var_stat": [1850.0] * 80, "frame_num": 10}
    (folder / "data/mean_std.json").write_text(json.dumps(statistics))
    process = steps or [
        {"type": "fbank_kaldi", "fs": 16000, "n_mels": 80, "n_shift": 160, "win_length": 400},
        {"type": "cmvn_json", "cmvn_path": "data/mean_std.json"},
    ]
    (folder / "conf/preprocess.yaml").write_text(yaml.safe_dump({"process": process}))
    network = {
        "encoder": "conformer",
        "encoder_conf": {"output_size": 4, "num_blocks": 1, "linear_units": 4},
        "decoder": "transformer",
        "decoder_conf": {"num_blocks": 1, "linear_units": 4},
        "model_conf": {"ctc_weight": 0.3},
        "vocab_filepath": "data/vocab.txt",
        "preprocess_config": "conf/preprocess.yaml",
        **(settings or {}),
    }
    (folder / "conf/conformer.yaml").write_text(yaml.safe_dump(network))
    write_weights(
        folder / "checkpoints/best.pdparams",
        tensors or {"encoder.embed.out.weight": np.ones((4, 4), np.float32)},
    )
    return folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def _outside_the_repository(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run every test in a temporary folder: PaddleSpeech, for one, writes logs where it stands."""
    monkeypatch.chdir(tmp_path_factory.getbasetemp())


@pytest.fixture(autouse=True, scope="session")
def _repository_unchanged() -> Iterator[None]:
    """Fail the session when a test wrote in the repository; only where nobody edits, in CI."""
    if os.environ.get("CI") != "true":
        yield
        return
    before = _source_files()
    yield
    after = _source_files()
    changed = sorted(name for name in before.keys() | after if before.get(name) != after.get(name))
    assert not changed, f"tests wrote in the repository: {changed[:20]}"


def _source_files() -> dict[str, tuple[int, int]]:
    """Path from the root -> (size in bytes, modification time in ns), caches left out."""
    found = {}
    for top in (REPO, *(REPO / name for name in SOURCE_FOLDERS)):
        for folder, names, files in os.walk(top):
            keep = [] if top == REPO else [n for n in names if n not in CACHE_FOLDERS]
            names[:] = keep
            for file in files:
                path = Path(folder, file)
                stat = path.stat()
                found[str(path.relative_to(REPO))] = (stat.st_size, stat.st_mtime_ns)
    return found
