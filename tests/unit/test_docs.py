"""What the documentation says exists: commands, flags, exit codes, links, files, snippets."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from asrcompress import errors
from asrcompress.cli.app import app
from asrcompress.recipe import read_recipe

REPO = Path(__file__).resolve().parents[2]
PAGES = sorted([*REPO.glob("README*.md"), *(REPO / "docs").glob("*.md")])
NAMES = [str(path.relative_to(REPO)) for path in PAGES]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
OPERATORS = re.compile(r"[();<>|&]+")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OUR_FILE = re.compile(r"(core|compress|export|runtime|calibration|tests|docs)/[\w./]+\.\w+")
HELP = {"-h", "--help"}


def text_of(name: str) -> str:
    return (REPO / name).read_text(encoding="utf-8")


def snippets(name: str, *languages: str) -> list[str]:
    return [body for language, body in FENCE.findall(text_of(name)) if language in languages]


def prose(name: str) -> str:
    return FENCE.sub("", text_of(name))


def inline_code(name: str) -> list[str]:
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(name))]


def flags_of(command: Any) -> set[str]:
    return {flag for item in command.params for flag in (*item.opts, *item.secondary_opts)} | HELP


def calls(shell: str) -> Iterator[list[str]]:
    """The arguments of every call of asrcompress in some lines of shell."""
    for line in shell.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
        for index, word in enumerate(words):
            first = not index or OPERATORS.fullmatch(words[index - 1])
            launched = word == "$(command -v asrcompress)"
            if launched or (first and word.rpartition("/")[2] == "asrcompress"):
                rest = words[index + 1 :]
                end = next((i for i, w in enumerate(rest) if OPERATORS.fullmatch(w)), len(rest))
                yield rest[:end]


def problem_of(arguments: list[str]) -> str | None:
    """What is wrong with a call, by the command line's own tables."""
    name, *rest = arguments or [""]
    if name.startswith("-"):
        known = flags_of(typer.main.get_command(app)) | {"--version"}
        return None if name in known else f"{name} is no option"
    if name.isupper():  # a placeholder
        return None
    if name not in COMMANDS:
        return f"{name!r} is no command"
    given = [word.partition("=")[0] for word in rest if re.match(r"--?[A-Za-z]", word)]
    unknown = [flag for flag in given if flag not in flags_of(COMMANDS[name])]
    return f"{name} has no {', '.join(unknown)}" if unknown else None


def slug(heading: str) -> str:
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_the_checks_see_what_is_wrong() -> None:
    shell = "x=1; .venv/bin/asrcompress qat --epoch 3 | tee log\n0) asrcompress export -o b ;;"
    assert list(calls(shell)) == [["qat", "--epoch", "3"], ["export", "-o", "b"]]
    assert list(calls("pip install asrcompress")) == []
    assert list(calls('launch "$(command -v asrcompress)" ptq')) == [["ptq"]]
    assert problem_of(["qat", "--epoch", "3"]) == "qat has no --epoch"
    assert problem_of(["quantise"]) == "'quantise' is no command"
    assert problem_of(["qat", "--epochs=3", "--no-spec-augment"]) is None
    assert slug("What the gate can't see: `n` = 3") == "what-the-gate-cant-see-n--3"


@pytest.mark.parametrize("name", NAMES)
def test_commands_and_flags_exist(name: str) -> None:
    found = [call for shell in snippets(name, "sh") for call in calls(shell)]
    for code in inline_code(name):
        if code.startswith("asrcompress "):
            found += calls(code)
    problems = [problem for call in found if (problem := problem_of(call))]
    assert not problems


@pytest.mark.parametrize("name", NAMES)
def test_flags_in_prose_exist(name: str) -> None:
    known = set().union(*(flags_of(command) for command in COMMANDS.values()), {"--version"})
    bare = [code.split()[0] for code in inline_code(name) if code.startswith("--")]
    assert set(bare) <= known


def test_every_command_is_documented() -> None:
    pages = {name: " ".join(inline_code(name)) for name in NAMES}
    for command in COMMANDS:
        assert f"asrcompress {command}" in pages["docs/cli.md"]
    assert len(COMMANDS) > 5


def test_every_error_is_in_the_table_of_its_code() -> None:
    page = text_of("docs/exit-codes.md")
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    assert codes == {0, 1, 2, 3, 4, 130}
    three, _, four = page.partition("## The errors behind code 4")
    for kind in vars(errors).values():
        if inspect.isclass(kind) and issubclass(kind, errors.AsrCompressError):
            section = {3: three, 4: four}[kind.exit_code]
            home = page if kind is errors.AsrCompressError else section
            assert f"`{kind.__name__}`" in home, kind.__name__


def test_every_named_error_exists() -> None:
    pattern = re.compile(r"(Bad|Cer|Ort)?[A-Z]\w+(Failed|Leak|Exists|Reference|Extra)|Bad[A-Z]\w+")
    for name in NAMES:
        for code in inline_code(name):
            if pattern.fullmatch(code):
                assert hasattr(errors, code), f"{name}: {code}"


@pytest.mark.parametrize("name", NAMES)
def test_relative_links_resolve(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(name)):
        if re.match(r"[a-z]+://|mailto:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (REPO / name).parent / file if file else REPO / name
        assert path.exists(), target
        if anchor:
            text = FENCE.sub("", path.read_text(encoding="utf-8"))
            headings = {slug(item) for item in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
            assert anchor in headings, target


def test_the_index_links_every_page() -> None:
    links = set(re.findall(r"\]\(([^)#]+)", text_of("docs/index.md")))
    pages = {path.name for path in (REPO / "docs").glob("*.md")} - {"index.md"}
    assert pages <= links


@pytest.mark.parametrize("name", NAMES)
def test_files_and_make_targets_that_are_named_exist(name: str) -> None:
    makefile = text_of("Makefile")
    for code in inline_code(name):
        if OUR_FILE.fullmatch(code):
            assert (REPO / code).is_file(), code
    shell = "\n".join([*snippets(name, "sh"), *inline_code(name)])
    for target in re.findall(r"^make ([a-z0-9-]+)", shell, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"


@pytest.mark.parametrize("name", NAMES)
def test_snippets_parse(name: str, tmp_path: Path) -> None:
    for number, body in enumerate(snippets(name, "toml")):
        path = tmp_path / f"{number}.toml"
        path.write_text(body, encoding="utf-8")
        read_recipe(path)
    for body in snippets(name, "json"):
        json.loads(body)
    for body in snippets(name, "sh"):
        done = subprocess.run(["bash", "-n", "-c", body], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    for body in snippets(name, "python"):
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("asrcompress"):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.parametrize("name", NAMES)
def test_every_fence_has_a_known_language(name: str) -> None:
    languages = {language for language, _ in FENCE.findall(text_of(name))}
    assert languages <= {"", "sh", "toml", "json", "python", "text", "make"}
