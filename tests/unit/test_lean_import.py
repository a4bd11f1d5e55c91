"""A device installs the runtime: nothing heavier may come in with it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("paddle", "paddlespeech", "paddleslim", "paddle2onnx", "onnx", "jiwer", "typer", "rich")
HEAVY += ("scipy", "librosa", "soundfile", "h5py", "yaml", "torch", "pandas")


def loaded_by(module: str) -> set[str]:
    """First-level names of `modules_after`."""
    return {name.partition(".")[0] for name in modules_after(module)}


def modules_after(module: str) -> set[str]:
    """All names in ``sys.modules`` of a new process that imports `module`."""
    code = f"import json, sys, {module}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    "module",
    ["asrcompress.runtime", "asrcompress.runtime.benchmark", "asrcompress.runtime.worker"],
)
def test_the_runtime_imports_nothing_heavy(module: str) -> None:
    loaded = loaded_by(module)
    assert loaded & set(HEAVY) == set()
    assert {"numpy", "onnxruntime", "kaldi_native_fbank"} <= loaded


def test_the_package_itself_imports_no_third_party() -> None:
    assert loaded_by("asrcompress") & {*HEAVY, "numpy", "onnxruntime"} == set()


# Parts of asrcompress that few programs need: most transcribe, greedily, whole recordings.
RARE = ("recipe", "settings", "search_settings", "manifests", "run")
RARE += ("runtime.language_model", "runtime.hotwords", "runtime.onnx_decoder", "runtime.lite")
RARE += ("runtime.chunk_model", "runtime.streaming", "runtime.alignment", "runtime.timestamps")
# Of the standard library: 5 to 50 ms each, and nothing that is done at the start needs them.
SLOW = ("importlib.metadata", "zipfile", "email", "urllib.request", "tomllib", "subprocess")


def test_the_runtime_starts_with_what_it_needs() -> None:
    loaded = modules_after("asrcompress.runtime")
    assert loaded & {f"asrcompress.{name}" for name in RARE} == set()
    # Python 3.10's platform, which numpy imports, needs subprocess.
    theirs = modules_after("numpy, onnxruntime, kaldi_native_fbank")
    assert loaded & set(SLOW) - theirs == set()


def test_what_is_imported_late_is_there() -> None:
    loaded = modules_after("asrcompress.runtime; asrcompress.runtime.LanguageModel")
    assert "asrcompress.runtime.language_model" in loaded
