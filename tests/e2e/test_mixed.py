"""Mixed precision as a command: chosen on development speech, judged by the gate, shipped."""

from __future__ import annotations

import functools
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("paddle", reason="needs the [compress] extra")
from asrcompress import strict_json
from asrcompress.accuracy.cer import ErrorCounts
from asrcompress.accuracy.verdict import GateVerdict
from asrcompress.checkpoints.checkpoint import Checkpoint, read_checkpoint
from asrcompress.checkpoints.weights import read_weights, write_weights
from asrcompress.cli.app import app
from asrcompress.errors import CerGateFailed
from asrcompress.pipeline import audition, mixed
from asrcompress.pipeline.quantize import Outcome
from asrcompress.recipe import Recipe
from asrcompress.run import UNFINISHED, Run, open_run, read_run
from asrcompress.sensitivity import read_sensitivity

pytestmark = pytest.mark.paddle

HOSTILE = "encoder.encoders.1.feed_forward.w_1"
SMALL = """
[sensitivity]
utterances = 4
[gate]
max_cer_increase = {allowed}
min_integer_share = 0.5
{more}
"""
Mix = Callable[..., Any]


def write_recipe(
    workplace: Any, folder: Path, dev: Path | None, *, allowed: float = 1.0, more: str = ""
) -> Path:
    path: Path = workplace.write_recipe(folder, SMALL.format(allowed=allowed, more=more))
    if dev is not None:
        path.write_text(path.read_text().replace("[data]\n", f'[data]\ndev = "{dev}"\n'))
    return path


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    monkeypatch.chdir(folder)
    return CliRunner().invoke(app, [*arguments])


def order_of(workplace: Any, dev: Path, folder: Path, *, allowed: float) -> Path:
    """sensitivity.json, in the run directory of a recipe in `folder`."""
    write_recipe(workplace, folder, dev, allowed=allowed)
    with pytest.MonkeyPatch.context() as patch:
        result = run(folder, patch, "sensitivity", "--json", "--only", "quantize")
    assert result.exit_code == 0, result.output
    return Path(json.loads(result.stdout)["sensitivity"])


