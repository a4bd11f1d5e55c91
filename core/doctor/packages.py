"""Versions that work together, and the traps between them; see `asrcompress.doctor.diagnosis`.

Every rule here was met in practice: what it says happens is what was seen to happen.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata

from asrcompress.doctor.diagnosis import FAIL, OK, WARN, Fact

Versions = Mapping[str, str]
_BASE = ("asrcompress", "numpy", "onnxruntime", "kaldi-native-fbank", "soundfile", "typer", "rich")
_COMPRESS = ("paddlepaddle", "paddleslim", "paddlespeech", "paddle2onnx", "onnx")
_OTHERS = (
    "paddlepaddle-gpu", "onnxruntime-gpu", "paddlespeech-ctcdecoders", "h5py", "setuptools",
    "protobuf", "jiwer", "jinja2", "matplotlib", "visualdl",
)  # fmt: skip
_EXTRA = "pip install 'asrcompress[compress]'"
_TIMEOUT_S = 180.0
# Imported in this order in a child; it prints each name when that one is in.
_CHAIN = (
    ("h5py", "import h5py"),
    ("paddle", "from asrcompress.paddle_imports import import_paddle; import_paddle()"),
    ("paddleslim", "import paddleslim.quant.observers"),
    ("paddlespeech", "from asrcompress.paddle_imports import import_u2; import_u2()"),
    ("paddle2onnx", "import paddle2onnx"),
    ("onnx", "import onnx"),
)
_BASE_CHAIN = (
    ("numpy", "import numpy"),
    ("onnxruntime", "import onnxruntime"),
    ("kaldi-native-fbank", "import kaldi_native_fbank"),
    ("soundfile", "import soundfile"),
)


def installed_versions() -> dict[str, str]:
    """Versions of what is installed, by metadata; nothing is imported."""
    found = {}
    for name in (*_BASE, *_COMPRESS, *_OTHERS):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def has_compress(versions: Versions) -> bool:
    """Whether the ``[compress]`` extra was meant to be there: any part of Paddle's chain is."""
    return any(
        name in versions
        for name in ("paddlepaddle", "paddlepaddle-gpu", "paddleslim", "paddlespeech")
    )


def judge_packages(versions: Versions, *, python: Sequence[int]) -> Iterator[Fact]:
    """A fact for each package, and for each trap.

    Args:
        versions: by distribution name, of what is installed.
        python: major and minor version of the interpreter.
    """
    yield _python(python, compress=has_compress(versions))
    for name in _BASE[1:]:
        yield _required(name, versions, group="base", cure="pip install asrcompress")
    if "onnxruntime" in versions and "onnxruntime-gpu" in versions:
        yield Fact(
            group="base", name="onnxruntime-gpu", value="beside onnxruntime", verdict=WARN,
            cure="they overwrite each other: pip uninstall one, reinstall the other",
        )  # fmt: skip
    if not has_compress(versions):
        yield Fact(
            group="compress", name="[compress] extra",
            value=f"not installed; a device does not need it, training does: {_EXTRA}",
        )  # fmt: skip
        return
    yield _paddle(versions)
    for name in _COMPRESS[1:]:
        yield _paired(name, versions)
    yield from _traps(versions, python)


def _python(python: Sequence[int], *, compress: bool) -> Fact:
    value = ".".join(map(str, python[:2]))
    if not (3, 10) <= tuple(python[:2]) < (3, 13):
        return Fact(
            group="base", name="python", value=value, verdict=FAIL, cure="use Python 3.10 or 3.11"
        )
    if compress and tuple(python[:2]) > (3, 11):
        return Fact(
            group="base", name="python", value=value, verdict=WARN,
            cure="Paddle's chain is tested on 3.10 and 3.11 only",
        )  # fmt: skip
    return Fact(group="base", name="python", value=value)


def _required(name: str, versions: Versions, *, group: str, cure: str) -> Fact:
    if name not in versions and f"{name}-gpu" not in versions:
        return Fact(group=group, name=name, value="missing", verdict=FAIL, cure=cure)
    return Fact(group=group, name=name, value=versions.get(name, versions.get(f"{name}-gpu", "")))


# What each part of the chain has to be, and what else happens.
_PAIRED = {
    "paddlepaddle": ("2.6", "PaddleSlim 2.6 and Paddle2ONNX 1.3 do not work with another"),
    "paddleslim": ("2.6", "another one imports what Paddle 2.6 does not have"),
    "paddlespeech": ("1.5", "networks of another are not what is quantized here"),
    "paddle2onnx": ("1.3", "2.x ends in an undefined symbol with Paddle 2.6"),
    "onnx": ("1.17", "the graphs are written with its helpers"),
}


def _paddle(versions: Versions) -> Fact:
    name = "paddlepaddle-gpu" if "paddlepaddle-gpu" in versions else "paddlepaddle"
    if {"paddlepaddle", "paddlepaddle-gpu"} <= versions.keys():
        return Fact(
            group="compress", name="paddlepaddle", value="both CPU and GPU builds", verdict=FAIL,
            cure="pip uninstall paddlepaddle, then pip install --force-reinstall paddlepaddle-gpu",
        )  # fmt: skip
    return _paired(name, versions)


