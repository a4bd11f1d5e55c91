"""Target contracts: what is refused or warned of before training, and the grid they ask for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from asrcompress import targets
from asrcompress.cli.app import app
from asrcompress.errors import BadRecipe
from asrcompress.ranges import ActivationRange, Ranges, WeightRange
from asrcompress.recipe import Export, Gate, Recipe, Streaming
from asrcompress.targets import ALIASES, TARGETS, check_target, find_target, needs_exact_sums


def recipe(target: str, **changes: Any) -> Recipe:
    return Recipe(export=Export(target=target), **changes)


@pytest.fixture
def checkpoint(make_plain_experiment: Callable[..., Path], tmp_path: Path) -> Any:
    from asrcompress.checkpoints.checkpoint import read_checkpoint

    return read_checkpoint(make_plain_experiment(tmp_path / "asr"))


def test_the_names() -> None:
    assert set(TARGETS) == {
        "ort-x86-vnni", "ort-x86-avx2", "ort-arm64", "lite-arm", "lite-x86", "sherpa-offline",
        "sherpa-stream",
    }  # fmt: skip
    assert set(ALIASES.values()) <= set(TARGETS)
    assert find_target("int8") is TARGETS["ort-x86-vnni"]
    with pytest.raises(BadRecipe, match=r"export.target: got 'tpu', expected one of ort-x86-vnni"):
        recipe("tpu")
    with pytest.raises(BadRecipe, match=r"export.target: got 'tpu'"):
        find_target("tpu")


@pytest.mark.parametrize("name", ["int8", "ort-x86-vnni", "ort-x86-avx2", "ort-arm64"])
def test_onnx_runtime_takes_a_conformer_without_a_word(checkpoint: Any, name: str) -> None:
    assert check_target(recipe(name), checkpoint) == []


@pytest.mark.parametrize(
    ("name", "gru", "said"),
    [
        ("lite-arm", True, ["GRU is float on lite-arm: expect 1.0x in its layers"]),
        ("lite-arm", False, ["LSTM is float on lite-arm: expect 1.0x in its layers"]),
        ("ort-arm64", False, []),
    ],
)
def test_a_recurrent_layer_without_a_kernel_is_warned_of(
    checkpoint: Any, name: str, gru: bool, said: list[str]
) -> None:
    network = {**checkpoint.network, "use_gru": gru}
    deepspeech2 = dataclasses.replace(checkpoint, family="deepspeech2", network=network)
    assert check_target(recipe(name), deepspeech2) == said


def test_attention_in_float_is_warned_of(checkpoint: Any) -> None:
    assert check_target(recipe("lite-arm"), checkpoint) == [
        "attention's products are float on lite-arm"
    ]


def test_a_share_that_cannot_be_reached_is_refused_before_training(checkpoint: Any) -> None:
    with pytest.raises(BadRecipe, match="lite-x86 cannot reach, because only Conv1D and Conv2D"):
        check_target(recipe("lite-x86"), checkpoint)
    lowered = recipe("lite-x86", gate=Gate(min_integer_share=0.1))
    assert any("expect little speed" in line for line in check_target(lowered, checkpoint))


@pytest.mark.parametrize(
    ("name", "chunk_size", "said"),
    [
        ("sherpa-stream", 0, "got 0, expected a chunk size: sherpa-stream takes streams only"),
        ("sherpa-stream", 16, "left_chunks: got -1, expected 1 or more: sherpa-stream keeps"),
        ("sherpa-offline", 16, "got 16, expected 0: sherpa-offline takes no streams of u2"),
        ("lite-arm", 16, "got 16, expected 0: lite-arm takes no streams of u2"),
    ],
)
def test_streams_where_there_are_none_and_none_where_there_must_be(
    checkpoint: Any, name: str, chunk_size: int, said: str
) -> None:
    with pytest.raises(BadRecipe, match=said):
        check_target(recipe(name, streaming=Streaming(chunk_size=chunk_size)), checkpoint)


def test_a_newer_opset_than_the_target_s_is_refused(
    checkpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = dataclasses.replace(TARGETS["ort-arm64"], max_opset=15)
    monkeypatch.setitem(targets.TARGETS, "ort-arm64", older)
    with pytest.raises(BadRecipe, match=r"export.opset: got 17, expected at most 15"):
        check_target(recipe("ort-arm64"), checkpoint)


def test_the_command_refuses_before_anything_is_built(
    make_plain_experiment: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_plain_experiment(tmp_path / "asr")
    words = ["ptq", "--checkpoint", str(folder), "--target", "sherpa-stream"]
    done = CliRunner().invoke(app, [*words, "--runs", str(tmp_path / "runs")])
    assert done.exit_code == 3 and "takes streams only" in done.stderr
    done = CliRunner().invoke(app, [*words[:-1], "fpga"])
    assert done.exit_code == 3 and "export.target: got 'fpga'" in done.stderr
    assert not (tmp_path / "runs").exists()


def vpmaddubsw(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """AVX2's product of uint8 and int8 vectors: pairs are added in int16 with saturation."""
    products = a.astype(np.int32) * b.astype(np.int32)
    pairs = products.reshape(*products.shape[:-1], -1, 2).sum(-1)
    return np.clip(pairs, -32768, 32767).sum(-1, dtype=np.int32)


