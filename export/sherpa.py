"""The forms of a verified graph that sherpa-onnx loads unmodified.

    fire_red_asr_ctc      whole recordings; metadata only, the graph stays what was verified
    wenet_ctc             whole recordings; CMVN becomes part of the graph
    wenet_ctc, streaming  the same for chunks, and positions that count as sherpa-onnx counts them

What each slot reads is in sherpa-onnx's source: ``offline-fire-red-asr-ctc-model.cc``,
``offline-wenet-ctc-model.cc`` and ``online-wenet-ctc-model.cc``. Inputs and outputs are told by
their order. A key of the metadata that is missing ends the whole process there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from asrcompress.bundles.manifest import StreamingModel
from asrcompress.errors import ExportFailed
from asrcompress.features import FeatureSpec
from asrcompress.onnxruntime_optimizers import OPTIMIZED_KEY

_TABLE = "positional_table"
_FRONT = "front_end."  # names of everything that `put_in_front` adds
# Rows in front of the positional table, at least: positions of frames before the recording, which
# are masked. A longer history than this would count as WeNet does, from its own length on.
_ROWS_BEFORE = 512
_ABOUT = {
    "version": "1",
    "model_author": "asrcompress",
    "comment": "quantized from PaddleSpeech",
    "url": "",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontEnd:
    """What is done inside of the graph to the features that come in.

    Attributes:
        conversion: mel bins of training out of those that come in, float32 (width, width), applied
            to energies; None where both are the same.
        log_floor: energies are raised to it again after the conversion.
        scale, shift: CMVN as ``x * scale + shift``, float32 (width,).
    """

    conversion: np.ndarray | None
    log_floor: float
    scale: np.ndarray
    shift: np.ndarray


def computation_digest(model: onnx.ModelProto) -> str:
    """SHA-256 of all that a graph computes with: everything but its metadata."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def fire_red_form(
    model: onnx.ModelProto, features: FeatureSpec, *, subsampling: int
) -> onnx.ModelProto:
    """For whole recordings whose features are exactly those that this slot is fed.

    Args:
        model: ``(x, x_lens) -> (log_probs, log_probs_lens)``, with free batch and time.
        features: 80 mel bins as in `FeatureSpec`'s defaults; the CMVN is applied by sherpa-onnx.
        subsampling: feature frames per output frame.
    Raises:
        ExportFailed: the size of the vocabulary is not fixed in the graph, from where it is read.
    """
    if model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value < 1:
        raise ExportFailed(
            f"{model.graph.output[0].name}: its last dimension is free, expected the vocabulary's"
        )
    mean = features.cmvn_mean or (0.0,) * features.width
    istd = features.cmvn_istd or (1.0,) * features.width
    form = with_metadata(
        model,
        {
            "model_type": "fire-red-asr-2-ctc",
            "cmvn_mean": ",".join(f"{value:.9g}" for value in mean),
            "cmvn_inv_stddev": ",".join(f"{value:.9g}" for value in istd),
            "subsampling_factor": subsampling,
            **_ABOUT,
        },
    )
    if computation_digest(form) != computation_digest(model):
        raise ExportFailed("sherpa-onnx: the graph changed, expected metadata to be all that does")
    return form


def wenet_form(
    model: onnx.ModelProto,
    front: FrontEnd,
    *,
    subsampling: int,
    vocabulary: int,
) -> onnx.ModelProto:
    """For whole recordings with other features than `fire_red_form` takes; batch 1 there.

    Args:
        model: as for `fire_red_form`.
        front: from the slot's features to the network's.
        vocabulary: number of outputs.
    """
    form = onnx.ModelProto()
    form.CopyFrom(model)
    put_in_front(form, front)
    keys = {"model_type": "wenet_ctc", "vocab_size": vocabulary, "subsampling_factor": subsampling}
    return _checked(with_metadata(form, {**keys, **_ABOUT}))


