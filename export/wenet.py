"""WeNet's three graphs: a chunk's encoder, the CTC head, and the attention decoder.

WeNet's and PaddleSpeech's own runtimes load them by these names and feed the encoder by the names
of its inputs (``runtime/core/decoder/onnx_asr_model.cc`` there,
``runtime/engine/asr/nnet/u2_onnx_nnet.cc`` here). Offsets are scalars and begin with the length of
a cache that is full of zeros; the mask of the last, shorter chunk is as long as that of a full one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.utils import Extractor

from asrcompress.bundles.manifest import StreamingModel
from asrcompress.errors import ExportFailed
from asrcompress.export.sherpa import (
    FrontEnd,
    chunk_geometry,
    count_from_cache,
    put_in_front,
    with_metadata,
)

ENCODER_INPUTS = ("chunk", "offset", "required_cache_size", "att_cache", "cnn_cache", "att_mask")
ENCODER_OUTPUTS = ("output", "r_att_cache", "r_cnn_cache")
_OURS_IN = ("x", "offset", "required_cache_size", "attn_cache", "conv_cache", "attn_mask")
_OURS_OUT = ("hidden", "next_attn_cache", "next_conv_cache")


def wenet_metadata(
    spec: StreamingModel, *, sos: int, eos: int, bidirectional: bool
) -> dict[str, int]:
    """The keys that WeNet reads from the encoder, and PaddleSpeech from ``param.onnx``.

    Raises:
        ExportFailed: the history is not a fixed number of chunks, or there are no convolutions.
    """
    if spec.left_chunks < 1:
        raise ExportFailed(
            f"streaming.left_chunks: got {spec.left_chunks}, expected 1 or more: WeNet's graphs "
            "keep a fixed number of chunks",
            hint="--left-chunks 4",
        )
    geometry = chunk_geometry(spec)
    if not geometry["cnn_module_kernel"]:
        raise ExportFailed("encoder: has no convolutions, expected a Conformer for WeNet's runtime")
    return {
        "output_size": geometry["output_size"],
        "num_blocks": geometry["num_blocks"],
        "head": geometry["head"],
        "cnn_module_kernel": geometry["cnn_module_kernel"],
        "subsampling_rate": geometry["subsampling_factor"],
        "right_context": geometry["right_context"],
        "sos_symbol": sos,
        "eos_symbol": eos,
        "is_bidirectional_decoder": int(bidirectional),
        "chunk_size": spec.chunk_size,
        "left_chunks": spec.left_chunks,
    }


def encoder_and_ctc(
    model: onnx.ModelProto, front: FrontEnd, spec: StreamingModel, metadata: Mapping[str, int]
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The two halves of a streaming graph, cut where the hidden states are.

    Args:
        model: `asrcompress.export.chunk_graph.export_chunks` with hidden states, FP32 or INT8.
        front: CMVN; the features are those of training.
        spec: its description.
        metadata: from `wenet_metadata`.
    Returns:
        encoder ``(chunk, offset, required_cache_size, att_cache, cnn_cache, att_mask) -> (output,
        r_att_cache, r_cnn_cache)`` and head ``hidden -> probs``, which are log-probabilities.
    """
    encoder = _cut(model, _OURS_IN, _OURS_OUT)
    count_from_cache(encoder, rows=max(512, spec.left_chunks * spec.chunk_size))
    put_in_front(encoder, front)
    _take_long_masks(encoder, spec)
    _take_scalars(encoder, ("offset", "required_cache_size"))
    _rename(encoder, dict(zip(_OURS_IN, ENCODER_INPUTS, strict=True)))
    _rename(encoder, dict(zip(_OURS_OUT, ENCODER_OUTPUTS, strict=True)))
    ctc = _cut(model, ("hidden",), ("log_probs",))
    _rename(ctc, {"log_probs": "probs"})
    return _finished(encoder, metadata), _finished(ctc, metadata)


