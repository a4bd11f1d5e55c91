"""The direction of imports, lazy ones included, read off the source.

core's composers (cli, pipeline, …)  ->  stages  ->  core's seams
compress -> calibration is the only edge between stages
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDERS = {
    "core": "asrcompress",
    "compress": "asrcompress.compress",
    "export": "asrcompress.export",
    "runtime": "asrcompress.runtime",
    "calibration": "asrcompress.calibration",
}
STAGES = frozenset(FOLDERS) - {"core"}
SIDEWAYS = {("compress", "calibration")}
# The modules of core that put stages together: whole folders, and single ones. Everything else in
# core is a seam.
COMPOSING_FOLDERS = frozenset({"cli", "pipeline"})
COMPOSERS = frozenset(
    {
        "__main__",
        "lite.checks",
        "lite.origin",
        "lite.shipping",
        "sherpa.check",
        "sherpa.forms",
        "sherpa.shipping",
        "sherpa.wenet",
    }
)
# What a device does not install; nothing of the runtime may reach for it, not even lazily.
HEAVY = frozenset(
    {"paddle", "paddleslim", "paddlespeech", "paddle2onnx", "onnx", "jiwer", "typer", "rich"}
)


def _is_composer(module: str) -> bool:
    return module in COMPOSERS or module.split(".")[0] in COMPOSING_FOLDERS


def _imports(source: str, package: str) -> Iterator[str]:
    """Absolute dotted names of every import statement, wherever it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, base] if base else parts)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _layer(name: str, modules: dict[str, set[str]]) -> tuple[str, str] | None:
    """(folder, module) of an asrcompress name; None for other names and for attributes."""
    top, *rest = name.split(".")
    if top != "asrcompress" or not rest:
        return None
    if rest[0] in STAGES:
        return rest[0], ".".join(rest[1:]) or "__init__"
    while rest and ".".join(rest) not in modules["core"]:
        rest.pop()
    return ("core", ".".join(rest)) if rest else None


def _file(module: str) -> str:
    return module.replace(".", "/") + ".py"


def _module(path: Path, folder: Path) -> str:
    return ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")


def _problem(folder: str, module: str, target: tuple[str, str]) -> str | None:
    to_folder, to_module = target
    line = f"{folder}/{_file(module)} imports {to_folder}/{_file(to_module)}"
    from_composer = folder == "core" and _is_composer(module)
    if to_folder == "core" and _is_composer(to_module) and not from_composer:
        return f"{line}: only composers may know composers"
    if to_folder in STAGES and folder == "core" and not from_composer:
        return f"{line}: a seam imports no stage"
    sideways = folder in STAGES and to_folder in STAGES and folder != to_folder
    if sideways and (folder, to_folder) not in SIDEWAYS:
        return f"{line}: stages do not know each other"
    return None


def find_problems(root: Path) -> list[str]:
    """Every import under `root` that goes the wrong way."""
    files = {
        folder: {_module(path, root / folder): path for path in (root / folder).rglob("*.py")}
        for folder in FOLDERS
    }
    modules = {folder: set(paths) for folder, paths in files.items()}
    found = set()
    for folder, paths in files.items():
        for module, path in paths.items():
            package = ".".join((FOLDERS[folder], *module.split(".")[:-1]))
            for name in _imports(path.read_text(encoding="utf-8"), package):
                if name.split(".")[0] in FOLDERS:
                    found.add(f"{folder}/{path.name} imports bare {name}")
                if folder == "runtime" and name.split(".")[0] in HEAVY:
                    found.add(f"{folder}/{path.name} imports {name}: too heavy for a device")
                target = _layer(name, modules)
                if target and (problem := _problem(folder, module, target)):
                    found.add(problem)
    return sorted(found)


def test_imports_go_one_way(repo: Path) -> None:
    assert find_problems(repo) == []


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("runtime/a.py", "import asrcompress.compress.qat", "stages do not know each other"),
        ("export/a.py", "def f():\n    from asrcompress.runtime import a", "stages do not know"),
        ("calibration/a.py", "from asrcompress import compress", "stages do not know"),
        ("core/seam.py", "from asrcompress.export import a", "a seam imports no stage"),
        ("core/seam.py", "from .cli import app", "only composers may know composers"),
        ("core/bundles/a.py", "from ..cli import app", "only composers may know composers"),
        ("compress/a.py", "from ..cli.app import main", "only composers may know composers"),
        ("compress/a.py", "import calibration.observers", "bare calibration"),
        ("runtime/a.py", "def f():\n    import onnx", "too heavy for a device"),
    ],
)
def test_a_wrong_import_is_caught(tmp_path: Path, file: str, line: str, said: str) -> None:
    _project(tmp_path, {file: line})
    problems = find_problems(tmp_path)
    assert problems
    assert all(file in problem and said in problem for problem in problems)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("compress/a.py", "from asrcompress.calibration import a"),
        ("core/cli/app.py", "from asrcompress.export import a"),
        ("core/pipeline/quantize.py", "from . import cli"),
        ("runtime/a.py", "from asrcompress.seam import thing"),
        ("export/a.py", "import onnx"),
    ],
)
def test_a_right_import_is_let_through(tmp_path: Path, file: str, line: str) -> None:
    _project(tmp_path, {file: line})
    assert find_problems(tmp_path) == []


def _project(root: Path, sources: dict[str, str]) -> None:
    for folder in FOLDERS:
        (root / folder).mkdir()
        (root / folder / "a.py").touch()
    for name in ("cli/app", "pipeline/a", "bundles/a", "seam"):
        path = root / "core" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    for file, source in sources.items():
        (root / file).write_text(source)


def test_no_module_imports_itself_in_a_circle(repo: Path) -> None:
    graph: dict[str, set[str]] = {}
    for folder, package in FOLDERS.items():
        for path in (repo / folder).rglob("*.py"):
            module = _module(path, repo / folder)
            name = package if module == "__init__" else f"{package}.{module}"
            tree = ast.parse(path.read_text(encoding="utf-8"))
            top = ast.Module(
                body=[n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)],
                type_ignores=[],
            )
            graph[name] = set(_imports(ast.unparse(top), name.rpartition(".")[0]))
    graph = {name: {n for n in names if n in graph} - {name} for name, names in graph.items()}
    # Importing a submodule runs its package's __init__ first, but that edge is not a statement.
    while leaves := {name for name, names in graph.items() if not names & graph.keys()}:
        graph = {name: names for name, names in graph.items() if name not in leaves}
    assert not graph, f"import circle among {sorted(graph)}"
