"""DeepSpeech2 of any size, random weights: our INT8 against ONNX Runtime's float and dynamic forms.

    python bench/deepspeech2.py                              (5 LSTM layers of 1024, forward)
    python bench/deepspeech2.py --gru --layers 3
    python bench/deepspeech2.py --direction bidirect --seconds 10 --rounds 9 --json

Contenders: the FP32 export, what ``quantize_dynamic`` makes of it (MatMul and LSTM; it leaves GRU
and convolutions in float), and ours. They are timed in one process, one after the other in every
round; what is quoted is the median of the rounds' ratios to FP32. Speed and size do not depend on
the weights; accuracy is measured elsewhere, on trained ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic
from rich.console import Console
from rich.table import Table

from asrcompress.checkpoints.network import PaddleAcousticModel
from asrcompress.compress.quantized_network import QuantizedNetwork
from asrcompress.export.families import export_utterances
from asrcompress.export.int8 import quantize_graph
from asrcompress.export.integer_share import measure_integer_share
from asrcompress.export.onnx_graph import save_graph
from asrcompress.paddle_imports import import_deepspeech2, import_paddle, import_u2
from asrcompress.recipe import Quantization
from asrcompress.runtime.session import OnnxAcousticModel

_WARM_UP = 2


def build(arguments: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """Every contender's model file, by name."""
    import_u2()
    import_paddle().seed(0)
    network = import_deepspeech2()(
        feat_size=arguments.features,
        dict_size=arguments.vocabulary,
        num_rnn_layers=arguments.layers,
        rnn_size=arguments.width,
        rnn_direction=arguments.direction,
        num_fc_layers=0,
        fc_layers_size_list=[],
        use_gru=arguments.gru,
    )
    network.eval()
    graph = export_utterances(network, opset=17, max_frames=10_000, n_mels=arguments.features)
    models = {name: folder / f"{name.replace(' ', '-')}.onnx" for name in NAMES}
    save_graph(graph, models["fp32"])
    operators = ["MatMul", "LSTM"]  # its ConvInteger does not load
    quantize_dynamic(
        models["fp32"],
        models["ort dynamic"],
        op_types_to_quantize=operators,
        weight_type=QuantType.QInt8,
    )
    quantized = QuantizedNetwork(network, Quantization(observer="min_max"))
    PaddleAcousticModel(quantized.network).log_probs([noise(arguments, seconds=2.0)])
    quantized.finish_calibration()
    save_graph(quantize_graph(graph, quantized.ranges()), models["asrcompress"])
    return models


NAMES = ("fp32", "ort dynamic", "asrcompress")


def noise(arguments: argparse.Namespace, *, seconds: float) -> np.ndarray:
    """Features of no speech at all, float32 (frames, width)."""
    frames = int(seconds * 100)
    return np.random.default_rng(0).standard_normal((frames, arguments.features), np.float32)


def measure(arguments: argparse.Namespace, models: dict[str, Path]) -> list[dict[str, Any]]:
    """Size, integer share, milliseconds and ratio of each contender."""
    sessions = {
        name: OnnxAcousticModel(path, threads=arguments.threads) for name, path in models.items()
    }
    features = noise(arguments, seconds=arguments.seconds)
    times: dict[str, list[float]] = {name: [] for name in models}
    for number in range(arguments.rounds + _WARM_UP):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.log_probs([features])
            if number >= _WARM_UP:
                times[name].append(time.perf_counter() - start)
    sizes = {name: path.stat().st_size for name, path in models.items()}
    return [
        {
            "name": name,
            "size_mb": sizes[name] / 1e6,
            "times_smaller": sizes["fp32"] / sizes[name],
            "integer_share": measure_integer_share(path, frames=100).share,
            "ms": 1000 * statistics.median(times[name]),
            "speedup": statistics.median(
                a / b for a, b in zip(times["fp32"], times[name], strict=True)
            ),
        }
        for name, path in models.items()
    ]


def show(results: list[dict[str, Any]], title: str) -> None:
    """Print the table."""
    table = Table(title=title)
    table.add_column("model")
    for column in ("MB", "x smaller", "integer", "ms", "x faster"):
        table.add_column(column, justify="right")
    for row in results:
        table.add_row(
            row["name"],
            f"{row['size_mb']:.1f}",
            f"{row['times_smaller']:.2f}",
            f"{row['integer_share']:.3f}",
            f"{row['ms']:.1f}",
            f"{row['speedup']:.2f}",
        )
    Console().print(table)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--direction", choices=("forward", "bidirect"), default="forward")
    parser.add_argument("--gru", action="store_true")
    parser.add_argument("--features", type=int, default=161, help="width of the features")
    parser.add_argument("--vocabulary", type=int, default=4301)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(arguments, build(arguments, Path(folder)))
    if arguments.json:
        print(json.dumps({"onnxruntime": onnxruntime.__version__, "results": results}, indent=1))
        return
    kind = "GRU" if arguments.gru else "LSTM"
    size = f"{arguments.layers}x{arguments.width} {kind}, {arguments.direction}"
    show(results, f"{size}, {arguments.seconds:g} s of audio, {arguments.threads} thread(s)")


if __name__ == "__main__":
    main()