def rescoring_decoder(
    model: onnx.ModelProto, metadata: Mapping[str, int], *, reverse: bool
) -> onnx.ModelProto:
    """``(hyps, hyps_lens, encoder_out) -> (score, r_score)``; log-probabilities of each next token.

    Args:
        model: `asrcompress.export.decoder_graph.export_decoder`, FP32 or INT8.
        reverse: it has a right-to-left decoder; else ``r_score`` is a zero that nobody reads.
    """
    form = onnx.ModelProto()
    form.CopyFrom(model)
    graph = form.graph
    _rename(form, {"tokens": "hyps", "hidden": "encoder_out", "log_probs": "score"})
    lengths = helper.make_tensor_value_info("hyps_lens", onnx.TensorProto.INT64, ["N"])
    if reverse:
        _rename(form, {"reversed_log_probs": "r_score"})
        _reverse_inside(graph)
    else:
        nothing = numpy_helper.from_array(np.zeros(1, np.float32))
        graph.node.append(helper.make_node("Constant", [], ["r_score"], value=nothing))
        value = helper.make_tensor_value_info("r_score", onnx.TensorProto.FLOAT, [1])
        graph.output.append(value)
    inputs = {item.name: item for item in graph.input}
    ordered = [inputs["hyps"], lengths, inputs["encoder_out"]]
    del graph.input[:]
    graph.input.extend(ordered)
    return _finished(form, metadata)


def _reverse_inside(graph: onnx.GraphProto) -> None:
    """Texts back to front behind sos, as far as each is long."""
    node = helper.make_node
    constants = {"rev.zero": [0], "rev.one": [1], "rev.end": [2**31]}
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.int64), name)
        for name, value in constants.items()
    )
    nodes = [
        node("Slice", ["hyps", "rev.zero", "rev.one", "rev.one"], ["rev.sos"]),
        node("Slice", ["hyps", "rev.one", "rev.end", "rev.one"], ["rev.text"]),
        node("Sub", ["hyps_lens", "rev.one"], ["rev.lengths"]),
        node(
            "ReverseSequence",
            ["rev.text", "rev.lengths"],
            ["rev.reversed"],
            batch_axis=0,
            time_axis=1,
        ),
        node("Concat", ["rev.sos", "rev.reversed"], ["reversed_tokens"], axis=1),
    ]
    _prepend(graph, nodes)


def _take_long_masks(model: onnx.ModelProto, spec: StreamingModel) -> None:
    """Cut ``attn_mask`` to the keys that there are: of the cache, and of this chunk's frames."""
    node = helper.make_node
    constants = {
        "mask.frame_axis": [1],
        "mask.cache_axis": [2],
        "mask.context": [spec.context_frames - spec.subsampling_factor],
        "mask.factor": [spec.subsampling_factor],
        "mask.zero": [0],
    }
    graph = model.graph
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.int64), name)
        for name, value in constants.items()
    )
    for item in graph.node:
        item.input[:] = ["mask.cut" if name == "attn_mask" else name for name in item.input]
    nodes = [
        node("Shape", ["x"], ["mask.x_shape"]),
        node("Gather", ["mask.x_shape", "mask.frame_axis"], ["mask.frames"]),
        # (frames - context) // factor + 1
        node("Sub", ["mask.frames", "mask.context"], ["mask.usable"]),
        node("Div", ["mask.usable", "mask.factor"], ["mask.outputs"]),
        node("Shape", ["attn_cache"], ["mask.cache_shape"]),
        node("Gather", ["mask.cache_shape", "mask.cache_axis"], ["mask.cached"]),
        node("Add", ["mask.cached", "mask.outputs"], ["mask.keys"]),
        node("Slice", ["attn_mask", "mask.zero", "mask.keys", "mask.cache_axis"], ["mask.cut"]),
    ]
    _prepend(graph, nodes)


def _take_scalars(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Let some inputs be of rank 0."""
    graph = model.graph
    one = numpy_helper.from_array(np.array([1], np.int64), "scalar.shape")
    graph.initializer.append(one)
    for name in names:
        for item in graph.node:
            item.input[:] = [f"scalar.{n}" if n == name else n for n in item.input]
    nodes = [
        helper.make_node("Reshape", [name, "scalar.shape"], [f"scalar.{name}"]) for name in names
    ]
    _prepend(graph, nodes)
    for item in graph.input:
        if item.name in names:
            item.CopyFrom(
                helper.make_tensor_value_info(item.name, item.type.tensor_type.elem_type, [])
            )


def _cut(model: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
    """The part of a graph between some of its tensors; an output may become an input."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    whole.graph.value_info.extend(model.graph.output)  # the extractor looks for types here
    part: onnx.ModelProto = Extractor(whole).extract_model(list(inputs), list(outputs))
    del part.graph.value_info[:]
    part.ir_version = model.ir_version
    return part


def _rename(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """Tensors of the graph by other names."""
    graph = model.graph
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for item in (*graph.input, *graph.output, *graph.value_info):
        item.name = names.get(item.name, item.name)


def _prepend(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    following = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *following])


def _finished(model: onnx.ModelProto, metadata: Mapping[str, int]) -> onnx.ModelProto:
    form = with_metadata(model, metadata)
    onnx.checker.check_model(form)
    return form
