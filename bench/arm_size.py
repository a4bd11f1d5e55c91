"""Size and kernels of a network for Paddle Lite on ARM, FP32 against INT8; nothing is executed.

    python examples/random_experiment.py aishell-shape --decoder-blocks 1
    python -m bench.arm_size aishell-shape --seconds 2

Ranges are the weights' largest values and 4 for every edge: sizes and kernels depend on which
layers have one, not on its value.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from asrcompress.checkpoints import u2_settings
from asrcompress.checkpoints.acoustic import subsampling_factor
from asrcompress.checkpoints.batch_norm import fold_batch_norm
from asrcompress.checkpoints.checkpoint import read_checkpoint
from asrcompress.checkpoints.network import build_network
from asrcompress.compress.u2 import layers_of
from asrcompress.export.lite_graph import trace_bucket
from asrcompress.export.lite_int8 import quantize_program
from asrcompress.export.lite_opt import Optimized, optimize
from asrcompress.lite.environment import sidecar_python
from asrcompress.ranges import ActivationRange, Ranges, WeightRange


def nominal_ranges(network: Any) -> Ranges:
    """A range for every layer of a U2 network that is quantized."""
    weights, edges = [], {}
    for item in layers_of(network):
        value = np.abs(item.layer.weight.numpy())
        others = tuple(axis for axis in range(value.ndim) if axis != item.axis)
        absmax = tuple(float(top) for top in value.max(axis=others))
        parameter = f"{item.name}.weight"
        weights.append(
            WeightRange(parameter=parameter, axis=item.axis, absmax=absmax, input=item.input)
        )
        edges[item.input] = ActivationRange(absmax=4.0)
    return Ranges(activations=edges, weights=tuple(weights))


def measure(path: Path, seconds: float) -> dict[str, Optimized]:
    """What opt makes of a U2 checkpoint, by precision; the files are gone, their sizes are kept."""
    checkpoint = read_checkpoint(path)
    network = build_network(checkpoint)
    fold_batch_norm(network)
    frames = int(seconds * 1000 / checkpoint.features.frame_shift_ms)
    first = u2_settings.min_frames(checkpoint.network)
    outputs = (frames - first) // subsampling_factor(network) + 1
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("fp32", "int8"):
            program = trace_bucket(
                network, frames=frames, outputs=outputs, n_mels=checkpoint.features.width
            )
            if precision == "int8":
                quantize_program(program, nominal_ranges(network), "arm")
            output = Path(folder) / f"{precision}.nb"
            made[precision] = optimize(program, output, target="arm", python=sidecar_python())
            print(f"{precision}: {output.stat().st_size:,} bytes")
        ratio = (Path(folder) / "fp32.nb").stat().st_size / output.stat().st_size
        print(f"{ratio:.2f} times smaller")
    return made


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="bench.arm_size", description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0)
    arguments = parser.parse_args()
    for precision, made in measure(arguments.checkpoint, arguments.seconds).items():
        print(f"\n{precision}")
        print(f"  weights' multiply-accumulates on int8: {made.weight_share:.1%}")
        print(f"  all multiply-accumulates on int8: {made.share:.1%}")
        for kernel, count in made.kernels.items():
            print(f"  {count:4d} {kernel}")


if __name__ == "__main__":
    main()
