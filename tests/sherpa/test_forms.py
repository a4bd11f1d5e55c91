"""Graphs in the forms of sherpa-onnx's slots, without sherpa-onnx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="changes graphs")
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from asrcompress.errors import ExportFailed
from asrcompress.export import sherpa
from asrcompress.features import FeatureSpec

CMVN = FeatureSpec(cmvn_mean=(13.0,) * 80, cmvn_istd=(0.25,) * 80)


@pytest.fixture
def graph() -> Any:
    """``x -> log_softmax(x A)``, lengths as they come."""
    kinds, value = onnx.TensorProto, helper.make_tensor_value_info
    weights = np.random.default_rng(0).standard_normal((80, 6)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "A"], ["y"]),
        helper.make_node("LogSoftmax", ["y"], ["log_probs"], axis=2),
        helper.make_node("Identity", ["x_lens"], ["log_probs_lens"]),
    ]
    made = helper.make_graph(
        nodes,
        "tiny",
        [value("x", kinds.FLOAT, ["N", "T", 80]), value("x_lens", kinds.INT64, ["N"])],
        [
            value("log_probs", kinds.FLOAT, ["N", "U", 6]),
            value("log_probs_lens", kinds.INT64, ["N"]),
        ],
        [numpy_helper.from_array(weights, "A")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def metadata(model: Any) -> dict[str, str]:
    return {item.key: item.value for item in model.metadata_props}


def test_metadata_is_all_that_changes(graph: Any) -> None:
    form = sherpa.fire_red_form(graph, CMVN, subsampling=4)
    assert sherpa.computation_digest(form) == sherpa.computation_digest(graph)
    assert form.graph.SerializeToString() == graph.graph.SerializeToString()
    found = metadata(form)
    assert found["model_type"] == "fire-red-asr-2-ctc"
    assert found["subsampling_factor"] == "4"
    assert [float(v) for v in found["cmvn_mean"].split(",")] == [13.0] * 80
    assert [float(v) for v in found["cmvn_inv_stddev"].split(",")] == [0.25] * 80


def test_a_changed_weight_changes_the_digest(graph: Any) -> None:
    digest = sherpa.computation_digest(graph)
    weights = np.array(numpy_helper.to_array(graph.graph.initializer[0]))
    weights[0, 0] += 1e-6
    graph.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "A"))
    assert sherpa.computation_digest(graph) != digest


def test_a_network_that_normalises_by_itself_is_given_an_identity(graph: Any) -> None:
    found = metadata(sherpa.fire_red_form(graph, FeatureSpec(), subsampling=4))
    assert set(found["cmvn_mean"].split(",")) == {"0"}
    assert set(found["cmvn_inv_stddev"].split(",")) == {"1"}


def test_a_free_vocabulary_is_refused(graph: Any) -> None:
    graph.graph.output[0].type.tensor_type.shape.dim[2].dim_param = "V"
    with pytest.raises(ExportFailed, match="expected the vocabulary's"):
        sherpa.fire_red_form(graph, CMVN, subsampling=4)


@pytest.mark.parametrize("converted", [False, True])
def test_the_front_end_computes_what_it_should_and_comes_off_again(
    graph: Any, converted: bool, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    conversion = rng.uniform(0, 1, (80, 80)).astype(np.float32)
    scale, shift = (rng.standard_normal(80).astype(np.float32) for _ in range(2))
    front = sherpa.FrontEnd(
        conversion=conversion if converted else None, log_floor=1e-7, scale=scale, shift=shift
    )
    form = sherpa.wenet_form(graph, front, subsampling=4, vocabulary=6)
    assert sherpa.computation_digest(form) != sherpa.computation_digest(graph)
    bare = sherpa.without_front(form)
    assert sherpa.computation_digest(bare) == sherpa.computation_digest(graph)
    x = rng.uniform(-16, 16, (1, 5, 80)).astype(np.float32)
    y = np.log(np.maximum(np.exp(x) @ conversion.T, 1e-7)) if converted else x
    outputs = [
        onnxruntime.InferenceSession(model.SerializeToString()).run(
            None, {"x": value.astype(np.float32), "x_lens": np.array([5])}
        )[0]
        for model, value in ((form, x), (graph, y * scale + shift))
    ]
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-4)
    assert metadata(form)["vocab_size"] == "6"
    assert metadata(form)["model_type"] == "wenet_ctc"
