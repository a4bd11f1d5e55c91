"""`make` on a machine where nothing is set up: which Python it takes, and what it says without."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MAKE = shutil.which("make")
pytestmark = pytest.mark.skipif(MAKE is None, reason="make is not installed")


@pytest.fixture
def machine(repo: Path, tmp_path: Path) -> Path:
    """A folder with the Makefile and nothing made, and ``bin`` for the interpreters."""
    for name in ("Makefile", "requirements-lock.txt", "pyproject.toml"):
        shutil.copy(repo / name, tmp_path)
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "sed"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or tool)
    return tmp_path


def _interpreter(machine: Path, name: str, script: str) -> None:
    path = machine / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def _make(machine: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert MAKE is not None
    # The tests are themselves run by make, which tells its children so.
    outer = ("PYTHON", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    environment = {k: v for k, v in os.environ.items() if k not in outer}
    environment["PATH"] = str(machine / "bin")
    return subprocess.run(
        [MAKE, *arguments],
        cwd=machine,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


WORKING = f'exec "{sys.executable}" "$@"'


@pytest.mark.parametrize(
    ("scripts", "chosen"),
    [
        ({"python3.11": WORKING, "python3.10": WORKING, "python3": WORKING}, "python3.11"),
        ({"python3.11": "exit 127", "python3.10": WORKING}, "python3.10"),
        ({"python3.11": "exit 127", "python3": WORKING}, "python3"),
    ],
)
def test_the_first_python_that_runs_is_taken(
    machine: Path, scripts: dict[str, str], chosen: str
) -> None:
    if sys.version_info >= (3, 12):
        pytest.skip("the tests run on a Python that the Makefile does not take")
    for name, script in scripts.items():
        _interpreter(machine, name, script)
    done = _make(machine, "-n", "setup")
    assert done.returncode == 0, done.stderr
    assert f'"{chosen}" -m venv .venv' in done.stdout


def test_a_python_given_by_name_wins(machine: Path) -> None:
    _interpreter(machine, "python3.11", WORKING)
    done = _make(machine, "-n", "setup", "PYTHON=/opt/some/python")
    assert '"/opt/some/python" -m venv .venv' in done.stdout


def test_without_a_python_it_says_what_to_do(machine: Path) -> None:
    _interpreter(machine, "python3", "exit 127")
    done = _make(machine, "setup")
    assert done.returncode == 2
    assert "no Python 3.10 or 3.11 with venv found" in done.stderr
    assert "PYTHON=" in done.stderr
    assert not (machine / ".venv").exists()


def test_a_finished_setup_does_nothing(machine: Path) -> None:
    _interpreter(machine, "python3", WORKING)
    (machine / ".venv").mkdir()
    (machine / ".venv" / ".installed").touch()
    assert "Nothing to be done" in _make(machine, "setup").stdout
    os.utime(machine / "requirements-lock.txt", (4e9, 4e9))
    assert "pip" in _make(machine, "-n", "setup").stdout


def test_every_target_is_listed_by_help(machine: Path, repo: Path) -> None:
    text = (repo / "Makefile").read_text(encoding="utf-8")
    (phony,) = [line for line in text.splitlines() if line.startswith(".PHONY:")]
    listed = {line.split(":")[0] for line in _make(machine).stdout.splitlines()}
    assert listed == set(phony.removeprefix(".PHONY:").split())
