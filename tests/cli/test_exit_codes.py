"""What a script can rely on: exit codes, pure JSON on stdout, help for everything."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import typer.main
from typer.testing import CliRunner

from asrcompress.cli import compress as cli_compress
from asrcompress.cli import starter
from asrcompress.cli.app import app
from asrcompress.errors import AsrCompressError, CerGateFailed, FileFailed

COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
COLOUR = "\x1b["


def run(*words: object, **env: str) -> Any:
    return CliRunner(env={"COLUMNS": "80", **env}).invoke(app, [str(word) for word in words])


def shell(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "asrcompress", *(str(word) for word in words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of one matrix product, and a second of noise beside it."""
    onnx = pytest.importorskip("onnx", reason="makes the graph")
    import soundfile

    from asrcompress.bundles.bundle import BundleManifest, Source, TensorSpec, write_bundle
    from asrcompress.features import FeatureSpec
    from asrcompress.tokens import Vocabulary

    helper, kinds = onnx.helper, onnx.TensorProto
    value = helper.make_tensor_value_info
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["y"]),
            helper.make_node("LogSoftmax", ["y"], ["log_probs"], axis=2),
            helper.make_node("Identity", ["x_lens"], ["n_out"]),
        ],
        "tiny",
        [value("x", kinds.FLOAT, ["N", "T", 80]), value("x_lens", kinds.INT64, ["N"])],
        [value("log_probs", kinds.FLOAT, ["N", "T", 3]), value("n_out", kinds.INT64, ["N"])],
        [onnx.numpy_helper.from_array(rng.normal(0, 0.1, (80, 3)).astype(np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(tmp_path / "tiny.onnx"))
    lengths = {"dtype": "int64", "dims": ("N",)}
    manifest = BundleManifest(
        family="tiny",
        precision="fp32",
        model="model.onnx",
        inputs=(
            TensorSpec(name="x", dtype="float32", dims=("N", "T", 80)),
            TensorSpec(name="x_lens", **lengths),  # type: ignore[arg-type]
        ),
        outputs=(
            TensorSpec(name="log_probs", dtype="float32", dims=("N", "T", 3)),
            TensorSpec(name="n_out", **lengths),  # type: ignore[arg-type]
        ),
        features=FeatureSpec(),
        blank_id=0,
        vocab_size=3,
        subsampling_factor=1,
        max_frames=500,
        opset=13,
        source=Source(checkpoint_name="tiny/best", checkpoint_sha256="ab" * 32),
        tools={},
    )
    vocabulary = Vocabulary(symbols=("<blank>", "开", "关"))
    soundfile.write(tmp_path / "a.wav", rng.normal(0, 0.1, 16000), 16000)
    record = {"utt": "a", "audio": "a.wav", "text": "开灯"}
    (tmp_path / "m.jsonl").write_text(json.dumps(record) + "\n")
    folder = tmp_path / "bundle"
    return write_bundle(folder, manifest, model=tmp_path / "tiny.onnx", vocabulary=vocabulary).path


def test_the_commands() -> None:
    wanted = {
        "init",
        "inspect",
        "evaluate",
        "qat",
        "ptq",
        "export",
        "verify",
        "transcribe",
        "bench",
    }
    assert wanted <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_has_help(command: str, flag: str) -> None:
    result = run(command, flag)
    assert result.exit_code == 0 and result.stderr == ""
    about = typer.main.get_command(app).commands[command].help  # type: ignore[attr-defined]
    assert about and about.split()[0] in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_and_argument_is_explained(command: str) -> None:
    for parameter in typer.main.get_command(app).commands[command].params:  # type: ignore[attr-defined]
        if parameter.name != "help":
            assert getattr(parameter, "help", None), f"{command} {parameter.name}"


def test_the_list_of_commands_follows_the_journey() -> None:
    result = run("--help")
    assert result.exit_code == 0
    panels = [result.stdout.index(panel) for panel in ("1. Prepare", "2. Compress", "3. Ship")]
    assert panels == sorted(panels)
    assert all(command in result.stdout for command in COMMANDS)


def test_0_on_success_and_for_the_version(bundle: Path) -> None:
    assert run("verify", bundle).exit_code == 0
    result = run("--version")
    assert result.exit_code == 0 and result.stdout.startswith("asrcompress ")


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["verify", "bundle"], "bundle_sha256"),
        (["transcribe", "bundle", "a.wav", "a.wav"], "transcripts"),
        (["evaluate", "bundle", "--manifest", "m.jsonl"], "cer"),
    ],
    ids=lambda part: part[0] if isinstance(part, list) else part,
)
def test_json_is_one_object_on_stdout_and_nothing_on_stderr(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], key: str
) -> None:
    monkeypatch.chdir(bundle.parent)
    result = run(*words, "--json")
    assert result.exit_code == 0, result.stderr
    assert key in json.loads(result.stdout)
    assert result.stderr == ""


def test_when_each_word_was_said(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle.parent)
    plain = run("transcribe", "bundle", "a.wav", "--json").stdout
    assert json.loads(plain)["transcripts"][0]["timestamps"] == []
    result = run("transcribe", "bundle", "a.wav", "--timestamps", "--json")
    found = json.loads(result.stdout)["transcripts"][0]
    assert [item["text"] for item in found["timestamps"]] == found["tokens"]
    assert "".join(word["text"] for word in found["words"]) == found["text"]
    result = run("transcribe", "bundle", "a.wav", "--timestamps")
    first, *words = result.stdout.splitlines()
    assert first == f"a.wav\t{found['text']}"
    assert words == [
        f"\t{word['start_s']:.2f}\t{word['end_s']:.2f}\t{word['text']}" for word in found["words"]
    ]
    assert words