def wenet_stream_form(
    model: onnx.ModelProto,
    front: FrontEnd,
    spec: StreamingModel,
    *,
    vocabulary: int,
) -> onnx.ModelProto:
    """For streams: `asrcompress.export.chunk_graph`'s graph with sherpa-onnx's way of counting.

    sherpa-onnx begins with a full cache of zeros, all of it masked, and with an offset of its
    length. Neither restarts, not even at an endpoint, so positions stay at the end of the table
    once they have got there; keys are placed anew at every step, so that this is consistent.

    Args:
        model: without external data; inputs ``(x, offset, required_cache_size, attn_cache,
            [conv_cache], attn_mask)``.
        spec: its description.
    Raises:
        ExportFailed: the history is not a fixed number of chunks.
    """
    if spec.left_chunks < 1:
        raise ExportFailed(
            f"streaming.left_chunks: got {spec.left_chunks}, expected 1 or more: sherpa-onnx keeps "
            "a fixed number of chunks",
            hint="--left-chunks 4",
        )
    form = onnx.ModelProto()
    form.CopyFrom(model)
    put_in_front(form, front)
    count_from_cache(form, rows=max(_ROWS_BEFORE, spec.left_chunks * spec.chunk_size))
    geometry = chunk_geometry(spec)
    if geometry["cnn_module_kernel"] == 0:
        geometry["cnn_module_kernel"] = _carry_unused_cache(form, geometry)
    sizes = {"chunk_size": spec.chunk_size, "left_chunks": spec.left_chunks}
    keys = {"model_type": "wenet_ctc", **geometry, "vocab_size": vocabulary, **sizes}
    return _checked(with_metadata(form, {**keys, **_ABOUT}))


def chunk_geometry(spec: StreamingModel) -> dict[str, int]:
    """Sizes of a streaming U2 graph under WeNet's names; ``cnn_module_kernel`` 0 without one."""
    dims = {item.name: [d for d in item.dims if isinstance(d, int)] for item in spec.inputs}
    blocks, heads, twice_head_width = dims["attn_cache"]
    convolution = dims.get("conv_cache")
    return {
        "head": heads,
        "num_blocks": blocks,
        "output_size": heads * twice_head_width // 2,
        "cnn_module_kernel": 0 if convolution is None else convolution[3] + 1,
        "right_context": spec.context_frames - 1,
        "subsampling_factor": spec.subsampling_factor,
    }


def with_metadata(model: onnx.ModelProto, values: Mapping[str, object]) -> onnx.ModelProto:
    """A copy of `model` with these keys, whatever they were before, to be changed further.

    So it no longer says that nothing is left to simplify in it.
    """
    form = onnx.ModelProto()
    form.CopyFrom(model)
    kept = {item.key: item.value for item in form.metadata_props if item.key != OPTIMIZED_KEY}
    helper.set_model_props(form, {**kept, **{key: str(value) for key, value in values.items()}})
    return form


def put_in_front(model: onnx.ModelProto, front: FrontEnd, *, name: str = "x") -> None:
    """Let the graph begin with `front`; changes `model`. `without_front` undoes it.

    Args:
        name: of the input.
    """
    constants = {"scale": front.scale, "shift": front.shift}
    steps = [("Mul", "scale"), ("Add", "shift")]
    if front.conversion is not None:
        constants |= {"mel_bins": front.conversion.T, "floor": np.array([front.log_floor])}
        steps = [("Exp", ""), ("MatMul", "mel_bins"), ("Max", "floor"), ("Log", ""), *steps]
    _rename_reads(model.graph, name, f"{_FRONT}features")
    nodes, value = [], name
    for number, (kind, operand) in enumerate(steps, start=1):
        inputs = [value, f"{_FRONT}{operand}"] if operand else [value]
        value = f"{_FRONT}features" if number == len(steps) else f"{_FRONT}{number}"
        nodes.append(helper.make_node(kind, inputs, [value]))
    named = {f"{_FRONT}{key}": item.astype(np.float32) for key, item in constants.items()}
    _prepend(model.graph, named, nodes)


