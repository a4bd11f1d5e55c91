"""docs/recipe.md is made from the recipe's metadata, up to date, and complete."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer

from asrcompress.cli.app import app
from asrcompress.recipe import Recipe, read_recipe, settings_of


@pytest.fixture(scope="module")
def script(repo: Path) -> ModuleType:
    path = repo / "docs" / "make_recipe_reference.py"
    spec = importlib.util.spec_from_file_location("make_recipe_reference", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page(repo: Path) -> str:
    return (repo / "docs" / "recipe.md").read_text(encoding="utf-8")


def test_the_page_is_up_to_date(script: ModuleType, page: str) -> None:
    assert page == script.reference(), "docs/recipe.md is outdated: make docs"


def test_every_setting_has_its_row(script: ModuleType, page: str) -> None:
    sections = {part.partition("\n")[0]: part for part in page.split("\n## ")}
    for (table, name), field in settings_of(Recipe).items():
        section = sections[f"[{table}]" if table else "Outside of the tables"]
        row = f"| `{name}` | `{script.flag(field)}` |"
        assert row in section, f"{table}.{name}"
        assert field.metadata["help"] in section


@pytest.mark.parametrize("command", ["qat", "ptq", "export"])
def test_every_flag_of_the_page_is_a_flag_of_the_command(script: ModuleType, command: str) -> None:
    options = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    known = {flag for option in options for flag in (*option.opts, *option.secondary_opts)}
    for field in settings_of(Recipe).values():
        assert set(script.flag(field).split("`, `")) <= known


def test_the_file_on_the_page_is_the_default_recipe(page: str, tmp_path: Path) -> None:
    text = page.partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "asrcompress.toml").write_text(text, encoding="utf-8")
    recipe = read_recipe(tmp_path / "asrcompress.toml")
    assert recipe.to_dict() == {**Recipe().to_dict(), "runs": str(tmp_path / "runs")}


def test_check_notices_an_outdated_page(repo: Path, tmp_path: Path) -> None:
    copy = tmp_path / "make_recipe_reference.py"
    copy.write_bytes((repo / "docs" / "make_recipe_reference.py").read_bytes())
    command = [sys.executable, str(copy)]
    check = [*command, "--check"]
    assert subprocess.run(check, capture_output=True).returncode == 1
    subprocess.run(command, check=True)
    assert subprocess.run(check, capture_output=True).returncode == 0
    page = tmp_path / "recipe.md"
    page.write_text(page.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert subprocess.run(check, capture_output=True).returncode == 1
