"""Fuzz the reader of ONNX files: any bytes are a graph or a `BadBundle`, never anything else.

    make fuzz                                      # a minute for each target
    python fuzz/fuzz_graph.py -max_total_time=60   # libFuzzer's own options

Half of the inputs are put where a weight lies in a good file, to get past what is around it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["asrcompress"]):
    from asrcompress.bundles.onnx_header import read_metadata, read_opset
    from asrcompress.bundles.wire_format import bytes_field, fields, varint_field
    from asrcompress.errors import BadBundle
    from asrcompress.runtime import mapped_weights

# In memory, as each input is written to a file; one name, as libFuzzer ends without cleaning up.
_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()
PATH = Path(_MEMORY, "asrcompress-fuzz-graph.onnx")
# So that inputs of this size have large weights.
mapped_weights._WORTH_MAPPING = 64
OPSET = bytes_field(8, varint_field(2, 17))


def one_input(data: bytes) -> None:
    """Write a file, and read it."""
    provider = atheris.FuzzedDataProvider(data)
    kind = provider.ConsumeIntInRange(0, 3)
    content = provider.ConsumeBytes(4096)
    if kind == 1:
        content = bytes_field(7, content) + OPSET
    elif kind == 2 and len(content) % 2:
        content = bytes_field(14, content)
    elif kind == 2:
        content = bytes_field(7, bytes_field(5, content)) + OPSET
    elif kind == 3:
        content = bytes_field(7, bytes_field(5, bytes_field(9, content))) + OPSET
    PATH.write_bytes(content)
    for read in (mapped_weights.map_weights, read_opset, read_metadata):
        try:
            found = read(PATH)
        except BadBundle as error:
            assert str(PATH) in str(error), error
            continue
        if isinstance(found, mapped_weights.MappedGraph):
            list(fields(found.model, 0, len(found.model)))


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
