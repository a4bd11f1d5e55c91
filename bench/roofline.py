"""How fast this core multiplies at best: products alone, in the libraries that the contenders use.

MLAS is what ONNX Runtime (and sherpa-onnx) multiplies with, oneDNN what OpenVINO and Paddle do.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.artifact import Artifact, NotRun
from bench.openvino_forms import environment
from bench.process import Worker
from bench.summary import Peaks

# (rows, inner, columns): an encoder's feed-forward on 10 s, a large one, and a square.
_GEMMS = ((250, 256, 2048), (1000, 256, 2048), (1024, 1024, 1024))
# A recurrent layer of 1024: one state times the weights of four gates, in steps that share them.
_ROW = (1, 1024, 4096)
_STEPS = 16
_ROUNDS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """What one library reaches.

    Attributes:
        library: MLAS or oneDNN.
        work: ``gemm`` or ``row``.
        precision: ``fp32`` or ``int8``.
        gmacs: 10^9 multiply-accumulates per second, the best of the shapes tried.
        shape: at which.
    """

    library: str
    work: str
    precision: str
    threads: int
    gmacs: float
    shape: tuple[int, int, int]


def measure_peaks(folder: Path, work: Path, threads: Sequence[int]) -> list[Peak]:
    """All peaks; OpenVINO's are left out where it is not installed."""
    libraries: dict[str, tuple[str, str | None]] = {"MLAS": ("raw onnxruntime", None)}
    with suppress(NotRun):  # the rows of OpenVINO say why
        libraries["oneDNN"] = ("raw openvino", str(environment(work)))
    found = []
    for library, (engine, python) in libraries.items():
        for kind, shapes in (("gemm", _GEMMS), ("row", (_ROW,))):
            for precision in ("fp32", "int8"):
                for count in threads:
                    rates = [
                        (_rate(folder, engine, python, kind, precision, shape, count), shape)
                        for shape in shapes
                    ]
                    best, shape = max(rates)
                    found.append(
                        Peak(
                            library=library,
                            work=kind,
                            precision=precision,
                            threads=count,
                            gmacs=best / 1e9,
                            shape=shape,
                        )
                    )
    return found


def best_of(peaks: Sequence[Peak], threads: int) -> Peaks:
    """The best that any library reaches."""

    def most(work: str, precision: str) -> float:
        return 1e9 * max(
            item.gmacs
            for item in peaks
            if (item.work, item.precision, item.threads) == (work, precision, threads)
        )

    return Peaks(
        float_=most("gemm", "fp32"),
        integer=most("gemm", "int8"),
        float_row=most("row", "fp32"),
        integer_row=most("row", "int8"),
    )


def _rate(
    folder: Path,
    engine: str,
    python: str | None,
    kind: str,
    precision: str,
    shape: tuple[int, int, int],
    threads: int,
) -> float:
    """Multiply-accumulates per second: work over the median time."""
    folder.mkdir(parents=True, exist_ok=True)
    steps = _STEPS if kind == "row" else 1
    name = f"{precision}-{'x'.join(map(str, shape))}"
    form = "plain" if engine == "raw onnxruntime" or precision == "fp32" else "qdq"
    path, feeds = folder / f"{name}-{form}.onnx", folder / f"{name}-{form}.npz"
    write_product(path, feeds, shape, steps=steps, form=form if precision == "int8" else "fp32")
    artifact = Artifact(
        engine=engine,
        spec={"model": str(path), "feeds": str(feeds)},
        size_bytes=path.stat().st_size,
        integer_share=None,
        **({} if python is None else {"python": python}),
    )
    with Worker(f"{engine} {name}", artifact, threads=threads) as worker:
        times = [float(worker.run(path)["seconds"]) for _ in range(_ROUNDS)]
    return steps * int(np.prod(shape)) / statistics.median(times[3:])


def write_product(
    path: Path, feeds: Path, shape: tuple[int, int, int], *, steps: int, form: str
) -> None:
    """A graph of nothing but products with one constant matrix, and something to multiply.

    Args:
        shape: rows, inner size, columns.
        steps: products, each with rows of its own.
        form: ``fp32``; ``plain``, integers in and out; ``qdq``, integers behind a quantizer.
    """
    rows, inner, columns = shape
    rng = np.random.default_rng(0)
    plain = form == "plain"
    given = TensorProto.UINT8 if plain else TensorProto.FLOAT
    result = TensorProto.INT32 if plain else TensorProto.FLOAT
    names = [(f"x{step}", f"y{step}") for step in range(steps)]
    values = {
        x: rng.integers(0, 256, (rows, inner)).astype(np.uint8)
        if plain
        else rng.standard_normal((rows, inner), np.float32) / 4
        for x, _ in names
    }
    nodes = [node for x, y in names for node in _product(x, y, form)]
    if form == "qdq":
        nodes.insert(0, helper.make_node("DequantizeLinear", ["W", "s", "zw"], ["Wf"]))
    constants = _constants(rng.integers(-127, 128, (inner, columns)).astype(np.int8), form)
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info(x, given, [rows, inner]) for x, _ in names],
        [helper.make_tensor_value_info(y, result, [rows, columns]) for _, y in names],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    np.savez(feeds, **values)


def _constants(weight: np.ndarray, form: str) -> dict[str, np.ndarray]:
    """The matrix, and the grids of the form that has any."""
    if form == "fp32":
        return {"W": weight.astype(np.float32) / 127}
    grids = {"s": np.float32(1 / 127), "zx": np.uint8(128), "zw": np.int8(0)}
    return {"W": weight, **({k: np.array(v) for k, v in grids.items()} if form == "qdq" else {})}


def _product(x: str, y: str, form: str) -> list[onnx.NodeProto]:
    if form != "qdq":
        return [helper.make_node("MatMulInteger" if form == "plain" else "MatMul", [x, "W"], [y])]
    grid = ["s", "zx"]
    return [
        helper.make_node("QuantizeLinear", [x, *grid], [f"{x}q"]),
        helper.make_node("DequantizeLinear", [f"{x}q", *grid], [f"{x}d"]),
        helper.make_node("MatMul", [f"{x}d", "Wf"], [y]),
    ]
