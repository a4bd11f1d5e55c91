"""The doctor: every trap is named with its cure, and nothing it looks at can take it down."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from asrcompress.cli.app import app
from asrcompress.doctor import diagnosis as doctor
from asrcompress.doctor import machine as doctor_machine
from asrcompress.doctor import packages as doctor_packages
from asrcompress.doctor.diagnosis import FAIL, OK, WARN, Diagnosis, Fact
from asrcompress.doctor.machine import cpu_facts, disk_fact, gpu_fact, memory_facts
from asrcompress.doctor.packages import judge_packages

GOOD = {
    "asrcompress": "0.1.0",
    "numpy": "1.26.4",
    "onnxruntime": "1.23.2",
    "kaldi-native-fbank": "1.23.0",
    "soundfile": "0.13.1",
    "typer": "0.15.4",
    "rich": "13.9",
    "paddlepaddle": "2.6.2",
    "paddleslim": "2.6.0",
    "paddlespeech": "1.5.0",
    "paddle2onnx": "1.3.1",
    "onnx": "1.17.0",
    "h5py": "3.15.1",
    "setuptools": "80.10.2",
    "protobuf": "3.20.2",
    "paddlespeech-ctcdecoders": "0.2.0",
    "jiwer": "4.0.0",
    "jinja2": "3.1.6",
    "matplotlib": "3.10.9",
}
DEVICE = {
    name: GOOD[name]
    for name in ("asrcompress", "onnxruntime", "kaldi-native-fbank", "soundfile", "typer", "rich")
} | {"numpy": "2.3.1"}


def findings(versions: dict[str, str], python: tuple[int, int] = (3, 10)) -> dict[str, Fact]:
    facts = tuple(judge_packages(versions, python=python))
    return {fact.name: fact for fact in Diagnosis(facts=facts).findings}


@pytest.mark.parametrize("python", [(3, 10), (3, 11)])
def test_the_tested_set_is_fine(python: tuple[int, int]) -> None:
    assert findings(GOOD, python) == {}


@pytest.mark.parametrize(
    ("change", "culprit", "verdict", "cure"),
    [
        ({"numpy": "2.0.0"}, "numpy", FAIL, "numpy==1.26.4"),
        ({"h5py": "3.16.0"}, "h5py", FAIL, "h5py<3.16"),
        ({"h5py": None}, "h5py", FAIL, "h5py<3.16"),
        ({"setuptools": "81.0.0"}, "setuptools", FAIL, "setuptools<81"),
        ({"setuptools": None}, "setuptools", FAIL, "setuptools<81"),
        ({"protobuf": "3.19.6"}, "protobuf", FAIL, "protobuf>=3.20.2"),
        ({"paddlepaddle": "3.3.1"}, "paddlepaddle", FAIL, "paddlepaddle==2.6.*"),
        ({"paddlepaddle": None}, "paddlepaddle", FAIL, "asrcompress[compress]"),
        ({"paddle2onnx": "2.0.1"}, "paddle2onnx", FAIL, "paddle2onnx==1.3.*"),
        ({"paddleslim": "2.4.1"}, "paddleslim", FAIL, "paddleslim==2.6.*"),
        ({"paddlespeech": None}, "paddlespeech", FAIL, "asrcompress[compress]"),
        ({"onnx": "1.19.0"}, "onnx", WARN, "onnx==1.17.*"),
        ({"paddlespeech-ctcdecoders": None}, "paddlespeech-ctcdecoders", WARN, "0.2.0"),
        ({"paddlepaddle-gpu": "2.6.2"}, "paddlepaddle", FAIL, "pip uninstall paddlepaddle"),
        ({"onnxruntime-gpu": "1.23.2"}, "onnxruntime-gpu", WARN, "overwrite each other"),
        ({"onnxruntime": None}, "onnxruntime", FAIL, "pip install asrcompress"),
        ({"matplotlib": None}, "matplotlib", FAIL, "asrcompress[compress]"),
    ],
)
def test_each_trap_is_named_with_its_cure(
    change: dict[str, str | None], culprit: str, verdict: str, cure: str
) -> None:
    changed: dict[str, Any] = {**GOOD, **change}
    found = findings({name: version for name, version in changed.items() if version is not None})
    assert list(found) == [culprit]
    assert found[culprit].verdict == verdict
    assert cure in found[culprit].cure


def test_the_decoders_have_no_wheel_for_3_11_and_are_not_missed() -> None:
    without = {name: v for name, v in GOOD.items() if name != "paddlespeech-ctcdecoders"}
    assert findings(without, (3, 11)) == {}


@pytest.mark.parametrize(("python", "verdict"), [((3, 9), FAIL), ((3, 12), WARN), ((3, 13), FAIL)])
def test_pythons_that_do_not_do(python: tuple[int, int], verdict: str) -> None:
    assert findings(GOOD, python)["python"].verdict == verdict


def test_the_gpu_build_of_paddle_does_as_well() -> None:
    versions = {name: v for name, v in GOOD.items() if name != "paddlepaddle"}
    assert findings({**versions, "paddlepaddle-gpu": "2.6.2"}) == {}


@pytest.mark.parametrize("python", [(3, 10), (3, 12)])
def test_a_device_needs_no_paddle_and_may_have_numpy_2(python: tuple[int, int]) -> None:
    facts = list(judge_packages(DEVICE, python=python))
    assert {fact.verdict for fact in facts} == {OK}
    (extra,) = [fact for fact in facts if fact.group == "compress"]
    assert "pip install 'asrcompress[compress]'" in extra.value


def test_numbers_of_odd_versions() -> None:
    assert doctor_packages._numbers("2.13rc0") == (2, 13)
    assert doctor_packages._numbers("1.26.4.post1") == (1, 26, 4)


@pytest.mark.parametrize(
    ("chain", "said"),
    [
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            "b, the process died of SIGSEGV",
        ),
        ("import no_such_module", "b, ModuleNotFoundError: No module named 'no_such_module'"),
        (
            "raise ImportError('x.so: undefined symbol: _ZN6paddle')",
            "b, ImportError: x.so: undefined",
        ),
        ("import os; os._exit(7)", "b, exit code 7"),
    ],
)
def test_a_chain_that_breaks_names_the_link(chain: str, said: str) -> None:
    fact = doctor_packages._try("base", "x", [("a", "pass"), ("b", chain)], cure="get {name}")
    assert fact.verdict == FAIL
    assert said in fact.value
    assert fact.cure == "get b"


def test_a_chain_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_packages, "_TIMEOUT_S", 1.0)
    chain = [("a", "pass"), ("b", "import time; time.sleep(60)")]
    fact = doctor_packages._try("base", "x", chain, cure="wait")
    assert (fact.verdict, fact.value) == (FAIL, "no: b, no answer in 1 s")


def test_a_crash_after_everything_was_loaded_harms_nothing() -> None:
    fact = doctor_packages._try(
        "base", "x", [("a", "import atexit, os; atexit.register(os.abort)")], cure="c"
    )
    assert (fact.verdict, fact.value) == (OK, "a")


def test_paddle_is_never_imported_here() -> None:
    code = "import sys; from asrcompress.doctor import diagnosis; diagnosis.suspects()"
    code += "; print('paddle' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


X86 = "processor : 0\nmodel name : Fast CPU\nflags : fpu {}\n"
ARM = "processor : 0\nFeatures : fp asimd {}\n"


@pytest.mark.parametrize(
    ("text", "machine", "verdict", "said"),
    [
        (X86.format("avx2 avx512_vnni"), "x86_64", OK, "VNNI (avx512_vnni)"),
        (X86.format("avx2 avx_vnni"), "x86_64", OK, "VNNI (avx_vnni)"),
        (X86.format("avx2"), "x86_64", WARN, "AVX2, no VNNI"),
        (X86.format("sse4_2"), "x86_64", WARN, "neither"),
        (ARM.format("asimddp i8mm"), "aarch64", OK, "asimddp, i8mm"),
        (ARM.format("crc32"), "aarch64", WARN, "neither asimddp nor i8mm"),
        ("", "arm64", OK, "unknown"),
    ],
)
def test_instructions(text: str, machine: str, verdict: str, said: str) -> None:
    model, fact = cpu_facts(text, machine=machine)
    assert model.verdict == OK
    assert machine in model.value
    assert fact.verdict == verdict
    assert said in fact.value


@pytest.mark.parametrize(
    ("listing", "verdict", "said"),
    [
        (None, OK, "none found"),
        ("Tesla T4, 535.1, 15360 MiB\n", OK, "Tesla T4, 535.1"),
        ("nvidia-smi failed: no driver", WARN, "no driver"),
        ("", WARN, "lists none"),
    ],
)
def test_gpus(listing: str | None, verdict: str, said: str) -> None:
    fact = gpu_fact(listing)
    assert fact.verdict == verdict
    assert said in fact.value


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("MemAvailable:   16000000 kB\n", OK),
        ("MemAvailable:    2000000 kB\n", WARN),
        ("MemAvailable: much\n", OK),
        ("", OK),
    ],
)
def test_memory(text: str, verdict: str) -> None:
    (fact,) = memory_facts(text)
    assert fact.verdict == verdict


@pytest.mark.parametrize(("free", "verdict"), [(50 << 30, OK), (2 << 30, WARN), (1 << 20, FAIL)])
def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, verdict: str) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor_machine.shutil, "disk_usage", lambda _: usage(1 << 40, 0, free))
    assert disk_fact(tmp_path).verdict == verdict


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    assert disk_fact(tmp_path / "gone").verdict == FAIL


def test_a_verdict_needs_a_cure() -> None:
    with pytest.raises(ValueError, match="without a cure"):
        Fact(group="base", name="x", value="y", verdict=WARN)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A base install without Paddle."""
    monkeypatch.setattr(doctor_packages, "installed_versions", lambda: dict(DEVICE))


