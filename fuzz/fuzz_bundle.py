"""Fuzz the bundle reader: any folder is a bundle or a `BadBundle`, never anything else.

    make fuzz                                       # a minute for each target
    python fuzz/fuzz_bundle.py -max_total_time=60   # libFuzzer's own options

An input is split into bundle.json, the graph and tokens.txt. Half of the inputs are sealed, their
digests made right, so that the fuzzer gets past them to what lies behind.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["asrcompress"]):
    from asrcompress.bundles.bundle import read_bundle
    from asrcompress.errors import BadBundle

# In memory, as each input is written to files; one name, as libFuzzer ends without cleaning up.
_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()
FOLDER = Path(_MEMORY, "asrcompress-fuzz-bundle")
FOLDER.mkdir(exist_ok=True)
TOKENS = b"<blk> 0\n\xe5\xbc\x80 1\n"
MANIFEST = {
    "schema_version": 1,
    "family": "f",
    "precision": "int8",
    "model": "m.onnx",
    "tokens": "tokens.txt",
    "inputs": [
        {"name": "x", "dtype": "float32", "dims": ["N", "T", 80]},
        {"name": "l", "dtype": "int64", "dims": ["N"]},
    ],
    "outputs": [
        {"name": "y", "dtype": "float32", "dims": ["N", "U", 2]},
        {"name": "k", "dtype": "int64", "dims": ["N"]},
    ],
    "features": {},
    "blank_id": 0,
    "vocab_size": 2,
    "subsampling_factor": 4,
    "max_frames": 100,
    "opset": 13,
    "source": {"checkpoint_name": "c", "checkpoint_sha256": "a" * 64},
    "tools": {},
}


def seal(content: bytes) -> bytes:
    """`content` with its own digest, where it has a place for one."""
    unsealed = content.replace(b"SEAL", b"0" * 64, 1)
    return unsealed.replace(b"0" * 64, hashlib.sha256(unsealed).hexdigest().encode(), 1)


def listed(files: dict[str, bytes]) -> dict[str, object]:
    """What bundle.json says of `files`."""
    return {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
        for name, data in files.items()
    }


def one_input(data: bytes) -> None:
    """Write a folder, and read it."""
    provider = atheris.FuzzedDataProvider(data)
    kind = provider.ConsumeIntInRange(0, 3)
    files = {"m.onnx": b"graph", "tokens.txt": TOKENS}
    if kind == 0:  # any bundle.json
        content = provider.ConsumeBytes(4096)
    elif kind == 1:  # any bundle.json, sealed
        content = seal(
            b'{"schema_version": 1, "bundle_sha256": "SEAL", ' + provider.ConsumeBytes(4096)
        )
    else:  # a good one, with one key that is anything, or with any tokens
        tree = {**MANIFEST, "files": {}, "bundle_sha256": "SEAL"}
        if kind == 2:
            key = sorted(tree)[provider.ConsumeIntInRange(0, len(tree) - 1)]
            try:
                tree[key] = json.loads(provider.ConsumeUnicodeNoSurrogates(1000))
            except (ValueError, RecursionError):
                return
        else:
            files["tokens.txt"] = provider.ConsumeBytes(4096)
        if kind == 3 or tree["files"] == {}:
            tree["files"] = listed(files)
        try:
            content = seal(json.dumps(tree).encode())
        except (ValueError, RecursionError):
            return
    for name, body in {**files, "bundle.json": content}.items():
        (FOLDER / name).write_bytes(body)
    try:
        read_bundle(FOLDER)
    except BadBundle as error:
        assert str(FOLDER) in str(error) or "bundle" in str(error), error


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
