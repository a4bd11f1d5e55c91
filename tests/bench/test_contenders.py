"""Who takes part, what is kept of a built contender, and what a worker says when it dies."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("paddle", reason="the benchmark builds Paddle's contenders too")
from asrcompress.errors import SidecarFailed
from asrcompress.features import FeatureSpec
from asrcompress.runtime.features import Fbank
from asrcompress.tokens import Vocabulary
from bench import contenders, measure, roofline
from bench.artifact import Artifact, NotRun, Settings
from bench.contenders import AUDIO, BASELINE, CONTENDERS, FEATURES, OURS, Contender, built, chosen
from bench.inputs import Input, coloured_noise, write_input
from bench.measure import hear, measure_cold, measure_warm
from bench.process import Worker
from bench.worker import ENGINES


def test_everybody_is_there_once() -> None:
    names = [item.name for item in CONTENDERS]
    assert len(names) == len(set(names))
    assert len({item.slug for item in CONTENDERS}) == len(names)
    for wanted in (
        "ONNX Runtime, FP32",
        "quantize_dynamic",
        "quantize_static U8S8",
        "quantize_static U8S8 per channel",
        "quantize_static S8S8",
        "Paddle Inference, FP32",
        "oneDNN",
        "Paddle Lite",
        "NNCF INT8",
        "sherpa-onnx, INT8",
        "sherpa-onnx, FP32",
        OURS,
    ):
        assert any(wanted in name for name in names), wanted


def test_ours_has_rivals_and_everybody_a_baseline_in_float() -> None:
    assert [item.name for item in CONTENDERS if item.is_rival]
    assert all("quantize" in item.name for item in CONTENDERS if item.is_rival)
    for task in (FEATURES, AUDIO):
        assert BASELINE[task].is_fp32
        assert BASELINE[task] == next(item for item in CONTENDERS if item.task == task)


def test_choosing_brings_the_baseline_along() -> None:
    assert chosen([]) == list(CONTENDERS)
    names = [item.name for item in chosen(["openvino*int8", "sherpa*"])]
    assert names == [
        "ONNX Runtime, FP32",
        "OpenVINO, NNCF INT8",
        "asrcompress bundle, FP32",
        "sherpa-onnx, FP32",
        "sherpa-onnx, INT8",
    ]
    with pytest.raises(ValueError, match="nobody is called tensorrt"):
        chosen(["tensorrt"])


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match="task: got video, expected features or audio"):
        Contender(name="x", task="video", build=contenders.onnx_forms.build_fp32)


def test_the_worker_runs_on_python_3_8(repo: Path) -> None:
    """Its syntax does; and nothing of this package is imported at its top."""
    source = (repo / "bench/worker.py").read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 8))
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {item.name.split(".")[0] for node in top for item in node.names}
    modules = {node.module for node in top if isinstance(node, ast.ImportFrom)}
    assert not {"asrcompress", "bench", "onnxruntime", "paddle"} & (names | modules)
    assert "match" not in {type(node).__name__.lower() for node in ast.walk(tree)}


class Subject:
    """As much of a subject as `built` needs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder


SETTINGS = Settings(work=Path("work"), lengths_s=(1.0,))


def test_what_was_built_is_not_built_again(tmp_path: Path) -> None:
    calls = []

    def build(subject: Any, folder: Path, settings: Settings) -> Artifact:
        calls.append(folder)
        return Artifact(engine="openvino", spec={"model": "m"}, size_bytes=7, integer_share=None)

    item = Contender(name="Some, One", task=FEATURES, build=build)
    first = built(item, Subject(tmp_path), SETTINGS)  # type: ignore[arg-type]
    assert built(item, Subject(tmp_path), SETTINGS) == first  # type: ignore[arg-type]
    assert len(calls) == 1
    assert json.loads((tmp_path / "some--one/artifact.json").read_text())["size_bytes"] == 7


def test_other_lengths_are_other_files(tmp_path: Path) -> None:
    seen = []

    def build(subject: Any, folder: Path, settings: Settings) -> Artifact:
        seen.append(settings.lengths_s)
        return Artifact(engine="paddle lite", size_bytes=7, integer_share=0.0)

    item = Contender(name="Lite", task=FEATURES, build=build, by_length=True)
    for lengths in ((2.0,), (2.0, 30.0), (2.0,)):
        settings = Settings(work=Path("work"), lengths_s=lengths)
        built(item, Subject(tmp_path), settings)  # type: ignore[arg-type]
    assert seen == [(2.0,), (2.0, 30.0)]


def test_who_cannot_be_built_says_why_and_is_tried_again(tmp_path: Path) -> None:
    def build(subject: Any, folder: Path, settings: Settings) -> Artifact:
        raise SidecarFailed("Python 3.8: not found")

    item = Contender(name="Lite", task=FEATURES, build=build)
    for _ in range(2):
        with pytest.raises(NotRun, match=r"Python 3\.8: not found"):
            built(item, Subject(tmp_path), SETTINGS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"size_bytes": 0}, "got 0, expected > 0"), ({"integer_share": 1.5}, "got 1.5")],
)
def test_impossible_artifacts_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Artifact(**{"engine": "x", "size_bytes": 1, "integer_share": 0.0, **changes})


# --- workers -------------------------------------------------------------------------------------


@pytest.fixture
def product(tmp_path: Path) -> Artifact:
    """A graph that multiplies, for the engine that ignores its input."""
    model, feeds = tmp_path / "product.onnx", tmp_path / "product.npz"
    roofline.write_product(model, feeds, (4, 8, 16), steps=2, form="plain")
    return Artifact(
        engine="raw onnxruntime",
        spec={"model": str(model), "feeds": str(feeds)},
        size_bytes=model.stat().st_size,
        integer_share=1.0,
    )


