"""What is freed while a network is loaded does not add to the peak."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from asrcompress import process_memory

# As weights are while a network is loaded: half are freed when the others have been made of them,
# one after the other, with small pieces in between that stay. The peak is of the process.
SCRIPT = """
import contextlib, ctypes, json, sys
from asrcompress import process_memory

library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]

def made(size):
    address = library.malloc(size)
    ctypes.memset(address, 1, size)
    return address

def status(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))

size, count = 512 << 10, 100
library.free(made(8 << 20))  # a program that has run for a while: its threshold has grown
lean = sys.argv[1] == "lean"
with process_memory.returned_at_once() if lean else contextlib.nullcontext():
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins here
    before = status("VmRSS")
    first = []
    for _ in range(count):
        first.append(made(size))
        made(1 << 10)
    packed = []
    for address in first:
        packed.append(made(size + 4096))
        library.free(address)
    print(json.dumps(status("VmHWM") - before))
"""


def grown(how: str) -> float:
    """Megabytes that the process grew by."""
    command = [sys.executable, "-c", SCRIPT, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout))


@pytest.mark.skipif(process_memory._glibc() is None, reason="the C library is not glibc")
def test_what_is_freed_while_loading_goes_back_at_once() -> None:
    kept, lean = grown("as it is"), grown("lean")
    assert lean < 55, "50 MB in use, and one weight"
    assert kept > lean + 8
