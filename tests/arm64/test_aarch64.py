"""The base install's own aarch64 wheels, and bundles from x86, on an emulated 64-bit ARM.

`make test-arm64` prepares the system. ARM64_BUNDLES names further bundles to run, space-separated.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from asrcompress.bundles.bundle import read_bundle, write_bundle
from asrcompress.bundles.golden import N_AGREEING

pytestmark = pytest.mark.slow


def _module() -> ModuleType:
    path = Path(__file__).with_name("aarch64.py")
    spec = importlib.util.spec_from_file_location("aarch64", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def device(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An aarch64 Python with the base install of this checkout."""
    aarch64 = _module()
    folder = aarch64.cache_folder()
    made = (folder / "root" / ".ready").is_file() and shutil.which("qemu-aarch64-static")
    if not made and not os.environ.get("MAKE_ARM64"):
        pytest.skip(f"no aarch64 system in {folder}: make test-arm64 prepares one")
    if not made and (reason := aarch64.missing()):
        pytest.skip(reason)
    root = aarch64.make_root(folder)
    build = tmp_path_factory.mktemp("wheel")
    # From a copy, for setuptools leaves its build folder in the source.
    shutil.copytree(repo, build / "source", ignore=_ignored)
    command = [
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
        "--wheel-dir", str(build), str(build / "source"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = build.glob("*.whl")
    site = aarch64.install(sys.executable, wheel, repo / "requirements-lock.txt", build)
    return aarch64.Device(root, site)


def _ignored(_: str, names: list[str]) -> set[str]:
    kept = {"core", "compress", "export", "runtime", "calibration"}
    return {n for n in names if n.startswith(".") or n in {"tests", "build", "dist", "examples",
            "bench", "docs", "__pycache__"}} - kept  # fmt: skip


@pytest.fixture(scope="session")
def int8_bundle(make_experiment: Callable[..., Path], tmp_path_factory: Any) -> Path:
    """An INT8 bundle of a random Conformer, calibrated on noise, with a golden part."""
    pytest.importorskip("paddle", reason="needs the [compress] extra")
    from dataclasses import replace

    from asrcompress.checkpoints.batch_norm import fold_batch_norm
    from asrcompress.checkpoints.checkpoint import read_checkpoint
    from asrcompress.checkpoints.network import PaddleAcousticModel, build_network
    from asrcompress.compress.quantized_network import QuantizedNetwork
    from asrcompress.export.families import export_utterances
    from asrcompress.export.int8 import quantize_graph
    from asrcompress.export.onnx_bundle import describe
    from asrcompress.export.onnx_graph import save_graph
    from asrcompress.pipeline.golden_recording import record_golden
    from asrcompress.pipeline.recognizer import from_onnx
    from asrcompress.recipe import Quantization

    folder = tmp_path_factory.mktemp("int8")
    make_experiment(
        folder / "asr", blocks=2, width=32, heads=4, feed_forward=64, decoder_blocks=1, kernel=7,
        symbols=tuple("开关灯空调音乐天气"), seed=3,
    )  # fmt: skip
    checkpoint = read_checkpoint(folder / "asr")
    network = build_network(checkpoint)
    fold_batch_norm(network)
    graph = export_utterances(network, opset=17, max_frames=1600, n_mels=80)
    quantized = QuantizedNetwork(build_network(checkpoint), Quantization(observer="min_max"))
    rng = np.random.default_rng(11)
    for frames in (80, 150, 220):
        noise = rng.standard_normal((frames, 80)).astype(np.float32)
        PaddleAcousticModel(quantized.network).log_probs([noise])
    quantized.finish_calibration()
    model = folder / "model.onnx"
    save_graph(quantize_graph(graph, quantized.ranges()), model)
    manifest = describe(
        model, checkpoint, precision="int8", subsampling=4, max_frames=1600, integer_share=None,
        quality=None,
    )  # fmt: skip
    recognizer = from_onnx(
        model, name="int8", features=checkpoint.features, vocabulary=checkpoint.vocabulary
    )
    golden = record_golden(recognizer, folder)
    return write_bundle(
        folder / "bundle",
        replace(manifest, golden=golden, target="ort-arm64"),
        model=model,
        vocabulary=checkpoint.vocabulary,
        extra=[folder / name for name in golden.files],
    ).path


def _verify(device: Any, bundle: Path) -> tuple[int, dict[str, Any], str]:
    done = device.run("-m", "asrcompress", "verify", bundle, "--json")
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def test_it_is_aarch64_and_only_the_base_install(device: Any) -> None:
    code = (
        "import platform, asrcompress.runtime as r; from importlib.util import find_spec as f; "
        "print(platform.machine(), f('paddle'), f('onnx'), r.__file__)"
    )
    machine, *absent, file = device.run("-c", code).stdout.split()
    assert (machine, absent) == ("aarch64", ["None", "None"])
    assert Path(file).is_relative_to(device.site)


def test_an_int8_bundle_from_x86_computes_the_same(device: Any, int8_bundle: Path) -> None:
    _check_same(device, int8_bundle)


def test_given_bundles_compute_the_same(device: Any) -> None:
    given = os.environ.get("ARM64_BUNDLES", "").split()
    if not given:
        pytest.skip("ARM64_BUNDLES names no bundles")
    for path in given:
        _check_same(device, Path(path).resolve())


def _check_same(device: Any, bundle: Path) -> None:
    code, said, errors = _verify(device, bundle)
    assert code == 0, errors
    test = said["self_test"]
    print(f"{bundle}: {test}")  # shown by pytest -rP, or when it fails
    assert [item["text"] for item in test["results"]] == [
        item["expected"] for item in test["results"]
    ]
    agreeing = [item for item in test["results"] if item["difference_nats"] <= 1e-3]
    assert len(agreeing) >= N_AGREEING
    assert all(item["difference_nats"] < 0.5 for item in test["results"])


def test_a_wrong_weight_fails_there_too(device: Any, int8_bundle: Path, tmp_path: Path) -> None:
    """The bundle is written anew by us, so every digest is right, but its network is another."""
    import onnx
    from onnx import numpy_helper

    bundle = read_bundle(int8_bundle)
    model = onnx.load(bundle.model_path)
    (weights,) = [
        item
        for item in model.graph.initializer
        if item.name == "encoder.encoders.0.feed_forward.w_1.weight_quantized_kernel"
    ]
    codes = numpy_helper.to_array(weights).copy()
    codes.reshape(-1).view(np.uint8)[:64] ^= 0x80
    weights.CopyFrom(numpy_helper.from_array(codes, weights.name))
    onnx.save(model, str(tmp_path / "model.onnx"))
    golden = bundle.manifest.golden
    assert golden is not None
    changed = write_bundle(
        tmp_path / "bundle",
        bundle.manifest,
        model=tmp_path / "model.onnx",
        vocabulary=bundle.tokens,
        extra=[bundle.path / name for name in golden.files],
    )
    code, said, errors = _verify(device, changed.path)
    assert code == 4, errors
    assert said["self_test"]["passed"] is False
