"""Run directories that are unfinished, edited, or another's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXPORT = ["export", "run", "-o", "out"]


def edit(place: Any, name: str = "run.json", **changes: Any) -> list[Any]:
    """Keys of a file of the run, changed; None removes one."""
    place.edit_json(place.run / name, **changes)
    return EXPORT


def write(place: Any, name: str, content: bytes | str) -> list[Any]:
    """Other content of a file of the run."""
    place.write(place.run / name, content)
    return EXPORT


def without(place: Any, *names: str) -> list[Any]:
    """A run that lacks files."""
    for name in names:
        (place.run / name).unlink()
    return EXPORT


def source(place: Any, **checkpoint: Any) -> list[Any]:
    """A run of another checkpoint."""
    return edit(place, recipe={"checkpoint": checkpoint, "data": {"gate": "g"}} | {})


def empty(place: Any) -> list[Any]:
    (place.path / "run").mkdir()
    return EXPORT


def spoiled_weights(place: Any) -> list[Any]:
    place.flip(place.run.parent / "asr/checkpoints/best.pdparams")
    return EXPORT


def evaluate(place: Any, words: list[Any]) -> list[Any]:
    """The same run, evaluated."""
    return ["evaluate", "run", "--manifest", place.manifest]


CASES: list[tuple[str, Callable[[Any], list[Any]], str]] = [
    ("missing", lambda p: ["export", "nowhere", "-o", "out"], "nowhere: no such run directory"),
    ("a file", lambda p: ["export", p.wav, "-o", "out"], "TMP/good.wav: no such run directory"),
    ("an empty folder", empty, "run/run.json: missing, the run was not finished"),
    (
        "run.json that is a list",
        lambda p: write(p, "run.json", "[]"),
        "run/run.json: holds list, expected an object",
    ),
    (
        "run.json that is empty",
        lambda p: write(p, "run.json", ""),
        "run/run.json: is not JSON, Expecting value: line 1 column 1 (char 0)",
    ),
    (
        "run.json that is binary",
        lambda p: write(p, "run.json", b"\xff\xfe"),
        "run/run.json: is not JSON, 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
    ),
    (
        "run.json nested without end",
        lambda p: write(p, "run.json", "[" * 100_000),
        "run/run.json: is not JSON, nested too deeply",
    ),
    ("schema 2", lambda p: edit(p, schema_version=2), "run: schema version 2, expected 1"),
    ("unfinished", lambda p: edit(p, status="unfinished"), "run: is unfinished"),
    ("a status that is unknown", lambda p: edit(p, status="splendid"), "run: is splendid"),
    (
        "no digest of the model",
        lambda p: edit(p, model_sha256=None),
        "run/run.json: model_sha256 is None, expected text",
    ),
    (
        "another model",
        lambda p: write(p, "model.int8.onnx", "other"),
        "run/model.int8.onnx: was changed after the gate measured it",
    ),
    (
        "no model",
        lambda p: without(p, "model.int8.onnx"),
        "run/model.int8.onnx: cannot be read, No such file or directory",
    ),
    (
        "no recipe",
        lambda p: edit(p, recipe=None),
        "run/run.json: recipe is None, expected an object",
    ),
    (
        "a recipe with a key that is unknown",
        lambda p: edit(p, recipe={"evil": 1}),
        "run: evil is not a setting, expected one of checkpoint, data, prune, sensitivity, quantization, training, decoding, gate, streaming, search, export, runs",
    ),
    ("a recipe without anything", lambda p: edit(p, recipe={}), "run: names no gate manifest"),
    (
        "a checkpoint that is gone",
        lambda p: source(p, path="/nowhere"),
        "/nowhere: no such folder, expected a PaddleSpeech experiment",
    ),
    (
        "no digest of the checkpoint",
        lambda p: edit(p, checkpoint={}),
        "run/run.json: checkpoint.sha256 is None, expected text",
    ),
    (
        "weights that have changed",
        spoiled_weights,
        "TMP/asr/checkpoints/best.pdparams: has changed since run compressed it",
    ),
    (
        "a subsampling in words",
        lambda p: edit(p, subsampling="four"),
        "run/run.json: subsampling is four, expected a whole number",
    ),
    (
        "a subsampling of true",
        lambda p: edit(p, subsampling=True),
        "run/run.json: subsampling is True, expected a whole number",
    ),
    (
        "a length in fractions",
        lambda p: edit(p, max_frames=0.5),
        "run/run.json: max_frames is 0.5, expected a whole number",
    ),
    (
        "no integer share",
        lambda p: without(p, "integer_share.json"),
        "run/integer_share.json: missing, the run was not finished",
    ),
    (
        "an integer share in words",
        lambda p: edit(p, "integer_share.json", share="all"),
        "run/integer_share.json: share is all, expected a number",
    ),
    (
        "an integer share of 400 digits",
        lambda p: edit(p, "integer_share.json", share=10**400),
        "run/integer_share.json: share is 100000000000000000000000000000000000000000000000000000000000, expected a number",
    ),
    (
        "no report",
        lambda p: without(p, "after.json"),
        "run/after.json: missing, the run was not finished",
    ),
    (
        "a report that is empty",
        lambda p: write(p, "after.json", "{}"),
        "run/after.json: cer is None, expected an object",
    ),
    (
        "a report of nothing",
        lambda p: write(p, "after.json", '{"cer": {}}'),
        "run/after.json: not a CER report, expected an object with utterances",
    ),
    (
        "no verdict",
        lambda p: without(p, "verdict.json"),
        "run/verdict.json: missing, the run was not finished",
    ),
    (
        "a verdict that is no JSON",
        lambda p: write(p, "verdict.json", "passed"),
        "run/verdict.json: is not JSON, Expecting value: line 1 column 1 (char 0)",
    ),
    (
        "evaluate: no digest",
        lambda p: evaluate(p, edit(p, model_sha256=None)),
        "run: has no model.int8.onnx yet",
    ),
    (
        "evaluate: another model",
        lambda p: evaluate(p, write(p, "model.int8.onnx", "x")),
        "run/model.int8.onnx: was changed after the run measured it",
    ),
    (
        "evaluate: run.json that is a list",
        lambda p: evaluate(p, write(p, "run.json", "[]")),
        "run/run.json: holds list, expected an object",
    ),
    (
        "evaluate: a bare graph",
        lambda p: ["evaluate", p.bundle / "model.onnx", "--manifest", p.manifest],
        "TMP/bundle/model.onnx: is a bare graph",
    ),
]


@pytest.mark.parametrize(("make", "message"), [pytest.param(*c[1:], id=c[0]) for c in CASES])
def test_is_refused(check: Any, make: Any, message: str, tmp_path: Path) -> None:
    pytest.importorskip("yaml", reason="needs the [compress] extra")
    check(make, message)
    assert not (tmp_path / "out").exists()


def test_a_failed_gate_is_exit_4(check: Any) -> None:
    check(lambda p: edit(p, status="failed"), "run: failed its gate, nothing is exported", 4)
