"""What the machine itself offers: instructions, GPU, memory, disk."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from asrcompress.doctor.diagnosis import FAIL, WARN, Fact

_CPUINFO, _MEMINFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
_GIB = 1 << 30
# A run of a 12-block conformer writes some 400 MB; training it took some 3 GB.
_DISK_LOW, _DISK_NONE, _MEMORY_LOW = 5 * _GIB, _GIB // 10, 4 * _GIB


def machine_facts(folder: Path) -> list[Fact]:
    """CPU, GPU, sidecars, memory, and the disk of `folder`."""
    cpuinfo = _CPUINFO.read_text(errors="replace") if _CPUINFO.is_file() else ""
    meminfo = _MEMINFO.read_text(errors="replace") if _MEMINFO.is_file() else ""
    return [
        *cpu_facts(cpuinfo, machine=platform.machine()),
        gpu_fact(_nvidia_smi()),
        *sidecar_facts(),
        *memory_facts(meminfo),
        disk_fact(folder),
    ]


def cpu_facts(cpuinfo: str, *, machine: str) -> Iterator[Fact]:
    """Model, and the instructions that int8 lives on.

    Args:
        cpuinfo: text of /proc/cpuinfo; empty where there is none.
        machine: as `platform.machine` says.
    """
    fields = {
        key.strip().lower(): value.strip()
        for key, _, value in (line.partition(":") for line in cpuinfo.splitlines())
    }
    model = fields.get("model name", fields.get("cpu model", "unknown"))
    yield Fact(group="machine", name="cpu", value=f"{model}, {os.cpu_count()} threads, {machine}")
    flags = set(f"{fields.get('flags', '')} {fields.get('features', '')}".split())
    if not flags:
        yield Fact(group="machine", name="int8 instructions", value="unknown on this system")
    elif machine in ("aarch64", "arm64"):
        yield _arm(flags)
    else:
        yield _x86(flags)


def _x86(flags: set[str]) -> Fact:
    vnni = [name for name in ("avx512_vnni", "avx_vnni") if name in flags]
    if vnni:
        return Fact(group="machine", name="int8 instructions", value=f"VNNI ({', '.join(vnni)})")
    if "avx2" in flags:
        return Fact(
            group="machine", name="int8 instructions", value="AVX2, no VNNI", verdict=WARN,
            cure="8-bit weights run exactly but slowly here; qat --target ort-x86-avx2 has 7",
        )  # fmt: skip
    return Fact(
        group="machine", name="int8 instructions", value="neither VNNI nor AVX2", verdict=WARN,
        cure="int8 will be slow here; bench it against FP32 before shipping",
    )  # fmt: skip


def _arm(flags: set[str]) -> Fact:
    found = [name for name in ("asimddp", "i8mm") if name in flags]
    if found:
        return Fact(group="machine", name="int8 instructions", value=", ".join(found))
    return Fact(
        group="machine", name="int8 instructions", value="neither asimddp nor i8mm", verdict=WARN,
        cure="int8 gains little speed here; bench it against FP32 before shipping",
    )  # fmt: skip


def _nvidia_smi() -> str | None:
    """Name, driver and memory of each GPU, one line each; None without the program."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nvidia-smi failed: {type(error).__name__}"
    return (
        done.stdout if done.returncode == 0 else f"nvidia-smi failed: {done.stdout.strip()[:120]}"
    )


def gpu_fact(listing: str | None) -> Fact:
    """What nvidia-smi said; None where there is no such program."""
    if listing is None:
        return Fact(group="machine", name="gpu", value="none found; training runs on the CPU")
    rows = [line.strip() for line in listing.splitlines() if line.strip()]
    if not rows or rows[0].startswith("nvidia-smi failed"):
        return Fact(
            group="machine", name="gpu", value=rows[0] if rows else "nvidia-smi lists none",
            verdict=WARN, cure="repair the NVIDIA driver, or train with --device cpu",
        )  # fmt: skip
    return Fact(group="machine", name="gpu", value="; ".join(rows))


def sidecar_facts() -> Iterator[Fact]:
    """Programs that optional features would use; their absence is no fault."""
    for program, purpose in (("python3.8", "Paddle Lite's wheels"), ("uv", "fast environments")):
        path = shutil.which(program)
        value = path or f"not found; only {purpose} would want it"
        yield Fact(group="machine", name=program, value=value)


def memory_facts(meminfo: str) -> Iterator[Fact]:
    """Memory that is free for use, from the text of /proc/meminfo."""
    fields = dict(line.split(":", 1) for line in meminfo.splitlines() if ":" in line)
    try:
        free = 1024 * int(fields["MemAvailable"].split()[0])
    except (KeyError, IndexError, ValueError):
        yield Fact(group="machine", name="memory", value="unknown on this system")
        return
    value = f"{free / _GIB:.1f} GiB available"
    if free < _MEMORY_LOW:
        yield Fact(
            group="machine", name="memory", value=value, verdict=WARN,
            cure="enough to transcribe; for training lower --batch-frames",
        )  # fmt: skip
    else:
        yield Fact(group="machine", name="memory", value=value)


def disk_fact(folder: Path) -> Fact:
    """Free space where runs are written, and whether writing is allowed there."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Fact(
            group="machine", name="disk", value=f"{folder}: {error.strerror}", verdict=FAIL,
            cure="change to a folder that exists and can be read",
        )  # fmt: skip
    value = f"{free / _GIB:.1f} GiB free at {folder}"
    if not os.access(folder, os.W_OK):
        return Fact(
            group="machine", name="disk", value=f"{folder}: not writable", verdict=WARN,
            cure="give --runs a folder that can be written",
        )  # fmt: skip
    if free < _DISK_NONE:
        return Fact(
            group="machine", name="disk", value=value, verdict=FAIL,
            cure="free some space, or give --runs another disk",
        )  # fmt: skip
    if free < _DISK_LOW:
        return Fact(
            group="machine", name="disk", value=value, verdict=WARN,
            cure="a run takes some 0.5 GB; free some space, or give --runs another disk",
        )  # fmt: skip
    return Fact(group="machine", name="disk", value=value)
