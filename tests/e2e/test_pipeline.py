"""The main job from the command line, and the gate under sabotage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("paddle", reason="needs the [compress] extra")
import onnx
from onnx import numpy_helper

from asrcompress.accuracy.cer import CerReport
from asrcompress.cli.app import app
from asrcompress.errors import CerGateFailed, DataLeak, ParityFailed
from asrcompress.export.parity import check_parity, compare_features, compare_forms
from asrcompress.files import sha256_file
from asrcompress.runtime import Transcriber

pytestmark = pytest.mark.paddle


def run(*arguments: str | Path, expect: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(item) for item in arguments])
    assert result.exit_code == expect, f"{result.output}\n{result.exception!r}"
    return result


@pytest.fixture(scope="module")
def folder(workplace: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe in which ptq has passed."""
    path = tmp_path_factory.mktemp("job")
    workplace.write_recipe(path, "[gate]\nmax_cer_increase = 0.25\n")
    run("ptq", "--recipe", path / "asrcompress.toml", "--quiet")
    return path


@pytest.fixture
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def only_run(folder: Path) -> Path:
    (found,) = (folder / "runs").iterdir()
    return found


def test_fp32_has_no_errors_and_int8_few(folder: Path) -> None:
    found = only_run(folder)
    before, after = (
        CerReport.from_json(json.loads((found / name).read_text())["cer"])
        for name in ("before.json", "after.json")
    )
    assert before.edits == 0
    assert before.reference_chars > 200
    assert 0 < after.edits < 0.2 * before.reference_chars
    assert json.loads((found / "run.json").read_text())["status"] == "passed"


def test_what_ships_is_what_was_measured(inside: Path, tmp_path: Path) -> None:
    result = run("export", "--format", "onnx", "-o", tmp_path / "bundle", "--json")
    manifest = json.loads(result.stdout)
    found = only_run(inside)
    assert sha256_file(tmp_path / "bundle/model.int8.onnx") == sha256_file(
        found / "model.int8.onnx"
    )
    assert manifest["integer_share"] > 0.99
    assert manifest["quality"]["verdict"]["passed"] is True
    assert (
        manifest["source"]["checkpoint_sha256"]
        == json.loads((found / "run.json").read_text())["checkpoint"]["sha256"]
    )
    run("verify", tmp_path / "bundle")
    run("export", "-o", tmp_path / "bundle", expect=3)  # never overwritten without --force
    run("export", "-o", tmp_path / "bundle", "--force")


def test_checkpoint_run_and_bundle_are_evaluated_by_the_same_code(
    inside: Path, workplace: Any, tmp_path: Path
) -> None:
    run("export", "-o", tmp_path / "bundle")
    cers = {}
    for model in (workplace.checkpoint, only_run(inside), tmp_path / "bundle"):
        result = run("evaluate", model, "--manifest", workplace.gate, "--json")
        cers[model.name] = CerReport.from_json(json.loads(result.stdout)["cer"]).edits
    assert cers["checkpoint"] == 0
    assert cers["bundle"] == cers[only_run(inside).name] > 0


def test_the_runtime_hears_what_evaluate_heard(
    inside: Path, workplace: Any, tmp_path: Path
) -> None:
    run("export", "-o", tmp_path / "bundle")
    heard = {
        item["utt"]: item["hypothesis"]
        for item in json.loads((only_run(inside) / "after.json").read_text())["cer"]["utterances"]
    }
    transcriber = Transcriber(tmp_path / "bundle")
    lines = [json.loads(line) for line in workplace.gate.read_text().splitlines()]
    for line in lines[:10]:
        assert transcriber.transcribe(line["audio"]).text == heard[line["utt"]]
    output = run("transcribe", tmp_path / "bundle", lines[0]["audio"]).stdout
    assert output == f"{lines[0]['audio']}\t{heard[lines[0]['utt']]}\n"


def test_a_finished_run_is_not_repeated(inside: Path) -> None:
    found = only_run(inside)
    before = {path.name: path.stat().st_mtime_ns for path in found.glob("*.onnx")}
    run("ptq", "--quiet")
    assert {path.name: path.stat().st_mtime_ns for path in found.glob("*.onnx")} == before


