"""Factories of tiny models and bundles, for tests of what reads them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asrcompress.bundles.bundle import Bundle, BundleManifest, Source, TensorSpec, write_bundle
from asrcompress.features import FeatureSpec
from asrcompress.tokens import Vocabulary

SYMBOLS = ("<blank>", "<unk>", "开", "关", "<space>", "灯", "<eos>")
N_MELS = 80


@pytest.fixture
def vocabulary() -> Vocabulary:
    """Seven symbols with everything special in them."""
    return Vocabulary(symbols=SYMBOLS)


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """Factory of ONNX graphs: one convolution of 3 frames, every second frame kept, log-softmax.

    Keyword arguments: seed, vocab_size, batch (a fixed batch size, or None), lengths (dtype name
    of ``x_lens``), gain (of the weights; NaN makes NaN).
    """

    def make(
        *,
        seed: int = 0,
        vocab_size: int = len(SYMBOLS),
        batch: int | None = None,
        lengths: str = "INT64",
        gain: float = 0.3,
    ) -> Path:
        onnx = pytest.importorskip("onnx", reason="makes the graph")
        helper, numpy_helper = onnx.helper, onnx.numpy_helper
        rng = np.random.default_rng(seed)
        weight = gain * rng.standard_normal((vocab_size, N_MELS, 3))
        weight -= weight.mean(axis=(1, 2), keepdims=True)  # or loudness alone decides
        constants = {"0": [0], "end": [2**31], "1": [1], "2": [2], "one": 1, "two": 2}
        kind = getattr(onnx.TensorProto, lengths)
        nodes = [
            helper.make_node("Transpose", ["x"], ["xt"], perm=[0, 2, 1]),
            helper.make_node("Conv", ["xt", "W"], ["yt"], pads=[1, 1]),
            helper.make_node("Transpose", ["yt"], ["y"], perm=[0, 2, 1]),
            helper.make_node("Slice", ["y", "0", "end", "1", "2"], ["z"]),
            helper.make_node("LogSoftmax", ["z"], ["log_probs"], axis=2),
            helper.make_node("Cast", ["x_lens"], ["wide"], to=onnx.TensorProto.INT64),
            helper.make_node("Add", ["wide", "one"], ["more"]),
            helper.make_node("Div", ["more", "two"], ["log_probs_lens"]),
        ]
        value = helper.make_tensor_value_info
        n = "N" if batch is None else batch
        graph = helper.make_graph(
            nodes,
            "tiny",
            [
                value("x", onnx.TensorProto.FLOAT, [n, "T", N_MELS]),
                value("x_lens", kind, [n]),
            ],
            [
                value("log_probs", onnx.TensorProto.FLOAT, [n, "U", vocab_size]),
                value("log_probs_lens", onnx.TensorProto.INT64, [n]),
            ],
            [
                numpy_helper.from_array(weight.astype(np.float32), "W"),
                *(
                    numpy_helper.from_array(np.asarray(item), name)
                    for name, item in constants.items()
                ),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.checker.check_model(model)
        path = tmp_path / f"tiny-{seed}-{vocab_size}-{batch}-{lengths}-{gain}.onnx"
        onnx.save(model, str(path))
        return path

    return make


@pytest.fixture
def manifest() -> BundleManifest:
    """A manifest that fits `make_model()` and `vocabulary`."""
    return BundleManifest(
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
        features=FeatureSpec(cmvn_mean=(10.0,) * N_MELS, cmvn_istd=(0.25,) * N_MELS),
        blank_id=0,
        vocab_size=len(SYMBOLS),
        subsampling_factor=2,
        max_frames=500,
        opset=13,
        source=Source(checkpoint_name="tiny/best", checkpoint_sha256="ab" * 32),
        tools={"onnx": "1.17.0"},
        integer_share=0.0,
        quality={"cer_before": 0.1, "cer_after": 0.125},
    )


@pytest.fixture
def make_bundle(
    tmp_path: Path,
    make_model: Callable[..., Path],
    manifest: BundleManifest,
    vocabulary: Vocabulary,
) -> Callable[..., Bundle]:
    """Factory of bundles: `name` of the folder, `model` options, and changes to the manifest."""

    def make(
        name: str = "bundle", *, model: dict[str, Any] | None = None, **changes: Any
    ) -> Bundle:
        return write_bundle(
            tmp_path / name,
            dataclasses.replace(manifest, **changes),
            model=make_model(**(model or {})),
            vocabulary=vocabulary,
        )

    return make


@pytest.fixture
def speech() -> Callable[..., np.ndarray]:
    """Factory of something like speech: float32 in [-1, 1), seeded, `seconds` long at 16 kHz."""

    def make(seconds: float = 1.0, *, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        t = np.arange(round(seconds * 16000)) / 16000
        pitch = 120 + 30 * np.sin(2 * np.pi * 0.7 * t + rng.uniform(0, 6))
        voice = sum(np.sin(2 * np.pi * k * np.cumsum(pitch) / 16000) / k for k in range(1, 20))
        loudness = np.clip(np.sin(2 * np.pi * 2.5 * t + rng.uniform(0, 6)), 0, None)
        samples = 0.2 * loudness * voice + 0.002 * rng.standard_normal(len(t))
        return np.clip(samples, -1, 0.99).astype(np.float32)

    return make
