"""The C++ example: built with what is installed here, it gives the texts of the Python runtime."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import soundfile

from asrcompress.bundles.bundle import Bundle
from asrcompress.bundles.golden_signals import golden_signal
from asrcompress.runtime import Transcriber

pytestmark = pytest.mark.slow
# Folders that the headers can be in; the first is where an unpacked release of theirs may be.
INCLUDES = (os.environ.get("ONNXRUNTIME_INCLUDE", ""), "/usr/include", "/usr/local/include")
Reseal = Callable[..., None]


def header(name: str, package: str) -> Path:
    """Folder of a header, or a skip that says what to install."""
    for root in filter(None, INCLUDES):
        for folder in (Path(root), Path(root, "onnxruntime"), Path(root, "kissfft")):
            if (folder / name).is_file():
                return folder
    pytest.skip(f"{name} is not installed: {package}")


@pytest.fixture(scope="session")
def onnxruntime_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared library out of the wheel, under the names that a linker and a loader look for."""
    capi = Path(onnxruntime.__file__).parent / "capi"
    found = sorted(capi.glob("libonnxruntime.so.*"))
    if not found:
        pytest.skip("this onnxruntime wheel has no shared library")
    folder = tmp_path_factory.mktemp("onnxruntime")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(found[0])
    return folder / "libonnxruntime.so"


@pytest.fixture(scope="session")
def knf_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """kaldi-native-fbank's source, of the release that is installed."""
    if given := os.environ.get("KNF_SOURCE"):
        return Path(given)
    folder = tmp_path_factory.mktemp("knf")
    version = importlib.metadata.version("kaldi-native-fbank")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary",
               ":all:", "--no-build-isolation", "--dest", str(folder),
               f"kaldi-native-fbank=={version}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = sorted(folder.glob("*.tar.gz"))
    if not archives:
        pytest.skip(f"no source of kaldi-native-fbank {version}: {done.stderr.strip()[-200:]}")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


@pytest.fixture(scope="session")
def program(
    repo: Path,
    onnxruntime_library: Path,
    knf_source: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the built example."""
    cmake = shutil.which("cmake")
    if cmake is None or not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("no cmake, or no C++ compiler")
    include = header("onnxruntime_c_api.h", "ONNX Runtime's release, or libonnxruntime-dev")
    header("kiss_fftr.h", "libkissfft-dev")
    header("nlohmann/json.hpp", "nlohmann-json3-dev")
    build = tmp_path_factory.mktemp("build")
    for command in (
        [cmake, "-S", str(repo / "examples/cpp"), "-B", str(build),
         f"-DONNXRUNTIME_INCLUDE={include}", f"-DONNXRUNTIME_LIBRARY={onnxruntime_library}",
         f"-DKNF_SOURCE={knf_source}"],
        [cmake, "--build", str(build)],
    ):  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stderr
    environment = {**os.environ, "LD_LIBRARY_PATH": str(onnxruntime_library.parent)}

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = [str(build / "asrcompress-cpp"), *map(str, words)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


def test_the_texts_are_those_of_the_python_runtime(
    program: Callable[..., subprocess.CompletedProcess[str]], golden_bundle: Bundle, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{index}.wav" for index in range(12)]
    for index, path in enumerate(paths):
        soundfile.write(path, golden_signal(2 * index), 16000, subtype="PCM_16")
    ready = Transcriber(golden_bundle.path)
    expected = [f"{path}\t{ready.transcribe(path).text}" for path in paths]
    done = program(golden_bundle.path, *paths)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == expected
    assert len({line.split("\t")[1] for line in expected}) > 3


def test_it_passes_the_self_test_and_fails_it_for_another_network(
    program: Callable[..., subprocess.CompletedProcess[str]],
    golden_bundle: Bundle,
    make_graph: Callable[..., Path],
    reseal: Reseal,
) -> None:
    done = program(golden_bundle.path, "--self-test")
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    golden = golden_bundle.manifest.golden
    assert golden is not None
    assert [line[1] for line in lines] == [case.text for case in golden.cases]
    assert all(float(line[2]) < 0.004 for line in lines)  # float16's share
    shutil.copyfile(make_graph(seed=1), golden_bundle.model_path)
    reseal(golden_bundle.path)
    done = program(golden_bundle.path, "--self-test")
    assert done.returncode == 4
    assert "does not compute what was measured" in done.stderr


def test_what_it_cannot_do_it_refuses(
    program: Callable[..., subprocess.CompletedProcess[str]],
    golden_bundle: Bundle,
    reseal: Reseal,
    tmp_path: Path,
) -> None:
    soundfile.write(tmp_path / "8k.wav", golden_signal(0), 8000, subtype="PCM_16")
    done = program(golden_bundle.path, tmp_path / "8k.wav")
    assert done.returncode == 3 and "expected 16 kHz" in done.stderr
    done = program(golden_bundle.path, golden_bundle.path / "tokens.txt")
    assert done.returncode == 3 and "is no WAV file" in done.stderr
    assert program(tmp_path, "--self-test").returncode == 3
    assert program().returncode == 2
    reseal(golden_bundle.path, lambda tree: tree.update(schema_version=9))
    done = program(golden_bundle.path, "--self-test")
    assert done.returncode == 3 and "schema_version 9" in done.stderr
