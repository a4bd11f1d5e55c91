"""Residual sums fused with layer norms, against the same graphs as they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the [compress] extra")
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from asrcompress.export.residual_norms import fuse_residual_norms

RNG = np.random.default_rng(5)
WIDTH = 16


def tensor(name: str, value: Any) -> Any:
    return numpy_helper.from_array(np.asarray(value), name)


def norm(name: str, output: str, **attributes: Any) -> Any:
    parameters = attributes.pop("parameters", ["gamma", "beta"])
    return helper.make_node(
        "LayerNormalization", [name, *parameters], [output], **{"axis": -1, **attributes}
    )


def model(*nodes: Any, dims: list[Any] | None = None, opset: int = 17) -> Any:
    """Two products of x, one float output y."""
    shape = dims or ["N", "T", WIDTH]
    weights = RNG.standard_normal((2, WIDTH, WIDTH)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "a"], ["left"]),
            helper.make_node("MatMul", ["x", "b"], ["right"]),
            *nodes,
        ],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [
            tensor("a", weights[0]),
            tensor("b", weights[1]),
            tensor("gamma", RNG.standard_normal(WIDTH).astype(np.float32)),
            tensor("beta", RNG.standard_normal(WIDTH).astype(np.float32)),
            tensor("table", RNG.standard_normal((1, 9, WIDTH)).astype(np.float32)),
            tensor("zero", np.int64([0])),
            tensor("five", np.int64([5])),
            tensor("one", np.int64([1])),
            tensor("half", np.float32([0.5])),
        ],
    )
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_model(graph, opset_imports=domains)
    made.ir_version = 9
    return onnx.shape_inference.infer_shapes(made)


def run(made: Any, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": x})[0])


def kinds(made: Any) -> list[str]:
    return [node.op_type for node in made.graph.node]


SUM = helper.make_node("Add", ["left", "right"], ["sum"])
AGAIN = helper.make_node("Add", ["sum", "normed"], ["y"])


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("first", ["norm", "other reader"])
def test_a_sum_with_two_readers(batch: int, first: str) -> None:
    half = helper.make_node("Mul", ["sum", "half"], ["halved"])
    both = [norm("sum", "normed", epsilon=1e-12), half]
    last = helper.make_node("Add", ["halved", "normed"], ["y"])
    made = model(SUM, *(both if first == "norm" else both[::-1]), last)
    x = RNG.standard_normal((batch, 5, WIDTH)).astype(np.float32)
    expected = run(made, x)
    fuse_residual_norms(made)
    onnx.checker.check_model(made)
    assert kinds(made).count("SkipLayerNormalization") == 1
    assert not {"LayerNormalization"} & set(kinds(made)) and kinds(made).count("Add") == 1
    (fused,) = (node for node in made.graph.node if node.op_type == "SkipLayerNormalization")
    assert fused.attribute[0].f == np.float32(1e-12)
    assert np.array_equal(run(made, x), expected)


def test_epsilon_may_be_left_out() -> None:
    made = model(SUM, norm("sum", "normed"), AGAIN)
    x = np.zeros((1, 2, WIDTH), np.float32)
    x[0, 0] = 1e-3  # so little that epsilon counts
    expected = run(made, x)
    fuse_residual_norms(made)
    assert "SkipLayerNormalization" in kinds(made)
    assert np.array_equal(run(made, x), expected)


PIECE = helper.make_node("Slice", ["table", "zero", "five", "one"], ["piece"])


@pytest.mark.parametrize(
    ("nodes", "dims"),
    [
        ([SUM, norm("sum", "y")], None),
        ([PIECE, helper.make_node("Add", ["left", "piece"], ["sum"]), norm("sum", "normed"),
          AGAIN], None),
        ([helper.make_node("Add", ["left", "half"], ["sum"]), norm("sum", "normed"), AGAIN], None),
        ([helper.make_node("Sub", ["left", "right"], ["sum"]), norm("sum", "normed"), AGAIN], None),
        ([SUM, norm("sum", "normed", parameters=["gamma"]), AGAIN], None),
        ([SUM, norm("sum", "normed"), AGAIN], ["N", 2, "T", WIDTH]),
    ],
    ids=["one reader", "a piece of a table", "a constant", "no sum", "no beta", "four dimensions"],
)  # fmt: skip
def test_others_stay_as_they_are(nodes: list[Any], dims: list[Any] | None) -> None:
    made = model(*nodes, dims=dims)
    fuse_residual_norms(made)
    assert kinds(made)[-len(nodes) :] == [node.op_type for node in nodes]
