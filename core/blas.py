"""The matrix products of Paddle's wheels on processors that are not Intel's.

Paddle carries a copy of Intel's MKL from 2019, which looks at the processor's vendor first: on any
other than Intel's it computes with SSE, whatever the processor can. ``MKL_DEBUG_CPU_TYPE`` names
the instructions instead; MKL reads it when it multiplies for the first time. Later releases of MKL
do not know the variable, and do not need it. On an AMD EPYC with AVX-512, one thread, matrix
products of a Conformer's training went from 35 to 100 GFLOP/s (docs/training-speed.md).
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

VARIABLE = "MKL_DEBUG_CPU_TYPE"
_CPUINFO = Path("/proc/cpuinfo")
# Makers of x86 processors with Intel's instructions.
_VENDORS = ("AuthenticAMD", "HygonGenuine")
_AVX512 = {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512cd"}
_AVX2 = {"avx2", "fma"}


def choose_kernels(cpuinfo: str) -> str | None:
    """The value of ``MKL_DEBUG_CPU_TYPE`` for a processor, or None where MKL chooses by itself.

    Args:
        cpuinfo: text of /proc/cpuinfo; empty where there is none.
    """
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    if fields.get("vendor_id") not in _VENDORS:
        return None
    flags = set(fields.get("flags", "").split())
    if flags >= _AVX512 | _AVX2:
        return "7"
    return "5" if flags >= _AVX2 else None


def use_quick_kernels(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the variable for this process and its children; a value that is there stays."""
    if VARIABLE in environment or not _CPUINFO.is_file():
        return
    chosen = choose_kernels(_CPUINFO.read_text(errors="replace"))
    if chosen is not None:
        environment[VARIABLE] = chosen
