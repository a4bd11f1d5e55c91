"""Everybody who takes part, and how each is built from the same checkpoint."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from asrcompress.errors import AsrCompressError
from bench import bundles, onnx_forms, openvino_forms, paddle_forms
from bench.artifact import Artifact, NotRun, Settings
from bench.subject import Subject

FEATURES, AUDIO = "features", "audio"
Build = Callable[[Subject, Path, Settings], Artifact]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One row of the tables.

    Attributes:
        name: unique.
        task: what it begins with: `FEATURES`, giving log-probabilities, or `AUDIO`, giving text.
        build: makes its files in a folder of its own; raises `NotRun` where that cannot be done.
        is_rival: one of ONNX Runtime's own quantizers, which ours has to beat.
        is_fp32: computes in float.
        by_length: what is built depends on the benchmark's lengths of audio.
    """

    name: str
    task: str
    build: Build
    is_rival: bool = False
    is_fp32: bool = False
    by_length: bool = False

    def __post_init__(self) -> None:
        if self.task not in (FEATURES, AUDIO):
            raise ValueError(f"{self.name}: task: got {self.task}, expected features or audio")

    @property
    def slug(self) -> str:
        """Its name as that of a folder."""
        return "".join(c if c.isalnum() else "-" for c in self.name.lower())


# The first of each task is what the others are compared with.
CONTENDERS = (
    Contender(name="ONNX Runtime, FP32", task=FEATURES, build=onnx_forms.build_fp32, is_fp32=True),
    Contender(
        name="ONNX Runtime, quantize_dynamic",
        task=FEATURES,
        build=onnx_forms.build_dynamic,
        is_rival=True,
    ),
    *(
        Contender(
            name=f"ONNX Runtime, quantize_static {name}",
            task=FEATURES,
            build=build,
            is_rival=True,
        )
        for name, build in onnx_forms.STATIC.items()
    ),
    Contender(
        name="Paddle Inference, FP32",
        task=FEATURES,
        build=paddle_forms.build_inference,
        is_fp32=True,
    ),
    Contender(
        name="Paddle Inference, FP32, oneDNN",
        task=FEATURES,
        build=paddle_forms.build_inference_onednn,
        is_fp32=True,
    ),
    Contender(
        name="Paddle Lite, FP32",
        task=FEATURES,
        build=paddle_forms.build_lite,
        is_fp32=True,
        by_length=True,
    ),
    Contender(name="OpenVINO, FP32", task=FEATURES, build=openvino_forms.build_fp32, is_fp32=True),
    Contender(name="OpenVINO, NNCF INT8", task=FEATURES, build=openvino_forms.build_int8),
    Contender(name="asrcompress, INT8", task=FEATURES, build=onnx_forms.build_ours),
    Contender(name="asrcompress bundle, FP32", task=AUDIO, build=bundles.build_fp32, is_fp32=True),
    Contender(name="asrcompress bundle, INT8", task=AUDIO, build=bundles.build_int8),
    Contender(name="sherpa-onnx, FP32", task=AUDIO, build=bundles.build_sherpa_fp32, is_fp32=True),
    Contender(name="sherpa-onnx, INT8", task=AUDIO, build=bundles.build_sherpa_int8),
)
BASELINE = {item.task: item for item in reversed(CONTENDERS)}
OURS, OUR_BUNDLE = "asrcompress, INT8", "asrcompress bundle, INT8"


def chosen(patterns: Sequence[str]) -> list[Contender]:
    """Contenders whose name fits a shell pattern, and those that they are compared with.

    Raises:
        ValueError: a pattern that fits none.
    """
    if not patterns:
        return list(CONTENDERS)
    for pattern in patterns:
        if not any(_fits(item, pattern) for item in CONTENDERS):
            names = "; ".join(item.name for item in CONTENDERS)
            raise ValueError(f"--only: nobody is called {pattern}, expected some of: {names}")
    named = [item for item in CONTENDERS if any(_fits(item, pattern) for pattern in patterns)]
    wanted = {item.name for item in named} | {BASELINE[item.task].name for item in named}
    return [item for item in CONTENDERS if item.name in wanted]


def built(contender: Contender, subject: Subject, settings: Settings) -> Artifact:
    """The contender's artifact; what was built of the same models before is taken again.

    Raises:
        NotRun: it cannot be built here.
    """
    folder = subject.folder / contender.slug
    if contender.by_length:
        folder /= "-".join(f"{seconds:g}" for seconds in settings.lengths_s)
    record = folder / "artifact.json"
    if not record.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            contender.build(subject, folder, settings).write(record)
        except AsrCompressError as error:
            raise NotRun(str(error)) from error
    return Artifact.read(record)


def _fits(contender: Contender, pattern: str) -> bool:
    return fnmatch.fnmatchcase(contender.name.lower(), pattern.lower())