def test_json_from_a_shell(bundle: Path) -> None:
    """A real process: nothing that a library prints gets between."""
    done = shell("evaluate", "bundle", "--manifest", "m.jsonl", "--json", cwd=bundle.parent)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cer"]["summary"]["reference_chars"] == 2
    assert COLOUR not in done.stdout + done.stderr


def test_no_colour_in_a_pipe(bundle: Path) -> None:
    done = shell("verify", "bundle", cwd=bundle.parent)
    assert done.returncode == 0 and done.stdout and COLOUR not in done.stdout + done.stderr


def test_2_for_wrong_usage(tmp_path: Path) -> None:
    for words in (["nonsense"], ["verify"], ["ptq", "--epochs", "many"], ["verify", "--colour"]):
        result = run(*words)
        assert result.exit_code == 2 and result.stdout == "", words
    done = shell("verify", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr


def test_3_for_what_the_user_can_mend(tmp_path: Path) -> None:
    for words in (["verify", "nowhere"], ["ptq"], ["evaluate", "no", "--manifest", "no"]):
        result = run(*words)
        assert result.exit_code == 3 and result.stdout == "", words
        assert result.stderr.startswith("error: ")
    done = shell("verify", "nowhere", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "error: nowhere: no such folder, expected a bundle\n"


def test_the_hint_is_the_second_line(tmp_path: Path) -> None:
    done = shell("ptq", cwd=tmp_path)
    assert done.returncode == 3
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: checkpoint.path: not set")
    assert hint == "hint: asrcompress init CHECKPOINT, or --checkpoint FOLDER"


def _raising(error: BaseException) -> Callable[..., Any]:
    def write_starter(*_: object, **__: object) -> Any:
        raise error

    return write_starter


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (AsrCompressError("x: wrong"), 3, "error: x: wrong\n"),
        (FileFailed("x: full", hint="mend"), 3, "error: x: full\nhint: mend\n"),
        (CerGateFailed("CER gate: worse"), 4, "error: CER gate: worse\n"),
        (PermissionError(13, "Permission denied", "x"), 3, "error: x: cannot be used, Permission"),
    ],
    ids=["3", "3 with a hint", "4", "3 of the system"],
)
def test_the_exit_code_of_an_error(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    monkeypatch.setattr(starter, "write_starter", _raising(error))
    result = run("init", "x")
    assert result.exit_code == code and result.stdout == ""
    assert result.stderr.startswith(said)


@pytest.mark.parametrize("error", [ZeroDivisionError("bug"), KeyError("bug"), OSError("bug")])
def test_1_for_a_bug_which_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Sabotage: what is no error of ours must not be dressed up as one."""
    monkeypatch.setattr(starter, "write_starter", _raising(error))
    result = run("init", "x")
    assert result.exit_code == 1 and result.exception is error


def test_1_from_a_shell(tmp_path: Path) -> None:
    script = (
        "from asrcompress.cli import app as cli\nfrom asrcompress.cli import starter\n"
        "def broken(*a, **k): raise ZeroDivisionError('a bug')\n"
        "starter.write_starter = broken\n"
        "cli.main()"
    )
    command = [sys.executable, "-c", script, "init", "x"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("ZeroDivisionError: a bug")


def test_4_where_the_gate_failed(tmp_path: Path) -> None:
    """A run directory that says so is enough: nothing is exported from it."""
    record = {"schema_version": 1, "status": "failed"}
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text(json.dumps(record))
    done = shell("export", "run", "-o", "out", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (4, ""), done.stderr
    assert done.stderr.startswith("error: run: failed its gate, nothing is exported\n")
    assert not (tmp_path / "out").exists()


def test_init_writes_once(
    make_plain_experiment: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("yaml", reason="needs the [compress] extra")
    monkeypatch.chdir(tmp_path)
    make_plain_experiment(tmp_path / "asr1")
    first = run("init", "asr1")
    assert (first.exit_code, first.stdout) == (0, "asrcompress.toml\n")
    assert run("init", "asr1").exit_code == 3
    assert run("init", "asr1", "--force").exit_code == 0


def test_the_recipe_of_the_folder_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a flag wins over it, a path on the command line being relative to the shell's folder."""
    seen = []
    monkeypatch.setattr(
        cli_compress, "_compress", lambda kind, recipe, *_, **__: seen.append(recipe)
    )
    (tmp_path / "asrcompress.toml").write_text("[training]\nepochs = 7\nseed = 5\n")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    words = ["--epochs", "9", "--checkpoint", "asr1", "--skip", "a.*", "--skip", "b", "--relative"]
    assert run("qat", *words).exit_code == 0
    assert (seen[0].training.epochs, seen[0].training.seed) == (9, 5)
    assert seen[0].checkpoint.path == tmp_path / "below/asr1"
    assert seen[0].quantization.skip == ("a.*", "b") and seen[0].gate.relative
    assert run("ptq").exit_code == 0 and seen[1].training.epochs == 0
