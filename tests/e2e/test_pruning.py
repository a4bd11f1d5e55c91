"""Pruning as a command, and in front of quantization in one recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

pytest.importorskip("paddle", reason="needs the [compress] extra")
from asrcompress.accuracy.cer import CerReport
from asrcompress.checkpoints.checkpoint import read_checkpoint
from asrcompress.checkpoints.network import build_network
from asrcompress.cli.app import app
from asrcompress.errors import ExportFailed
from asrcompress.export.integer_operators import KERNEL
from asrcompress.pipeline.latency import LatencyProbe
from asrcompress.pipeline.stages import check_zeros
from asrcompress.recipe import Prune, Recipe
from asrcompress.run import read_run
from asrcompress.stages import Stages

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


def test_each_stage_is_measured_and_kept(
    workplace: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = f"{SMALL.format(criterion='l2')}\n[gate]\nmax_cer_increase = 1.0\n"
    workplace.write_recipe(tmp_path, extra)
    told = json.loads(run(tmp_path, monkeypatch, "ptq", "--json").stdout)
    folder = Path(told["run"])
    found = Stages.from_json(json.loads((folder / "stages.json").read_text())).stages
    assert [item.name for item in found] == ["fp32", "pruned", "recovered", "int8"]
    fp32, cut, recovered, int8 = found
    assert fp32.cer == told["verdict"]["before_cer"] and int8.cer == told["verdict"]["after_cer"]
    assert cut.parameters == recovered.parameters == int8.parameters <= 0.7 * fp32.parameters
    assert int8.size_bytes == told["size_bytes"]["int8"] > int8.zipped_bytes > 0
    for item in found[1:]:
        assert (folder / item.artifact).exists()
    for item in (cut, recovered):  # each can be used on its own
        result = run(
            tmp_path,
            monkeypatch,
            "evaluate",
            str(folder / item.artifact),
            "--manifest",
            str(workplace.gate),
            "--json",
        )
        heard = CerReport.from_json(json.loads(result.stdout)["cer"])
        assert heard.counts.edits == item.edits


SPARSE = """
[prune]
pattern = "2:4"
epochs = 1
[training]
epochs = 1
batch_frames = 700
[gate]
max_cer_increase = 1.0
"""


def test_zeros_stay_zeros_from_pruning_to_the_int8_graph(
    workplace: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workplace.write_recipe(tmp_path, SPARSE)
    told = json.loads(run(tmp_path, monkeypatch, "qat", "--json").stdout)
    folder = Path(told["run"])
    record = json.loads((folder / "pruning.json").read_text())
    assert record["pattern"] == "2:4" and set(record["sparsity"].values()) == {0.5}
    assert record["parameters"][0] == record["parameters"][1]
    stages = Stages.from_json(json.loads((folder / "stages.json").read_text())).stages
    assert [item.name for item in stages] == ["fp32", "recovered", "int8"]
    # Trained twice after the zeros came, and not one of them lost.
    assert stages[2].nonzero <= stages[1].nonzero < 0.7 * stages[0].nonzero
    opened = read_run(folder)
    checkpoint = read_checkpoint(workplace.checkpoint)
    found = check_zeros(opened, checkpoint)
    name = "encoder.encoders.0.feed_forward.w_1"
    assert found[name] >= 32 * 64 / 2
    assert int8_weight(opened.model, name).shape == (32, 64)

    revive(opened.model, name)
    with pytest.raises(ExportFailed, match=rf"{name}: has \d+ zeros in .*, expected 1024"):
        check_zeros(opened, checkpoint)


def int8_weight(path: Path, layer: str) -> Any:
    """Codes of a layer whose product is a convolution of kernel 1, (inputs, outputs)."""
    return next(
        numpy_helper.to_array(item)[:, :, 0, 0].T
        for item in onnx.load(str(path)).graph.initializer
        if item.name == f"{layer}.weight_quantized{KERNEL}"
    )


def revive(path: Path, layer: str) -> None:
    """Make a one out of every zero of a layer, as a forgotten mask would."""
    model = onnx.load(str(path))
    for item in model.graph.initializer:
        if item.name == f"{layer}.weight_quantized{KERNEL}":
            codes = numpy_helper.to_array(item).copy()
            codes[codes == 0] = 1
            item.CopyFrom(numpy_helper.from_array(codes, item.name))
    onnx.save(model, str(path))


def test_a_command_says_who_gains_from_zeros(
    workplace: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = SPARSE.replace("epochs = 1\n[training]", "epochs = 0\n[training]")
    workplace.write_recipe(tmp_path, extra)
    result = run(tmp_path, monkeypatch, "prune", "--prune-pattern", "1xN")
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "no target here has a kernel for 1xN, the file only zips smaller" in said
    assert "weights that are not zero" in said
    pruned = next((tmp_path / "runs").glob("prune-*")) / "pruned"
    again = run(
        tmp_path,
        monkeypatch,
        "prune",
        "--checkpoint",
        str(pruned),
        "--prune-pattern",
        "structured",
        "--prune-amount",
        "0.2",
    )
    assert again.exit_code == 3
    assert "structures first" in " ".join(again.output.split())


BUDGET = """
[prune]
criterion = "l1"
step = 4
epochs = 0
[gate]
max_cer_increase = 1.0
"""


def test_a_budget_of_work_is_kept_and_one_that_cannot_be_is_refused(
    workplace: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workplace.write_recipe(tmp_path, BUDGET)
    arguments = ("prune", "--json", "--prune-budget-seconds", "5")
    told = json.loads(run(tmp_path, monkeypatch, *arguments, "--prune-max-gmacs", "0.03").stdout)
    before, after = told["pruning"]["macs"]
    assert after <= 0.03e9 < before
    result = run(tmp_path, monkeypatch, *arguments, "--prune-max-gmacs", "0.0001")
    assert result.exit_code == 3
    assert "prune.max_gmacs: got 0.0001, expected at least 0.0" in result.output


def test_a_budget_of_time_takes_as_little_as_keeps_it(
    workplace: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that knows the parameters: what is measured is what was exported."""
    workplace.write_recipe(tmp_path, BUDGET)

    def rtf(self: Any, checkpoint: Any = None) -> float:
        return parameters(checkpoint.root if checkpoint else workplace.checkpoint) / 1e6

    whole = parameters(workplace.checkpoint)
    monkeypatch.setattr(LatencyProbe, "rtf", rtf)
    arguments = ("prune", "--json", "--prune-max-rtf")
    told = json.loads(run(tmp_path, monkeypatch, *arguments, f"{0.8 * whole / 1e6:.6f}").stdout)
    assert 0.7 * whole < told["pruning"]["parameters"][1] <= 0.8 * whole
    tried = told["pruning"]["tried"]
    assert tried[0] == [0.0, pytest.approx(whole / 1e6)] and len(tried) == 7
    result = run(tmp_path, monkeypatch, *arguments, f"{0.01 * whole / 1e6:.6f}")
    assert result.exit_code == 4
    assert "prune.max_rtf: got" in result.output


def test_the_clock_measures_both_forms(workplace: Any, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(workplace.checkpoint)
    rng = np.random.default_rng(0)
    some = [rng.standard_normal((120, 80), np.float32)]
    for precision in ("fp32", "int8"):
        recipe = Recipe(prune=Prune(max_rtf=1.0, budget_seconds=2.0, budget_precision=precision))
        probe = LatencyProbe(recipe, checkpoint, some)
        # Against itself, and against a copy: the ratio is near one on any machine.
        assert 0 < probe.rtf() < 1
        assert probe.rtf(checkpoint) == pytest.approx(probe.rtf(), rel=0.5)
