"""Run directories: named by what decides the result, locked, and never half written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from asrcompress.checkpoints.checkpoint import Checkpoint, read_checkpoint
from asrcompress.errors import BadRun, FileFailed
from asrcompress.recipe import Recipe, override
from asrcompress.run import (
    FAILED,
    PASSED,
    UNFINISHED,
    Run,
    digest_of,
    latest_passing_run,
    open_run,
    read_run,
)

pytest.importorskip("yaml", reason="needs the [compress] extra")


@pytest.fixture
def checkpoint(make_plain_experiment: Callable[..., Path], tmp_path: Path) -> Checkpoint:
    return read_checkpoint(make_plain_experiment(tmp_path / "asr1"))


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return Recipe(runs=tmp_path / "runs")


@pytest.fixture
def run(recipe: Recipe, checkpoint: Checkpoint) -> Run:
    return open_run("qat", recipe, checkpoint, tools={"numpy": "1"})


def test_a_new_run(run: Run, checkpoint: Checkpoint) -> None:
    record = run.read_json("run.json")
    assert run.name.startswith("qat-") and len(run.name) == 14
    assert record["kind"] == "qat" and record["tools"] == {"numpy": "1"}
    assert record["checkpoint"] == {"name": "asr1/best", "sha256": checkpoint.sha256}
    assert run.status() == UNFINISHED
    assert read_run(run.path) == run


def test_the_same_command_finds_the_same_run(
    run: Run, recipe: Recipe, checkpoint: Checkpoint
) -> None:
    run.update(status=PASSED)
    assert open_run("qat", recipe, checkpoint, tools={"numpy": "2"}) == run
    assert run.status() == PASSED and run.read_json("run.json")["tools"] == {"numpy": "1"}


def test_what_decides_the_result_decides_the_name(recipe: Recipe, checkpoint: Checkpoint) -> None:
    base = digest_of("qat", recipe, checkpoint)
    assert digest_of("qat", replace(recipe, runs=Path("/elsewhere")), checkpoint) == base
    others = {
        digest_of("ptq", recipe, checkpoint),
        digest_of("qat", override(recipe, {("training", "seed"): 1}), checkpoint),
        digest_of("qat", override(recipe, {("gate", "relative"): True}), checkpoint),
        digest_of("qat", recipe, replace(checkpoint, sha256="0" * 64)),
    }
    assert len(others) == 4 and base not in others


def test_metrics_and_log_grow_by_lines(run: Run) -> None:
    run.append_metric(step=1, loss=2.5)
    run.append_metric(step=2, loss=2.0)
    run.log("epoch 1")
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    assert (run.path / "log.txt").read_text().endswith(" epoch 1\n")


def test_a_field_is_what_it_is_asked_to_be(run: Run) -> None:
    run.write_json("x.json", {"a": {"n": 3, "x": 0.5, "t": "s", "b": True}})
    assert run.field("x.json", "a", "n", kind=int) == 3
    assert run.field("x.json", "a", "n", kind=float) == 3.0
    assert run.field("x.json", "a", "t", kind=str) == "s"
    assert run.field("x.json", "a", kind=dict)["x"] == 0.5
    for keys, kind in ((("a", "b"), int), (("a", "x"), int), (("a", "t", "u"), str), (("z",), str)):
        with pytest.raises(BadRun, match=rf"x\.json: {'.'.join(keys)} is "):
            run.field("x.json", *keys, kind=kind)


def test_a_missing_or_broken_file_names_itself(run: Run) -> None:
    with pytest.raises(BadRun, match=r"verdict\.json: missing") as caught:
        run.read_json("verdict.json")
    assert "repeat the command" in caught.value.hint
    (run.path / "run.json").write_text("[1]")
    with pytest.raises(BadRun, match=r"run\.json: holds list, expected an object"):
        run.status()


def test_the_lock_names_the_process_that_holds_it(run: Run, repo: Path) -> None:
    """A real second process holds the lock; it dies by SIGKILL, and the lock with it."""
    script = textwrap.dedent(
        f"""
        import sys, time
        from pathlib import Path
        from asrcompress.run import Run
        with Run(path=Path({str(run.path)!r})).lock():
            print("locked", flush=True)
            time.sleep(60)
        """
    )
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
        with pytest.raises(BadRun, match=f"in use by process {holder.pid}$"), run.lock():
            pass
    finally:
        holder.kill()
        holder.wait()
        if holder.stdout is not None:
            holder.stdout.close()
    with run.lock():
        assert (run.path / "lock").read_text() == str(os.getpid())


def test_what_the_system_refuses_names_the_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    before = (run.path / "run.json").read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileFailed, match=r"run\.json: cannot be written, No space"):
        run.update(status=PASSED)
    assert (run.path / "run.json").read_bytes() == before
    (run.path / "log.txt").mkdir()
    with pytest.raises(FileFailed, match=r"log\.txt: cannot be written, Is a directory"):
        run.log("x")


def test_a_runs_folder_that_is_a_file(tmp_path: Path, checkpoint: Checkpoint) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(BadRun, match="cannot be made, Not a directory"):
        open_run("qat", Recipe(runs=tmp_path / "runs"), checkpoint, tools={})


def test_the_last_run_that_passed(recipe: Recipe, checkpoint: Checkpoint) -> None:
    with pytest.raises(BadRun, match="no run has passed its gate, got no runs"):
        latest_passing_run(recipe.runs)
    runs = []
    for seed, status in enumerate((PASSED, PASSED, FAILED)):
        seeded = override(recipe, {("training", "seed"): seed})
        runs.append(open_run("qat", seeded, checkpoint, tools={}))
        runs[-1].update(status=status, finished=float(10 - seed))
        runs[-1].model.write_bytes(b"graph")
    pruned = open_run("prune", recipe, checkpoint, tools={})  # no artifact to ship
    pruned.update(status=PASSED, finished=99.0)
    assert latest_passing_run(recipe.runs) == runs[0]
    for run in (*runs[:2], pruned):
        run.update(status=FAILED)
    with pytest.raises(BadRun, match=rf"{runs[2].name} failed"):
        latest_passing_run(recipe.runs)


def test_another_schema_is_refused(run: Run) -> None:
    run.update(schema_version=2)
    with pytest.raises(BadRun, match="schema version 2, expected 1"):
        read_run(run.path)


def test_an_edited_manifest_is_another_run(
    recipe: Recipe, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    manifest = tmp_path / "train.jsonl"
    kaldi = tmp_path / "gate"
    kaldi.mkdir()
    manifest.write_text("one\n")
    (kaldi / "text").write_text("one\n")
    recipe = override(recipe, {("data", "train"): manifest, ("data", "gate"): kaldi})
    digests = {digest_of("qat", recipe, checkpoint)}
    manifest.write_text("two\n")
    digests.add(digest_of("qat", recipe, checkpoint))
    (kaldi / "text").write_text("two\n")
    digests.add(digest_of("qat", recipe, checkpoint))
    assert len(digests) == 3
