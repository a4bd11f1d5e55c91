"""What a terminal shows: 80 columns, no ANSI in a pipe, no colour where none is wanted, quiet."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import rich.cells
import rich.console
from rich.console import RenderableType

from asrcompress.accuracy.gate import judge
from asrcompress.cli import render
from asrcompress.console import Console
from asrcompress.doctor.diagnosis import FAIL, Diagnosis, Fact
from asrcompress.pipeline.evaluation import Evaluation
from asrcompress.run import Run
from asrcompress.runtime.benchmark import Comparison, Measurement

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LONG = "aishell-conformer-u2pp-int8-2026-11-23-with-a-name-that-goes-on-and-on"


def shown(item: RenderableType, monkeypatch: pytest.MonkeyPatch, columns: int = 80) -> str:
    """What `render.show` prints into a pipe."""
    stream = io.StringIO()
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "stdout", stream)
    render.show({}, item, json=False)
    monkeypatch.undo()
    return stream.getvalue()


def widths(text: str) -> list[int]:
    """Columns of each line; a Chinese character takes two."""
    return [rich.cells.cell_len(line.rstrip()) for line in text.splitlines()]


def _comparison() -> Comparison:
    row = Measurement(
        bundle=f"/bundles/{LONG}", precision="int8", size_bytes=1_234_567_890, load_s=12.3,
        peak_rss_bytes=12_345_678_901, rtf=0.12345, latency_p50_s=1.2345, latency_p95_s=12.345,
        speedup=12.345, speedup_min=1.0, speedup_max=20.0, same_texts=3,
    )  # fmt: skip
    return Comparison(
        cpu="Intel(R) Xeon(R) Platinum 8374C CPU @ 2.70GHz", onnxruntime="1.23.2", threads=1,
        beam=1, rounds=15, n_recordings=3, audio_s=17.0,
        measurements=(row, replace(row, bundle="short")),
    )  # fmt: skip


@pytest.fixture
def report() -> Any:
    cer = pytest.importorskip("asrcompress.accuracy.cer")
    pytest.importorskip("jiwer", reason="scores the utterances")
    texts = [("你好世界" * 12, "你坏世" * 9), ("A LONG ENGLISH SENTENCE " * 6, "A SHORT ONE")]
    return cer.CerReport(
        utterances=tuple(
            cer.score_utterance(f"{LONG}-{index}", *texts[index % 2], duration_s=4.0 * index)
            for index in range(40)
        )
    )


def test_bench_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(render.comparison(_comparison()), monkeypatch)
    assert max(widths(text)) <= 80
    assert "".join(line.split("  ")[0].strip() for line in text.splitlines()[3:9]).startswith(
        LONG[:30]
    )
    assert "…" not in text


def test_evaluate_fits_80_columns(monkeypatch: pytest.MonkeyPatch, report: Any) -> None:
    result = Evaluation(name=LONG, backend="paddle", cer=report, audio_s=10.0, compute_s=1.0)
    text = shown(render.evaluation(result, worst=5), monkeypatch)
    assert max(widths(text)) <= 80
    assert report.kaldi_line() in text


def test_inspect_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    # Stand-ins: the real ones come with Paddle.
    block = SimpleNamespace(
        name="encoder.encoders.11", parameters=1_234_567_890, macs=123_456_789_012,
        int8_macs=1, shipped=True, layers=("encoder.encoders.11.conv_module.pointwise_conv2",),
    )  # fmt: skip
    anatomy: Any = SimpleNamespace(
        name=LONG, family="u2", vocabulary=4233, seconds=10.0, blocks=(block,),
        fp32_bytes=10**9, int8_bytes=10**8,
    )  # fmt: skip
    text = shown(render.anatomy(anatomy, layers=True), monkeypatch)
    assert max(widths(text)) <= 80
    assert block.layers[0] in text


def test_outcome_fits_80_columns_and_paths_stay_whole(
    monkeypatch: pytest.MonkeyPatch, report: Any, tmp_path: Path
) -> None:
    folder = tmp_path / LONG / LONG
    folder.mkdir(parents=True)
    run = Run(path=folder)
    for model in (run.fp32_model, run.model):
        model.write_bytes(bytes(123_456))
    verdict = judge(report, report, max_increase=0)
    outcome: Any = SimpleNamespace(
        run=run,
        verdict=verdict,
        report=folder / "r",
        failure=None,
        integer_share=1.0,
        streaming=None,
    )
    text = shown(render.outcome(outcome), monkeypatch)
    assert f"run: {folder}\n" in text  # to be copied: never broken
    assert f"report: {folder / 'r'}\n" in text
    rest = [line for line in text.splitlines() if not line.startswith(("run:", "report:"))]
    assert max(widths("\n".join(rest))) <= 80


def test_doctor_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    fact = Fact(
        group="machine", name="paddlespeech-ctcdecoders", value=LONG * 2, verdict=FAIL, cure=LONG
    )
    assert max(widths(shown(render.diagnosis(Diagnosis(facts=(fact,))), monkeypatch))) <= 80


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_no_ansi_in_a_pipe(monkeypatch: pytest.MonkeyPatch, report: Any, columns: int) -> None:
    result = Evaluation(name="n", backend="b", cer=report, audio_s=10.0, compute_s=1.0)
    text = shown(render.evaluation(result, worst=5), monkeypatch, columns)
    assert not ANSI.search(text)
    assert max(widths(text)) <= columns


def test_transcripts_are_neither_markup_nor_commands_to_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cer = pytest.importorskip("asrcompress.accuracy.cer")
    pytest.importorskip("jiwer")
    texts = ["[bold]loud", "[/noise] end", ":car: crash", "\x1b[2J\x07 clear"]
    report = cer.CerReport(
        utterances=tuple(cer.score_utterance(f"u{i}", t, f"{t}!") for i, t in enumerate(texts))
    )
    result = Evaluation(name="n", backend="b", cer=report, audio_s=10.0, compute_s=1.0)
    text = shown(render.evaluation(result, worst=5), monkeypatch)
    for said in texts[:3]:
        assert said in text
    assert "\x1b" not in text
    assert "\x07" not in text


def _terminal_console(columns: int = 80) -> tuple[Console, io.StringIO]:
    console, stream = Console(), io.StringIO()
    console._rich = rich.console.Console(
        file=stream, force_terminal=True, width=columns, highlight=False
    )
    return console, stream


@pytest.mark.parametrize("title", ["calibrating", "epoch 1000/10000", LONG])
def test_progress_fits_80_columns_and_says_when_it_will_end(title: str) -> None:
    console, stream = _terminal_console()
    with console.progress(title) as advance:
        advance(123_456, 1_234_567)
    lines = ANSI.sub("", stream.getvalue()).replace("\r", "\n")
    assert max(widths(lines)) <= 80
    assert "123456/1234567" in lines
    assert "-:--:--" in lines  # the time that remains, not known after one step


def test_quiet_says_nothing_but_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(quiet=True)
    console.say("news")
    with console.progress("loop") as advance:
        advance(1, 2)
    with console.status("work"):
        pass
    assert capsys.readouterr() == ("", "")
    console.warn("fire")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "warning: fire\n")


def test_a_pipe_gets_one_line_per_loop_and_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    with console.progress("loop") as advance:
        for done in range(100):
            advance(done, 100)
    out, err = capsys.readouterr()
    assert (out, err) == ("", "loop\n")


def _in_terminal(code: str, **environment: str) -> str:
    """What a program writes where stdout and stderr are a terminal."""
    master, slave = pty.openpty()
    inherited = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=slave, stdout=slave, stderr=slave,
        env={**inherited, "TERM": "xterm-256color", "COLUMNS": "80", **environment},
    )  # fmt: skip
    os.close(slave)
    written = b""
    while select.select([master], [], [], 60.0)[0]:
        try:
            data = os.read(master, 1 << 14)
        except OSError:  # Linux's end of file of a terminal
            break
        if not data:
            break
        written += data
    child.wait(timeout=60)
    os.close(master)
    return written.decode()


_SHOW = """
from asrcompress.cli import render
from asrcompress.console import Console
from asrcompress.doctor.diagnosis import Diagnosis, Fact
facts = (Fact(group="base", name="x", value="y", verdict="fail", cure="z"),)
render.show({}, render.diagnosis(Diagnosis(facts=facts)), json=False)
with Console().progress("loop") as advance:
    advance(1, 2)
"""


def test_a_terminal_gets_colour_and_no_color_takes_it_away() -> None:
    colours = re.compile(r"\x1b\[[0-9;]*\b(3[0-7]|9[0-7]|38)\b[0-9;]*m")
    assert colours.search(_in_terminal(_SHOW))
    assert not colours.search(_in_terminal(_SHOW, NO_COLOR="1"))


@pytest.mark.parametrize("arguments", [["--help"], ["qat", "--help"], ["doctor", "--help"]])
def test_help_in_a_pipe_has_no_ansi(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "asrcompress", *arguments],
        capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "80"},
    )  # fmt: skip
    assert not ANSI.search(done.stdout)
    assert max(widths(done.stdout)) <= 80
    assert done.stderr == ""


def test_json_is_one_object_and_nothing_else(
    make_bundle: Callable[..., Any], tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from asrcompress.cli.app import app

    bundle = make_bundle()
    result = CliRunner().invoke(app, ["verify", str(bundle.path), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)
    assert result.stderr == ""
