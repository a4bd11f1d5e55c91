"""Fuzz the manifest reader: any file or folder is a manifest or a `BadManifest`.

make fuzz                                         # a minute for each target
python fuzz/fuzz_manifest.py -max_total_time=60   # libFuzzer's own options
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["asrcompress"]):
    from asrcompress.errors import BadManifest
    from asrcompress.manifests.manifest import detect_format, load_manifest

# In memory, as each input is written to files; one name, as libFuzzer ends without cleaning up.
_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()
FOLDER = Path(_MEMORY, "asrcompress-fuzz-manifest")
FOLDER.mkdir(exist_ok=True)
AUDIO = FOLDER / "a.wav"
AUDIO.write_bytes(b"never decoded")
PREFIXES = (
    b"",
    b'{"audio": "a.wav", "text": "',
    b'{"audio_filepath": "a.wav", "text": "", "duration": ',
    b'{"key": "k", "wav": "a.wav", "txt": "", ',
    b'{"input": [{"feat": "a.wav", "filetype": "sound", "shape": [',
    b'{"utt": "u", "feat": "a.wav", "text": "", "feat_shape": ',
)
KALDI = ("wav.scp", "text", "segments", "utt2spk", "utt2dur")


def one_input(data: bytes) -> None:
    """Write a file or a Kaldi folder, and read it."""
    provider = atheris.FuzzedDataProvider(data)
    kind = provider.ConsumeIntInRange(0, len(PREFIXES))
    if kind == len(PREFIXES):
        path = FOLDER / "kaldi"
        path.mkdir(exist_ok=True)
        for name in KALDI:
            (path / name).unlink(missing_ok=True)
            if name in KALDI[:2] or provider.ConsumeBool():
                (path / name).write_bytes(b"a ../a.wav\n" + provider.ConsumeBytes(200))
    else:
        path = FOLDER / "manifest"
        path.write_bytes(PREFIXES[kind] + provider.ConsumeBytes(4096))
    try:
        detect_format(path)
        utterances = load_manifest(path)
    except BadManifest as error:
        assert str(error).startswith(str(path)), error
    else:
        assert utterances and len({item.utt for item in utterances}) == len(utterances)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
