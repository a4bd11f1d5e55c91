"""The rewriting of QDQ graphs, against the same graphs as they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the [compress] extra")
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from asrcompress.errors import ExportFailed
from asrcompress.export.ahead import optimize_ahead
from asrcompress.export.contrib import DOMAIN
from asrcompress.export.integer_operators import fuse_integer_operators
from asrcompress.onnxruntime_optimizers import OPTIMIZED_KEY

RNG = np.random.default_rng(0)


def tensor(name: str, value: Any) -> Any:
    return numpy_helper.from_array(np.asarray(value), name)


def model(nodes: list[Any], stored: list[Any], *, dims: list[Any]) -> Any:
    """One float input x, one float output y."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "test", [x], [y], stored)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 9
    return onnx.shape_inference.infer_shapes(made)


def quantized(name: str) -> list[Any]:
    """A tensor to codes and back."""
    codes = helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{name}_codes"])
    real = helper.make_node("DequantizeLinear", [f"{name}_codes", "scale", "zero"], [f"{name}_q"])
    return [codes, real]


def run(made: Any, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (y,) = session.run(None, {"x": x})
    return np.asarray(y)


def kinds(made: Any) -> list[str]:
    return [node.op_type for node in made.graph.node]


def product(*behind: Any, extra: tuple[Any, ...] = (), zero: int = 131) -> Any:
    """x @ W on integers, and what follows; W is [8, 6]."""
    nodes = [
        *quantized("x"),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_real"], axis=1),
        helper.make_node("MatMul", ["x_q", "w_real"], ["product"], name="product"),
        *behind,
    ]
    stored = [
        tensor("scale", np.float32(0.02)),
        tensor("zero", np.uint8(zero)),
        tensor("w", RNG.integers(-127, 128, (8, 6)).astype(np.int8)),
        tensor("w_scale", RNG.uniform(0.001, 0.01, 6).astype(np.float32)),
        tensor("w_zero", np.zeros(6, np.int8)),
        *extra,
    ]
    return model(nodes, stored, dims=[1, "T", 8])


def bias_and_half() -> Any:
    return product(
        helper.make_node("Add", ["product", "bias"], ["sum"]),
        helper.make_node("Mul", ["sum", "half"], ["y"]),
        extra=(
            tensor("bias", RNG.standard_normal(6).astype(np.float32)),
            tensor("half", np.float32([0.5])),
        ),
    )


@pytest.mark.parametrize("order", ["bias", "factor", "bias, factor"])
def test_bias_and_factor_become_part_of_the_product(order: str) -> None:
    add = helper.make_node("Add", ["bias", "product"], ["y"])
    mul = helper.make_node("Mul", ["product", "factor"], ["y"])
    extra = (
        tensor("bias", RNG.standard_normal(6).astype(np.float32)),
        tensor("factor", np.float32(0.3)),
    )
    made = {
        "bias": lambda: product(add, extra=extra[:1]),
        "factor": lambda: product(mul, extra=extra[1:]),
        "bias, factor": bias_and_half,
    }[order]()
    x = RNG.standard_normal((1, 5, 8)).astype(np.float32)
    expected = run(made, x)
    fuse_integer_operators(made)
    onnx.checker.check_model(made)
    assert kinds(made) == ["QuantizeLinear", "MatMulIntegerToFloat"]
    assert np.abs(run(made, x) - expected).max() < 1e-6


def test_a_bias_behind_a_factor_stays_where_it_is() -> None:
    made = product(
        helper.make_node("Mul", ["product", "half"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["y"]),
        extra=(
            tensor("bias", RNG.standard_normal(6).astype(np.float32)),
            tensor("half", np.float32([0.5])),
        ),
    )
    x = RNG.standard_normal((1, 5, 8)).astype(np.float32)
    expected = run(made, x)
    fuse_integer_operators(made)
    assert kinds(made) == ["QuantizeLinear", "MatMulIntegerToFloat", "Add"]
    assert np.abs(run(made, x) - expected).max() < 1e-6


def test_a_product_that_others_read_keeps_its_value() -> None:
    made = product(
        helper.make_node("Mul", ["product", "half"], ["scaled"]),
        helper.make_node("Add", ["scaled", "product"], ["y"]),
        extra=(tensor("half", np.float32([0.5])),),
    )
    x = RNG.standard_normal((1, 5, 8)).astype(np.float32)
    expected = run(made, x)
    fuse_integer_operators(made)
    assert np.abs(run(made, x) - expected).max() < 1e-6


def test_a_product_with_a_bias_that_is_quantized_next_writes_codes() -> None:
    """Codes may differ by one where a value lies between two: the bias is rounded too."""
    made = product(
        helper.make_node("Add", ["product", "bias"], ["sum"]),
        *quantized("sum"),
        helper.make_node("Identity", ["sum_q"], ["y"]),
        extra=(tensor("bias", RNG.standard_normal(6).astype(np.float32)),),
    )
    x = RNG.standard_normal((1, 50, 8)).astype(np.float32)
    expected = run(made, x)
    fuse_integer_operators(made)
    onnx.checker.check_model(made, full_check=True)
    assert "QLinearConv" in kinds(made)
    assert not {"MatMul", "MatMulIntegerToFloat", "Add"} & set(kinds(made))
    gap = np.abs(run(made, x) - expected)
    assert gap.max() < 0.021  # one step
    assert (gap > 0.01).mean() < 0.01


def test_a_product_that_is_moved_before_it_is_quantized_stays_one() -> None:
    """So do heads, and a stream puts them behind a cache: one weight, one form in both graphs."""
    made = product(
        helper.make_node("Add", ["product", "bias"], ["sum"]),
        helper.make_node("Transpose", ["sum"], ["moved"], perm=[0, 2, 1]),
        *quantized("moved"),
        helper.make_node("Identity", ["moved_q"], ["y"]),
        extra=(tensor("bias", RNG.standard_normal(6).astype(np.float32)),),
    )
    x = RNG.standard_normal((1, 50, 8)).astype(np.float32)
    expected = run(made, x)
    fuse_integer_operators(made)
    assert "MatMulIntegerToFloat" in kinds(made) and "QLinearConv" not in kinds(made)
    assert np.abs(run(made, x) - expected).max() < 0.021  # one step


def test_codes_are_moved_as_codes() -> None:
    nodes = [
        *quantized("x"),
        helper.make_node("Transpose", ["x_q"], ["moved"], perm=[0, 2, 1]),
        *quantized("moved"),
        helper.make_node("Identity", ["moved_q"], ["y"]),
    ]
    stored = [tensor("scale", np.float32(0.02)), tensor("zero", np.uint8(7))]
    made = model(nodes, stored, dims=[1, "T", 8])
    x = RNG.standard_normal((1, 5, 8)).astype(np.float32)
    expected = run(made, x)
    fuse_integer_operators(made)
    assert kinds(made).count("QuantizeLinear") == kinds(made).count("DequantizeLinear") == 1
    assert np.array_equal(run(made, x), expected)


def test_a_product_that_is_quantized_next_is_left_to_onnx_runtime() -> None:
    made = product(
        helper.make_node("Transpose", ["product"], ["moved"], perm=[0, 2, 1]),
        *quantized("moved"),
        helper.make_node("Identity", ["moved_q"], ["y"]),
    )
    before = kinds(made)
    fuse_integer_operators(made)
    assert kinds(made) == before


def test_products_in_float_are_left_alone() -> None:
    weight = tensor("w", RNG.standard_normal((8, 6)).astype(np.float32))
    made = model([helper.make_node("MatMul", ["x", "w"], ["y"])], [weight], dims=[1, "T", 8])
    fuse_integer_operators(made)
    assert kinds(made) == ["MatMul"]


def convolution(*, side: int, mels: int, channels: int = 1, group: int = 1) -> Any:
    """A quantized convolution with stride 2 on (1, channels, T, mels)."""
    outputs = 16 if group == 1 else channels
    nodes = [
        *quantized("x"),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_real"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "b_scale", "b_zero"], ["b_real"], axis=0),
        helper.make_node(
            "Conv",
            ["x_q", "w_real", "b_real"],
            ["sum"],
            kernel_shape=[side, side],
            strides=[2, 2],
            pads=[0, 0, 0, 0],
            group=group,
        ),
        *quantized("sum"),
        helper.make_node("Identity", ["sum_q"], ["y"]),
    ]
    w_scale = RNG.uniform(0.001, 0.01, outputs).astype(np.float32)
    shape = (outputs, channels // group, side, side)
    stored = [
        tensor("scale", np.float32(0.05)),
        tensor("zero", np.uint8(120)),
        tensor("w", RNG.integers(-127, 128, shape).astype(np.int8)),
        tensor("w_scale", w_scale),
        tensor("w_zero", np.zeros(outputs, np.int8)),
        tensor("b", RNG.integers(-500, 500, outputs).astype(np.int32)),
        tensor("b_scale", (w_scale * np.float32(0.05)).astype(np.float32)),
        tensor("b_zero", np.zeros(outputs, np.int32)),
    ]
    return model(nodes, stored, dims=[1, channels, "T", mels])


@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize("mels", [12, 13])
@pytest.mark.parametrize("frames", [7, 8, 21])
def test_a_convolution_of_one_channel_gives_the_same_codes_with_four(
    side: int, mels: int, frames: int
) -> None:
    made = convolution(side=side, mels=mels)
    x = RNG.standard_normal((1, 1, frames, mels)).astype(np.float32)
    expected = run(made, x)
    fuse_integer_operators(made)
    onnx.checker.check_model(made)
    conv = next(node for node in made.graph.node if node.op_type == "Conv")
    kernel = next(i for i in made.graph.initializer if i.name == "w_four_channels")
    assert conv.input[1].startswith("w_four_channels")
    assert list(kernel.dims) == [16, 4, (side + 1) // 2, (side + 1) // 2]
    assert np.array_equal(run(made, x), expected)


@pytest.mark.parametrize(
    ("side", "channels", "group"), [(2, 1, 1), (3, 4, 1), (3, 4, 4)], ids=["even", "4", "depthwise"]
)
def test_other_convolutions_are_left_alone(side: int, channels: int, group: int) -> None:
    made = convolution(side=side, mels=12, channels=channels, group=group)
    before = kinds(made)
    fuse_integer_operators(made)
    assert kinds(made) == before


def test_what_a_scan_reads_is_kept() -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["step", "outside"], ["out"])],
        "body",
        [helper.make_tensor_value_info("step", TensorProto.FLOAT, [8])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [8])],
    )
    scan = helper.make_node(
        "Scan", ["x"], ["y"], body=body, num_scan_inputs=1, scan_input_axes=[1],
        scan_output_axes=[1],
    )  # fmt: skip
    made = model([scan], [tensor("outside", np.ones(8, np.float32))], dims=[1, 3, 8])
    fuse_integer_operators(made)
    assert [item.name for item in made.graph.initializer] == ["outside"]
    assert {item.domain for item in made.opset_import} == {"", DOMAIN}


