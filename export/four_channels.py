"""A first convolution with one input channel, as one with four.

The integer kernels of a convolution take four input channels at a time. A spectrogram has one; but
with stride 2 the four pixels of a square are never torn apart, and can be those channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper

from asrcompress.export.rewriting import Rewriting


def pack_pixels(graph: Rewriting, node: Any) -> None:
    """Turn a convolution of one channel with stride 2 into one of four channels with stride 1.

    The four pixels of each 2 x 2 square become four channels (space to depth), and so do those of
    the kernel, which gets a row and a column of zeros where its sides are odd. The sums are the
    same integers: the codes are only ordered in another way, and those that were added are zeros.
    """
    source, weight = (graph.dequantizer(name) for name in node.input[:2])
    if source is None or weight is None:
        return
    quantize = graph.producer(source.input[0])
    codes = graph.array(weight.input[0])
    if codes is None or quantize is None or not _is_single_channel(node, codes):
        return
    mels = (graph.dimensions(quantize.input[0]) or [None])[-1]
    if mels is None:
        return
    name = node.output[0]
    packed, nodes = _packed_pixels(graph, source.input[0], mels, prefix=name)
    reader = helper.make_node("DequantizeLinear", [packed, *source.input[1:]], [f"{packed}_real"])
    kernel = graph.add(f"{weight.input[0]}_four_channels", _packed_kernel(codes))
    dequantize = helper.make_node(
        "DequantizeLinear", [kernel, *weight.input[1:]], [f"{kernel}_real"], axis=0
    )
    inputs = [f"{packed}_real", f"{kernel}_real", *node.input[2:]]
    half = [(side + 1) // 2 for side in codes.shape[2:]]
    convolution = helper.make_node(
        "Conv", inputs, [name], name=node.name, kernel_shape=half, strides=[1, 1], group=1
    )
    graph.replace([node], *nodes, reader, dequantize, convolution)


def _is_single_channel(node: Any, codes: np.ndarray) -> bool:
    attributes = {item.name: list(item.ints) or item.i for item in node.attribute}
    return (
        codes.ndim == 4
        and codes.shape[1] == 1
        and attributes.get("group", 1) == 1  # a depthwise convolution has such weights too
        and codes.shape[2] % 2 == codes.shape[3] % 2 == 1  # even sides would give a frame more
        and attributes.get("strides") == [2, 2]
        and not any(attributes.get("pads", [0]))
        and attributes.get("dilations", [1, 1]) == [1, 1]
    )


def _packed_kernel(codes: np.ndarray) -> np.ndarray:
    """(channels, 1, height, width) with odd sides as (channels, 4, height', width')."""
    outputs, _, height, width = codes.shape
    padded = np.pad(codes[:, 0], ((0, 0), (0, 1), (0, 1)))
    squares = padded.reshape(outputs, (height + 1) // 2, 2, (width + 1) // 2, 2)
    return squares.transpose(0, 2, 4, 1, 3).reshape(outputs, 4, (height + 1) // 2, (width + 1) // 2)


def _packed_pixels(
    graph: Rewriting, codes: str, mels: int, *, prefix: str
) -> tuple[str, tuple[Any, ...]]:
    """Codes (batch, 1, frames, mels) as (batch, 4, frames / 2, mels / 2), both rounded up."""

    def int64(name: str, *values: int) -> str:
        return graph.add(f"{prefix}_{name}", np.array(values, np.int64))

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        return helper.make_node(op, inputs, [f"{prefix}_{output}"], **attributes)

    half = (mels + 1) // 2
    nodes = (
        node("Shape", [codes], "frames", start=2, end=3),
        node("Mod", [f"{prefix}_frames", int64("two", 2)], "odd"),
        node(
            "Concat",
            [int64("before", 0, 0, 0, 0, 0, 0), f"{prefix}_odd", int64("after", mels % 2)],
            "pads",
            axis=0,
        ),
        node("Pad", [codes, f"{prefix}_pads"], "even"),
        # Channels last: two neighbours move together, ten times as fast as one by one. ONNX
        # Runtime drops the last step again, since that is how its integer kernels read an image.
        node("Reshape", [f"{prefix}_even", int64("squares", 0, -1, 2, half, 2)], "split"),
        node("Transpose", [f"{prefix}_split"], "moved", perm=[0, 1, 3, 2, 4]),
        node("Reshape", [f"{prefix}_moved", int64("packed", 0, -1, half, 4)], "channels_last"),
        node("Transpose", [f"{prefix}_channels_last"], "channels", perm=[0, 3, 1, 2]),
    )
    return f"{prefix}_channels", nodes
