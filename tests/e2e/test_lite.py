"""From a run that passed its gate to INT8 for Paddle Lite, by the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("paddle", reason="needs the [compress] extra")
from asrcompress.cli.app import app
from asrcompress.errors import SidecarFailed
from asrcompress.lite.environment import sidecar_python
from asrcompress.runtime import Transcriber

pytestmark = [pytest.mark.paddle, pytest.mark.slow]


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=True)


@pytest.fixture(scope="module", autouse=True)
def sidecar() -> None:
    try:
        sidecar_python()
    except SidecarFailed as error:
        pytest.skip(f"no Paddle Lite here: {error}")


def quantized(workplace: Any, folder: Path, target: str, *flags: str) -> Path:
    """A run without training; the workplace's references are its own FP32 texts."""
    recipe = workplace.write_recipe(
        folder, "[gate]\nmax_cer_increase = 1.0\n[training]\nepochs = 0\n"
    )
    done = run("ptq", "--recipe", recipe, "--target", target, "--json", "-q", *flags)
    assert done.exit_code == 0, done.output
    return Path(json.loads(done.stdout)["run"])


def export(source: Path, output: Path, target: str, *flags: str) -> Any:
    words = (
        "export",
        source,
        "--format",
        "paddle-lite",
        "--target",
        target,
        "-o",
        output,
        "--json",
    )
    return run(*words, "-q", "--buckets", "1,2", *flags)


def test_arm_int8_is_gated_by_what_stands_for_it(workplace: Any, tmp_path: Path) -> None:
    done = export(quantized(workplace, tmp_path, "lite-arm"), tmp_path / "bundle", "arm")
    assert done.exit_code == 0, done.output
    manifest = json.loads(done.stdout)
    assert (manifest["precision"], manifest["target"]) == ("int8", "lite-arm")
    # All but the row that the position biases add to the scores, which is a product in float.
    assert 0.999 < manifest["lite"]["weight_share"] < 1.0
    assert manifest["lite"]["executed"] is False
    assert manifest["integer_share"] < 1.0  # attention's products
    assert manifest["quality"]["measured_on"] == "paddle, in place of paddle lite"
    assert manifest["quality"]["verdict"]["passed"] is True


def test_x86_int8_is_executed(workplace: Any, tmp_path: Path) -> None:
    # Convolutions only, which is far from the default floor.
    path = quantized(workplace, tmp_path, "lite-x86", "--min-integer-share", "0.1")
    done = export(path, tmp_path / "bundle", "x86", "--precision", "int8")
    assert done.exit_code == 0, done.output
    manifest = json.loads(done.stdout)
    assert manifest["lite"]["executed"] is True
    assert 0.1 <= manifest["lite"]["weight_share"] < 1
    assert manifest["quality"]["measured_on"] == "paddle lite"
    transcriber = Transcriber(tmp_path / "bundle")
    assert transcriber.transcribe(np.zeros(16_000, np.float32)).duration_s == 1.0


def test_a_form_that_is_worse_is_not_shipped(
    workplace: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: the run passed, and then its weights for Paddle Lite have half of their range."""
    from asrcompress.export import lite_int8

    recipe = tmp_path / "asrcompress.toml"
    path = quantized(workplace, tmp_path, "lite-arm")
    assert recipe.is_file()
    run_json = json.loads((path / "run.json").read_text())
    run_json["recipe"]["gate"]["max_cer_increase"] = 0.05
    (path / "run.json").write_text(json.dumps(run_json))
    monkeypatch.setitem(lite_int8.LEVELS, "arm", 1)
    done = export(path, tmp_path / "bundle", "arm")
    assert done.exit_code == 4 or type(done.exception).__name__ == "CerGateFailed"
    assert not (tmp_path / "bundle").exists()