@pytest.fixture(scope="module")
def order(workplace: Any, dev: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return order_of(workplace, dev, tmp_path_factory.mktemp("order"), allowed=1.0)


@pytest.fixture(scope="module")
def hostile(workplace: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The workplace with one layer whose input has a channel a thousand times too large.

    The norm in front makes it, and the layer's weights undo it: in float nothing changes.
    """
    folder = tmp_path_factory.mktemp("hostile") / "checkpoint"
    shutil.copytree(workplace.checkpoint, folder)
    path = read_checkpoint(folder).weights_path
    weights = {name: np.array(tensor) for name, tensor in read_weights(path).items()}
    for part in ("weight", "bias"):
        weights[f"encoder.encoders.1.norm_ff.{part}"][5] *= 1000.0
    weights[f"{HOSTILE}.weight"][5] /= 1000.0
    write_weights(path, weights)
    return replace(workplace, checkpoint=folder)


@pytest.fixture(scope="module")
def hostile_order(hostile: Any, dev: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return order_of(hostile, dev, tmp_path_factory.mktemp("hostile_order"), allowed=0.2)


@pytest.fixture
def mix(
    workplace: Any, dev: Path, order: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Mix:
    """Runs ``mixed`` where quantizing everything passes."""
    write_recipe(workplace, tmp_path, dev)
    words = ("mixed", "--sensitivity", str(order))
    return lambda *arguments: run(tmp_path, monkeypatch, *words, *arguments)


@dataclass
class Paper:
    """Artifacts on paper: nothing is exported or heard, and the verdicts are these.

    Attributes:
        enough: layers in float from which on data.dev lets an artifact pass.
        accepted: layers in float with which the gate does.
        made: layers in float of every artifact that was heard.
        killed: the process dies before it hears this one.
    """

    enough: int = 0
    accepted: tuple[int, ...] = ()
    made: list[int] = field(default_factory=list)
    killed: int | None = None

    def make(self, _: Any, step: Run, recipe: Recipe) -> float:
        share = 1.0 - len(recipe.quantization.skip) / 100
        step.model.write_bytes(b"")
        step.write_json("integer_share.json", {"share": share, "macs": 100, "bytes_by_dtype": {}})
        return share

    def hear(self, _: Any, step: Run, recipe: Recipe) -> tuple[GateVerdict]:
        count = len(recipe.quantization.skip)
        if count == self.killed:
            raise KeyboardInterrupt
        self.made.append(count)
        return (_verdict(count >= self.enough),)

    def compress(self, kind: str, recipe: Recipe, checkpoint: Checkpoint, _: Any) -> Outcome:
        accepted = len(recipe.quantization.skip) in self.accepted
        failure = None if accepted else CerGateFailed("CER gate: it went up")
        return Outcome(
            run=open_run(kind, recipe, checkpoint, tools={}), verdict=_verdict(accepted),
            integer_share=0.9, failure=failure,
        )  # fmt: skip


def _verdict(passed: bool) -> GateVerdict:
    counts = ErrorCounts(hits=90, substitutions=10, deletions=0, insertions=0)
    third = Fraction(1, 3)
    return GateVerdict(
        passed=passed, reason="so it is", utterances=40, before=counts, after=counts,
        increase=third, lower_bound=third, upper_bound=third, max_increase=third, relative=False,
        draws=100, seed=0,
    )  # fmt: skip


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> Paper:
    found = Paper()
    for name in ("make", "hear"):
        monkeypatch.setattr(
            audition.Audition, name, functools.partialmethod(_on_paper, getattr(found, name))
        )
    monkeypatch.setattr(mixed, "compress", found.compress)
    return found


def _on_paper(stand: Any, method: Callable[..., Any], *arguments: Any) -> Any:
    return method(stand, *arguments)


def test_a_hostile_layer_is_found_and_kept_in_float(
    hostile_order: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = hostile_order.parents[2]
    measured = hostile_order.stat().st_mtime_ns
    # Without --sensitivity it measures, and finds that all was measured.
    result = run(folder, monkeypatch, "mixed", "--json", "--export-to", "bundle")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert hostile_order.stat().st_mtime_ns > measured
    worst = read_sensitivity(hostile_order).most_sensitive_layers()
    assert worst[0].probe.target == HOSTILE
    assert worst[0].kl > 5 * worst[1].kl
    assert told["skip"] == [HOSTILE]
    assert [item["kept_float"] for item in told["steps"]] == [0, 1]
    assert [item["passed"] for item in told["steps"]] == [False, True]
    assert told["best"]["utterances"] == 40
    assert told["best"]["integer_share"] < told["steps"][0]["integer_share"]
    assert told["best"]["float_macs"] > 0
    assert told["best"]["float_bytes"] > told["steps"][0]["float_bytes"]
    assert [(look["kept_float"], look["passed"]) for look in told["looks"]] == [(1, True)]
    chosen = read_run(Path(told["chosen"]))
    assert chosen.status() == "passed"
    assert chosen.read_json("run.json")["recipe"]["quantization"]["skip"] == [HOSTILE]
    assert "Mixed precision" in Path(told["report"]).read_text(encoding="utf-8")
    assert (folder / "bundle" / "bundle.json").is_file()
    # What was not chosen has never met the gate.
    other = read_run(folder / "runs" / told["steps"][0]["run"])
    assert other.status() == UNFINISHED
    assert not (other.path / "verdict.json").exists() and not (other.path / "before.json").exists()
    # Everything is found again: nothing is exported or evaluated a second time.
    monkeypatch.setattr("asrcompress.pipeline.measurement.evaluate", None)
    monkeypatch.setattr(audition, "evaluate", None)
    again = run(folder, monkeypatch, "mixed", "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout) == told
    page = run(folder, monkeypatch, "report", told["run"], "-o", "page.html")
    assert page.exit_code == 0, page.output
    text = Path("page.html").read_text(encoding="utf-8")
    assert "1 (chosen)" in text and "This run measures; there is no gate to pass" in text


def test_the_steps_know_nothing_of_the_gates_speech(
    mix: Mix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the gate is asked, no utterance of it was heard, and no file names one."""
    heard, evaluate = set[str](), audition.evaluate

    def listening(recognizer: Any, utterances: Any, **others: Any) -> Any:
        heard.update(item.utt for item in utterances)
        return evaluate(recognizer, utterances, **others)

    def asked(*_: Any) -> Any:
        texts = {path: path.read_text() for path in (tmp_path / "runs").glob("*/*.json")}
        assert any(path.name == "model.int8.onnx" for path in (tmp_path / "runs").glob("ptq-*/*"))
        assert any("devgate" in text for text in texts.values())
        assert not [path for path, text in texts.items() if re.search(r'"gate\d+"', text)]
        raise CerGateFailed("this is where the gate would be asked")

    monkeypatch.setattr(audition, "evaluate", listening)
    monkeypatch.setattr(mixed, "compress", asked)
    result = mix()
    assert "this is where the gate would be asked" in result.output, result.output
    assert len(heard) == 40 and all(utt.startswith("devgate") for utt in heard)


def test_what_the_gate_refuses_is_followed_by_larger_sets(mix: Mix, paper: Paper) -> None:
    result = mix("--json")
    assert result.exit_code == 4, result.output
    told = json.loads(result.stdout)
    assert [item["kept_float"] for item in told["looks"]] == [0, 1, 3]  # search.gate_tries
    assert [item["kept_float"] for item in told["steps"]] == [0, 1, 3]  # each heard first
    assert not any(item["passed"] for item in told["looks"])
    assert told["skip"] is None and told["chosen"] is None and told["best"] is None
    assert "refuses what data.dev lets pass, asked 3 times" in told["failure"]
    assert "3 layers in float: CER gate: it went up" in told["failure"]
    # The one that passes ends it.
    paper.accepted = (1,)
    result = mix("--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert [item["passed"] for item in told["looks"]] == [False, True]
    assert len(told["skip"]) == 1
    # How often to ask is no part of what was heard.
    result = mix("--gate-tries", "1")
    assert result.exit_code == 4 and "--gate-tries; report" in " ".join(result.output.split())
    assert "lets pass, asked once" in " ".join(result.output.split())
    assert paper.made == [0, 1, 3]


def test_the_gate_is_not_asked_about_what_data_dev_refuses(mix: Mix, paper: Paper) -> None:
    paper.enough, paper.accepted = 5, (6,)
    told = json.loads(mix("--json").stdout)
    assert [item["kept_float"] for item in told["steps"]] == [0, 1, 2, 4, 8, 6, 5]
    assert [(item["kept_float"], item["passed"]) for item in told["looks"]] == [
        (5, False),
        (6, True),
    ]
    assert told["best"]["kept_float"] == len(told["skip"]) == 6


def test_the_gate_is_not_asked_about_too_little_on_integers(mix: Mix, paper: Paper) -> None:
    result = mix("--json", "--min-integer-share", "0.99")
    assert result.exit_code == 4, result.output
    told = json.loads(result.stdout)
    assert [item["kept_float"] for item in told["looks"]] == [0, 1]
    assert [item["kept_float"] for item in told["steps"]] == [0, 1, 3]  # 0.97
    paper.enough = 3
    result = mix("--json", "--min-integer-share", "0.975")
    assert result.exit_code == 4, result.output
    told = json.loads(result.stdout)
    assert told["looks"] == []
    assert "with the 3 of 30 layers in float that data.dev asks for" in told["failure"]


def test_a_limit_that_cannot_be_kept_is_exit_4(mix: Mix, paper: Paper) -> None:
    paper.enough = 1000
    result = mix("--json", "--min-integer-share", "0.97")
    assert result.exit_code == 4, result.output
    told = json.loads(result.stdout)
    assert told["skip"] is None and told["chosen"] is None and told["looks"] == []
    assert "too little on integers: so it is" in told["failure"]
    assert [item["kept_float"] for item in told["steps"]] == [0, 1, 2, 4]
    told = json.loads(mix("--json", "--min-integer-share", "0").stdout)
    assert told["looks"] == [] and told["steps"][-1]["kept_float"] == 30
    assert "fails even with all 30 layers in float" in told["failure"]


def test_an_interrupted_search_goes_on_where_it_was(mix: Mix, paper: Paper) -> None:
    paper.enough, paper.accepted, paper.killed = 2, (2,), 2
    assert mix("--json").exit_code not in (0, 3, 4)
    assert paper.made == [0, 1]
    paper.killed = None
    told = json.loads(mix("--json").stdout)
    assert told["passed"] and [item["kept_float"] for item in told["steps"]] == [0, 1, 2]
    assert paper.made == [0, 1, 2]


def test_another_order_is_another_search(
    mix: Mix, paper: Paper, order: Path, tmp_path: Path
) -> None:
    """Steps with the same layers in float are found again, others are not."""
    paper.enough, paper.accepted = 2, (2,)
    first = json.loads(mix("--json").stdout)["skip"]
    found = read_sensitivity(order)
    told = [replace(r, kl=9.0) if r.probe.target == first[1] else r for r in found.results]
    forged = tmp_path / "forged.json"
    forged.write_text(json.dumps(strict_json.to_json(replace(found, results=tuple(told)))))
    assert json.loads(mix("--json", "--sensitivity", str(forged)).stdout)["skip"] == first[::-1]
    assert paper.made == [0, 1, 2, 1, 2]


def test_streams_are_heard_too(
    streaming_workplace: Any, streaming_dev: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = order_of(streaming_workplace, streaming_dev, tmp_path, allowed=1.0)
    titles, evaluate = list[str](), audition.evaluate

    def listening(*arguments: Any, **others: Any) -> Any:
        titles.append(others["title"])
        return evaluate(*arguments, **others)

    monkeypatch.setattr(audition, "evaluate", listening)
    words = ("mixed", "--json", "--sensitivity", str(order), "--chunk-size", "4")
    result = run(tmp_path, monkeypatch, *words)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert any(title.startswith("search set in chunks") for title in titles)
    assert (Path(told["run"]) / "before-streaming.json").is_file()
    chosen = read_run(Path(told["chosen"]))
    shares = [
        chosen.field(f"integer_share{suffix}.json", "share", kind=float)
        for suffix in ("", "-streaming")
    ]
    assert told["best"]["integer_share"] == min(shares)


def test_nothing_is_kept_in_float_where_nothing_has_to_be(mix: Mix, paper: Paper) -> None:
    paper.accepted = (0,)
    result = mix()
    assert result.exit_code == 0, result.output
    assert "PASSED with 0 layers in float" in result.output
    assert "judged by the gate's manifest, asked once" in result.output


def test_the_gates_manifest_cannot_choose(
    workplace: Any, order: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipe(workplace, tmp_path, workplace.gate)
    result = run(tmp_path, monkeypatch, "mixed", "--sensitivity", str(order))
    assert result.exit_code == 3
    assert "gate manifest: shares data" in result.output


def test_without_development_speech_it_says_so(
    workplace: Any, order: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipe(workplace, tmp_path, None)
    result = run(tmp_path, monkeypatch, "mixed", "--sensitivity", str(order))
    assert result.exit_code == 3
    assert "--dev-manifest" in result.output


def test_too_few_utterances_choose_nothing(mix: Mix) -> None:
    result = mix("--search-utterances", "29")
    assert result.exit_code == 3
    assert "expected at least 30" in result.output


def test_a_measurement_of_other_weights_is_refused(
    hostile: Any, dev: Path, order: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipe(hostile, tmp_path, dev)
    result = run(tmp_path, monkeypatch, "mixed", "--sensitivity", str(order))
    assert result.exit_code == 3
    assert "was measured on weights" in result.output


def test_pruning_within_a_search_is_refused(mix: Mix) -> None:
    result = mix("--prune-amount", "0.2")
    assert result.exit_code == 3
    assert "asrcompress prune first" in result.output