def _paired(name: str, versions: Versions) -> Fact:
    wanted, reason = _PAIRED[name.removesuffix("-gpu")]
    if name not in versions:
        return Fact(group="compress", name=name, value="missing", verdict=FAIL, cure=_EXTRA)
    if _numbers(versions[name])[:2] == _numbers(wanted):
        return Fact(group="compress", name=name, value=versions[name])
    return Fact(
        group="compress", name=name, value=versions[name],
        verdict=WARN if name == "onnx" else FAIL,
        cure=f"pip install '{name}=={wanted}.*': {reason}",
    )  # fmt: skip


def _traps(versions: Versions, python: Sequence[int]) -> Iterator[Fact]:
    yield _at_most("numpy", versions, (2,), "numpy==1.26.4", "Paddle 2.6 crashes on numpy 2's ABI")
    yield _at_most("h5py", versions, (3, 16), "h5py<3.16", "it must be there to load before Paddle")
    yield _at_most(
        "setuptools", versions, (81,), "setuptools<81", "81 and later have no pkg_resources"
    )
    yield _protobuf(versions)
    decoders = versions.get("paddlespeech-ctcdecoders")
    if tuple(python[:2]) == (3, 10) and decoders is None:
        yield Fact(
            group="traps", name="paddlespeech-ctcdecoders", value="missing", verdict=WARN,
            cure="pip install paddlespeech-ctcdecoders==0.2.0, for PaddleSpeech's own tools",
        )  # fmt: skip
    else:
        value = decoders or "none, there is no wheel for this Python; not needed here"
        yield Fact(group="traps", name="paddlespeech-ctcdecoders", value=value)
    for name in ("jiwer", "jinja2", "matplotlib"):
        yield _required(name, versions, group="compress", cure=_EXTRA)


def _at_most(name: str, versions: Versions, below: tuple[int, ...], pin: str, reason: str) -> Fact:
    """A package that has to be there, and older than `below`."""
    cure = f"pip install '{pin}': {reason}"
    if name not in versions:
        return Fact(group="traps", name=name, value="missing", verdict=FAIL, cure=cure)
    good = _numbers(versions[name])[: len(below)] < below
    return Fact(
        group="traps", name=name, value=versions[name],
        verdict=OK if good else FAIL, cure="" if good else cure,
    )  # fmt: skip


def _protobuf(versions: Versions) -> Fact:
    """3.20.2 to 7.36 have been seen to work; onnx and Paddle refuse older ones."""
    cure = "pip install 'protobuf>=3.20.2': onnx and Paddle do not load with an older one"
    value = versions.get("protobuf", "missing")
    good = value != "missing" and _numbers(value) >= (3, 20, 2)
    return Fact(
        group="traps", name="protobuf", value=value,
        verdict=OK if good else FAIL, cure="" if good else cure,
    )  # fmt: skip


def _numbers(version: str) -> tuple[int, ...]:
    """``1.26.4rc1`` -> (1, 26, 4)."""
    return tuple(int(part) for part in re.findall(r"(?:^|\.)(\d+)", version))


def try_base_imports() -> list[Fact]:
    """Load the runtime's libraries in a child."""
    return [_try("base", "runtime loads", _BASE_CHAIN, cure="pip install --force-reinstall {name}")]


def try_compress_imports(versions: Versions) -> list[Fact]:
    """Load Paddle's chain in a child, in the order that works; nothing where it is not there."""
    if not has_compress(versions):
        return []
    cure = "follow the cures above; else start afresh: python -m venv, then " + _EXTRA
    return [_try("compress", "Paddle's chain loads", _CHAIN, cure=cure)]


def _try(group: str, name: str, chain: Sequence[tuple[str, str]], *, cure: str) -> Fact:
    """Import one after the other; the first that is not announced is the one that failed."""
    code = "\n".join(
        f"{statement}\nprint('LOADED {package}', flush=True)" for package, statement in chain
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )  # fmt: skip
        output, code_, said = done.stdout, done.returncode, done.stderr
    except subprocess.TimeoutExpired as late:
        output, code_, said = _text(late.stdout), None, f"no answer in {_TIMEOUT_S:g} s"
    loaded = [
        line.removeprefix("LOADED ") for line in output.splitlines() if line.startswith("LOADED ")
    ]
    if len(loaded) == len(chain):  # a crash at exit, after all of them, harms nothing
        return Fact(group=group, name=name, value=", ".join(loaded))
    failed = next(package for package, _ in chain if package not in loaded)
    return Fact(
        group=group, name=name, value=f"no: {failed}, {_last_words(code_, said)}", verdict=FAIL,
        cure=cure.format(name=failed),
    )  # fmt: skip


def _text(captured: bytes | str | None) -> str:
    return captured.decode(errors="replace") if isinstance(captured, bytes) else captured or ""


def _last_words(code: int | None, said: str) -> str:
    """The signal that ended a process, or the last line that it wrote."""
    if code is not None and code < 0:
        return f"the process died of {signal.Signals(-code).name}"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][:200] if lines else f"exit code {code}"
