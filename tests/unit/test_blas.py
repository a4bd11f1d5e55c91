"""Which of MKL's kernels Paddle's matrix products are told to take."""

from __future__ import annotations

from pathlib import Path

import pytest

from asrcompress import blas

AVX2 = "fpu sse2 fma avx avx2"
AVX512 = f"{AVX2} avx512f avx512dq avx512bw avx512vl avx512cd avx512_vnni"


def cpuinfo(vendor: str, flags: str) -> str:
    one = f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: a CPU: 2\nflags\t\t: {flags}\n\n"
    return one + one.replace(": 0", ": 1")


@pytest.mark.parametrize(
    ("vendor", "flags", "expected"),
    [
        ("AuthenticAMD", AVX512, "7"),
        ("HygonGenuine", AVX2, "5"),
        ("AuthenticAMD", AVX2, "5"),
        ("AuthenticAMD", "fpu sse2 avx", None),
        ("AuthenticAMD", AVX512.replace(" avx512bw", ""), "5"),
        ("GenuineIntel", AVX512, None),
    ],
)
def test_kernels_by_processor(vendor: str, flags: str, expected: str | None) -> None:
    assert blas.choose_kernels(cpuinfo(vendor, flags)) == expected


def test_other_processors_are_left_alone() -> None:
    assert blas.choose_kernels("") is None
    assert blas.choose_kernels("processor\t: 0\nFeatures\t: fp asimd\n") is None


def test_what_the_user_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(cpuinfo("AuthenticAMD", AVX512), encoding="utf-8")
    monkeypatch.setattr(blas, "_CPUINFO", path)
    empty: dict[str, str] = {}
    given = {blas.VARIABLE: "5"}
    blas.use_quick_kernels(empty)
    blas.use_quick_kernels(given)
    assert (empty, given) == ({blas.VARIABLE: "7"}, {blas.VARIABLE: "5"})
    path.unlink()
    nothing: dict[str, str] = {}
    blas.use_quick_kernels(nothing)
    assert nothing == {}
