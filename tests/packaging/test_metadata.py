"""pyproject.toml, the lock file and what is installed agree."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import asrcompress

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SUPPORTED = ("3.10", "3.11")
# What `make lock` resolves. Paddle for CUDA replaces Paddle for the CPU, so it cannot be in there.
LOCKED_EXTRAS = ("compress", "evaluate", "dev", "search", "sherpa", "sign")


@pytest.fixture(scope="module")
def project(repo: Path) -> dict[str, Any]:
    table = tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))
    found: dict[str, Any] = table["project"]
    return found


def _locked(repo: Path, python: str) -> dict[str, str]:
    """Name -> version that the lock file gives on one Python of Linux x86-64."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }
    found: dict[str, str] = {}
    for line in (repo / "requirements-lock.txt").read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate(environment):
            continue
        (pin,) = requirement.specifier
        assert pin.operator == "==", line
        name = canonicalize_name(requirement.name)
        assert name not in found, f"{name} is locked twice on Python {python}"
        found[name] = pin.version
    return found


def _requirements(project: dict[str, Any], python: str) -> list[Requirement]:
    texts = [*project["dependencies"]]
    for name in LOCKED_EXTRAS:
        texts += project["optional-dependencies"][name]
    found = [Requirement(text) for text in texts]
    return [
        r
        for r in found
        if r.name != "asrcompress"
        and (not r.marker or r.marker.evaluate({"python_version": python}))
    ]


@pytest.mark.parametrize("python", SUPPORTED)
def test_every_requirement_is_locked_at_a_version_it_allows(
    repo: Path, project: dict[str, Any], python: str
) -> None:
    locked = _locked(repo, python)
    for requirement in _requirements(project, python):
        version = locked.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not locked on Python {python}"
        assert requirement.specifier.contains(version), f"{requirement} is locked at {version}"


def test_the_lock_file_names_no_place_to_download_from(repo: Path) -> None:
    text = (repo / "requirements-lock.txt").read_text(encoding="utf-8")
    assert not re.search(r"://|--index|--find-links|--extra| @ ", text)


def test_the_supported_pythons_are_in_range(project: dict[str, Any]) -> None:
    allowed = SpecifierSet(project["requires-python"])
    for python in SUPPORTED:
        assert allowed.contains(f"{python}.0")
        assert f"Programming Language :: Python :: {python}" in project["classifiers"]
    assert not allowed.contains("3.9.18")


def test_the_base_install_has_nothing_heavy(project: dict[str, Any]) -> None:
    names = {Requirement(text).name for text in project["dependencies"]}
    assert names == {
        "numpy", "onnxruntime", "kaldi-native-fbank", "soundfile", "typer", "rich", "tomli",
    }  # fmt: skip


def test_the_version_is_the_metadata_s(project: dict[str, Any]) -> None:
    assert asrcompress.__version__ == metadata.version("asrcompress") == project["version"]


def test_the_command_is_declared() -> None:
    (entry,) = [
        e for e in metadata.distribution("asrcompress").entry_points if e.group == "console_scripts"
    ]
    assert (entry.name, entry.value) == ("asrcompress", "asrcompress.cli.app:main")
