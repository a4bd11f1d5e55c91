"""What setuptools is told to install is what lies in the folders."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture(scope="module")
def setuptools_table(repo: Path) -> dict[str, Any]:
    table = tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))
    found: dict[str, Any] = table["tool"]["setuptools"]
    return found


def _packages_on_disk(repo: Path, mapping: dict[str, str]) -> set[str]:
    """Dotted names of every folder with an ``__init__.py`` under a mapped folder."""
    found = set()
    for package, folder in mapping.items():
        for init in (repo / folder).rglob("__init__.py"):
            inner = init.parent.relative_to(repo / folder).parts
            found.add(".".join((package, *inner)))
    return found


def test_every_package_on_disk_is_declared(repo: Path, setuptools_table: dict[str, Any]) -> None:
    on_disk = _packages_on_disk(repo, setuptools_table["package-dir"])
    assert on_disk == set(setuptools_table["packages"])


def test_an_undeclared_package_is_noticed(tmp_path: Path) -> None:
    for folder in ("core", "core/cli", "export", "export/onnx"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    found = _packages_on_disk(tmp_path, {"asrcompress": "core", "asrcompress.export": "export"})
    assert found == {
        "asrcompress", "asrcompress.cli", "asrcompress.export", "asrcompress.export.onnx",
    }  # fmt: skip


def test_no_python_file_lies_outside_a_package(
    repo: Path, setuptools_table: dict[str, Any]
) -> None:
    for folder in setuptools_table["package-dir"].values():
        strays = [
            path
            for path in (repo / folder).rglob("*.py")
            if not (path.parent / "__init__.py").exists()
        ]
        assert not strays


def test_the_root_is_core_and_only_one_name_is_installed(
    setuptools_table: dict[str, Any],
) -> None:
    assert setuptools_table["package-dir"]["asrcompress"] == "core"
    assert {name.split(".")[0] for name in setuptools_table["packages"]} == {"asrcompress"}
