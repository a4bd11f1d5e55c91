"""A search on a tiny experiment: chosen on development speech, judged by the gate, shipped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("paddle", reason="needs the [compress] extra")
pytest.importorskip("optuna", reason="needs the [search] extra")
from asrcompress.bundles.bundle import read_bundle
from asrcompress.cli.app import app
from asrcompress.errors import CerGateFailed
from asrcompress.files import sha256_file
from asrcompress.pipeline.measurement import share_before
from asrcompress.run import FAILED, PASSED, UNFINISHED, read_run
from asrcompress.search import read_search

pytestmark = pytest.mark.paddle

# Random weights: an increase of anything up to 100 points is allowed where a search is to succeed.
EASY = """
[gate]
max_cer_increase = {tolerance}
[search]
trials = {trials}
observers = ["mse", "min_max"]
qat = false
prune_amounts = [0.0]
{more}
"""


@pytest.fixture
def place(workplace: Any, dev: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes the recipe of a search into a folder and returns that."""

    def write(*, tolerance: float = 1.0, trials: int = 2, more: str = "", dev: Path = dev) -> Path:
        text = EASY.format(tolerance=tolerance, trials=trials, more=more)
        path = workplace.write_recipe(tmp_path, text)
        path.write_text(path.read_text().replace("[data]\n", f'[data]\ndev = "{dev}"\n'))
        return tmp_path

    return write


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    monkeypatch.chdir(folder)
    return CliRunner().invoke(app, [*arguments])


