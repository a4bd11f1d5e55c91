"""A 64-bit ARM Linux to run the base install in, without the hardware: Debian and QEMU.

debootstrap fetches the packages, ``dpkg -x`` unpacks them (no chroot, no binfmt), pip fetches the
aarch64 wheels of the base install, and ``qemu-aarch64-static -L`` runs their Python. It shows that
results are right, and nothing about speed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

# Debian's release, and the Python that it has; the wheels are for that one.
SUITE, PYTHON = "bookworm", "3.11"
PACKAGES = ("python3", f"libpython{PYTHON}", "libgomp1", "libstdc++6")
# Newest first, as pip wants them.
PLATFORMS = (
    "manylinux_2_28_aarch64",
    "manylinux_2_27_aarch64",
    "manylinux_2_17_aarch64",
    "manylinux2014_aarch64",
)
PROGRAMS = ("qemu-aarch64-static", "debootstrap", "dpkg")
_READY = ".ready"


def cache_folder() -> Path:
    """Where the root is kept: $ASRCOMPRESS_ARM64, or a folder of the user's cache."""
    given = os.environ.get("ASRCOMPRESS_ARM64")
    return Path(given) if given else Path.home() / ".cache" / "asrcompress" / f"arm64-{SUITE}"


def missing() -> str:
    """What keeps a root from being made here; empty where nothing does."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} not found: apt-get install qemu-user-static debootstrap"
    return "" if os.geteuid() == 0 else "debootstrap wants root"


def make_root(folder: Path) -> Path:
    """A Debian root in `folder`, unpacked; made once, in half a minute."""
    root = folder / "root"
    if (root / _READY).is_file():
        return root
    shutil.rmtree(root, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    include = f"--include={','.join(PACKAGES)}"
    _call("debootstrap", "--arch=arm64", "--foreign", "--variant=minbase", include, SUITE, root)
    for package in sorted((root / "var/cache/apt/archives").glob("*.deb")):
        _call("dpkg", "-x", package, root)
    (root / _READY).touch()
    return root


def install(python: str, wheel: Path, lock: Path, folder: Path) -> Path:
    """`wheel` and everything that it needs, as aarch64 wheels of the locked versions.

    Args:
        python: interpreter with pip, of this machine.
    Returns:
        folder to put on PYTHONPATH.
    """
    wheels, site = folder / "wheels", folder / "site"
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    _call(
        python, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--python-version",
        PYTHON, *platforms, "--constraint", lock, "--dest", wheels, wheel,
    )  # fmt: skip
    for path in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(path) as archive:
            archive.extractall(site)
    return site


class Device:
    """Runs Python under emulation."""

    def __init__(self, root: Path, site: Path) -> None:
        self.root, self.site = root, site

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        """``python words...`` on aarch64."""
        qemu = shutil.which("qemu-aarch64-static") or "qemu-aarch64-static"
        interpreter = self.root / f"usr/bin/python{PYTHON}"
        command = [qemu, "-L", str(self.root), str(interpreter), *map(str, words)]
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        environment = {**kept, "PYTHONPATH": str(self.site), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command, env=environment, cwd="/", capture_output=True, text=True, check=False
        )


def _call(*words: object) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{words[0]} failed: {(done.stdout + done.stderr).strip()[-1000:]}")
