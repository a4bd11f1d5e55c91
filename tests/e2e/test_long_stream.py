"""One hour of audio through a quantized streaming bundle: what it holds in memory stays flat."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("paddle", reason="needs the [compress] extra")

from asrcompress.cli.app import app

pytestmark = [
    pytest.mark.paddle,
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc"),
]
RECIPE = "[streaming]\nchunk_size = 8\n[gate]\nmax_cer_increase = 0.5\n"
MINUTES, WINDOWS = 60, 6
MOST_GROWTH = 5_000_000


@pytest.fixture(scope="module")
def bundle(streaming_workplace: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An INT8 bundle whose gate passed."""
    path = tmp_path_factory.mktemp("hour")
    streaming_workplace.write_recipe(path, RECIPE)
    recipe = str(path / "asrcompress.toml")
    arguments = ["ptq", "--recipe", recipe, "--quiet", "--export-to", str(path / "bundle")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return path / "bundle"


def test_an_hour_leaves_nothing_behind(bundle: Path, repo: Path) -> None:
    """In a process of its own; the first ten minutes warm it up."""
    command = [sys.executable, "-m", "bench.stream", str(bundle), "--json"]
    command += ["--minutes", str(MINUTES), "--windows", str(WINDOWS)]
    done = subprocess.run(
        command,
        cwd=repo,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    windows = json.loads(done.stdout)["windows"]
    assert len(windows) == WINDOWS
    assert all(item["utterances"] for item in windows), windows  # it was hearing something
    print(*windows, sep="\n")
    held = [item["rss_bytes"] for item in windows]
    assert max(held) - held[0] < MOST_GROWTH, windows
