"""A streaming checkpoint from the command line: two graphs, two gates, and a stream at the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("paddle", reason="needs the [compress] extra")
import onnx
import soundfile
from onnx import numpy_helper

from asrcompress.accuracy.cer import CerReport
from asrcompress.cli.app import app
from asrcompress.files import sha256_file
from asrcompress.runtime import Transcriber
from asrcompress.runtime.endpoint import NO_ENDPOINT

pytestmark = pytest.mark.paddle
RECIPE = "[streaming]\nchunk_size = 8\n[gate]\nmax_cer_increase = 0.2\n"


def run(*arguments: str | Path, expect: int = 0, stdin: bytes | None = None) -> Result:
    result = CliRunner().invoke(app, [str(item) for item in arguments], input=stdin)
    assert result.exit_code == expect, f"{result.output}\n{result.exception!r}"
    return result


@pytest.fixture(scope="module")
def folder(streaming_workplace: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe in which ptq has passed, and its bundle."""
    path = tmp_path_factory.mktemp("job")
    streaming_workplace.write_recipe(path, RECIPE)
    run("ptq", "--recipe", path / "asrcompress.toml", "--quiet", "--export-to", path / "bundle")
    return path


def only_run(folder: Path) -> Path:
    (found,) = (folder / "runs").iterdir()
    return found


def report_of(path: Path) -> CerReport:
    return CerReport.from_json(json.loads(path.read_text())["cer"])


def audio_of(workplace: Any) -> list[str]:
    return [json.loads(line)["audio"] for line in workplace.gate.read_text().splitlines()]


def test_both_uses_are_measured_and_stated(folder: Path) -> None:
    found = only_run(folder)
    whole, heard = (
        json.loads((found / f"verdict{s}.json").read_text()) for s in ("", "-streaming")
    )
    assert whole["passed"] and heard["passed"]
    before, after = (
        report_of(found / "before-streaming.json"),
        report_of(found / "after-streaming.json"),
    )
    # The network sees less in chunks, so its own text differs from that of whole utterances.
    assert before.edits > 0 == report_of(found / "before.json").edits
    assert before.reference_chars == after.reference_chars > 200
    manifest = json.loads((folder / "bundle/bundle.json").read_text())
    assert manifest["streaming"]["model"] == "model-streaming.int8.onnx"
    assert manifest["streaming"]["chunk_size"] == 8
    assert manifest["quality"]["streaming"]["integer_share"] > 0.95
    assert manifest["quality"]["streaming"]["cer_after"] == float(after.cer)


def test_what_streams_is_what_was_measured(folder: Path, streaming_workplace: Any) -> None:
    found = only_run(folder)
    for name in ("model.int8.onnx", "model-streaming.int8.onnx"):
        assert sha256_file(folder / "bundle" / name) == sha256_file(found / name)
    heard = json.loads((found / "after-streaming.json").read_text())["cer"]["utterances"]
    transcriber = Transcriber(folder / "bundle")
    for item, audio in list(zip(heard, audio_of(streaming_workplace), strict=True))[:8]:
        samples, _ = soundfile.read(audio, dtype="float32")
        rng = np.random.default_rng(len(samples))
        cuts = np.sort(rng.integers(0, len(samples), 30))  # not the pieces of the gate
        stream = transcriber.stream(np.split(samples, cuts), endpoint=NO_ENDPOINT)
        assert "".join(part.text for part in stream if part.is_final) == item["hypothesis"]


def test_checkpoint_run_and_bundle_are_heard_in_chunks(
    folder: Path, streaming_workplace: Any
) -> None:
    found = only_run(folder)
    wanted = {
        streaming_workplace.checkpoint: report_of(found / "before-streaming.json").edits,
        found: report_of(found / "after-streaming.json").edits,
        folder / "bundle": report_of(found / "after-streaming.json").edits,
    }
    for model, edits in wanted.items():
        result = run(
            "evaluate", model, "--manifest", streaming_workplace.gate, "--chunk-size", "8",
            "--left-chunks", "-1", "--json",
        )  # fmt: skip
        assert CerReport.from_json(json.loads(result.stdout)["cer"]).edits == edits


def test_transcribe_streams_files_and_stdin(folder: Path, streaming_workplace: Any) -> None:
    audio = audio_of(streaming_workplace)[0]
    result = run("transcribe", folder / "bundle", audio, "--stream")
    path, start, end, text = result.stdout.splitlines()[0].split("\t")
    assert (path, start) == (audio, "0.00")
    assert float(end) > 0.5
    samples, _ = soundfile.read(audio, dtype="int16")
    raw = run("transcribe", folder / "bundle", "-", "--stream", stdin=samples.tobytes())
    assert raw.stdout.splitlines()[0].split("\t")[1:] == [start, end, text]
    tree = json.loads(run("transcribe", folder / "bundle", audio, "--stream", "--json").stdout)
    (first, *_) = tree["transcripts"][0]["utterances"]
    assert first["text"] == text
    assert first["is_final"] is True


