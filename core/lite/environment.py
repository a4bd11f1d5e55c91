"""The environment that Paddle Lite runs in: Python 3.8, made on first use, then kept.

``paddlelite`` 2.13rc0 has wheels for CPython 3.8 only, which this package does not run on. So its
tools run in a process of that environment (`asrcompress.lite.process`). Variables that say where:

    ASRCOMPRESS_CACHE      folder of the environment; else XDG_CACHE_HOME, else ~/.cache
    ASRCOMPRESS_PYTHON38   the interpreter to make it with, or one that has paddlelite already
    ASRCOMPRESS_WHEELS     folder of wheels to install from, without a network
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from asrcompress.errors import SidecarFailed
from asrcompress.files import writing

PADDLE_LITE = "2.13rc0"
PACKAGES = (f"paddlelite=={PADDLE_LITE}", "numpy==1.24.4")
_PYTHON = (3, 8)
_TAIL = 600  # characters of a tool's last words that an error repeats
_ASK_VERSION = "import sys; print(*sys.version_info[:2])"
_ASK_PACKAGE = (
    "import importlib.metadata as m, numpy, paddlelite.lite; print(m.version('paddlelite'))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """Where the environment comes from; what is None is looked up.

    Attributes:
        python: a Python 3.8 to make it with, or one that has paddlelite already.
        wheels: folder to install from; nothing is asked of a network then.
        cache: folder to keep it in.
    """

    python: Path | None = None
    wheels: Path | None = None
    cache: Path | None = None

    @property
    def folder(self) -> Path:
        """Of the environment."""
        return (self.cache or _cache()) / f"paddlelite-{PADDLE_LITE}"


def sidecar_python(sidecar: Sidecar | None = None) -> Path:
    """An interpreter that has Paddle Lite; its environment is made where there is none.

    Raises:
        SidecarFailed: no Python 3.8 to be had, or nothing to install from.
    """
    sidecar = sidecar or Sidecar()
    named = sidecar.python or _variable("ASRCOMPRESS_PYTHON38")
    if named is not None:
        _check_named(named)
        if _has_package(named):
            return named
    python = sidecar.folder / "bin" / "python"
    if _has_package(python):
        return python
    with writing(sidecar.folder):
        sidecar.folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(sidecar.folder):
        if not _has_package(python):  # another process may have made it meanwhile
            _make(sidecar.folder, named or find_python(), sidecar.wheels)
    return python


def find_python() -> Path:
    """A Python 3.8: on PATH, of pyenv, or one that uv knows. Each is run, not only looked up.

    Raises:
        SidecarFailed: there is none; says how to get one.
    """
    for candidate in _candidates():
        if _answer(candidate, _ASK_VERSION) == f"{_PYTHON[0]} {_PYTHON[1]}":
            return candidate
    raise SidecarFailed(
        "Python 3.8: not found on PATH, in pyenv or by uv, needed for Paddle Lite",
        hint="uv python install 3.8, or pyenv install 3.8, or name one: --python38 PATH",
    )


def _candidates() -> Iterator[Path]:
    name = f"python{_PYTHON[0]}.{_PYTHON[1]}"
    # A version manager's shim answers to the name and may then fail: all of PATH is tried.
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if folder and (Path(folder) / name).is_file():
            yield Path(folder) / name
    if pyenv := shutil.which("pyenv"):
        versions = _output([pyenv, "versions", "--bare"]).split()
        for version in reversed([item for item in versions if item.startswith("3.8.")]):
            if prefix := _output([pyenv, "prefix", version]):
                yield Path(prefix) / "bin" / name
    if (uv := _uv()) and (found := _output([*uv, "python", "find", "3.8"])):
        yield Path(found)


def _uv() -> list[str] | None:
    """How to call uv: the program, or the module of this environment."""
    if program := shutil.which("uv"):
        return [program]
    return [sys.executable, "-m", "uv"] if importlib.util.find_spec("uv") else None


def _make(folder: Path, python: Path, wheels: Path | None) -> None:
    wheels = wheels or _variable("ASRCOMPRESS_WHEELS")
    source = [] if wheels is None else ["--no-index", "--find-links", str(wheels)]
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted attempt left
    inner = str(folder / "bin" / "python")
    if uv := _uv():
        _tool([*uv, "venv", "--python", str(python), str(folder)])
        _tool([*uv, "pip", "install", "--python", inner, *source, *PACKAGES])
    else:
        _tool([str(python), "-m", "venv", str(folder)])
        pip = [inner, "-m", "pip", "--disable-pip-version-check", "install"]
        _tool([*pip, "--only-binary=:all:", *source, *PACKAGES])
    if not _has_package(Path(inner)):
        raise SidecarFailed(
            f"{folder}: was made, but cannot import paddlelite {PADDLE_LITE}",
            hint=f"{inner} -c 'import paddlelite.lite' says why",
        )


def _tool(command: Sequence[str]) -> None:
    """Run a step of making the environment."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise SidecarFailed(f"{command[0]}: cannot be run, {error.strerror}") from error
    if done.returncode:
        words = " ".join((done.stderr or done.stdout)[-_TAIL:].split())
        raise SidecarFailed(
            f"Paddle Lite's environment: {command[0]} ended with {done.returncode}, {words}",
            hint="without a network: pip download --python-version 3.8 --only-binary=:all: "
            f"--dest wheels {' '.join(PACKAGES)} elsewhere, then --wheels wheels",
        )


def _check_named(python: Path) -> None:
    seen = _answer(python, _ASK_VERSION)
    if seen != f"{_PYTHON[0]} {_PYTHON[1]}":
        raise SidecarFailed(
            f"{python}: is Python {seen.replace(' ', '.') or 'that does not run'}, expected 3.8",
            hint=f"paddlelite {PADDLE_LITE} has wheels for CPython 3.8 only",
        )


def _has_package(python: Path) -> bool:
    return python.is_file() and _answer(python, _ASK_PACKAGE) == PADDLE_LITE


def _answer(python: Path, code: str) -> str:
    return _output([str(python), "-I", "-c", code])


def _output(command: Sequence[str]) -> str:
    """What a program prints; nothing where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _variable(name: str) -> Path | None:
    value = os.environ.get(name)
    return Path(value) if value else None


def _cache() -> Path:
    if given := _variable("ASRCOMPRESS_CACHE"):
        return given
    return (_variable("XDG_CACHE_HOME") or Path.home() / ".cache") / "asrcompress"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process makes the environment, others wait for it."""
    with writing(folder), open(folder.with_suffix(".lock"), "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
