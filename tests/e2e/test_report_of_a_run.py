"""qat and ptq leave a report behind, with noise, histograms and curves of what they really did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("paddle", reason="needs the [compress] extra")

from asrcompress.cli.app import app
from asrcompress.histogram import read_histograms
from asrcompress.ranges import read_ranges
from asrcompress.report.data import collect
from asrcompress.run import read_run

pytestmark = [pytest.mark.paddle, pytest.mark.slow]


@pytest.fixture(scope="module")
def trained(workplace: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a qat whose gate failed, since nothing at all was allowed."""
    path = tmp_path_factory.mktemp("job")
    recipe = workplace.write_recipe(
        path, "[gate]\nmax_cer_increase = 0.0\n[training]\nepochs = 1\nbatch_frames = 800\n"
    )
    result = CliRunner().invoke(
        app, ["qat", "--recipe", str(recipe), "--runs", str(path), "--json"]
    )
    assert result.exit_code in (0, 4), f"{result.output}\n{result.exception!r}"
    outcome = json.loads(result.stdout)
    assert outcome["report"] == str(Path(outcome["run"]) / "report.html")
    return Path(outcome["run"])


def test_the_report_is_written_whatever_the_gate_says(trained: Path) -> None:
    page = (trained / "report.html").read_text(encoding="utf-8")
    status = read_run(trained).status()
    assert f'class="banner {status}"' in page
    for heading in ("Accuracy", "Noise by layer", "Activation ranges", "Training", "Parity"):
        assert f"<h2>{heading}</h2>" in page


def test_every_layer_and_edge_was_measured(trained: Path) -> None:
    found = collect(read_run(trained))
    ranges = read_ranges(trained / "ranges.json")
    assert found.noise is not None
    assert [f"{item.name}.weight" for item in found.noise.layers] == [
        item.parameter for item in ranges.weights
    ]
    assert {item.name for item in found.noise.edges} == set(ranges.activations)
    assert found.noise.utterances == 8
    # 8 bits that fit: weights above 30 dB, outputs above 10 dB even at the end of the chain.
    assert all(item.weight_db and item.weight_db > 30 for item in found.noise.layers)
    assert all(item.output_db and item.output_db > 10 for item in found.noise.layers)
    assert all(0.0 <= item.clipped < 0.2 for item in found.noise.edges)


def test_calibration_left_a_histogram_of_every_edge(trained: Path) -> None:
    histograms = read_histograms(trained / "histograms.json")
    calibrated = read_ranges(trained / "calibrated.json").activations
    assert set(histograms) == set(calibrated)
    for edge, item in histograms.items():
        assert sum(item.counts) > 0
        # The range is chosen within what was seen; an unsigned one ignores the negative side.
        assert calibrated[edge].absmax <= item.absmax * 1.01 or calibrated[edge].unsigned


def test_visualdl_has_the_curves(trained: Path) -> None:
    pytest.importorskip("visualdl", reason="is optional")
    (log,) = (trained / "visualdl").iterdir()
    data = log.read_bytes()
    assert b"train/total" in data
    assert b"train/learning_rate" in data
