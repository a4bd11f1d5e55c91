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


def launch_both(workplace: Any, folder: Path, command: list[str], extra: str = "") -> None:
    """Run a command in one process in ``one/``, and in two in ``two/``."""
    script = Path(sys.executable).with_name("asrcompress")  # launch takes a file, not a module
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launchers = {
        "one": [sys.executable, "-m", "asrcompress"],
        "two": [
            sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2",
            "--log_dir", str(folder / "log"), str(script),
        ],
    }  # fmt: skip
    for name, launcher in launchers.items():
        (folder / name).mkdir()
        # No dropout: its random numbers depend on the shape of a worker's share.
        workplace.write_recipe(folder / name, extra)
        done = subprocess.run(
            [*launcher, *command], cwd=folder / name, env=environment, capture_output=True,
            text=True, timeout=900,
        )  # fmt: skip
        logs = [path.read_text()[-3000:] for path in (folder / "log").glob("workerlog.*")]
        assert done.returncode == 0, f"{done.stderr}\n{logs}"


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
    launch_both(workplace, tmp_path, command)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) > 2
    first_steps, all_steps, weights_apart = TOLERANCES[update]
    assert np.allclose(one[:2], two[:2], rtol=first_steps), (one, two)
    assert np.allclose(one, two, rtol=all_steps), (one, two)
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    moved = np.sqrt(sum(float(((first[n] - second[n]) ** 2).sum()) for n in first))
    size = np.sqrt(sum(float((first[n] ** 2).sum()) for n in first))
    assert moved / size < weights_apart


PRUNE = """
[prune]
amount = 0.3
criterion = "l2"
step = 4
epochs = 3
patience = 1
[training]
batch_frames = 800
spec_augment = false
[gate]
max_cer_increase = 1.0
"""


@pytest.mark.parametrize("pattern", ["structured", "unstructured"])
def test_two_processes_recover_what_one_does(workplace: Any, tmp_path: Path, pattern: str) -> None:
    """The same epochs, stopped at the same one by the same development CER, the same weights."""
    command = ["prune", "--quiet", "--dev-manifest", str(workplace.train)]
    extra = PRUNE
    if pattern != "structured":
        extra = extra.replace("amount = 0.3", f'pattern = "{pattern}"')
    launch_both(workplace, tmp_path, command, extra)
    records, states = [], []
    for name in ("one", "two"):
        (found,) = (tmp_path / name / "runs").iterdir()
        records.append(json.loads((found / "pruning.json").read_text()))
        states.append(read_weights(found / "pruned/checkpoints/best.pdparams"))
    first, second = records
    assert first["parameters"] == second["parameters"]
    assert len(first["dev_cer"]) == len(second["dev_cer"]) > 1
    np.testing.assert_allclose(first["dev_cer"], second["dev_cer"], atol=0.02)
    one, two = states
    moved = np.sqrt(sum(float(((one[n] - two[n]) ** 2).sum()) for n in one))
    size = np.sqrt(sum(float((one[n] ** 2).sum()) for n in one))
    assert moved / size < 1e-2
