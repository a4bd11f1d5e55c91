"""kill -9 at any moment leaves the last good state, and the same command goes on from it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from asrcompress.errors import BadRun
from asrcompress.files import sha256_file
from asrcompress.run import read_run

pytestmark = [pytest.mark.paddle, pytest.mark.slow]

KILLS = int(os.environ.get("ASRCOMPRESS_KILLS", "50"))
# The state is saved after every step, so that a run which is killed all the time still advances.
COMMAND = [
    sys.executable, "-m", "asrcompress", "qat", "--epochs", "2", "--batch-frames", "800",
    "--max-cer-increase", "1.0", "--save-every-s", "0", "--quiet",
]  # fmt: skip


def start(folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = (folder / "stderr.txt").open("ab")
    return subprocess.Popen(COMMAND, cwd=folder, env=environment, stdout=log, stderr=log)


def finish(folder: Path) -> Path:
    """Run the command to its end; the run directory."""
    code = start(folder).wait(timeout=600)
    assert code == 0, (folder / "stderr.txt").read_text()[-3000:]
    (found,) = (folder / "runs").iterdir()
    return found


def test_killed_fifty_times_and_bit_equal_in_the_end(workplace: Any, tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        workplace.write_recipe(tmp_path / name)
    started = time.monotonic()
    whole = finish(tmp_path / "whole")
    duration_s = time.monotonic() - started
    rng = random.Random(1)
    for _ in range(KILLS):
        process = start(tmp_path / "killed")
        time.sleep(rng.uniform(0.2, 1.0) * duration_s * 0.7)
        process.kill()
        process.wait()
    killed = finish(tmp_path / "killed")
    for name in ("weights.pdparams", "ranges.json", "model.int8.onnx", "calibrated.json"):
        assert sha256_file(whole / name) == sha256_file(killed / name), name
    expected = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    found = [json.loads(line) for line in (killed / "metrics.jsonl").read_text().splitlines()]
    assert found == expected
    cer = [json.loads((run / "after.json").read_text())["cer"] for run in (whole, killed)]
    assert cer[0] == cer[1]


def test_a_second_process_is_refused_with_the_first_ones_pid(
    workplace: Any, tmp_path: Path
) -> None:
    workplace.write_recipe(tmp_path)
    first = start(tmp_path)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("runs/*/lock")) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        second = subprocess.run(COMMAND, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert second.returncode == 3
        assert f"is in use by process {first.pid}" in second.stderr
    finally:
        first.kill()
        first.wait()
    (found,) = (tmp_path / "runs").iterdir()
    with read_run(found).lock():  # the lock died with its process
        pass
    assert issubclass(BadRun, Exception)
