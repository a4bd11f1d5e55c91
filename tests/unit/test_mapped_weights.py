"""Weights that ONNX Runtime maps from the graph's own file, against the file loaded as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from asrcompress.bundles.onnx_header import read_metadata
from asrcompress.bundles.wire_format import (
    Damaged,
    bytes_field,
    fields,
    varint,
    varint_field,
)
from asrcompress.errors import BadBundle
from asrcompress.onnxruntime_errors import ORT_ERRORS
from asrcompress.onnxruntime_optimizers import DONE_AHEAD, OPTIMIZED_KEY
from asrcompress.runtime import graph as graph_module
from asrcompress.runtime.graph import OnnxGraph
from asrcompress.runtime.mapped_weights import map_weights

onnx = pytest.importorskip("onnx", reason="makes the graphs")
RNG = np.random.default_rng(3)
LARGE, SMALL = (96, 64), (64, 8)  # 24,576 and 2,048 bytes


def weights() -> dict[str, np.ndarray]:
    shapes = {"large": LARGE, "small": SMALL}
    return {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def finished(stored: dict[str, np.ndarray]) -> Any:
    """A graph in which the optimizers have run."""
    return two_products(stored, **{OPTIMIZED_KEY: "onnxruntime"})


def two_products(stored: dict[str, np.ndarray], **metadata: str) -> Any:
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "large"], ["h"]),
            helper.make_node("MatMul", ["h", "small"], ["y"]),
        ],
        "two",
        [helper.make_tensor_value_info("x", kind, ["N", LARGE[0]])],
        [helper.make_tensor_value_info("y", kind, ["N", SMALL[1]])],
        [onnx.numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    return model


def saved(path: Path, model: Any) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def product(path: Path, x: np.ndarray) -> np.ndarray:
    return OnnxGraph(path).run({"x": x})[0]


def test_the_graph_is_the_same_without_its_large_weights(tmp_path: Path) -> None:
    stored = weights()
    model = two_products(stored, made="by hand")
    path = saved(tmp_path / "model.onnx", model)
    found = map_weights(path)
    assert found.folder == tmp_path and read_metadata(path) == {"made": "by hand"}
    assert len(found.model) < len(path.read_bytes()) - stored["large"].nbytes + 200
    light = onnx.load_from_string(found.model)
    large, small = light.graph.initializer
    assert not large.raw_data and small.raw_data == stored["small"].tobytes()
    said = {item.key: item.value for item in large.external_data}
    assert said["location"] == "model.onnx"
    start, length = int(said["offset"]), int(said["length"])
    assert path.read_bytes()[start : start + length] == stored["large"].tobytes()
    onnx.external_data_helper.load_external_data_for_model(light, str(tmp_path))
    large.ClearField("external_data")
    large.ClearField("data_location")
    assert light == model


@pytest.mark.parametrize("name", ["model.onnx", "模型 1.onnx"])
def test_it_computes_the_same(tmp_path: Path, name: str) -> None:
    stored = weights()
    folder = tmp_path / "a folder 夹"
    folder.mkdir()
    path = saved(folder / name, finished(stored))
    x = RNG.standard_normal((5, LARGE[0])).astype(np.float32)
    expected = x @ stored["large"] @ stored["small"]
    assert np.abs(product(path, x) - expected).max() < 1e-3
    link = tmp_path / "link.onnx"
    link.symlink_to(path)
    assert np.array_equal(product(link, x), product(path, x))


def test_weights_that_lie_in_another_file_stay_there(tmp_path: Path) -> None:
    stored = weights()
    model = finished(stored)
    large = model.graph.initializer[0]
    (tmp_path / "large.bin").write_bytes(b"\0" * 64 + stored["large"].tobytes())
    onnx.external_data_helper.set_external_data(large, location="large.bin", offset=64)
    large.ClearField("raw_data")
    path = saved(tmp_path / "model.onnx", model)
    x = RNG.standard_normal((5, LARGE[0])).astype(np.float32)
    expected = x @ stored["large"] @ stored["small"]
    assert np.abs(product(path, x) - expected).max() < 1e-3


def test_only_a_finished_graph_is_mapped_and_only_where_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise AssertionError("mapped")

    stored = weights()
    path = saved(tmp_path / "model.onnx", finished(stored))
    x = RNG.standard_normal((5, LARGE[0])).astype(np.float32)
    expected = product(path, x)
    monkeypatch.setattr(graph_module, "map_weights", refuse)
    with pytest.raises(AssertionError, match="mapped"):
        OnnxGraph(path)
    monkeypatch.setattr(onnxruntime, "__version__", "1.20.1")
    assert np.array_equal(product(path, x), expected)
    monkeypatch.setattr(onnxruntime, "__version__", "1.21.0rc1")
    with pytest.raises(AssertionError, match="mapped"):
        OnnxGraph(path)
    assert np.array_equal(product(saved(path, two_products(stored)), x), expected)


def test_what_cannot_be_mapped_is_loaded_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where an optimizer that was left in reads a weight outside of the graph."""
    stored = weights()
    path = saved(tmp_path / "model.onnx", finished(stored))
    session, tried = onnxruntime.InferenceSession, []

    def refusing(model: str | bytes, *arguments: Any, **options: Any) -> Any:
        tried.append(type(model))
        if isinstance(model, bytes):
            raise ORT_ERRORS[0]("does not match the data size(0)")
        return session(model, *arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", refusing)
    x = RNG.standard_normal((5, LARGE[0])).astype(np.float32)
    assert np.abs(product(path, x) - x @ stored["large"] @ stored["small"]).max() < 1e-3
    assert tried == [bytes, str]


@pytest.mark.parametrize("metadata", [{}, {OPTIMIZED_KEY: "onnxruntime"}])
def test_optimizers_that_have_run_do_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metadata: dict[str, str]
) -> None:
    seen = []
    session = onnxruntime.InferenceSession

    def watched(*arguments: Any, **options: Any) -> Any:
        seen.append(options.get("disabled_optimizers"))
        return session(*arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", watched)
    OnnxGraph(saved(tmp_path / "model.onnx", two_products(weights(), **metadata)))
    assert seen == [list(DONE_AHEAD) if metadata else []]
    assert not any(name.startswith(("Nhwc", "Avx2", "QDQS8ToU8")) for name in DONE_AHEAD)


def test_files_that_are_no_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    whole = finished(weights()).SerializeToString()
    graph = next(field for field in fields(whole, 0, len(whole)) if field.number == 7)
    broken = whole[: graph.value] + b"\xff" * 12 + whole[graph.value + 12 :]
    for data in (whole[:-1], whole[: len(whole) // 2], b"\x0b", b"\xff" * 64, broken):
        path.write_bytes(data)
        with pytest.raises(BadBundle, match="is no ONNX model, or"):
            OnnxGraph(path)
    path.write_bytes(b"")
    with pytest.raises(BadBundle):
        OnnxGraph(path)
    with pytest.raises(BadBundle, match="cannot be read"):
        map_weights(tmp_path / "nowhere.onnx")


def test_a_tensor_that_claims_more_than_the_file_has(tmp_path: Path) -> None:
    model = finished(weights())
    model.graph.initializer[0].dims[0] = 1 << 40
    with pytest.raises(BadBundle, match="ONNX Runtime refuses it"):
        OnnxGraph(saved(tmp_path / "model.onnx", model))


def test_fields_are_what_protobuf_reads() -> None:
    message = bytes_field(13, b"abc") + varint_field(14, 300) + b"\x25" + b"\0" * 4
    found = list(fields(message, 0, len(message)))
    assert [(field.number, field.size) for field in found] == [(13, 3), (14, 2), (4, 4)]
    assert message[found[0].value : found[0].end] == b"abc"
    assert varint(message, found[1].value, found[1].end) == (300, found[1].end)
    for end in range(1, len(message)):
        if end not in {field.end for field in found}:
            with pytest.raises(Damaged, match="ends in the middle"):
                list(fields(message, 0, end))