def long_way() -> Any:
    """A product with its bias, through nodes that change nothing."""
    return product(
        helper.make_node("Add", ["product", "bias"], ["sum"]),
        helper.make_node("Identity", ["sum"], ["same"]),
        helper.make_node("Transpose", ["same"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("Transpose", ["turned"], ["y"], perm=[0, 2, 1]),
        extra=(tensor("bias", RNG.standard_normal(6).astype(np.float32)),),
    )


def test_what_loading_would_do_is_done_ahead() -> None:
    made = long_way()
    made.graph.name, made.ir_version = "named", 8
    made.metadata_props.add(key="made by", value="hand")
    fuse_integer_operators(made)
    before = made.SerializeToString()
    x = RNG.standard_normal((1, 5, 8)).astype(np.float32)
    found = optimize_ahead(made)
    onnx.checker.check_model(found)
    assert made.SerializeToString() == before, "the argument stays as it is"
    assert len(found.graph.node) < len(made.graph.node)
    assert "Identity" not in kinds(found)
    assert np.array_equal(run(found, x), run(made, x))
    assert found.graph.name == "named" and found.ir_version == 8
    said = {item.key: item.value for item in found.metadata_props}
    assert said == {"made by": "hand", OPTIMIZED_KEY: f"onnxruntime {onnxruntime.__version__}"}
    assert {item.domain for item in found.opset_import} == {"", DOMAIN}
    weights = {item.name: item for item in found.graph.initializer}
    stored = {item.name: item for item in made.graph.initializer}
    assert weights["w"].raw_data == stored["w"].raw_data
    assert list(weights["w"].dims) == [8, 6]


@pytest.mark.parametrize("asked", ["sum", "x_q"])
def test_what_is_asked_for_its_shape_is_not_made_floats(asked: str) -> None:
    """Behind the product, and in front of it."""
    bias = tensor("bias", RNG.standard_normal(6).astype(np.float32))
    made = product(
        helper.make_node("Add", ["product", "bias"], ["sum"]),
        helper.make_node("Shape", [asked], ["shape"], start=1),
        *quantized("sum"),
        helper.make_node("Cast", ["shape"], ["size"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["size"], ["total"]),
        helper.make_node("Mul", ["sum_q", "total"], ["y"]),
        extra=(bias,),
    )
    x = RNG.standard_normal((1, 5, 8)).astype(np.float32)
    expected = run(made, x)
    fuse_integer_operators(made)
    onnx.checker.check_model(made)
    assert "MatMul" not in kinds(made) and "QLinearConv" in kinds(made)
    floats = {node.output[0] for node in made.graph.node if node.op_type == "DequantizeLinear"}
    (shape,) = (node for node in made.graph.node if node.op_type == "Shape")
    assert shape.input[0] not in floats
    assert np.abs(run(made, x) - expected).max() <= 0.02 * 14 * 1.01  # one code, times the shape


def test_codes_that_are_moved_are_asked_for_their_shape() -> None:
    nodes = [
        *quantized("x"),
        helper.make_node("Transpose", ["x_q"], ["moved"], perm=[0, 2, 1]),
        helper.make_node("Shape", ["moved"], ["shape"]),
        *quantized("moved"),
        helper.make_node("Cast", ["shape"], ["size"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["moved_q", "size"], ["y"]),
    ]
    stored = [tensor("scale", np.float32(0.02)), tensor("zero", np.uint8(7))]
    made = model(nodes, stored, dims=[1, "T", 3])
    x = RNG.standard_normal((1, 3, 3)).astype(np.float32)
    expected = run(made, x)
    fuse_integer_operators(made)
    assert kinds(made).count("DequantizeLinear") == 1
    assert np.array_equal(run(made, x), expected)


def is_finished(made: Any) -> bool:
    return any(item.key == OPTIMIZED_KEY for item in made.metadata_props)


def test_what_is_left_to_do_at_loading_is_said() -> None:
    bias = tensor("bias", RNG.standard_normal(6).astype(np.float32))
    add = helper.make_node("Add", ["product", "bias"], ["y"])
    made = optimize_ahead(product(add, extra=(bias,)))
    assert is_finished(made)
    # A layer norm of several operators becomes one at loading, and only then meets others.
    early = product(add, extra=(bias,))
    early.opset_import[0].version = 13
    assert not is_finished(optimize_ahead(early))
    # What is dequantized at every call is folded at loading, or never.
    stored = tensor("b", np.ones(6, np.int8)), tensor("b_zero", np.int8(0))
    left = product(add, extra=stored)
    left.graph.node.insert(
        0, helper.make_node("DequantizeLinear", ["b", "scale", "b_zero"], ["bias"])
    )
    assert not is_finished(optimize_ahead(left))


def test_a_graph_that_does_not_load_is_not_written_ahead() -> None:
    made = product(helper.make_node("Add", ["product", "nowhere"], ["y"]))
    with pytest.raises(ExportFailed, match="ONNX Runtime refuses the graph"):
        optimize_ahead(made)
