"""What a measurement of sensitivity says, read back strictly; curves; the search for fewest."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asrcompress import strict_json
from asrcompress.errors import BadRun, BadSensitivity
from asrcompress.run import Run
from asrcompress.sensitivity import (
    EVERYTHING,
    PRUNE,
    QUANTIZE,
    DamageCurve,
    Probe,
    ProbeResult,
    Sensitivity,
    check_subject,
    lower_hull,
    read_sensitivity,
)

CHARS = 200


def quantized(target: str, kl: float, edits: int = 10) -> ProbeResult:
    probe = Probe(action=QUANTIZE, target=target)
    return ProbeResult(probe=probe, share=1.0, kl=kl, edits=edits, cer=edits / CHARS)


def pruned(target: str, ratio: float, kl: float, share: float | None = None) -> ProbeResult:
    probe = Probe(action=PRUNE, target=target, ratio=ratio)
    return ProbeResult(probe=probe, share=share or ratio, kl=kl, edits=10, cer=10 / CHARS)


def measured(*results: ProbeResult) -> Sensitivity:
    return Sensitivity(
        checkpoint="exp/best",
        checkpoint_sha256="a" * 64,
        dataset_sha256="b" * 64,
        utterances=4,
        frames=300,
        reference_chars=CHARS,
        edits=10,
        cer=10 / CHARS,
        criterion="taylor",
        results=results,
    )


def test_the_most_sensitive_layer_is_the_one_that_moves_posteriors_most() -> None:
    found = measured(
        quantized(EVERYTHING, 0.9),
        quantized("a", 0.1, edits=40),
        quantized("b", 0.3),
        quantized("decoder.x", 0.0, edits=11),
        quantized("decoder.y", 0.0, edits=12),
        pruned("block 0 heads", 0.5, 2.0),
    )
    names = [item.probe.target for item in found.most_sensitive_layers()]
    assert names == ["b", "a", "decoder.y", "decoder.x"]
    assert found.together is not None and found.together.kl == 0.9
    assert found.more_edits(found.layers[0]) == 30
    assert found.ratios == (0.5,)


def test_it_reads_back_what_it_writes(tmp_path: Path) -> None:
    found = measured(quantized("a", 1e-7), pruned("block 0 heads", 0.3, 0.2, share=0.25))
    path = tmp_path / "sensitivity.json"
    path.write_text(json.dumps(strict_json.to_json(found)))
    assert read_sensitivity(path) == found


SPOILED: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    ("another version", lambda t: t.update(schema_version=2), "schema_version: got 2"),
    ("an edited CER", lambda t: t.update(cer=0.01), "it was edited"),
    ("an edited CER of a probe", lambda t: t["results"][0].update(cer=0.0), "it was edited"),
    ("an unknown key", lambda t: t.update(more=1), "unknown key more"),
    ("no frames", lambda t: t.update(frames=0), "expected at least 1"),
    ("a probe twice", lambda t: t["results"].append(t["results"][0]), "stands twice"),
    ("less than no divergence", lambda t: t["results"][0].update(kl=-1.0), "expected from 0"),
    ("an unknown action", lambda t: t["results"][0]["probe"].update(action="x"), "expected quan"),
    ("a share of 2", lambda t: t["results"][0].update(share=2.0), "share is 2.0"),
    ("a ratio of 0", lambda t: t["results"][0]["probe"].update(ratio=0.0), "got 0.0"),
]


@pytest.mark.parametrize(("name", "spoil", "said"), SPOILED, ids=[row[0] for row in SPOILED])
def test_a_spoiled_file_is_refused(
    tmp_path: Path, name: str, spoil: Callable[[dict[str, Any]], object], said: str
) -> None:
    tree = strict_json.to_json(measured(quantized("a", 0.1)))
    spoil(tree)
    path = tmp_path / "sensitivity.json"
    path.write_text(json.dumps(tree))
    with pytest.raises(BadSensitivity, match=said):
        read_sensitivity(path)


def test_no_file_and_no_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSensitivity, match="cannot be read"):
        read_sensitivity(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"cer": NaN')
    with pytest.raises(BadSensitivity, match="is not JSON"):
        read_sensitivity(tmp_path / "half.json")


def test_other_weights_are_refused() -> None:
    check_subject(measured(), "a" * 64, item="here")
    with pytest.raises(BadSensitivity, match="measured on weights aaaaaaaaaaaa"):
        check_subject(measured(), "c" * 64, item="here")


def test_a_hull_runs_below_every_point_and_bends_up_only() -> None:
    points = [(0.25, 0.3), (0.5, 0.2), (0.6, 0.2), (0.75, 0.9), (0.8, 0.91)]
    hull = lower_hull(points)
    assert hull == ((0.0, 0.0), (0.6, 0.2), (0.8, 0.91))
    curve = DamageCurve(points=hull)
    assert curve.most == 0.8
    assert all(curve.at(x) <= y + 1e-12 for x, y in points)
    slopes = [(d - b) / (c - a) for (a, b), (c, d) in itertools.pairwise(hull)]
    assert slopes == sorted(slopes)
    assert curve.at(0.3) == pytest.approx(0.1)
    assert curve.at(0.0) == 0.0
    assert curve.at(0.7) == pytest.approx(0.2 + 0.71 / 2)


def test_a_curve_of_a_group_that_was_not_probed_is_refused() -> None:
    found = measured(pruned("block 0 heads", 0.5, 0.2), pruned("block 0 heads", 0.4, 0.1, 0.5))
    assert found.curve("block 0 heads").points == ((0.0, 0.0), (0.5, 0.1))
    with pytest.raises(BadSensitivity, match="block 1 heads: was not pruned"):
        found.curve("block 1 heads")


def test_a_line_that_was_cut_off_is_forgotten(tmp_path: Path) -> None:
    run = Run(path=tmp_path)
    assert run.read_json_lines("x.jsonl") == []
    run.append_json("x.jsonl", {"a": 1})
    with (tmp_path / "x.jsonl").open("a") as file:
        file.write('{"a": 2')
    assert run.read_json_lines("x.jsonl") == [{"a": 1}]
    run.append_json("x.jsonl", {"a": 3})
    assert run.read_json_lines("x.jsonl") == [{"a": 1}, {"a": 3}]


def test_a_line_that_is_damaged_is_not(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": \n{"a": 3}\n')
    with pytest.raises(BadRun, match="a line is not JSON"):
        Run(path=tmp_path).read_json_lines("x.jsonl")
