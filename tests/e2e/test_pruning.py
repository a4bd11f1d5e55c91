"""Pruning as a command, and in front of quantization in one recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("paddle", reason="needs the [compress] extra")
from asrcompress.checkpoints.checkpoint import read_checkpoint
from asrcompress.checkpoints.network import build_network
from asrcompress.cli.app import app

pytestmark = pytest.mark.paddle

SMALL = """
[prune]
amount = 0.3
criterion = "{criterion}"
step = 4
epochs = 1
batches = 2
[training]
batch_frames = 700
"""


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    monkeypatch.chdir(folder)
    return CliRunner().invoke(app, [*arguments])


def parameters(checkpoint: Path) -> int:
    network = build_network(read_checkpoint(checkpoint))
    return sum(
        int(tensor.size) for name, tensor in network.named_parameters() if name.startswith("enc")
    )


def test_prune_leaves_a_smaller_checkpoint(
    workplace: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = f"{SMALL.format(criterion='taylor')}\n[gate]\nmax_cer_increase = 1.0\n"
    workplace.write_recipe(tmp_path, extra)
    result = run(tmp_path, monkeypatch, "prune", "--json")
    assert result.exit_code in (0, 4), result.output
    told = json.loads(result.stdout)
    assert told["pruning"]["removed"] >= 0.3
    before, after = told["pruning"]["parameters"]
    assert after <= 0.7 * before
    assert parameters(Path(told["checkpoint"])) == after
    assert parameters(workplace.checkpoint) == before
    # It is done: the same command does not train again.
    again = run(tmp_path, monkeypatch, "prune", "--json")
    assert json.loads(again.stdout) == told


def test_a_pruned_model_that_got_worse_is_refused(
    workplace: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = SMALL.format(criterion="l1").replace("epochs = 1", "epochs = 0")
    workplace.write_recipe(tmp_path, extra.replace("0.3", "0.4"))
    result = run(tmp_path, monkeypatch, "prune")
    assert result.exit_code == 4, result.output
    assert "remove less (--prune-amount)" in result.output


def test_pruning_and_quantization_in_one_recipe(
    workplace: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = f"{SMALL.format(criterion='l2')}\n[gate]\nmax_cer_increase = 1.0\n"
    workplace.write_recipe(tmp_path, extra)
    result = run(tmp_path, monkeypatch, "ptq", "--json")
    assert result.exit_code in (0, 4), result.output
    told = json.loads(result.stdout)
    assert told["integer_share"] > 0.95
    folder = Path(told["run"])
    smaller, whole = parameters(folder / "pruned"), parameters(workplace.checkpoint)
    assert smaller <= 0.7 * whole
    plain = run(tmp_path, monkeypatch, "ptq", "--prune-amount", "0", "--json")
    assert told["size_bytes"]["int8"] < 0.9 * json.loads(plain.stdout)["size_bytes"]["int8"]


def test_prune_without_anything_to_remove_says_so(
    workplace: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workplace.write_recipe(tmp_path)
    result = run(tmp_path, monkeypatch, "prune")
    assert result.exit_code == 3
    assert "--prune-amount" in result.output
