"""OpenVINO on the checkpoint's ONNX graph, as it is and quantized by NNCF.

Both live in an environment of their own, which is made on first use: they want another numpy.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from asrcompress.audio import read_audio
from bench.artifact import Artifact, NotRun, Settings, size_of
from bench.subject import Subject

PACKAGES = ("openvino==2026.4.1", "nncf==3.4.0", "numpy==2.4.6")
# The wheels are newer than Python 3.10 takes.
_OLDER = ("openvino==2025.4.1", "nncf==2.19.0", "numpy==2.2.6")
_QUANTIZE = Path(__file__).with_name("nncf_quantize.py")
_TAIL = 400


def environment(work: Path) -> Path:
    """Interpreter of OpenVINO's environment; made where there is none.

    Raises:
        NotRun: it cannot be installed.
    """
    folder = work / "openvino-venv"
    python, finished = folder / "bin" / "python", folder / ".installed"
    packages = PACKAGES if sys.version_info >= (3, 11) else _OLDER
    wanted = "\n".join(packages)
    if not finished.is_file() or finished.read_text() != wanted:
        _tool([sys.executable, "-m", "venv", "--clear", str(folder)])
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        _tool([*pip, "--only-binary=:all:", *packages])
        finished.write_text(wanted)
    return python


def build_fp32(subject: Subject, folder: Path, settings: Settings) -> Artifact:
    """The checkpoint's graph, read by OpenVINO's own ONNX front end."""
    python = environment(settings.work)
    return Artifact(
        engine="openvino",
        spec=_spec(subject, subject.fp32, exact=True),
        size_bytes=size_of(subject.fp32),
        integer_share=0.0,
        python=str(python),
    )


def build_int8(subject: Subject, folder: Path, settings: Settings) -> Artifact:
    """``nncf.quantize`` with the preset for transformers, calibrated on the run's utterances."""
    python = environment(settings.work)
    calibration = folder / "calibration.npz"
    fbank = subject.fbank
    features = [
        fbank(read_audio(item.audio, start_s=item.start_s, end_s=item.end_s))
        for item in subject.calibration
    ]
    np.savez(calibration, *features)
    model = folder / "model.xml"
    _tool([str(python), "-I", str(_QUANTIZE), str(subject.fp32), str(calibration), str(model)])
    calibration.unlink()
    return Artifact(
        engine="openvino",
        spec=_spec(subject, model, exact=False),
        size_bytes=size_of(model, model.with_suffix(".bin")),
        integer_share=None,
        python=str(python),
        note="integer share: by the precisions that OpenVINO reports; what is left in float it "
        "may compute in bfloat16",
    )


def _spec(subject: Subject, model: Path, *, exact: bool) -> dict[str, object]:
    width = subject.checkpoint.features.width
    return {"model": str(model), "width": width, "exact": exact}


def _tool(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NotRun(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        words = " ".join((done.stderr or done.stdout)[-_TAIL:].split())
        raise NotRun(f"OpenVINO: {Path(command[0]).name} ended with {done.returncode}, {words}")