@pytest.mark.usefixtures("device")
def test_the_command_on_a_device() -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0, result.output
    tree = json.loads(result.stdout)
    assert tree["usable"] is True
    names = {fact["name"]: fact["verdict"] for fact in tree["facts"]}
    assert names["runtime loads"] == OK
    assert "Paddle's chain loads" not in names
    assert {"cpu", "gpu", "memory", "disk", "[compress] extra"} <= set(names)


def test_the_command_exits_3_where_nothing_can_work(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {**DEVICE, "paddlepaddle": "2.6.2"}
    monkeypatch.setattr(doctor_packages, "installed_versions", lambda: broken)
    monkeypatch.setattr(doctor_packages, "_CHAIN", (("h5py", "raise ImportError('no h5py')"),))
    result = CliRunner().invoke(app, ["doctor"], env={"COLUMNS": "80"})
    assert result.exit_code == 3
    assert "pip install 'h5py<3.16'" in result.stdout
    assert "not usable" in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()) <= 80
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ImportError("x.so: undefined symbol: _ZN6paddle"), "undefined symbol"),
        (
            ModuleNotFoundError("No module named 'pkg_resources'", name="pkg_resources"),
            "pkg_resources",
        ),
    ],
)
def test_an_import_that_fails_calls_the_doctor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: ImportError, said: str
) -> None:
    versions = {**GOOD, "setuptools": "82.0", "paddle2onnx": "2.0.1"}
    monkeypatch.setattr(doctor_packages, "installed_versions", lambda: versions)
    real = builtins.__import__

    def broken(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "asrcompress.pipeline.speed":
            raise error
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    result = CliRunner().invoke(app, ["bench", str(tmp_path)])
    assert result.exit_code == 3
    assert said in result.stderr
    assert "fail: setuptools 82.0; pip install 'setuptools<81'" in result.stderr
    assert "fail: paddle2onnx 2.0.1" in result.stderr
    assert result.stdout == ""


def test_a_missing_extra_calls_the_doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from asrcompress.errors import MissingExtra

    def missing(*_: Any, **__: Any) -> None:
        raise MissingExtra("h5py", "compress")

    versions = {name: version for name, version in GOOD.items() if name != "h5py"}
    monkeypatch.setattr(doctor_packages, "installed_versions", lambda: versions)
    monkeypatch.setattr("asrcompress.pipeline.speed.compare_bundles", missing)
    result = CliRunner().invoke(app, ["bench", str(tmp_path)])
    assert result.exit_code == 3
    assert "hint: pip install 'asrcompress[compress]'" in result.stderr
    assert "fail: h5py missing; pip install 'h5py<3.16'" in result.stderr


def test_an_import_error_of_ours_is_a_bug(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ImportError("cannot import name 'x'", name="asrcompress.pipeline.speed")

    monkeypatch.setattr("asrcompress.pipeline.speed.compare_bundles", broken)
    result = CliRunner().invoke(app, ["bench", str(tmp_path)])
    assert result.exit_code == 1
    assert isinstance(result.exception, ImportError)


def test_the_worst_come_first() -> None:
    facts = [
        Fact(group="base", name="a", value="", verdict=WARN, cure="x"),
        Fact(group="base", name="b", value="", verdict=FAIL, cure="y"),
        Fact(group="base", name="c", value=""),
    ]
    found = Diagnosis(facts=tuple(facts)).findings
    assert [fact.name for fact in found] == ["b", "a"]
    assert doctor.lines(found) == ["fail: b ; y", "warn: a ; x"]
