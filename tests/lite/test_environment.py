"""Where Paddle Lite's Python comes from, with interpreters made of shell scripts."""

from __future__ import annotations

import ast
import os
import shutil
from pathlib import Path

import pytest

from asrcompress.errors import SidecarFailed
from asrcompress.lite import environment as lite_environment
from asrcompress.lite.environment import PACKAGES, Sidecar, find_python, sidecar_python
from asrcompress.lite.process import WORKER

SAYS_3_8 = 'echo "3 8"'


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a shell, a PATH of one folder, and an empty cache."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "mkdir", "cp", "chmod"):
        (folder / name).symlink_to(shutil.which(name) or name)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("ASRCOMPRESS_CACHE", str(tmp_path / "cache"))
    for name in ("ASRCOMPRESS_PYTHON38", "ASRCOMPRESS_WHEELS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(lite_environment, "_uv", lambda: None)
    return folder


def script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_a_python_on_path_is_found_behind_a_shim_that_fails(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    script(machine / "python3.8", "exit 127")
    good = script(other / "python3.8", SAYS_3_8)
    monkeypatch.setenv("PATH", f"{machine}{os.pathsep}{other}")
    assert find_python() == good


def test_pyenv_is_asked_for_its_newest_3_8(machine: Path, tmp_path: Path) -> None:
    (tmp_path / "3.8.18" / "bin").mkdir(parents=True)
    good = script(tmp_path / "3.8.18" / "bin" / "python3.8", SAYS_3_8)
    script(
        machine / "pyenv",
        'if [ "$1" = versions ]; then echo "2.7.18 3.8.2 3.8.18 3.11.7"; '
        f'else echo "{tmp_path}/$2"; fi',
    )
    assert find_python() == good


def test_without_a_python_it_says_how_to_get_one() -> None:
    with pytest.raises(SidecarFailed, match=r"Python 3\.8: not found") as failure:
        sidecar_python()
    assert "uv python install 3.8" in failure.value.hint
    assert "--python38" in failure.value.hint


@pytest.mark.parametrize(("body", "seen"), [('echo "3 11"', "3.11"), ("exit 1", "does not run")])
def test_a_named_python_of_another_version_is_refused(machine: Path, body: str, seen: str) -> None:
    python = script(machine / "mine", body)
    with pytest.raises(SidecarFailed, match=seen):
        sidecar_python(Sidecar(python=python))


def test_a_failed_installation_is_reported_with_its_last_words(machine: Path) -> None:
    python = script(
        machine / "mine",
        'case "$*" in *venv*) echo "no ensurepip" >&2; exit 3;; *) echo "3 8";; esac',
    )
    with pytest.raises(SidecarFailed, match="ended with 3, no ensurepip") as failure:
        sidecar_python(Sidecar(python=python))
    assert "--wheels" in failure.value.hint


# Makes an "environment" whose python writes down what pip was asked for, and then has the package.
MAKES = """
log={log}
case "$*" in
  *"-m venv"*) for last; do :; done; mkdir -p "$last/bin"; cp "$0" "$last/bin/python" ;;
  *"-m pip"*) echo "$*" > $log ;;
  *paddlelite*) [ -f $log ] && echo 2.13rc0 ;;
  *) echo "3 8" ;;
esac
"""


def test_it_is_made_once_and_from_wheels_without_a_network(machine: Path, tmp_path: Path) -> None:
    log = tmp_path / "pip.log"
    python = script(machine / "mine", MAKES.format(log=log))
    made = sidecar_python(
        Sidecar(python=python, wheels=tmp_path / "wheels", cache=tmp_path / "env")
    )
    # The script that stands for the named Python has the package too, once pip has run.
    assert made.parent.parent == tmp_path / "env" / "paddlelite-2.13rc0"
    asked = log.read_text()
    assert f"--no-index --find-links {tmp_path}/wheels" in asked
    assert all(package in asked for package in PACKAGES)
    log.write_text("kept")
    assert sidecar_python(Sidecar(cache=tmp_path / "env")) == made
    assert log.read_text() == "kept"


def test_the_worker_is_python_3_8_and_stands_alone() -> None:
    tree = ast.parse(WORKER.read_text(encoding="utf-8"), feature_version=(3, 8))
    imported = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    known = {"__future__", "json", "os", "sys", "typing", "numpy", "paddlelite.lite"}
    assert imported == known
