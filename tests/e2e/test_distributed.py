"""Two training processes over Gloo take the steps that one takes with the whole batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asrcompress.checkpoints.weights import read_weights

pytestmark = [pytest.mark.paddle, pytest.mark.slow]

COMMAND = [
    "qat",
    "--epochs",
    "2",
    "--batch-frames",
    "800",
    "--max-cer-increase",
    "1.0",
    "--quiet",
    "--no-spec-augment",
]


def losses(folder: Path) -> list[float]:
    (found,) = (folder / "runs").iterdir()
    lines = (found / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["total"] for line in lines]


def weights(folder: Path) -> dict[str, np.ndarray]:
    (found,) = (folder / "runs").iterdir()
    return read_weights(found / "weights.pdparams")


# How far the first steps, all steps and the weights may be apart, as shares of themselves. With
# learned ranges the workers take the very steps of one process, until roundings that fell the
# other way have spread. A moving average takes the mean of the workers' largest magnitudes where
# one process takes the largest of all: near, not equal.
TOLERANCES = {"learned": (1e-6, 5e-3, 1e-3), "moving_average": (1e-2, 1e-2, 1e-2)}


@pytest.mark.parametrize("update", TOLERANCES)
def test_two_processes_have_the_loss_curve_of_one(
    workplace: Any, tmp_path: Path, update: str
) -> None:
    command = [*COMMAND, "--range-update", update]
    script = Path(sys.executable).with_name("asrcompress")  # launch takes a file, not a module
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launchers = {
        "one": [sys.executable, "-m", "asrcompress"],
        "two": [
            sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2",
            "--log_dir", str(tmp_path / "log"), str(script),
        ],
    }  # fmt: skip
    for name, launcher in launchers.items():
        (tmp_path / name).mkdir()
        # No dropout: its random numbers depend on the shape of a worker's share.
        workplace.write_recipe(tmp_path / name)
        done = subprocess.run(
            [*launcher, *command], cwd=tmp_path / name, env=environment, capture_output=True,
            text=True, timeout=900,
        )  # fmt: skip
        logs = [path.read_text()[-3000:] for path in (tmp_path / "log").glob("workerlog.*")]
        assert done.returncode == 0, f"{done.stderr}\n{logs}"
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) > 2
    first_steps, all_steps, weights_apart = TOLERANCES[update]
    assert np.allclose(one[:2], two[:2], rtol=first_steps), (one, two)
    assert np.allclose(one, two, rtol=all_steps), (one, two)
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    moved = np.sqrt(sum(float(((first[n] - second[n]) ** 2).sum()) for n in first))
    size = np.sqrt(sum(float((first[n] ** 2).sum()) for n in first))
    assert moved / size < weights_apart