def test_qat_trains_passes_and_ships_in_one_command(workplace: Any, tmp_path: Path) -> None:
    workplace.write_recipe(
        tmp_path,
        "[training]\nepochs = 1\nlearning_rate = 1e-5\n[gate]\nmax_cer_increase = 0.25\n",
    )
    bundle = tmp_path / "bundle"
    result = run(
        "qat", "--target", "int8", "--recipe", tmp_path / "asrcompress.toml",
        "--export-to", bundle, "--json",
    )  # fmt: skip
    outcome = json.loads(result.stdout)
    assert outcome["passed"] is True
    assert outcome["integer_share"] > 0.99
    found = Path(outcome["run"])
    steps = [json.loads(line) for line in (found / "metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == list(range(1, len(steps) + 1))
    assert not (found / "state.pdstate").exists()
    run("verify", bundle)


def test_a_failing_gate_exits_4_and_ships_nothing(workplace: Any, tmp_path: Path) -> None:
    workplace.write_recipe(tmp_path, "[gate]\nmax_cer_increase = 0.0\n")
    recipe, bundle = tmp_path / "asrcompress.toml", tmp_path / "bundle"
    result = run("ptq", "--recipe", recipe, "--export-to", bundle, "--json", expect=4)
    assert json.loads(result.stdout)["passed"] is False
    assert "error: CER gate: " in result.stderr
    assert not bundle.exists()
    found = only_run(tmp_path)
    assert json.loads((found / "verdict.json").read_text())["passed"] is False
    run("export", found, "-o", bundle, expect=4)  # asking again does not help
    run("export", "--recipe", recipe, "-o", bundle, expect=3)  # nor is there a passing run
    assert not bundle.exists()


def test_too_few_integer_kernels_exit_4(workplace: Any, tmp_path: Path) -> None:
    workplace.write_recipe(
        tmp_path, '[quantization]\nskip = ["encoder.encoders.*"]\n[gate]\nmax_cer_increase = 1.0\n'
    )
    result = run("ptq", "--recipe", tmp_path / "asrcompress.toml", "--quiet", expect=4)
    assert "error: integer share: got 0." in result.stderr


def test_gate_data_among_training_data_is_refused(workplace: Any, tmp_path: Path) -> None:
    both = workplace.train.read_text() + workplace.gate.read_text().splitlines()[0] + "\n"
    (tmp_path / "leaky.jsonl").write_text(both)
    workplace.write_recipe(tmp_path)
    result = run(
        "ptq", "--recipe", tmp_path / "asrcompress.toml", "--train-manifest",
        tmp_path / "leaky.jsonl", expect=3,
    )  # fmt: skip
    assert "gate0" in result.stderr
    assert issubclass(DataLeak, Exception)


# --- sabotage: an artifact that is damaged after quantization must not pass its gate -------------


def swap_scales(model: onnx.ModelProto) -> None:
    """Exchange the weight scales of two layers of equal shape."""
    stored = {item.name: item for item in model.graph.initializer}
    a, b = (stored[f"encoder.encoders.{block}.feed_forward.w_1.weight_scale"] for block in (0, 1))
    values = numpy_helper.to_array(a), numpy_helper.to_array(b)
    a.CopyFrom(numpy_helper.from_array(values[1] * 8, a.name))
    b.CopyFrom(numpy_helper.from_array(values[0] / 8, b.name))


def flip_weights(model: onnx.ModelProto) -> None:
    """Invert all bits of 1 % of the int8 weights."""
    rng = np.random.default_rng(0)
    for item in model.graph.initializer:
        if item.data_type == onnx.TensorProto.INT8 and "_quantized" in item.name:
            codes = numpy_helper.to_array(item).copy()
            hit = rng.random(codes.shape) < 0.01
            codes[hit] = np.where(codes[hit] >= 0, -127, 127)
            item.CopyFrom(numpy_helper.from_array(codes, item.name))


def zero_layer(model: onnx.ModelProto) -> None:
    """Set one layer's weights to zero."""
    name = "encoder.encoders.1.self_attn.linear_out.weight_quantized"
    item = next(i for i in model.graph.initializer if i.name == name)
    item.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(item)), name))


@pytest.mark.parametrize("sabotage", [swap_scales, flip_weights, zero_layer])
def test_the_gate_fails_a_sabotaged_artifact(
    folder: Path, tmp_path: Path, sabotage: Callable[[onnx.ModelProto], None], workplace: Any
) -> None:
    job = tmp_path / "job"
    shutil.copytree(folder, job)
    recipe = json.loads((only_run(job) / "run.json").read_text())
    found = only_run(job)
    model = onnx.load(found / "model.int8.onnx")
    sabotage(model)
    onnx.save(model, found / "model.int8.onnx")
    # As if the export itself had gone wrong: recorded hash and all, before it was measured.
    recipe["model_sha256"] = sha256_file(found / "model.int8.onnx")
    (found / "run.json").write_text(json.dumps(recipe))
    for name in ("after.json", "verdict.json"):
        (found / name).unlink()
    result = run("ptq", "--recipe", job / "asrcompress.toml", "--runs", job / "runs", expect=4)
    assert "error: CER gate" in result.stderr


def test_an_artifact_changed_after_the_gate_is_not_shipped(folder: Path, tmp_path: Path) -> None:
    job = tmp_path / "job"
    shutil.copytree(folder, job)
    found = only_run(job)
    model = onnx.load(found / "model.int8.onnx")
    zero_layer(model)
    onnx.save(model, found / "model.int8.onnx")
    result = run("export", found, "-o", tmp_path / "bundle", expect=3)
    assert "was changed after the gate measured it" in result.stderr
    assert not (tmp_path / "bundle").exists()


def test_parity_fails_on_a_wrong_graph() -> None:
    rng = np.random.default_rng(0)
    right = [rng.standard_normal((20, 5)).astype(np.float32)]
    wrong = [right[0] + 0.01]
    texts = {"paddle_fp32": ["一"], "onnx_fp32": ["一"]}
    same = compare_features(right, right)
    good = compare_forms(
        {"paddle_fp32": right, "onnx_fp32": right}, texts, features=same, utterances=["a"]
    )
    check_parity(good)
    with pytest.raises(ParityFailed, match=r"features: mean difference 0\.01 standard"):
        check_parity(replace(good, features=compare_features(right, wrong)))
    bad = compare_forms(
        {"paddle_fp32": right, "onnx_fp32": wrong}, texts, features=same, utterances=["a"]
    )
    with pytest.raises(ParityFailed, match=r"paddle_fp32 -> onnx_fp32: largest difference 0\.01"):
        check_parity(bad)
    step = replace(good.steps[0], first="onnx_int8", second="paddle_qat", agreement=0.9)
    with pytest.raises(ParityFailed, match=r"0\.900 of the frames agree"):
        check_parity(replace(good, steps=(step,)))
    assert CerGateFailed.exit_code == 4


def test_several_processes_measure_the_same_cer(
    inside: Path, workplace: Any, tmp_path: Path
) -> None:
    reports = []
    for processes in (1, 2):
        result = run(
            "evaluate", only_run(inside), "--manifest", workplace.gate, "--json",
            "--processes", str(processes),
        )  # fmt: skip
        reports.append(json.loads(result.stdout)["cer"])
    assert reports[0] == reports[1]
