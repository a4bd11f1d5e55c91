"""Two graphs of one network, one copy of the weights.

The second graph's large initializers become ONNX external data whose file is the first graph:
ONNX keeps a tensor's bytes in one piece inside the model file, so a name, an offset and a length
find them. The first graph stays a file that stands by itself; the second needs it beside it.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx.external_data_helper import set_external_data

from asrcompress.errors import ExportFailed
from asrcompress.export.initializers import initializers

# Below this a reference is hardly smaller than what it refers to.
_WORTH_SHARING = 1024


def share_weights(model: onnx.ModelProto, base: Path) -> int:
    """Let `model` read from `base` what both have; changes `model`.

    Args:
        model: to be saved in the folder of `base`.
        base: ONNX file that holds its own weights.
    Returns:
        how many bytes are shared.
    Raises:
        ExportFailed: an int8 weight that differs between the two: they are not one network.
    """
    content = base.read_bytes()
    twins = {item.name: item for item in initializers(onnx.load_from_string(content).graph)}
    shared = 0
    for tensor in initializers(model.graph):
        raw = tensor.raw_data
        twin = twins.get(tensor.name)
        same = twin is not None and twin.raw_data == raw and twin.data_type == tensor.data_type
        if tensor.data_type == onnx.TensorProto.INT8 and not same:
            raise ExportFailed(f"{tensor.name}: differs from the one in {base.name}")
        if not same or len(raw) < _WORTH_SHARING:
            continue
        offset = content.find(raw)
        if offset < 0:
            raise ExportFailed(f"{tensor.name}: lies in pieces in {base.name}, expected one")
        set_external_data(tensor, location=base.name, offset=offset, length=len(raw))
        tensor.ClearField("raw_data")
        shared += len(raw)
    return shared