def test_an_fp32_bundle_streams_too(folder: Path, streaming_workplace: Any, tmp_path: Path) -> None:
    run(
        "export", streaming_workplace.checkpoint, "--precision", "fp32", "--recipe",
        folder / "asrcompress.toml", "-o", tmp_path / "fp32",
    )  # fmt: skip
    result = run(
        "evaluate", tmp_path / "fp32", "--manifest", streaming_workplace.gate, "--chunk-size",
        "8", "--json",
    )  # fmt: skip
    edits = CerReport.from_json(json.loads(result.stdout)["cer"]).edits
    assert edits == report_of(only_run(folder) / "before-streaming.json").edits


def test_a_checkpoint_for_whole_utterances_does_not_stream(workplace: Any, tmp_path: Path) -> None:
    workplace.write_recipe(tmp_path, RECIPE)
    recipe = tmp_path / "asrcompress.toml"
    result = run("ptq", "--recipe", recipe, "--quiet", expect=3)
    assert "was not trained for chunks" in result.stderr
    assert not (tmp_path / "runs").exists()  # refused before any work
    result = run(
        "evaluate", workplace.checkpoint, "--manifest", workplace.gate, "--chunk-size", "8",
        expect=3,
    )  # fmt: skip
    assert "was not trained for chunks" in result.stderr


def test_qat_trains_in_chunks(streaming_workplace: Any, tmp_path: Path) -> None:
    streaming_workplace.write_recipe(
        tmp_path, f"[training]\nepochs = 1\nlearning_rate = 1e-5\n{RECIPE}"
    )
    result = run("qat", "--recipe", tmp_path / "asrcompress.toml", "--json")
    outcome = json.loads(result.stdout)
    assert outcome["passed"] is outcome["streaming"]["verdict"]["passed"] is True


# --- sabotage: a damaged streaming graph must not pass, however good the other one is ------------


def change_scales(model: onnx.ModelProto) -> None:
    """The scales of every other channel times 4, the others by 4, in this graph only."""
    for item in model.graph.initializer:
        if item.name.startswith("encoder.encoders.") and item.name.endswith(".weight_scale"):
            scales = numpy_helper.to_array(item).copy()
            scales[::2] *= 4
            scales[1::2] /= 4
            item.CopyFrom(numpy_helper.from_array(scales, item.name))


def forget_convolutions(model: onnx.ModelProto) -> None:
    """The convolutions' cache stays as it was at the start: silence before every chunk."""
    for node in model.graph.node:
        node.output[:] = ["lost" if n == "next_conv_cache" else n for n in node.output]
    model.graph.node.append(onnx.helper.make_node("Identity", ["conv_cache"], ["next_conv_cache"]))


def swap_keys_and_values(model: onnx.ModelProto) -> None:
    """The attention's cache with its halves exchanged."""
    last = int(model.graph.input[3].type.tensor_type.shape.dim[3].dim_value)
    for name, value in (("half", last // 2), ("none", 0), ("all", last), ("axis", 3)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([value]), f"swap_{name}"))
    for node in model.graph.node:
        node.input[:] = ["swapped" if n == "attn_cache" else n for n in node.input]
    make = onnx.helper.make_node
    added = [
        make("Slice", ["attn_cache", "swap_none", "swap_half", "swap_axis"], ["swap_keys"]),
        make("Slice", ["attn_cache", "swap_half", "swap_all", "swap_axis"], ["swap_values"]),
        make("Concat", ["swap_values", "swap_keys"], ["swapped"], axis=3),
    ]
    nodes = [*added, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


@pytest.mark.parametrize("sabotage", [change_scales, forget_convolutions, swap_keys_and_values])
def test_the_gate_fails_a_sabotaged_streaming_graph(
    folder: Path, tmp_path: Path, sabotage: Callable[[onnx.ModelProto], None]
) -> None:
    job = tmp_path / "job"
    shutil.copytree(folder, job)
    found = only_run(job)
    path = found / "model-streaming.int8.onnx"
    model = onnx.load(path, load_external_data=False)
    sabotage(model)
    path.write_bytes(model.SerializeToString())
    # As if the export itself had gone wrong: recorded hash and all, before it was measured.
    record = json.loads((found / "run.json").read_text())
    record["streaming_sha256"] = sha256_file(path)
    (found / "run.json").write_text(json.dumps(record))
    for name in ("after-streaming.json", "verdict-streaming.json"):
        (found / name).unlink()
    recipe = job / "asrcompress.toml"
    result = run("ptq", "--recipe", recipe, "--runs", job / "runs", expect=4)
    assert "error: CER gate (streaming)" in result.stderr
    assert json.loads((found / "verdict.json").read_text())["passed"] is True
    run("export", found, "-o", tmp_path / "bundle", expect=4)


def test_a_streaming_graph_changed_after_the_gate_is_not_shipped(
    folder: Path, tmp_path: Path
) -> None:
    job = tmp_path / "job"
    shutil.copytree(folder, job)
    path = only_run(job) / "model-streaming.int8.onnx"
    model = onnx.load(path, load_external_data=False)
    change_scales(model)
    path.write_bytes(model.SerializeToString())
    result = run("export", only_run(job), "-o", tmp_path / "bundle", expect=3)
    assert "model-streaming.int8.onnx: was changed after the gate measured it" in result.stderr
