"""The built wheel and the editable install, from a working directory that is not the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import asrcompress

FOLDERS = ("core", "compress", "export", "runtime", "calibration")
# Each name, and where it comes from if it can be imported at all.
BARE_NAMES = f"""
import importlib.util
for name in {FOLDERS}:
    spec = importlib.util.find_spec(name)
    print(name, spec and (spec.origin or list(spec.submodule_search_locations)))
"""


@pytest.fixture(scope="module")
def wheel(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy, because building writes into the source folder."""
    source = tmp_path_factory.mktemp("source")
    for folder in FOLDERS:
        shutil.copytree(
            repo / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repo / file, source)
    out = tmp_path_factory.mktemp("dist")
    _run(
        sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index",
        "--quiet", "--wheel-dir", str(out), str(source),
    )  # fmt: skip
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def device(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment with the wheel and the base dependencies only.

    The dependencies are linked from the environment that runs the tests, which takes no time.
    """
    environment = tmp_path_factory.mktemp("device")
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    (packages,) = environment.glob("lib/python*/site-packages")
    for name in _closure("asrcompress"):
        _link(metadata.distribution(name), packages)
    _run(
        sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps",
        "--no-index", "--quiet", str(wheel),
    )  # fmt: skip
    return python


def _closure(root: str) -> set[str]:
    """Every distribution that `root` needs without extras, itself left out."""
    found: set[str] = set()
    waiting = [root]
    while waiting:
        for text in metadata.requires(waiting.pop()) or []:
            requirement = Requirement(text)
            name = canonicalize_name(requirement.name)
            wanted = not requirement.marker or requirement.marker.evaluate({"extra": ""})
            if wanted and name not in found:
                found.add(name)
                waiting.append(name)
    return found


def _link(distribution: metadata.Distribution, packages: Path) -> None:
    tops = {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}
    for top in tops:
        target = Path(str(distribution.locate_file(top)))
        if target.exists() and not (packages / top).exists():
            (packages / top).symlink_to(target)


def _run(*command: str, cwd: str = "/") -> str:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path, repo: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0].split("-")[0] for name in names} == {"asrcompress"}
    assert "asrcompress/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    for folder in FOLDERS:
        inside = "asrcompress" if folder == "core" else f"asrcompress/{folder}"
        for path in (repo / folder).rglob("*.py"):
            assert f"{inside}/{path.relative_to(repo / folder)}" in names


def test_the_runtime_runs_on_the_base_install(device: Path) -> None:
    code = "import asrcompress.runtime as r; print(r.__file__); print(r.Transcriber.__name__)"
    file, name = _run(str(device), "-c", code).split()
    assert Path(file).is_relative_to(device.parent.parent)
    assert name == "Transcriber"
    absent = "from importlib.util import find_spec as f; print(f('paddle'), f('onnx'), f('jiwer'))"
    assert _run(str(device), "-c", absent).split() == ["None", "None", "None"]


def test_the_command_line_runs_on_the_base_install(device: Path) -> None:
    for command in ([str(device.parent / "asrcompress")], [str(device), "-m", "asrcompress"]):
        assert "transcribe" in _run(*command, "--help")


def test_the_wheel_installs_no_bare_name(device: Path) -> None:
    said = _run(str(device), "-c", BARE_NAMES).splitlines()
    assert said == [f"{name} None" for name in FOLDERS]


def test_the_wheel_wins_over_a_checkout_in_the_working_directory(device: Path, repo: Path) -> None:
    code = "import asrcompress; print(asrcompress.__file__)"
    assert not Path(_run(str(device), "-c", code, cwd=str(repo)).strip()).is_relative_to(repo)


def test_the_editable_install_serves_the_checkout_and_leaks_no_bare_name(repo: Path) -> None:
    if asrcompress.__file__ is None or not Path(asrcompress.__file__).is_relative_to(repo):
        pytest.skip("asrcompress is not installed editable from this checkout")
    code = "import asrcompress.runtime as r; print(r.__file__)"
    assert Path(_run(sys.executable, "-c", code).strip()) == repo / "runtime" / "__init__.py"
    for line in _run(sys.executable, "-c", BARE_NAMES).splitlines():
        assert str(repo) not in line


@pytest.mark.slow
def test_the_wheel_installs_with_its_dependencies(wheel: Path, repo: Path, tmp_path: Path) -> None:
    venv.create(tmp_path, with_pip=True)
    python = str(tmp_path / "bin" / "python")
    constraint = str(repo / "requirements-lock.txt")
    _run(python, "-m", "pip", "install", "--quiet", "--constraint", constraint, str(wheel))
    _run(python, "-c", "import asrcompress.runtime")
    _run(python, "-m", "pip", "check")
