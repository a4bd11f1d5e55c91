"""Programs for Paddle Lite, before and after opt: numbers, kernels, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("paddle", reason="needs the [compress] extra")
from asrcompress.checkpoints.batch_norm import fold_batch_norm
from asrcompress.checkpoints.network import PaddleAcousticModel, build_network
from asrcompress.errors import ExportFailed, IntegerGateFailed, SidecarFailed
from asrcompress.export.lite_graph import trace_bucket
from asrcompress.export.lite_int8 import quantize_program
from asrcompress.export.lite_kernels import integer_macs, read_kernels
from asrcompress.export.lite_opt import check_integer_kernels, optimize
from asrcompress.export.lite_program import Program
from asrcompress.export.lite_reference import PaddleProgram
from asrcompress.lite.process import LiteProcess

pytestmark = pytest.mark.paddle

FRAMES, OUTPUTS = 24, 5


def folded(checkpoint: Any) -> Any:
    """The network without batch norms."""
    network = build_network(checkpoint)
    fold_batch_norm(network)
    return network


def trace(checkpoint: Any) -> Program:
    return trace_bucket(folded(checkpoint), frames=FRAMES, outputs=OUTPUTS, n_mels=80)


def noise(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((frames, 80)).astype(np.float32)


def feeds(features: np.ndarray) -> dict[str, np.ndarray]:
    x = np.zeros((1, FRAMES, 80), np.float32)
    x[0, : len(features)] = features
    keep = np.zeros((1, OUTPUTS, 1), np.float32)
    keep[:, : (len(features) - 7) // 4 + 1] = 1
    return {"x": x, "keep": keep}


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def test_a_padded_program_gives_paddlespeechs_own_forward(checkpoint: Any) -> None:
    program, exact = (
        PaddleProgram(trace(checkpoint)),
        PaddleAcousticModel(build_network(checkpoint)),
    )
    for frames in (FRAMES, 16):
        features = noise(frames)
        expected = exact.log_probs([features])[0]
        (seen,) = program.run(feeds(features))
        assert relative(seen[0, : len(expected)], expected) < 1e-5


def test_weights_and_work_are_counted(checkpoint: Any) -> None:
    program = trace(checkpoint)
    ops = {program.names[item.weight]: item for item in program.weighted()}
    # 2 convolutions, 1 linear, 12 layers in the block, the head, and the two biases of positions.
    assert len(ops) == 16 + 2
    assert ops["encoder.encoders.0.self_attn.pos_bias_u"].macs == 5 * 32
    # By hand: 24 frames of 80 mels are 11 x 39, then 5 x 19 positions of 32 channels.
    assert ops["encoder.embed.conv.0.weight"].macs == 32 * 11 * 39 * 9
    assert ops["encoder.embed.conv.2.weight"].macs == 32 * 5 * 19 * 9 * 32
    feed_forward = "encoder.encoders.0.feed_forward.w_1.weight"
    assert ops[feed_forward].macs == 5 * 32 * 64
    assert ops["encoder.encoders.0.self_attn.linear_pos.weight"].macs == 5 * 32 * 32
    depthwise = "encoder.encoders.0.conv_module.depthwise_conv.weight"
    assert ops[depthwise].macs == 5 * 32 * 7
    # Of 4 heads of width 8: scores and context.
    assert program.products() == 2 * 4 * 5 * 5 * 8


def test_int8_weights_have_the_learned_scales(checkpoint: Any, ranges: Any) -> None:
    program = trace(checkpoint)
    before = {program.names[o.weight]: program.parameters[o.weight] for o in program.weighted()}
    quantized = quantize_program(program, ranges, "arm")
    assert len(quantized) == 16
    absmax = {item.parameter: np.asarray(item.absmax, np.float32) for item in ranges.weights}
    for item in program.weighted():
        name, codes = program.names[item.weight], program.parameters[item.weight]
        if name not in quantized:
            assert "pos_bias_" in name
            continue
        assert codes.dtype == np.int8
        assert np.array_equal(program.parameters[f"{item.weight}@w_scale"], absmax[name])
        shape = [1] * codes.ndim
        shape[item.axis] = -1
        step = absmax[name].reshape(shape) / 127
        assert np.abs(codes * step - before[name]).max() <= step.max() / 2 * 1.001
        assert program.parameters[f"{item.weight}@x_scale"] == np.float32(4)


def test_x86_takes_convolutions_with_seven_bits_only(checkpoint: Any, ranges: Any) -> None:
    program = trace(checkpoint)
    names = quantize_program(program, ranges, "x86")
    assert names == (
        "encoder.embed.conv.0.weight",
        "encoder.embed.conv.2.weight",
        "encoder.encoders.0.conv_module.depthwise_conv.weight",
    )
    codes = [program.parameters[item.weight] for item in program.weighted()]
    assert max(abs(c).max() for c in codes if c.dtype == np.int8) == 63


def test_x86_leaves_out_what_its_conversion_gets_wrong(checkpoint: Any, ranges: Any) -> None:
    # 25 frames of 80 mels: 2000 % 32 = 16 >= 8, so the first convolution reads garbage at the end.
    program = trace_bucket(folded(checkpoint), frames=25, outputs=OUTPUTS, n_mels=80)
    assert "encoder.embed.conv.0.weight" not in quantize_program(program, ranges, "x86")


def test_ranges_must_fit_the_program(checkpoint: Any, ranges: Any) -> None:
    stray = replace(ranges.weights[0], parameter="encoder.nowhere.weight")
    with pytest.raises(ExportFailed, match=r"encoder\.nowhere\.weight"):
        quantize_program(
            trace(checkpoint), replace(ranges, weights=(*ranges.weights, stray)), "arm"
        )
    short = replace(ranges.weights[0], absmax=(1.0,))
    with pytest.raises(ExportFailed, match="has 32 output channels, expected 1"):
        quantize_program(
            trace(checkpoint), replace(ranges, weights=(short, *ranges.weights[1:])), "arm"
        )


def test_arm_runs_every_weight_in_an_integer_kernel(
    checkpoint: Any, ranges: Any, sidecar: Path, tmp_path: Path
) -> None:
    program = trace(checkpoint)
    quantize_program(program, ranges, "arm")
    made = optimize(program, tmp_path / "arm.nb", target="arm", python=sidecar)
    assert 0.999 < made.weight_share < 1.0  # all but the two biases of positions
    check_integer_kernels(made, minimum=0.95)
    # 1 + 4 feed-forward + 4 attention + 2 pointwise + head; the positional projection by itself.
    assert made.kernels["fc/fp32out/4/2/1"] == 12
    assert made.kernels["matmul_v2/def/4/2/1"] == 1
    assert sum(n for name, n in made.kernels.items() if name.startswith("conv2d/")) == 3
    # In float: the two products of attention, and the two biases of positions.
    assert made.kernels["matmul_v2/def/4/1/1"] == 4
    weighted = list(program.weighted())
    rows = sum(item.macs for item in weighted if "pos_bias_" in program.names[item.weight])
    everything = sum(item.macs for item in weighted) + program.products()
    assert made.share == pytest.approx((made.weight_macs - rows) / everything)


def test_a_file_with_float_kernels_fails_the_integer_gate(
    checkpoint: Any, ranges: Any, sidecar: Path, tmp_path: Path
) -> None:
    program = trace(checkpoint)
    keep = [w for w in ranges.weights if "embed" not in w.parameter]
    quantize_program(program, replace(ranges, weights=tuple(keep)), "arm")
    made = optimize(program, tmp_path / "arm.nb", target="arm", python=sidecar)
    assert 0 < made.weight_share < 0.95
    with pytest.raises(IntegerGateFailed, match=r"expected at least 0\.950"):
        check_integer_kernels(made, minimum=0.95)


def test_int8_on_x86_is_its_simulation_but_for_single_roundings(
    checkpoint: Any, ranges: Any, sidecar: Path, tmp_path: Path
) -> None:
    program = trace(checkpoint)
    quantize_program(program, ranges, "x86")
    made = optimize(program, tmp_path / "x86.nb", target="x86", python=sidecar)
    assert 0 < made.weight_share < 1
    simulation = PaddleProgram(program)
    gaps = []
    with LiteProcess(sidecar) as process:
        process.load("x86", made.path)
        for seed in range(12):
            inputs = feeds(noise(FRAMES, seed))
            (seen,), (expected,) = process.run("x86", inputs), simulation.run(inputs)
            gaps.append(relative(seen, expected))
    # Where no value lies on the border of two codes, only float32 sums differ.
    assert sorted(gaps)[4] < 1e-5
    assert max(gaps) < 0.02


def test_opt_may_die_after_it_wrote_a_good_file(
    checkpoint: Any, sidecar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LiteProcess.optimize

    def dies(self: LiteProcess, *args: Any, **options: Any) -> None:
        real(self, *args, **options)
        raise SidecarFailed("program: Paddle Lite ended with SIGABRT in optimize, Aborted")

    monkeypatch.setattr(LiteProcess, "optimize", dies)
    made = optimize(trace(checkpoint), tmp_path / "x86.nb", target="x86", python=sidecar)
    assert made.path.is_file() and made.weight_share == 0


def test_opt_that_crashes_is_an_error_with_its_last_words(
    checkpoint: Any, sidecar: Path, tmp_path: Path
) -> None:
    program = trace(checkpoint)
    # An operator of a name that Paddle Lite has never heard of: it aborts.
    program.block.ops[5].type = "no_such_operator"
    with pytest.raises(ExportFailed, match=r"(?s)wrote nothing.*no_such_operator"):
        optimize(program, tmp_path / "x86.nb", target="x86", python=sidecar)


def test_a_file_for_other_hardware_is_refused(
    checkpoint: Any, sidecar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LiteProcess.optimize

    def swapped(self: LiteProcess, model: Path, params: Path, *, target: str, output: Path) -> None:
        real(self, model, params, target="x86", output=output)

    monkeypatch.setattr(LiteProcess, "optimize", swapped)
    with pytest.raises(ExportFailed, match="kernels for x86, expected arm"):
        optimize(trace(checkpoint), tmp_path / "a.nb", target="arm", python=sidecar)


def test_a_broken_file_is_refused(checkpoint: Any, sidecar: Path, tmp_path: Path) -> None:
    made = optimize(trace(checkpoint), tmp_path / "x86.nb", target="x86", python=sidecar)
    data = made.path.read_bytes()
    for broken in (b"", data[:1000], b"\x03" + data[1:], data[:26] + bytes(len(data) - 26)):
        made.path.write_bytes(broken)
        with pytest.raises(ExportFailed):
            read_kernels(made.path)
    made.path.write_bytes(data)
    with pytest.raises(ExportFailed, match="layers without a kernel in the file: nowhere"):
        integer_macs(read_kernels(made.path), {"nowhere": 1})


def test_a_predictor_that_dies_is_an_error(sidecar: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.nb").write_bytes(b"\x02\x00" + bytes(100))
    with LiteProcess(sidecar) as process, pytest.raises(SidecarFailed, match=r"bad\.nb"):
        process.load("bad", tmp_path / "bad.nb")


@pytest.mark.slow
def test_a_conformer_of_12_blocks_is_3_2_times_smaller(
    make_experiment: Any, ranges_of: Any, sidecar: Path, tmp_path: Path
) -> None:
    from asrcompress.checkpoints.checkpoint import read_checkpoint

    symbols = tuple(chr(0x4E00 + index) for index in range(4230))
    make_experiment(
        tmp_path / "large", blocks=12, width=256, heads=4, feed_forward=2048, symbols=symbols
    )
    network = folded(read_checkpoint(tmp_path / "large"))
    sizes = {}
    for name in ("fp32", "int8"):
        program = trace_bucket(network, frames=400, outputs=99, n_mels=80)
        if name == "int8":
            quantize_program(program, ranges_of(network), "arm")
        made = optimize(program, tmp_path / f"{name}.nb", target="arm", python=sidecar)
        sizes[name] = made.path.stat().st_size
    check_integer_kernels(made, minimum=0.95)
    assert sizes["fp32"] / sizes["int8"] >= 3.2  # seen: see docs/paddle-lite.md
