"""A run's INT8 model against what ONNX Runtime makes of the same FP32 graph by itself.

    python bench/run.py                        (the newest run of `make demo`)
    python bench/run.py runs/qat-3f9c21ab04
    python bench/run.py RUN --seconds 2 10 30 --threads 1 --rounds 21 --no-cer

Contenders, all from the run's model.fp32.onnx: FP32, ``quantize_dynamic`` (MatMul; its ConvInteger
does not load), ``quantize_static`` U8S8 per channel, and the run's own model. They are timed in
one process, one after the other in every round, so that a busy machine slows them all alike; what
is quoted is the median of the rounds' ratios. CER is measured on the run's gate manifest, the
calibration data of ``quantize_static`` are the run's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from rich.console import Console
from rich.table import Table

from asrcompress.console import Console as Progress
from asrcompress.export.integer_share import measure_integer_share
from asrcompress.manifests.manifest import load_manifest
from asrcompress.pipeline.evaluation import evaluate
from asrcompress.pipeline.recognizer import checkpoint_of, from_onnx
from asrcompress.recipe import Recipe
from asrcompress.run import latest_passing_run, read_run
from asrcompress.runtime.session import OnnxAcousticModel

_CALIBRATION_UTTERANCES = 60  # quantize_static keeps every activation of them in memory


class _Features(CalibrationDataReader):
    """Features of some utterances, as ``quantize_static`` wants them."""

    def __init__(self, features: list[np.ndarray]) -> None:
        self._left = iter(features)

    def get_next(self) -> dict[str, np.ndarray] | None:
        item = next(self._left, None)
        if item is None:
            return None
        return {"x": item[None], "x_lens": np.array([len(item)], np.int64)}


def build(fp32: Path, ours: Path, folder: Path, features: list[np.ndarray]) -> dict[str, Path]:
    """Every contender's model file, by name."""
    dynamic, static = folder / "dynamic.onnx", folder / "static.onnx"
    quantize_dynamic(fp32, dynamic, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8)
    quantize_static(
        fp32,
        static,
        _Features(features),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "MatMul"],
    )
    return {"fp32": fp32, "ort dynamic": dynamic, "ort static": static, "asrcompress": ours}


def time_rounds(
    models: dict[str, Path], *, seconds: float, threads: int, rounds: int
) -> dict[str, list[float]]:
    """Seconds per call and round, contenders interleaved."""
    sessions = {name: OnnxAcousticModel(path, threads=threads) for name, path in models.items()}
    features = np.random.default_rng(0).standard_normal((int(seconds * 100), 80), np.float32)
    times: dict[str, list[float]] = {name: [] for name in models}
    for number in range(rounds + 2):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.log_probs([features])
            if number >= 2:  # the first two warm caches and arenas
                times[name].append(time.perf_counter() - start)
    return times


def rows(arguments: argparse.Namespace, folder: Path) -> Iterator[dict[str, object]]:
    """One result per contender."""
    run = read_run(arguments.run)
    recipe = Recipe.from_dict(run.read_json("run.json")["recipe"], source="run", folder=run.path)
    checkpoint = checkpoint_of(run)
    source = recipe.data.calibration or recipe.data.train
    assert source is not None and recipe.data.gate is not None
    probe = from_onnx(
        run.model, name="", features=checkpoint.features, vocabulary=checkpoint.vocabulary
    )
    listed = load_manifest(source)
    some = listed[:: max(1, len(listed) // _CALIBRATION_UTTERANCES)][:_CALIBRATION_UTTERANCES]
    models = build(run.fp32_model, run.model, folder, [probe.features(item) for item in some])
    times = {
        seconds: time_rounds(
            models, seconds=seconds, threads=arguments.threads, rounds=arguments.rounds
        )
        for seconds in arguments.seconds
    }
    gate = load_manifest(recipe.data.gate)
    for name, path in models.items():
        row: dict[str, object] = {
            "name": name,
            "size_mb": path.stat().st_size / 1e6,
            "integer_share": measure_integer_share(path).share,
        }
        for seconds, measured in times.items():
            pairs = zip(measured["fp32"], measured[name], strict=True)
            row[f"ms_{seconds:g}s"] = 1000 * statistics.median(measured[name])
            row[f"speedup_{seconds:g}s"] = statistics.median(a / b for a, b in pairs)
        if arguments.cer:
            recognizer = from_onnx(
                path,
                name=name,
                features=checkpoint.features,
                vocabulary=checkpoint.vocabulary,
                threads=arguments.threads,
            )
            report = evaluate(recognizer, gate, console=Progress(), title=name).cer
            row["cer"] = float(report.cer)
            row["cer_interval_95"] = report.interval()
        yield row


def show(results: list[dict[str, object]], seconds: list[float]) -> None:
    """Print the table."""
    table = Table()
    table.add_column("model")
    for column in ("MB", "integer", *(f"{s:g} s: ms (x)" for s in seconds), "CER"):
        table.add_column(column, justify="right")
    for row in results:
        cells = [f"{row['size_mb']:.1f}", f"{row['integer_share']:.3f}"]
        for item in seconds:
            cells.append(f"{row[f'ms_{item:g}s']:.1f} ({row[f'speedup_{item:g}s']:.2f})")
        cells.append(f"{row['cer']:.2%}" if "cer" in row else "-")
        table.add_row(str(row["name"]), *cells)
    Console().print(table)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", help="default: the newest run of the demo")
    parser.add_argument("--seconds", type=float, nargs="+", default=[2.0, 10.0, 30.0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-cer", dest="cer", action="store_false")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.run is None:
        demo_runs = Path(__file__).parent.parent / "examples/voice_commands/work/runs"
        arguments.run = latest_passing_run(demo_runs).path
    with tempfile.TemporaryDirectory() as folder:
        results = list(rows(arguments, Path(folder)))
    if arguments.json:
        print(json.dumps({"onnxruntime": onnxruntime.__version__, "results": results}, indent=1))
    else:
        show(results, arguments.seconds)


if __name__ == "__main__":
    main()
