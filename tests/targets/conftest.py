"""Bundles with a golden part, made of a random network in numpy's own arithmetic."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asrcompress.bundles.bundle import (
    Bundle,
    BundleManifest,
    Source,
    TensorSpec,
    read_bundle,
    write_bundle,
)
from asrcompress.features import FeatureSpec
from asrcompress.pipeline.golden_recording import record_golden
from asrcompress.pipeline.recognizer import from_onnx
from asrcompress.tokens import Vocabulary

SYMBOLS = ("<blank>", "<unk>", "开", "关", "灯", "<eos>")
N_MELS, WIDTH = 80, 48


@pytest.fixture(scope="session")
def make_graph(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Factory of ``x -> tanh(x A) B``, every second frame, log-softmax; `seed` of the weights."""

    def make(*, seed: int = 0, opset: int = 17) -> Path:
        onnx = pytest.importorskip("onnx", reason="makes the graph")
        helper, numpy_helper, kinds = onnx.helper, onnx.numpy_helper, onnx.TensorProto
        rng = np.random.default_rng(seed)
        a = (0.3 * rng.standard_normal((N_MELS, WIDTH))).astype(np.float32)
        b = (0.8 * rng.standard_normal((WIDTH, len(SYMBOLS)))).astype(np.float32)
        constants = {"zero": [0], "end": [2**31], "axis": [1], "step": [2], "one": 1, "two": 2}
        nodes = [
            helper.make_node("MatMul", ["x", "A"], ["h"]),
            helper.make_node("Tanh", ["h"], ["t"]),
            helper.make_node("MatMul", ["t", "B"], ["y"]),
            helper.make_node("Slice", ["y", "zero", "end", "axis", "step"], ["z"]),
            helper.make_node("LogSoftmax", ["z"], ["log_probs"], axis=2),
            helper.make_node("Add", ["x_lens", "one"], ["more"]),
            helper.make_node("Div", ["more", "two"], ["log_probs_lens"]),
        ]
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            nodes,
            "tiny",
            [value("x", kinds.FLOAT, ["N", "T", N_MELS]), value("x_lens", kinds.INT64, ["N"])],
            [
                value("log_probs", kinds.FLOAT, ["N", "U", len(SYMBOLS)]),
                value("log_probs_lens", kinds.INT64, ["N"]),
            ],
            [
                numpy_helper.from_array(a, "A"),
                numpy_helper.from_array(b, "B"),
                *(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()),
            ],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8
        )
        onnx.checker.check_model(model)
        path = tmp_path_factory.mktemp("graph") / "model.onnx"
        onnx.save(model, str(path))
        return path

    return make


@pytest.fixture
def golden_bundle(tmp_path: Path, written: Path) -> Bundle:
    """A bundle in ``tmp_path/bundle`` that passes its self-test."""
    shutil.copytree(written, tmp_path / "bundle")
    return read_bundle(tmp_path / "bundle")


@pytest.fixture(scope="session")
def written(make_graph: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that tests get copies of."""
    folder = tmp_path_factory.mktemp("golden")
    graph, vocabulary = make_graph(), Vocabulary(symbols=SYMBOLS)
    manifest = BundleManifest(
        family="tiny",
        precision="fp32",
        model="model.onnx",
        inputs=(
            TensorSpec(name="x", dtype="float32", dims=("N", "T", N_MELS)),
            TensorSpec(name="x_lens", dtype="int64", dims=("N",)),
        ),
        outputs=(
            TensorSpec(name="log_probs", dtype="float32", dims=("N", "U", len(SYMBOLS))),
            TensorSpec(name="log_probs_lens", dtype="int64", dims=("N",)),
        ),
        features=FeatureSpec(cmvn_mean=(13.0,) * N_MELS, cmvn_istd=(0.25,) * N_MELS),
        blank_id=0,
        vocab_size=len(SYMBOLS),
        subsampling_factor=2,
        max_frames=500,
        opset=17,
        target="ort-x86-vnni",
        source=Source(checkpoint_name="tiny/best", checkpoint_sha256="ab" * 32),
        tools={"onnx": "1.17.0"},
    )
    recognizer = from_onnx(
        graph, name="tiny", features=manifest.features, vocabulary=vocabulary, max_frames=500
    )
    golden = record_golden(recognizer, folder)
    bundle = write_bundle(
        folder / "bundle",
        dataclasses.replace(manifest, golden=golden),
        model=graph,
        vocabulary=vocabulary,
        extra=[folder / name for name in golden.files],
    )
    return bundle.path


@pytest.fixture
def reseal() -> Callable[..., None]:
    """``reseal(bundle, change)``: edit ``bundle.json``, and make every digest right again."""
    return _reseal


def _reseal(bundle: Path, change: Callable[[dict[str, Any]], object] = lambda tree: None) -> None:
    """Change ``bundle.json`` and compute every digest anew, as a forger without the key would."""
    tree = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    for name in tree["files"]:
        data = (bundle / name).read_bytes()
        tree["files"][name] = {
            "sha256": hashlib.sha256(data).hexdigest(),
            "size_bytes": len(data),
        }
    change(tree)
    tree["bundle_sha256"] = "0" * 64
    content = (json.dumps(tree, ensure_ascii=False, indent=2) + "\n").encode()
    digest = hashlib.sha256(content).hexdigest().encode()
    (bundle / "bundle.json").write_bytes(
        re.sub(rb'("bundle_sha256": ")0{64}', rb"\g<1>" + digest, content)
    )
