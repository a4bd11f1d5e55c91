"""Zeros among the int8 weights of a graph."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from asrcompress.export.initializers import initializers


def count_int8_zeros(path: Path, layers: Collection[str]) -> dict[str, int]:
    """How many int8 weights of each layer are zero.

    Args:
        path: of a graph as `asrcompress.export.int8` writes it.
        layers: names, ``encoder.rnn.0`` or ``encoder.encoders.0.feed_forward.w_1``.
    Returns:
        one number for each layer that has int8 weights; the others are left out.
    """
    found: dict[str, int] = {}
    for item in initializers(onnx.load(str(path)).graph):
        layer = item.name.partition(".weight")[0]
        # A recurrent layer has several: of the input, and of the state of each direction.
        if (
            layer in layers
            and item.data_type == onnx.TensorProto.INT8
            and "_quantized" in item.name
        ):
            zeros = int((numpy_helper.to_array(item) == np.int8(0)).sum())
            found[layer] = found.get(layer, 0) + zeros
    return found
