"""Bundles for Paddle Lite: written, run in the real predictor, and refused when they should be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("paddle", reason="needs the [compress] extra")
from asrcompress.bundles.bundle import Bundle, read_bundle
from asrcompress.checkpoints.checkpoint import Checkpoint, read_checkpoint
from asrcompress.console import Console
from asrcompress.errors import BadBundle, BadRecipe, BadRun, ExportFailed, ParityFailed
from asrcompress.export import lite_graph
from asrcompress.lite.origin import LiteOptions
from asrcompress.lite.shipping import ship_lite
from asrcompress.pipeline.recognizer import from_bundle, from_checkpoint
from asrcompress.recipe import Recipe, override
from asrcompress.runtime import Transcriber

pytestmark = pytest.mark.paddle

BUCKETS_S = (0.4, 1.0)


def ship(
    source: Path | None, output: Path, *, target: str = "x86", precision: str | None = None
) -> Bundle:
    recipe = override(Recipe(), {("export", "target"): target})
    options = LiteOptions(precision=precision, buckets_s=BUCKETS_S)
    return ship_lite(source, recipe, output, options, force=False, console=Console(quiet=True))


@pytest.fixture(scope="module")
def bundle(
    checkpoint: Checkpoint, sidecar: Path, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """FP32 for x86."""
    return ship(checkpoint.root, tmp_path_factory.mktemp("lite") / "bundle")


def samples(seconds: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 0.1, int(seconds * 16_000))
    return noise.astype(np.float32)


def test_it_says_what_it_is(bundle: Bundle) -> None:
    manifest, lite = bundle.manifest, bundle.manifest.lite
    assert lite is not None
    assert (manifest.precision, manifest.target, manifest.opset) == ("fp32", "lite-x86", 0)
    assert [bucket.frames for bucket in lite.buckets] == [40, 100]
    assert [bucket.outputs for bucket in lite.buckets] == [9, 24]
    assert lite.executed and lite.relative_error is not None and lite.relative_error < 1e-5
    assert lite.weight_share == 0
    assert {*lite.files, "tokens.txt"} <= manifest.files.keys()
    assert manifest.model == lite.files[-1]


def test_texts_are_paddlespeechs(bundle: Bundle, checkpoint: Checkpoint) -> None:
    transcriber = Transcriber(bundle.path)
    reference = from_checkpoint(checkpoint)
    for seconds in (0.3, 0.4, 0.9):
        text = transcriber.transcribe(samples(seconds)).text
        assert text == reference.transcribe(samples(seconds))
    result = transcriber.self_test()
    assert result is not None and result.passed


def test_audio_beyond_the_longest_length_is_stitched(bundle: Bundle) -> None:
    recognizer = from_bundle(bundle.path)
    long = recognizer.fbank(samples(3.0))
    (seen,) = recognizer.model.log_probs([long])
    assert len(seen) == (len(long) - 7) // 4 + 1
    assert np.isfinite(seen).all()
    # Up to where the first window hands over, it is what that window gives by itself.
    (first,) = recognizer.model.log_probs([long[:100]])
    np.testing.assert_array_equal(seen[: 24 - 3], first[: 24 - 3])


@pytest.mark.parametrize("kind", ["transformer", "causal", "lstm", "gru"])
def test_other_networks(
    kind: str,
    make_experiment: Any,
    make_deepspeech2: Callable[..., Path],
    sidecar: Path,
    tmp_path: Path,
) -> None:
    if kind in ("lstm", "gru"):
        make_deepspeech2(tmp_path / "net", gru=kind == "gru")
    elif kind == "causal":
        chunks = {"causal": True, "use_dynamic_chunk": True}
        make_experiment(tmp_path / "net", encoder_conf=chunks, norm="layer_norm")
    else:
        make_experiment(tmp_path / "net", encoder="transformer")
    made = ship(tmp_path / "net", tmp_path / "bundle")
    lite = made.manifest.lite
    assert lite is not None and lite.relative_error is not None and lite.relative_error < 1e-5
    assert lite.kind == ("deepspeech2" if kind in ("lstm", "gru") else "u2")
    if lite.kind == "deepspeech2":  # however long: the states are handed on
        network, recognizer = read_checkpoint(tmp_path / "net"), from_bundle(made.path)
        features = recognizer.fbank(samples(3.5))
        (expected,) = from_checkpoint(network).model.log_probs([features])
        (seen,) = recognizer.model.log_probs([features])
        assert np.abs(seen - expected).max() / np.abs(expected).max() < 1e-5


def test_a_network_that_reads_backwards_is_refused(
    make_deepspeech2: Callable[..., Path], sidecar: Path, tmp_path: Path
) -> None:
    make_deepspeech2(tmp_path / "net", direction="bidirect")
    with pytest.raises(ExportFailed, match="expected forward"):
        ship(tmp_path / "net", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_for_arm_it_is_converted_and_not_executed(
    checkpoint: Checkpoint, sidecar: Path, tmp_path: Path
) -> None:
    made = ship(checkpoint.root, tmp_path / "bundle", target="arm", precision="fp32")
    lite = made.manifest.lite
    assert lite is not None and not lite.executed and lite.relative_error is None
    assert made.manifest.golden is None
    assert all("/4/" in kernel for bucket in lite.buckets for kernel in bucket.kernels)
    with pytest.raises(BadBundle, match="holds kernels for arm"):
        Transcriber(made.path)


def test_a_predictor_that_computes_something_else_is_refused(
    checkpoint: Checkpoint, sidecar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: the mask that keeps padding out is lost on the way to Paddle Lite."""
    monkeypatch.setattr(lite_graph, "_MASKED", 0.0)
    with pytest.raises(ParityFailed, match="relative difference"):
        ship(checkpoint.root, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_flipped_byte_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(bundle.path, copy)
    lite = bundle.manifest.lite
    assert lite is not None
    path = copy / lite.files[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadBundle, match="was changed"):
        Transcriber(copy)
    path.unlink()
    with pytest.raises(BadBundle, match="is missing"):
        read_bundle(copy)


def test_a_manifest_must_list_every_length(bundle: Bundle) -> None:
    lite = bundle.manifest.lite
    assert lite is not None
    evil = dataclasses.replace(lite.buckets[0], file="../model.nb")
    with pytest.raises(BadBundle, match="file name"):
        dataclasses.replace(
            bundle.manifest, lite=dataclasses.replace(lite, buckets=(evil, lite.buckets[1]))
        )


@pytest.mark.parametrize("buckets", [(), (4.0, 2.0), (2.0, 2.0), (-1.0,)])
def test_lengths_must_make_sense(buckets: tuple[float, ...]) -> None:
    with pytest.raises(BadRecipe, match="--buckets"):
        LiteOptions(buckets_s=buckets)


def test_a_target_must_be_paddle_lites(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(BadRecipe, match="expected arm or x86"):
        ship(checkpoint.root, tmp_path / "bundle", target="int8")


def test_int8_needs_a_run(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(BadRun):
        ship(checkpoint.root, tmp_path / "bundle", target="arm")
