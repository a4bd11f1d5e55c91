"""A system that refuses: full disks, folders that cannot be written, files that cannot be read."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

INIT = ["init", "asr"]
EXPORT = ["export", "run", "-o", "out"]


def _refusing(number: int) -> Callable[..., Any]:
    def refuse(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Make a function of `os` fail with an error number."""
    return lambda name, number: monkeypatch.setattr(os, name, _refusing(number))


def prepare(place: Any, words: list[Any]) -> list[Any]:
    """Make what the command reads, before the system starts to refuse."""
    place.run if words == EXPORT else place.experiment  # noqa: B018
    return words


CASES: list[tuple[str, list[Any], str, int, str]] = [
    ("init: disk full", INIT, "fsync", errno.ENOSPC, "asrcompress.toml: cannot be written, No space left on device"),
    ("init: quota used up", INIT, "fsync", errno.EDQUOT, "asrcompress.toml: cannot be written, Disk quota exceeded"),
    ("init: a disk that fails", INIT, "fsync", errno.EIO, "asrcompress.toml: cannot be written, Input/output error"),
    ("init: read-only", INIT, "replace", errno.EROFS, "asrcompress.toml: cannot be written, Read-only file system"),
    ("init: no permission", INIT, "replace", errno.EACCES, "asrcompress.toml: cannot be written, Permission denied"),
    ("export: disk full", EXPORT, "fsync", errno.ENOSPC, ".out.32a353594cf4.tmp/tokens.txt: cannot be written, No space left on device"),
    ("export: read-only", EXPORT, "mkdir", errno.EROFS, "out: cannot be written, Read-only file system"),
    ("export: no permission", EXPORT, "mkdir", errno.EACCES, "out: cannot be written, Permission denied"),
    ("export: no permission to rename", EXPORT, "replace", errno.EPERM, ".out.183c607b0b02.tmp/tokens.txt: cannot be written, Operation not permitted"),
]


@pytest.mark.parametrize(
    ("words", "name", "number", "message"), [pytest.param(*c[1:], id=c[0]) for c in CASES]
)
def test_is_reported(
    check: Any, refuse: Any, words: Any, name: str, number: int, message: str, tmp_path: Path
) -> None:
    """Nothing is left behind: `check` compares the folder before and after."""
    pytest.importorskip("yaml", reason="needs the [compress] extra")

    def make(place: Any) -> list[Any]:
        prepared = prepare(place, words)
        refuse(name, number)
        return prepared

    check(make, message)


READ: list[tuple[str, str, list[Any], str]] = [
    ("a network's YAML", "asr/conf/conformer.yaml", INIT, M),
    ("preprocess.yaml", "asr/conf/preprocess.yaml", INIT, M),
    ("a vocabulary", "asr/data/vocab.txt", INIT, M),
    ("CMVN", "asr/data/mean_std.json", INIT, M),
    ("weights", "asr/checkpoints/best.pdparams", INIT, M),
    ("a recipe", "asrcompress.toml", ["ptq"], M),
    ("bundle.json", "bundle/bundle.json", ["verify", "bundle"], M),
    ("a graph", "bundle/model.onnx", ["verify", "bundle"], M),
    ("tokens", "bundle/tokens.txt", ["verify", "bundle"], M),
    ("a manifest", "good.jsonl", ["evaluate", "bundle", "--manifest", "good.jsonl"], M),
    ("run.json", "run/run.json", EXPORT, M),
    ("a report", "run/after.json", EXPORT, M),
]


@pytest.mark.parametrize(
    ("name", "words", "message"), [pytest.param(*c[1:], id=c[0]) for c in READ]
)
def test_a_file_that_may_not_be_read(
    check: Any, monkeypatch: pytest.MonkeyPatch, name: str, words: Any, message: str
) -> None:
    """Root may read everything, so `open` is told to refuse one file."""
    import builtins
    import io

    pytest.importorskip("yaml", reason="needs the [compress] extra")
    real = io.open

    def opened(file: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(file, str | os.PathLike) and Path(file).absolute() == locked:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return real(file, *args, **kwargs)

    locked = Path("/nowhere")

    def make(place: Any) -> list[Any]:
        nonlocal locked
        _ = place.run, place.manifest
        if words == ["ptq"]:
            place.write("asrcompress.toml", "")
        locked = place.path / name
        return words

    monkeypatch.setattr(io, "open", opened)
    monkeypatch.setattr(builtins, "open", opened)

    class Unlocked:
        """`check` reads all files to compare them; only the command is to be refused."""

    from asrcompress import cli

    del Unlocked
    run = cli._Commands.invoke

    def invoke(self: Any, ctx: Any) -> Any:
        try:
            return run(self, ctx)
        finally:
            restore()

    def restore() -> None:
        nonlocal locked
        locked = Path("/nowhere")

    monkeypatch.setattr(cli._Commands, "invoke", invoke)
    check(make, message)


def test_files_of_limited_size(place: Any) -> None:
    """A real limit, in a process of its own: writing past it fails with EFBIG."""
    pytest.importorskip("yaml", reason="needs the [compress] extra")
    _ = place.run

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    command = [sys.executable, "-B", "-m", "asrcompress", *EXPORT]
    done = subprocess.run(command, cwd=place.path, preexec_fn=limit, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("error: out: cannot be written, File too large\n")
    assert "Traceback" not in done.stderr
    assert [path.name for path in place.path.iterdir() if "out" in path.name] == []


def test_a_folder_that_nobody_may_write(place: Any, tmp_path: Path) -> None:
    """A real refusal; root is never refused, so this runs where the user is not root."""
    pytest.importorskip("yaml", reason="needs the [compress] extra")
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    _ = place.run
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    command = [sys.executable, "-m", "asrcompress", "export", "run", "-o", "locked/out"]
    done = subprocess.run(command, cwd=place.path, capture_output=True, text=True)
    assert done.returncode == 3
    assert "locked/out: cannot be written, Permission denied" in done.stderr