def without_front(model: onnx.ModelProto, *, name: str = "x") -> onnx.ModelProto:
    """The graph as it was before `put_in_front`, without metadata of its own."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    graph = bare.graph
    nodes = [node for node in graph.node if not node.output[0].startswith(_FRONT)]
    weights = [item for item in graph.initializer if not item.name.startswith(_FRONT)]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.initializer[:]
    graph.initializer.extend(weights)
    _rename_reads(graph, f"{_FRONT}features", name)
    return bare


def count_from_cache(model: onnx.ModelProto, *, rows: int) -> None:
    """Let ``offset`` count from the beginning of a full cache, as WeNet does; changes `model`.

    The first frame of a recording, at an offset of ``required_cache_size``, has position 0, as in
    training. Positions before it are rows in front of the table; keys there are masked.

    Args:
        rows: how many; a longer cache than this shifts positions by what it is longer.
    """
    graph = model.graph
    table = next((item for item in graph.initializer if item.name.startswith(_TABLE)), None)
    if table is None:  # a network without positions
        return
    values = numpy_helper.to_array(table)
    length = values.shape[1]
    before = np.repeat(values[:, :1], rows, axis=1)
    extended = numpy_helper.from_array(np.concatenate([before, values], axis=1), table.name)
    table.CopyFrom(extended)
    constants = {
        "rows_before": np.array([rows], np.int64),
        "no_rows": np.zeros(1, np.int64),
        "rows_of_table": np.array([rows + length], np.int64),
        "last_axis": np.array([-1], np.int64),
        "time_axis": np.array([2], np.int64),
    }
    node = helper.make_node
    _rename_reads(graph, "offset", "position")
    _prepend(
        graph,
        constants,
        [
            node("Sub", ["rows_before", "required_cache_size"], ["rows_too_many"]),
            node("Max", ["rows_too_many", "no_rows"], ["rows_skipped"]),
            node("Add", ["offset", "rows_skipped"], ["unbounded_position"]),
            # Frames of this chunk are the keys that are not cached.
            node("Shape", ["attn_mask"], ["mask_shape"]),
            node("Gather", ["mask_shape", "last_axis"], ["key_count"]),
            node("Shape", ["attn_cache"], ["cache_shape"]),
            node("Gather", ["cache_shape", "time_axis"], ["cached_count"]),
            node("Sub", ["key_count", "cached_count"], ["chunk_frames"]),
            node("Sub", ["rows_of_table", "chunk_frames"], ["last_position"]),
            node("Min", ["unbounded_position", "last_position"], ["position"]),
        ],
    )
    del graph.value_info[:]  # the table's slices have other shapes now


def _carry_unused_cache(model: onnx.ModelProto, geometry: Mapping[str, int]) -> int:
    """Give a Transformer the convolution cache that sherpa-onnx insists on; returns its kernel."""
    kernel, graph = 2, model.graph
    dims = [geometry["num_blocks"], 1, geometry["output_size"], kernel - 1]
    cache, following = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims)
        for name in ("conv_cache", "next_conv_cache")
    )
    mask = graph.input.pop()
    graph.input.extend([cache, mask])
    graph.output.append(following)
    graph.node.append(helper.make_node("Identity", ["conv_cache"], ["next_conv_cache"]))
    return kernel


def _rename_reads(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]


def _prepend(
    graph: onnx.GraphProto, constants: Mapping[str, np.ndarray], nodes: list[onnx.NodeProto]
) -> None:
    graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(value), name)
        for name, value in constants.items()
    )
    following = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *following])


def _checked(model: onnx.ModelProto) -> onnx.ModelProto:
    onnx.checker.check_model(model)
    return model


def load_whole(path: Path) -> onnx.ModelProto:
    """A graph with all of its weights, those in the file beside it too.

    Raises:
        ExportFailed: it is not a graph, or the file beside it is missing.
    """
    try:
        return onnx.load(path)
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ExportFailed(f"{path}: cannot be loaded, {error}") from error