def exact(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """VNNI's vpdpbusd: everything is added in int32."""
    return (a.astype(np.int32) * b.astype(np.int32)).sum(-1, dtype=np.int32)


def on_grid(weights: np.ndarray, top: int) -> np.ndarray:
    scale = np.abs(weights).max(-1, keepdims=True) / top
    return np.round(weights / scale).astype(np.int8)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_saturation_on_avx2_and_the_grid_that_avoids_it(name: str) -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((64, 256))
    activations = np.clip(rng.normal(128, 60, (64, 256)), 0, 255).astype(np.uint8)
    full = on_grid(weights, 127)
    off = vpmaddubsw(activations, full) != exact(activations, full)
    assert off.mean() > 0.05  # rows that come out wrong with 8-bit weights
    target = TARGETS[name]
    if target.reduce_range:
        codes = on_grid(weights, target.weight_top)
        assert np.array_equal(vpmaddubsw(activations, codes), exact(activations, codes))


def test_seven_bits_are_enough_for_any_values_and_one_more_is_not() -> None:
    worst = np.array([255, 255], np.uint8)
    for sign in (1, -1):
        reduced = np.array([63, 63], np.int8) * np.int8(sign)
        assert vpmaddubsw(worst, reduced) == exact(worst, reduced)
        wider = np.array([65, 65], np.int8) * np.int8(sign)
        assert vpmaddubsw(worst, wider) != exact(worst, wider)
    assert targets.REDUCED_GRID == 63


def test_the_runtime_asks_for_exact_sums_where_they_matter() -> None:
    assert needs_exact_sums("ort-x86-vnni") and needs_exact_sums("ort-arm64")
    assert needs_exact_sums("")  # a bundle that is older than contracts
    assert not needs_exact_sums("ort-x86-avx2")
    assert not needs_exact_sums("sherpa-offline")


def test_ranges_keep_the_grid() -> None:
    ranges = Ranges(
        activations={"a": ActivationRange(absmax=1.0)},
        weights=(WeightRange(parameter="w", axis=1, absmax=(1.0,), input="a"),),
        weight_top=63,
    )
    assert Ranges.from_json(ranges.to_json()) == ranges
    assert ranges.part(("w",)).weight_top == 63
    old = ranges.to_json()
    del old["weight_top"]
    assert Ranges.from_json(old).weight_top == 127
    for top in (0, 128):
        with pytest.raises(ValueError, match="weight_top"):
            dataclasses.replace(ranges, weight_top=top)


def _run_with(folder: Path, top: int) -> Any:
    from asrcompress.ranges import write_ranges
    from asrcompress.run import Run

    ranges = Ranges(
        activations={"a": ActivationRange(absmax=1.0)},
        weights=(WeightRange(parameter="w", axis=1, absmax=(1.0,), input="a"),),
        weight_top=top,
    )
    folder.mkdir()
    run = Run(path=folder)
    write_ranges(run.ranges, ranges)
    return run


def test_a_run_ships_to_targets_whose_grid_it_keeps(tmp_path: Path) -> None:
    from asrcompress.pipeline.shipping import contract_of

    full, reduced = (_run_with(tmp_path / str(top), top) for top in (127, 63))
    assert contract_of(full, recipe("int8"), "int8").name == "ort-x86-vnni"
    assert contract_of(full, recipe("int8"), "ort-arm64").name == "ort-arm64"
    assert contract_of(reduced, recipe("ort-x86-avx2"), "int8").name == "ort-x86-avx2"
    assert contract_of(reduced, recipe("ort-x86-avx2"), "ort-arm64").name == "ort-arm64"
    with pytest.raises(BadRecipe, match="was trained for ort-x86-vnni, whose weights reach 127"):
        contract_of(full, recipe("int8"), "ort-x86-avx2")
    with pytest.raises(BadRecipe, match="sherpa-offline takes at most 63"):
        contract_of(full, recipe("int8"), "sherpa-offline")
