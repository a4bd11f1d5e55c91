"""A run that is gated with its attention decoder, and the bundle that ships both graphs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("paddle", reason="needs the [compress] extra")
from asrcompress.cli.app import app
from asrcompress.console import Console
from asrcompress.errors import BadBundle, BadRecipe, BadRun
from asrcompress.files import sha256_file
from asrcompress.manifests.manifest import load_manifest
from asrcompress.pipeline.evaluation import evaluate
from asrcompress.pipeline.recognizer import open_recognizer
from asrcompress.recipe import Decoding
from asrcompress.runtime import Transcriber

pytestmark = pytest.mark.paddle


def run(*arguments: str | Path, expect: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(item) for item in arguments])
    assert result.exit_code == expect, f"{result.output}\n{result.exception!r}"
    return result


@pytest.fixture(scope="module")
def folder(workplace: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe in which ptq has been judged by rescoring, and its bundle."""
    path = tmp_path_factory.mktemp("job")
    # The references are what greedy decoding heard: a random decoder may choose others, so that
    # there are edits before as after.
    workplace.write_recipe(
        path,
        "[gate]\nmax_cer_increase = 1.0\n"
        '[decoding]\nmethod = "rescoring"\nbeam = 4\nctc_weight = 0.7\n',
    )
    run("ptq", "--recipe", path / "asrcompress.toml", "--quiet", "--export-to", path / "bundle")
    return path


def only_run(folder: Path) -> Path:
    (found,) = (folder / "runs").iterdir()
    return found


def test_the_decoder_ships_as_it_was_measured(folder: Path) -> None:
    manifest = json.loads((folder / "bundle/bundle.json").read_text())
    decoder, found = manifest["decoder"], only_run(folder)
    assert (decoder["method"], decoder["beam"], decoder["ctc_weight"]) == ("rescoring", 4, 0.7)
    assert decoder["integer_share"] == 1.0
    assert manifest["integer_share"] > 0.99
    assert [tensor["name"] for tensor in manifest["outputs"]][2:] == ["hidden"]
    assert sha256_file(folder / "bundle/decoder.int8.onnx") == sha256_file(
        found / "decoder.int8.onnx"
    )
    steps = json.loads((found / "parity-decoder.json").read_text())["steps"]
    assert steps[0]["largest"] < 1e-3
    assert steps[2]["agreement"] >= 0.95


def test_the_gate_measured_rescoring(folder: Path, workplace: Any) -> None:
    """before.json is PaddleSpeech's decoder, after.json the shipped one."""
    settings = Decoding(method="rescoring", beam=4, ctc_weight=0.7)
    utterances = load_manifest(workplace.gate)[:8]
    for side, path in (("before", workplace.checkpoint), ("after", folder / "bundle")):
        recognizer = open_recognizer(path, decoding=settings)
        cer = evaluate(recognizer, utterances, console=Console(quiet=True)).cer.to_json()
        report = json.loads((only_run(folder) / f"{side}.json").read_text())["cer"]
        assert cer["utterances"] == report["utterances"][:8]


def test_the_runtime_decodes_as_the_bundle_was_judged(folder: Path, workplace: Any) -> None:
    audio = [item.audio for item in load_manifest(workplace.gate)[:6]]
    rescored = Transcriber(folder / "bundle", method="rescoring")
    settings = rescored._decoder.settings
    assert (settings.beam, settings.ctc_weight, settings.reverse_weight) == (4, 0.7, 0.0)
    recognizer = open_recognizer(
        folder / "bundle", decoding=Decoding(method="rescoring", beam=4, ctc_weight=0.7)
    )
    for path, item in zip(audio, rescored.transcribe_batch(audio), strict=True):
        assert item.text == recognizer.transcribe(_samples(path))
    # CTC's score alone decides where its weight is large: what prefix beam finds.
    heavy = Transcriber(folder / "bundle", method="rescoring", ctc_weight=1000.0)
    plain = Transcriber(folder / "bundle", beam=4)
    pairs = zip(heavy.transcribe_batch(audio), plain.transcribe_batch(audio), strict=True)
    # All but ties: two hypotheses of this random network may differ by less than a thousandth.
    assert sum(a.text == b.text for a, b in pairs) >= 5
    searched = Transcriber(folder / "bundle", method="attention", beam=2)
    assert all(t.score <= 0 for t in searched.transcribe_batch(audio[:2]))


