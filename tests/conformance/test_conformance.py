"""Every family: what we evaluate is PaddleSpeech's own, what we export is what we evaluated."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("paddle", reason="needs the [compress] extra")
import onnx
import paddle
from onnx import numpy_helper

from asrcompress.checkpoints.network import PaddleAcousticModel
from asrcompress.errors import BadBundle
from asrcompress.export.int8 import quantize_graph
from asrcompress.export.integer_share import check_integer_share, measure_integer_share
from asrcompress.runtime.decode import greedy
from asrcompress.runtime.session import OnnxAcousticModel

pytestmark = pytest.mark.paddle


def alone(model: Any, features: list[np.ndarray]) -> list[np.ndarray]:
    """Log-probabilities of each utterance in a batch of one."""
    return [model.log_probs([item])[0] for item in features]


def largest_gap(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """Largest difference; lengths must be the same."""
    return max(float(np.abs(x - y).max()) for x, y in zip(a, b, strict=True))


def agreement(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """Share of frames with the same best symbol."""
    same = [x.argmax(-1) == y.argmax(-1) for x, y in zip(a, b, strict=True)]
    return float(np.concatenate(same).mean())


def paddlespeech_forward(network: Any, features: np.ndarray) -> np.ndarray:
    """Log-probabilities of one utterance by the calls of PaddleSpeech's own decoding."""
    speech = paddle.to_tensor(features[None])
    lengths = paddle.to_tensor([len(features)], dtype="int64")
    with paddle.no_grad():
        if hasattr(network, "ctc"):
            hidden, _ = network._forward_encoder(speech, lengths, -1, -1, False)
            return np.asarray(network.ctc.log_softmax(hidden).numpy()[0])
        hidden, _, _, _ = network.encoder(speech, lengths, None, None)
        return np.log(network.decoder.softmax(hidden).numpy()[0])


def test_evaluate_is_paddlespeech_forward(case: Any) -> None:
    reference = [paddlespeech_forward(case.network, item) for item in case.speech.features]
    assert largest_gap(reference, case.evaluated) < 1e-5


def test_greedy_decoding_is_paddlespeech_greedy_search(case: Any) -> None:
    if not hasattr(case.network, "ctc"):
        pytest.skip("PaddleSpeech 1.5.0 has no greedy search for DeepSpeech2 that runs")
    for features, log_probs in zip(case.speech.features, case.evaluated, strict=True):
        lengths = paddle.to_tensor([len(features)], dtype="int64")
        with paddle.no_grad():
            expected = case.network.ctc_greedy_search(paddle.to_tensor(features[None]), lengths)[0]
        assert greedy(log_probs) == expected


def test_the_network_recognises_what_it_was_not_fitted_to(case: Any) -> None:
    """Else the agreement of its forms would mean nothing."""
    right = [p.argmax(-1) == case.frame_labels(i) for i, p in enumerate(case.evaluated)]
    assert np.concatenate(right).mean() > 0.8
    spoken = [[int(k) for k, _ in groupby(labels) if k] for labels in case.speech.labels]
    heard = [greedy(item) for item in case.evaluated]
    assert sum(a == b for a, b in zip(spoken, heard, strict=True)) >= len(spoken) // 2


def test_export_equals_evaluate_alone_and_in_a_batch(case: Any) -> None:
    model = OnnxAcousticModel(case.fp32)
    exported = alone(model, case.speech.features)
    assert largest_gap(case.evaluated, exported) < 1e-4
    assert largest_gap(exported, model.log_probs(case.speech.features)) < 1e-4


def test_int8_agrees_with_the_network_and_with_its_simulation(case: Any) -> None:
    deployed = alone(OnnxAcousticModel(case.int8), case.speech.features)
    simulated = alone(PaddleAcousticModel(case.calibrated.network), case.speech.features)
    assert agreement(case.evaluated, deployed) >= 0.98
    assert agreement(simulated, deployed) >= 0.98


def test_int8_runs_on_integers(case: Any, position_rows: Any) -> None:
    measured = measure_integer_share(case.int8, frames=200)
    check_integer_share(measured, minimum=0.95)
    assert set(measured.float_nodes) == position_rows(case.int8)


def test_integer_operators_compute_what_the_standard_ones_do(case: Any, tmp_path: Path) -> None:
    """Both spellings of the same ranges; only what lies between two codes may round apart."""
    graph = quantize_graph(case.graph, case.calibrated.ranges(), operators="qdq")
    assert {item.domain for item in graph.opset_import} <= {"", "com.microsoft"}
    onnx.save(graph, tmp_path / "model.onnx")
    standard = alone(OnnxAcousticModel(tmp_path / "model.onnx"), case.speech.features)
    fused = alone(OnnxAcousticModel(case.int8), case.speech.features)
    assert np.mean([np.abs(a - b).mean() for a, b in zip(standard, fused, strict=True)]) < 1e-2
    assert agreement(standard, fused) >= 0.98


def test_a_wrong_range_is_noticed(case: Any, tmp_path: Path) -> None:
    """The sabotage: the agreement that is asked for is one that a damaged graph has not."""
    broken = onnx.load(case.int8)
    weight = next(i for i in broken.graph.initializer if i.name.endswith("lo.weight_quantized"))
    scale = next(i for i in broken.graph.initializer if i.name.endswith("lo.weight_scale"))
    assert weight.data_type == onnx.TensorProto.INT8
    values = numpy_helper.to_array(scale)
    scale.CopyFrom(numpy_helper.from_array(values[::-1].copy(), scale.name))
    onnx.save(broken, tmp_path / "model.onnx")
    deployed = alone(OnnxAcousticModel(tmp_path / "model.onnx"), case.speech.features)
    assert agreement(case.evaluated, deployed) < 0.98


def test_the_shortest_utterance_is_as_the_bundle_says(case: Any) -> None:
    shortest = case.manifest.min_frames
    features = case.speech.features[0]
    model = OnnxAcousticModel(case.fp32)
    reference = paddlespeech_forward(case.network, features[:shortest])
    assert len(reference) == len(model.log_probs([features[:shortest]])[0]) == 1
    if shortest > 1:
        try:
            shorter = model.log_probs([features[: shortest - 1]])[0]
        except BadBundle:
            return
        assert len(shorter) == 0