def test_a_search_ends_in_a_run_that_passed_and_ships(
    place: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place()
    result = run(folder, monkeypatch, "search", "--json", "--export-to", "bundle")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    found = read_search(Path(told["run"]) / "search.json")
    assert [item.choice.observer for item in found.candidates] == ["mse", "min_max"]
    assert found.best is not None and found.best.heard is not None
    assert found.best.heard.utterances == found.utterances == 40
    assert found.best.weight is not None and found.best.weight.size_mb < found.reference.size_mb
    assert [item.number for item in found.verified] == [found.chosen]
    # Only the chosen one has heard the gate's manifest.
    statuses = {
        item.run: read_run(folder / "runs" / item.run).status() for item in found.candidates
    }
    assert statuses.pop(found.best.run) == PASSED
    assert set(statuses.values()) == {UNFINISHED}
    for name in statuses:
        assert not list((folder / "runs" / name).glob("*er.json"))  # before.json, after.json
    # What ships is what the gate measured, byte for byte.
    shipped = read_bundle(folder / "bundle").model_path
    assert sha256_file(shipped) == sha256_file(Path(told["chosen"]) / "model.int8.onnx")
    assert (Path(told["run"]) / "search.html").is_file()
    # Done is done: the same command measures nothing again; more room for trials adds to them.
    seconds = [item.seconds for item in found.candidates]
    again = json.loads(run(folder, monkeypatch, "search", "--json").stdout)
    assert [
        sum(stage["seconds"] for stage in item["stages"]) for item in again["result"]["candidates"]
    ] == pytest.approx(seconds)
    page = run(folder, monkeypatch, "report", told["run"], "-o", "page.html")
    assert page.exit_code == 0 and "Pareto front" in Path("page.html").read_text()


def test_a_budget_that_nothing_meets(
    place: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place(more="max_size_mb = 0.001\nmax_memory_mb = 1.0")
    result = run(folder, monkeypatch, "search")
    assert result.exit_code == 4, result.output
    assert "none of 2 candidates keeps every limit; the nearest:" in result.output
    assert "MB, at most 0.001" in result.output and "memory" in result.output
    assert "FAILED: None of 2 candidates keeps every limit" in result.output
    (searched,) = (folder / "runs").glob("search-*")
    found = read_search(searched / "search.json")
    assert found.chosen is None and found.verified == ()
    # Nobody has heard the gate's manifest, and nothing can be exported.
    assert not list((folder / "runs").glob("*/verdict.json"))
    assert run(folder, monkeypatch, "export", "--output", "bundle").exit_code == 3
    # A budget is no part of what was measured: with room, the same candidates are good.
    wider = run(folder, monkeypatch, "search", "--max-size-mb", "9", "--max-memory-mb", "999")
    assert wider.exit_code == 0, wider.output
    later = read_search(searched / "search.json")
    assert [item.stages for item in later.candidates] == [item.stages for item in found.candidates]


def test_a_hopeless_candidate_is_stopped(
    place: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from asrcompress.pipeline import audition

    def wrong(recognizer: Any, utterances: Any, **others: Any) -> Any:
        heard = evaluate(recognizer, utterances, **others)
        scores = [
            replace(item, hypothesis="", hits=0, substitutions=0, insertions=0,
                    deletions=len(item.reference))
            for item in heard.cer.utterances
        ]  # fmt: skip
        return replace(heard, cer=replace(heard.cer, utterances=tuple(scores)))

    evaluate = audition.evaluate
    monkeypatch.setattr(audition, "evaluate", wrong)
    folder = place(tolerance=0.05, trials=1)
    result = run(folder, monkeypatch, "search", "--json")
    assert result.exit_code == 4, result.output
    (item,) = json.loads(result.stdout)["result"]["candidates"]
    assert item["state"] == "stopped" and item["weight"] is None
    assert item["note"] == "hopeless after 30 of 40 utterances"


def test_what_fails_at_the_gate_is_rolled_back(
    place: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from asrcompress.pipeline import search as search_module

    compress, asked = search_module.compress, list[str]()

    def refusing_the_first(*arguments: Any) -> Any:
        outcome = compress(*arguments)
        assert outcome is not None
        asked.append(outcome.run.name)
        if len(asked) > 1:
            return outcome
        outcome.run.update(status=FAILED)
        return replace(outcome, failure=CerGateFailed("CER gate: it went up"))

    monkeypatch.setattr(search_module, "compress", refusing_the_first)
    folder = place()
    result = run(folder, monkeypatch, "search", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    looks = told["result"]["verified"]
    assert [look["passed"] for look in looks] == [False, True]
    assert looks[0]["reason"] == "CER gate: it went up"
    assert Path(told["chosen"]).name == asked[1] != asked[0]
    assert "The gate refused" in told["result"]["why"]
    # The checkpoint was heard once: its times, too, are the same.
    heard = [(folder / "runs" / name / "before.json").read_bytes() for name in asked]
    assert heard[0] == heard[1]
    # With one look only, the search ends there.
    asked.clear()
    result = run(folder, monkeypatch, "search", "--gate-tries", "1")
    assert result.exit_code == 4 and "the gate refused 1 candidate" in result.output


def test_results_of_streams_are_handed_on_too(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for folder in (source, target):
        folder.mkdir()
    for name in ("before.json", "before-streaming.json", "after.json"):
        (source / name).write_text("new")
    (target / "before.json").write_text("its own")
    share_before(source, target)
    found = {path.name: path.read_text() for path in target.iterdir()}
    assert found == {"before.json": "its own", "before-streaming.json": "new"}
    share_before(tmp_path / "nowhere", target)


def test_the_gates_manifest_cannot_choose(
    place: Callable[..., Path], workplace: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(place(dev=workplace.gate), monkeypatch, "search")
    assert result.exit_code == 3
    assert "shares data with training or calibration" in result.output


def test_a_search_needs_something_to_choose_by(
    workplace: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workplace.write_recipe(tmp_path)
    result = run(tmp_path, monkeypatch, "search")
    assert result.exit_code == 3 and "--dev-manifest" in result.output


def test_too_few_utterances_choose_nothing(
    place: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(place(), monkeypatch, "search", "--search-utterances", "29")
    assert result.exit_code == 3 and "expected at least 30" in result.output


@pytest.mark.slow
def test_two_processes_search_together(
    place: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Pruned candidates included, whose pruning the processes make once."""
    database = tmp_path_factory.mktemp("database") / "trials.db"
    folder = place(trials=6, more='prefer = "size"')
    (folder / "asrcompress.toml").write_text(
        (folder / "asrcompress.toml").read_text().replace("[0.0]", "[0.0, 0.3]")
        + '[prune]\ncriterion = "l1"\nstep = 4\nepochs = 1\n[training]\nbatch_frames = 700\n'
    )
    command = [
        sys.executable, "-m", "asrcompress", "search", "--storage", f"sqlite:///{database}",
        "--json",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [worker.communicate(timeout=600) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    told = [json.loads(output)["result"] for output, _ in said]
    assert told[0] == told[1]
    names = [item["run"] for item in told[0]["candidates"]]
    assert len(names) == len(set(names)) == 4  # all there are
    assert all(item["state"] == "measured" for item in told[0]["candidates"])
    pruned = [item for item in told[0]["candidates"] if item["removed"]]
    assert len(pruned) == 2
    assert len(list((folder / "runs").glob("prune-*"))) == 1
    assert not list((folder / "runs").glob("search-*/trials.db"))
    assert database.is_file()
