"""Sensitivity as a command, and pruning by the curves that it measures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("paddle", reason="needs the [compress] extra")
from asrcompress import strict_json
from asrcompress.checkpoints.checkpoint import read_checkpoint
from asrcompress.cli.app import app
from asrcompress.console import Console
from asrcompress.pipeline import sensitivity as stage
from asrcompress.recipe import read_recipe
from asrcompress.run import read_run
from asrcompress.sensitivity import read_sensitivity

pytestmark = pytest.mark.paddle

SMALL = """
dev = "{dev}"
[sensitivity]
utterances = 4
ratios = {ratios}
[prune]
criterion = "{criterion}"
step = 4
epochs = 0
[gate]
max_cer_increase = 1.0
min_integer_share = 0.8
"""


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    monkeypatch.chdir(folder)
    return CliRunner().invoke(app, [*arguments])


def write_recipe(
    workplace: Any,
    folder: Path,
    *,
    ratios: str = "[0.5]",
    criterion: str = "l2",
    dev: Path | None = None,
) -> Path:
    extra = SMALL.format(dev=dev or workplace.train, ratios=ratios, criterion=criterion)
    path: Path = workplace.write_recipe(folder, extra.lstrip())
    return path


@pytest.fixture(scope="module")
def measured(workplace: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A finished measurement: the folder of its recipe, and what --json printed."""
    folder = tmp_path_factory.mktemp("measured")
    write_recipe(workplace, folder, ratios="[0.25, 0.5]")
    with pytest.MonkeyPatch.context() as patch:
        result = run(folder, patch, "sensitivity", "--json")
    assert result.exit_code == 0, result.output
    return folder, json.loads(result.stdout)


def test_every_layer_and_group_is_measured(measured: tuple[Path, Any]) -> None:
    told = measured[1]
    found = read_sensitivity(Path(told["sensitivity"]))
    assert strict_json.to_json(found) == told["measured"]
    assert found.together is not None
    assert len(found.layers) == 2 * 13 + 4
    assert found.ratios == (0.25, 0.5)
    for ratio in found.ratios:
        assert len(found.pruned(ratio)) == 2 * 4  # heads, two feed-forwards, channels
    assert all(item.kl > 0 for item in found.results)
    assert found.together.kl > max(item.kl for item in found.layers)
    halves = {item.probe.target: item.kl for item in found.pruned(0.5)}
    less = [halves[item.probe.target] > item.kl for item in found.pruned(0.25)]
    assert sum(less) >= 6
    assert Path(told["picture"]).read_bytes().startswith(b"\x89PNG")
    page = Path(told["report"]).read_text(encoding="utf-8")
    assert '<section id="sensitivity">' in page
    assert found.most_sensitive_layers()[0].probe.target in page
    assert "Measured" in page and "Not finished" not in page


def test_it_is_not_measured_twice_and_more_ratios_add_to_it(
    measured: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, told = measured
    monkeypatch.setattr(stage._Stand, "_compare", None)
    probes = Path(told["run"]) / stage.PROBES
    before = probes.read_text()
    again = run(folder, monkeypatch, "sensitivity", "--json")
    assert json.loads(again.stdout) == told
    assert probes.read_text() == before
    monkeypatch.undo()
    more = run(
        folder, monkeypatch, "sensitivity", "--json", "--only", "prune",
        "--sensitivity-ratios", "0.75",
    )  # fmt: skip
    assert more.exit_code == 0, more.output
    added = probes.read_text().removeprefix(before)
    assert added.count("\n") == 8
    found = read_sensitivity(Path(json.loads(more.stdout)["sensitivity"]))
    assert found.ratios == (0.25, 0.5, 0.75)


def test_an_interrupted_measurement_goes_on_where_it_was(
    workplace: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipe(workplace, tmp_path, ratios="[]")
    measured: list[str] = []
    compare = stage._Stand._compare

    def killed(self: Any, probe: Any, network: Any, *, share: float) -> Any:
        if len(measured) == 5:
            raise KeyboardInterrupt
        measured.append(probe.target)
        return compare(self, probe, network, share=share)

    monkeypatch.setattr(stage._Stand, "_compare", killed)
    recipe = read_recipe(tmp_path / "asrcompress.toml")
    checkpoint = read_checkpoint(workplace.checkpoint)
    with pytest.raises(KeyboardInterrupt):
        stage.measure_sensitivity(recipe, checkpoint, Console(quiet=True))
    (folder,) = (tmp_path / "runs").iterdir()
    with (folder / stage.PROBES).open("a") as file:
        file.write('{"probe": {"act')  # what a killed process was writing
    assert not (folder / stage.RESULT).exists()
    measured.clear()
    monkeypatch.setattr(
        stage._Stand,
        "_compare",
        lambda self, probe, network, *, share: (
            measured.append(probe.target) or compare(self, probe, network, share=share)  # type: ignore[func-returns-value]
        ),
    )
    outcome = stage.measure_sensitivity(recipe, checkpoint, Console(quiet=True))
    found = outcome.sensitivity
    assert len(measured) == len(found.results) - 5
    assert set(measured).isdisjoint(item.probe.target for item in found.results[:5])


def test_a_second_process_is_refused(
    measured: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, told = measured
    with read_run(Path(told["run"])).lock():
        result = run(folder, monkeypatch, "sensitivity")
    assert result.exit_code == 3
    assert "is in use by process" in result.output


def test_development_speech_may_not_be_the_gates(
    workplace: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipe(workplace, tmp_path, dev=workplace.gate)
    result = run(tmp_path, monkeypatch, "sensitivity")
    assert result.exit_code == 3
    assert "gate manifest: shares data" in result.output


def test_without_development_speech_it_says_so(
    workplace: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workplace.write_recipe(tmp_path)
    result = run(tmp_path, monkeypatch, "sensitivity")
    assert result.exit_code == 3
    assert "--dev-manifest" in result.output


def test_pruning_follows_the_curves(
    workplace: Any, measured: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer that is said to mind everything is left alone; one that minds nothing goes first."""
    found = read_sensitivity(Path(measured[1]["sensitivity"]))

    def told(item: Any) -> Any:
        if item.probe.target == "block 0 feed_forward":
            return replace(item, kl=1e6)
        return replace(item, kl=0.0) if item.probe.target == "block 1 feed_forward" else item

    kept = [item for item in found.results if item.probe.ratio in (0.5, 1.0)]
    forged = replace(found, results=tuple(told(item) for item in kept))
    path = tmp_path / "forged.json"
    path.write_text(json.dumps(strict_json.to_json(forged)))
    write_recipe(workplace, tmp_path)
    words = ("prune", "--json", "--prune-amount", "0.12", "--prune-sensitivity", str(path))
    result = run(tmp_path, monkeypatch, *words)
    assert result.exit_code in (0, 4), result.output
    folder = Path(json.loads(result.stdout)["run"])
    plan = {name: (was, left) for name, was, left in json.loads(
        (folder / "pruning-plan.json").read_text()
    )["widths"]}  # fmt: skip
    assert plan["block 0 feed_forward"] == (64, 64)
    assert plan["block 1 feed_forward"] == (64, 32)  # no more than the half that was measured
    assert (folder / "sensitivity.json").read_text() == path.read_text()


def test_a_measurement_by_another_criterion_is_refused(
    workplace: Any, measured: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipe(workplace, tmp_path, criterion="l1")
    source = measured[1]["sensitivity"]
    result = run(
        tmp_path, monkeypatch, "prune", "--prune-amount", "0.2", "--prune-sensitivity", source
    )
    assert result.exit_code == 3
    assert "prune.criterion: got l1, expected l2" in result.output