def _samples(path: Path) -> Any:
    from asrcompress.audio import read_audio

    return read_audio(path)


def test_every_method_from_the_command_line(folder: Path, workplace: Any) -> None:
    bundle, found = folder / "bundle", only_run(folder)
    few = folder / "few.jsonl"
    few.write_text("".join(workplace.gate.read_text().splitlines(keepends=True)[:3]))
    for method in ("greedy", "prefix_beam", "rescoring", "attention"):
        for path in (workplace.checkpoint, bundle, found):
            result = run(
                "evaluate", path, "--manifest", few, "--decoding", method, "--beam", "3", "--json"
            )
            assert len(json.loads(result.stdout)["cer"]["utterances"]) == 3
    audio = load_manifest(few)[0].audio
    run("transcribe", bundle, audio, "--decoding", "rescoring", "--ctc-weight", "0.3")
    run("transcribe", bundle, audio, "--hotword", "开:2.5", "--hotword", "灯")


def test_a_swapped_decoder_is_refused(folder: Path, tmp_path: Path, workplace: Any) -> None:
    import shutil

    bundle, found = tmp_path / "bundle", tmp_path / "run"
    shutil.copytree(folder / "bundle", bundle)
    shutil.copyfile(only_run(folder) / "decoder.fp32.onnx", bundle / "decoder.int8.onnx")
    with pytest.raises(BadBundle, match=r"decoder\.int8\.onnx: was changed"):
        Transcriber(bundle)
    shutil.copytree(only_run(folder), found)
    shutil.copyfile(found / "decoder.fp32.onnx", found / "decoder.int8.onnx")
    with pytest.raises(BadRun, match=r"decoder\.int8\.onnx: was changed after"):
        open_recognizer(found, decoding=Decoding(method="rescoring"))


def test_what_a_bundle_cannot_do_is_refused(folder: Path) -> None:
    with pytest.raises(BadRecipe, match="reads left to right only"):
        Transcriber(folder / "bundle", method="rescoring", reverse_weight=0.3)
    with pytest.raises(BadRecipe, match="takes neither hotwords nor"):
        Transcriber(folder / "bundle", method="attention", hotwords={"开": 1.0})
    with pytest.raises(BadRecipe, match=r"decoding\.method: got 'best'"):
        Transcriber(folder / "bundle", method="best")


def test_a_checkpoint_without_the_decoder_is_refused_before_any_work(
    folder: Path, workplace: Any
) -> None:
    result = run(
        "ptq", "--recipe", folder / "asrcompress.toml", "--reverse-weight", "0.3", expect=3
    )
    assert "has no trained right-to-left decoder, expected 0" in result.output


def test_fp32_bundles_have_it_too(folder: Path, workplace: Any, tmp_path: Path) -> None:
    run(
        "export", workplace.checkpoint, "--recipe", folder / "asrcompress.toml",
        "--precision", "fp32", "-o", tmp_path / "fp32",
    )  # fmt: skip
    audio = [item.audio for item in load_manifest(workplace.gate)[:4]]
    recognizer = open_recognizer(
        workplace.checkpoint, decoding=Decoding(method="rescoring", beam=4, ctc_weight=0.7)
    )
    ready = Transcriber(tmp_path / "fp32", method="rescoring")
    for path, item in zip(audio, ready.transcribe_batch(audio), strict=True):
        assert item.text == recognizer.transcribe(_samples(path))
