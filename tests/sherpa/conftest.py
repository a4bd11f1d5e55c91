"""Runs of tiny networks that passed their gates, and what was made of them for other runtimes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from asrcompress.cli.app import app

RECIPE = "[gate]\nmax_cer_increase = 0.9\n"
STREAM_RECIPE = f"[streaming]\nchunk_size = 8\nleft_chunks = 4\n{RECIPE}"


def run(*arguments: str | Path, expect: int = 0) -> Result:
    """The command line; its exit code is checked."""
    result = CliRunner().invoke(app, [str(item) for item in arguments])
    assert result.exit_code == expect, f"{result.output}\n{result.exception!r}"
    return result


@pytest.fixture(scope="session")
def command() -> Any:
    """``command(*arguments, expect=0)``."""
    return run


@pytest.fixture(scope="session")
def workplaces(repo: Path) -> Any:
    """The module that makes experiments whose own transcripts are the references."""
    pytest.importorskip("paddle", reason="needs the [compress] extra")
    spec = importlib.util.spec_from_file_location("workplaces", repo / "tests/e2e/conftest.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


def _passed(
    workplaces: Any, root: Path, make: Any, recipe: str, target: str, **options: Any
) -> None:
    workplaces._workplace(root, make, **options).write_recipe(root, recipe)
    file = root / "asrcompress.toml"
    run("ptq", "--recipe", file, "--runs", root / "runs", "--target", target, "--quiet")


@pytest.fixture(scope="session")
def offline(
    workplaces: Any, make_experiment: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with a recipe and a run of a Conformer for whole recordings."""
    root: Path = tmp_path_factory.mktemp("offline")
    _passed(workplaces, root, make_experiment, RECIPE, "sherpa-offline")
    return root


@pytest.fixture(scope="session")
def streaming(
    workplaces: Any, make_experiment: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same for streams, with a history of four chunks."""
    root: Path = tmp_path_factory.mktemp("streaming")
    chunks = {"causal": True, "use_dynamic_chunk": True}
    _passed(workplaces, root, make_experiment, STREAM_RECIPE, "sherpa-stream", encoder_conf=chunks)
    return root


@pytest.fixture(scope="session")
def run_of() -> Any:
    """``run_of(folder)``: the only run in it."""

    def find(folder: Path) -> Path:
        (found,) = (folder / "runs").iterdir()
        return found

    return find
