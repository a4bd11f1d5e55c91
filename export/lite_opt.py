"""Programs to ``.nb`` files by Paddle Lite's ``opt``, in its own Python, judged by the file."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from asrcompress.errors import ExportFailed, IntegerGateFailed, SidecarFailed
from asrcompress.export.lite_kernels import Kernel, count_kernels, integer_macs, read_kernels
from asrcompress.export.lite_program import Program
from asrcompress.lite.process import LiteProcess


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimized:
    """What opt made of a program.

    Attributes:
        path: the ``.nb`` file.
        kernels: how often each multiplying or converting kernel is in it.
        weight_macs: multiply-accumulates by weights of one run.
        product_macs: those of attention's products, which run in float.
        integer_macs: those of integer kernels.
    """

    path: Path
    kernels: Mapping[str, int]
    weight_macs: int
    product_macs: int
    integer_macs: int

    @property
    def weight_share(self) -> float:
        """Share of the weights' multiply-accumulates that run in integer kernels."""
        return self.integer_macs / self.weight_macs

    @property
    def share(self) -> float:
        """Share of all multiply-accumulates that run in integer kernels."""
        return self.integer_macs / (self.weight_macs + self.product_macs)


def optimize(program: Program, output: Path, *, target: str, python: Path) -> Optimized:
    """Run ``opt`` and read its file back.

    Args:
        output: the file to write, ``*.nb``.
        target: ``arm`` or ``x86``.
        python: interpreter that has paddlelite.
    Raises:
        ExportFailed: opt died or wrote nothing that can be read, or made kernels for something
            other than `target`.
    """
    macs: Counter[str] = Counter()
    for item in program.weighted():
        macs[item.weight] += item.macs
    output.unlink(missing_ok=True)
    death: SidecarFailed | None = None
    with tempfile.TemporaryDirectory(prefix="asrcompress-") as folder:
        model, params = program.write(Path(folder) / "program")
        with LiteProcess(python) as process:
            try:
                process.optimize(model, params, target=target, output=output)
            except SidecarFailed as error:
                # opt is known to abort after it has written a good file: the file decides.
                death = error
    if not output.is_file():
        said = str(death) if death else "and said nothing"
        raise ExportFailed(f"{output.name}: Paddle Lite's opt wrote nothing, {said}")
    try:
        kernels = read_kernels(output)
        _check_target(kernels, output, target)
        return Optimized(
            path=output,
            kernels=count_kernels(kernels),
            weight_macs=sum(macs.values()),
            product_macs=program.products(),
            integer_macs=integer_macs(kernels, macs),
        )
    except ExportFailed as error:
        raise ExportFailed(f"{error}; {death}" if death else str(error)) from error


def check_integer_kernels(optimized: Optimized, *, minimum: float) -> None:
    """The gate against "int8 in name only".

    Raises:
        IntegerGateFailed: too few of the weights' multiply-accumulates run in integer kernels.
    """
    if optimized.weight_share < minimum:
        raise IntegerGateFailed(
            f"{optimized.path.name}: got {optimized.weight_share:.3f} of the weights' "
            f"multiply-accumulates in integer kernels, expected at least {minimum:.3f}; "
            f"kernels: {dict(optimized.kernels)}",
            hint="shorten quantization.skip, or lower gate.min_integer_share on purpose",
        )


def _check_target(kernels: tuple[Kernel, ...], path: Path, target: str) -> None:
    others = sorted({k.target for k in kernels if k.operator != "calib"} - {target, "host"})
    if others:
        raise ExportFailed(f"{path.name}: has kernels for {', '.join(others)}, expected {target}")
