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

    def set_refusal(name: str, number: int) -> None:
        monkeypatch.setattr(os, name, _refusing(number))
        if name == "mkdir":  # pathlib of Python 3.10 has its own reference to os.mkdir
            monkeypatch.setattr(Path, name, _refusing(number))

    return set_refusal


def prepare(place: Any, words: list[Any]) -> list[Any]:
    """Make what the command reads, before the system starts to refuse."""
    place.run if words == EXPORT else place.experiment  # noqa: B018
    return words


CASES: list[tuple[str, list[Any], str, int, str]] = [
    (
        "init: disk full",
        INIT,
        "fsync",
        errno.ENOSPC,
        "asrcompress.toml: cannot be written, No space left on device",
    ),
    (
        "init: quota used up",
        INIT,
        "fsync",
        errno.EDQUOT,
        "asrcompress.toml: cannot be written, Disk quota exceeded",
    ),
    (
        "init: a disk that fails",
        INIT,
        "fsync",
        errno.EIO,
        "asrcompress.toml: cannot be written, Input/output error",
    ),
    (
        "init: read-only",
        INIT,
        "replace",
        errno.EROFS,
        "asrcompress.toml: cannot be written, Read-only file system",
    ),
    (
        "init: no permission",
        INIT,
        "replace",
        errno.EACCES,
        "asrcompress.toml: cannot be written, Permission denied",
    ),
    (
        "export: disk full",
        EXPORT,
        "fsync",
        errno.ENOSPC,
        "out: cannot be written, No space left on device",
    ),
    (
        "export: read-only",
        EXPORT,
        "mkdir",
        errno.EROFS,
        "out: cannot be written, Read-only file system",
    ),
    (
        "export: no permission",
        EXPORT,
        "mkdir",
        errno.EACCES,
        "out: cannot be written, Permission denied",
    ),
    (
        "export: no permission to rename",
        EXPORT,
        "replace",
        errno.EPERM,
        "out: cannot be written, Operation not permitted",
    ),
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
    (
        "a network's YAML",
        "asr/conf/conformer.yaml",
        INIT,
        "asr/conf/conformer.yaml: cannot be read, Permission denied",
    ),
    (
        "preprocess.yaml",
        "asr/conf/preprocess.yaml",
        INIT,
        "asr/conf/preprocess.yaml: cannot be read, Permission denied",
    ),
    (
        "a vocabulary",
        "asr/data/vocab.txt",
        INIT,
        "asr/data/vocab.txt: cannot be read, Permission denied",
    ),
    (
        "CMVN",
        "asr/data/mean_std.json",
        INIT,
        "asr/data/mean_std.json: cannot be read, Permission denied",
    ),
    (
        "weights",
        "asr/checkpoints/best.pdparams",
        INIT,
        "asr/checkpoints/best.pdparams: cannot be read, Permission denied",
    ),
    (
        "a recipe",
        "r.toml",
        ["ptq", "--recipe", "r.toml"],
        "r.toml: cannot be read, Permission denied",
    ),
    (
        "bundle.json",
        "bundle/bundle.json",
        ["verify", "bundle"],
        "bundle/bundle.json: cannot be read, Permission denied",
    ),
    (
        "a graph",
        "bundle/model.onnx",
        ["verify", "bundle"],
        "bundle/model.onnx: cannot be read, Permission denied",
    ),
    (
        "tokens",
        "bundle/tokens.txt",
        ["verify", "bundle"],
        "bundle/tokens.txt: cannot be read, Permission denied",
    ),
    (
        "a bundle's folder",
        "bundle",
        ["verify", "bundle"],
        "bundle/bundle.json: cannot be used, Permission denied",
    ),
    (
        "a manifest",
        "good.jsonl",
        [*INIT, "--gate-manifest", "good.jsonl"],
        "good.jsonl: cannot be read: Permission denied",
    ),
    (
        "audio",
        "good.wav",
        ["transcribe", "bundle", "good.wav"],
        "good.wav: cannot be read, Permission denied",
    ),
    ("run.json", "run/run.json", EXPORT, "run/run.json: cannot be read, Permission denied"),
]


@pytest.mark.parametrize(
    ("name", "words", "message"), [pytest.param(*c[1:], id=c[0]) for c in READ]
)
def test_a_file_that_may_not_be_read(
    check: Any, monkeypatch: pytest.MonkeyPatch, name: str, words: Any, message: str
) -> None:
    """Real permissions: root, who may read everything, is nobody while the command runs."""
    pytest.importorskip("yaml", reason="needs the [compress] extra")
    from asrcompress.cli import app as cli

    invoke = cli._Commands.invoke
    root = os.geteuid() == 0
    locked: list[tuple[Path, int]] = []

    def make(place: Any) -> list[Any]:
        _ = place.run, place.manifest
        place.write("r.toml", "")
        place.path.chmod(0o755)
        path = place.path / name
        locked.append((path, path.stat().st_mode))
        return words

    def as_nobody(self: Any, ctx: Any) -> Any:
        path, mode = locked[0]
        path.chmod(0)
        if root:
            os.seteuid(65534)
        try:
            return invoke(self, ctx)
        finally:
            if root:
                os.seteuid(0)
            path.chmod(mode)

    monkeypatch.setattr(cli._Commands, "invoke", as_nobody)
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
