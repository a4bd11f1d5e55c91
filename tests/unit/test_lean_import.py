"""A device installs the runtime: nothing heavier may come in with it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("paddle", "paddlespeech", "paddleslim", "paddle2onnx", "onnx", "jiwer", "typer", "rich")
HEAVY += ("scipy", "librosa", "soundfile", "h5py", "yaml", "torch", "pandas")


def loaded_by(module: str) -> set[str]:
    """First-level names in ``sys.modules`` of a new process that imports `module`."""
    code = f"import json, sys, {module}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


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