@pytest.mark.parametrize("form", ["fp32", "plain", "qdq"])
def test_the_roofline_multiplies_what_it_says(tmp_path: Path, form: str) -> None:
    import onnxruntime

    model, feeds = tmp_path / "product.onnx", tmp_path / "product.npz"
    roofline.write_product(model, feeds, (3, 32, 5), steps=2, form=form)
    import onnx
    from onnx import numpy_helper

    weight = numpy_helper.to_array(onnx.load(model).graph.initializer[0]).astype(np.float64)
    given = dict(np.load(feeds))
    outputs = onnxruntime.InferenceSession(str(model)).run(None, given)
    assert len(outputs) == 2
    expected = given["x1"].astype(np.float64) @ weight / (127 if form == "qdq" else 1)
    tolerance = 0.02 * np.abs(expected).max() if form == "qdq" else 1e-3
    assert np.abs(outputs[1] - expected).max() <= tolerance


def test_a_worker_times_and_measures(product: Artifact, tmp_path: Path) -> None:
    cold = measure_cold("product", product, Input(path=tmp_path / "any", seconds=1.0))
    assert 0 < cold.first_s < cold.import_s + cold.load_s
    assert 15_000_000 < cold.peak_rss_bytes < 400_000_000


def warm(artifacts: dict[str, Artifact], path: Path, *, rounds: int) -> Any:
    """Times and failures with one recording and one thread."""
    return measure_warm(
        artifacts,
        [Input(path=path, seconds=1.0)],
        threads=1,
        rounds=lambda seconds: rounds,
        say=lambda message: None,
    )


def test_who_dies_drops_out_and_the_others_go_on(product: Artifact, tmp_path: Path) -> None:
    broken = Artifact(
        engine="onnxruntime", spec={"model": "/nowhere.onnx"}, size_bytes=1, integer_share=0.0
    )
    times, failed = warm({"good": product, "bad": broken}, tmp_path / "any", rounds=3)
    assert list(times) == ["good"]
    assert len(times["good"][0]) == 3
    assert list(failed) == ["bad"]
    assert "bad: ended with exit code 1 in load" in failed["bad"]
    assert "nowhere.onnx" in failed["bad"]


def test_a_slow_one_is_not_waited_for_in_every_round(
    product: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"quick": 0.1, "slow": 60.0}
    monkeypatch.setattr(measure, "_timed", lambda worker, item: seconds[worker.name])
    times, failed = warm({"quick": product, "slow": product}, tmp_path / "any", rounds=7)
    assert not failed
    assert times == {"quick": [[0.1] * 7], "slow": [[60.0] * 3]}


def test_an_interpreter_that_is_none(product: Artifact) -> None:
    from dataclasses import replace

    with pytest.raises(NotRun, match="ended with exit code 1 in load"):
        Worker("x", replace(product, python="/bin/false"), threads=1)


def test_features_and_audio_are_of_the_same_recording(tmp_path: Path) -> None:
    fbank = Fbank(FeatureSpec())
    item = write_input(tmp_path / "a/noise", coloured_noise(1.5, seed=1), fbank)
    assert item.seconds == 1.5
    assert item.features.shape == (148, 80)
    from bench.worker import read_input

    samples = read_input(str(item.path), "audio")
    assert np.array_equal(fbank(samples), item.features)
    assert np.array_equal(read_input(str(item.path), "features"), item.features)


def test_noise_is_repeatable_and_not_silent() -> None:
    first, again = coloured_noise(0.5, seed=3), coloured_noise(0.5, seed=3)
    assert np.array_equal(first, again)
    assert len(first) == 8000
    assert first.dtype == np.float32
    assert 0.01 < first.std() < 0.5
    assert np.abs(first).max() <= 0.5


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("engine", ["onnxruntime", "asrcompress"])
def test_hearing_gives_symbols_and_texts(tmp_path: Path, engine: str) -> None:
    """A graph that says the same symbol in every frame, in both of ONNX Runtime's engines."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto
    values = {"w": np.zeros((80, 4), np.float32), "b": np.log([[[0.1, 0.1, 0.7, 0.1]]])}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["y"]),
            helper.make_node("Add", ["y", "b"], ["log_probs"]),
            helper.make_node("Identity", ["x_lens"], ["log_probs_lens"]),
        ],
        "constant",
        [
            helper.make_tensor_value_info("x", kind.FLOAT, ["N", "T", 80]),
            helper.make_tensor_value_info("x_lens", kind.INT64, ["N"]),
        ],
        [
            helper.make_tensor_value_info("log_probs", kind.FLOAT, ["N", "T", 4]),
            helper.make_tensor_value_info("log_probs_lens", kind.INT64, ["N"]),
        ],
        [onnx.numpy_helper.from_array(v.astype(np.float32), n) for n, v in values.items()],
    )
    model = tmp_path / "constant.onnx"
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(model))
    item = write_input(tmp_path / "noise", coloured_noise(1.0, seed=0), Fbank(FeatureSpec()))
    artifact = Artifact(engine=engine, spec={"model": str(model)}, size_bytes=1, integer_share=0.0)
    vocabulary = Vocabulary(symbols=("<blank>", "<unk>", "开", "<eos>"))
    found = hear("constant", artifact, [item, item], vocabulary, tmp_path, keep=1)
    assert found.texts == ("开", "开")
    assert [item.shape for item in found.log_probs] == [(98, 4)]
    assert found.symbols[0].tolist() == [2] * 98


def test_every_engine_is_used_or_raw() -> None:
    assert {name for name in ENGINES if not name.startswith("raw")} == {
        "onnxruntime",
        "asrcompress",
        "asrcompress bundle",
        "paddle inference",
        "paddle lite",
        "openvino",
        "sherpa-onnx",
    }
