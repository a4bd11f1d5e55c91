"""From a run or a checkpoint to the folder that WeNet's and PaddleSpeech's runtimes load.

The encoder and the CTC head are the two halves of the run's streaming graph; they are compared with
the graph that the gate measured before they are written.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from asrcompress.bundles.manifest import StreamingModel
from asrcompress.checkpoints.attention_decoder import PARAMETERS
from asrcompress.checkpoints.batch_norm import fold_batch_norm
from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.checkpoints.network import build_network
from asrcompress.checkpoints.streaming import check_streamable
from asrcompress.checkpoints.subject import trained_of
from asrcompress.console import Console
from asrcompress.errors import BadRecipe, OutputExists, ParityFailed
from asrcompress.features import FeatureSpec
from asrcompress.files import refuse_overwrite, write_atomically
from asrcompress.paddle_imports import import_paddle
from asrcompress.pipeline.quantize import max_frames
from asrcompress.pipeline.recognizer import checkpoint_of
from asrcompress.pipeline.shipping import contract_of, find_run, named_checkpoint, require_passed
from asrcompress.ranges import Ranges, read_ranges
from asrcompress.recipe import Recipe
from asrcompress.run import Run
from asrcompress.runtime.chunk_model import U2ChunkModel
from asrcompress.runtime.graph import OnnxGraph
from asrcompress.tokens import EOS, SPACE, WORD_BOUNDARY, Vocabulary

if TYPE_CHECKING:
    from asrcompress.export.sherpa import FrontEnd

PARAMETERS_FILE = "param.onnx"  # PaddleSpeech's name for a text file
# Largest difference in nats between the halves and the whole: the same kernels, CMVN apart.
_TOLERANCE_NATS = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """What is exported: weights, and of a run its ranges."""

    checkpoint: Checkpoint
    recipe: Recipe
    max_frames: int
    run: Run | None = None
    ranges: Ranges | None = None


def ship_wenet(
    source: Path | None,
    recipe: Recipe,
    output: Path | None,
    *,
    precision: str | None,
    force: bool,
    console: Console,
) -> Path:
    """Write ``encoder.onnx``, ``ctc.onnx``, ``decoder.onnx``, ``param.onnx`` and ``units.txt``.

    Args:
        source: a run directory, or for FP32 a checkpoint; None is the run that passed last, or
            the recipe's checkpoint.
        output: None is ``wenet``.
        precision: ``int8``, or ``fp32`` for a checkpoint.
    Raises:
        BadRecipe: the run or recipe has no chunks of a fixed history.
        BadRun, BadCheckpoint, CerGateFailed: see `asrcompress.pipeline.shipping`.
        ExportFailed, ParityFailed: the graphs are not what was measured.
        OutputExists: there is something at `output`.
    """
    from asrcompress.export.onnx_graph import save_graph

    folder = output or Path("wenet")
    _refuse_replacing(folder, force=force)
    origin = _origin(source, recipe, precision)
    with console.status("exporting WeNet's three graphs"):
        graphs, metadata, spec = _graphs(origin)
    with tempfile.TemporaryDirectory(prefix="asrcompress-") as scratch:
        draft = Path(scratch) / "wenet"
        draft.mkdir()
        for name, graph in graphs.items():
            save_graph(graph, draft / name)
        if origin.run is not None:
            _check_same(draft, origin.run, spec, origin.checkpoint.features)
        lines = [f"{key}={value}" for key, value in metadata.items()]
        write_atomically(draft / PARAMETERS_FILE, "\n".join([*lines, ""]))
        write_atomically(draft / "units.txt", units(origin.checkpoint.vocabulary))
        folder.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(folder):
            shutil.rmtree(folder)
        shutil.move(draft, folder)
    return folder


def units(vocabulary: Vocabulary) -> str:
    """The text of WeNet's ``units.txt``: symbols and ids, ``<sos/eos>`` for the end."""
    names = {SPACE: WORD_BOUNDARY, EOS: "<sos/eos>"}
    symbols = (names.get(symbol, symbol) for symbol in vocabulary.symbols)
    return "".join(f"{symbol} {id_}\n" for id_, symbol in enumerate(symbols))


def _origin(source: Path | None, recipe: Recipe, precision: str | None) -> _Origin:
    if precision not in (None, "int8", "fp32"):
        raise BadRecipe(f"--precision: got {precision}, expected int8 or fp32")
    if precision == "fp32":
        path = source or recipe.checkpoint.path
        if path is None:
            raise BadRecipe("checkpoint: not set, expected a checkpoint", hint="--checkpoint DIR")
        checkpoint = named_checkpoint(path, recipe)
        _require_chunks(recipe)
        check_streamable(checkpoint, recipe.streaming)
        most = max_frames(checkpoint, recipe)
        return _Origin(checkpoint=checkpoint, recipe=recipe, max_frames=most)
    run = find_run(source, recipe)
    trained = require_passed(run)
    _require_chunks(trained)
    # ONNX Runtime is on its own there, as it is in sherpa-onnx.
    target = recipe.export.target
    contract_of(run, trained, "sherpa-stream" if target == "int8" else target)
    return _Origin(
        checkpoint=trained_of(run, checkpoint_of(run)),
        recipe=trained,
        max_frames=run.field("run.json", "max_frames", kind=int),
        run=run,
        ranges=read_ranges(run.ranges),
    )


def _require_chunks(recipe: Recipe) -> None:
    if not recipe.streaming.wanted:
        raise BadRecipe(
            "streaming.chunk_size: got 0, expected a chunk size: WeNet's graphs take chunks",
            hint="--chunk-size 16 --left-chunks 4",
        )


def _graphs(origin: _Origin) -> tuple[dict[str, Any], dict[str, int], StreamingModel]:
    from asrcompress.export import wenet
    from asrcompress.export.chunk_graph import export_chunks
    from asrcompress.export.decoder_graph import export_decoder
    from asrcompress.export.int8 import quantize_graph
    from asrcompress.export.streaming import export_streaming

    opset, features = origin.recipe.export.opset, origin.checkpoint.features
    most, width = origin.max_frames, features.width
    # Numbering tensors anew makes the same bytes of the same checkpoint.
    with import_paddle().utils.unique_name.guard():
        network = build_network(origin.checkpoint)
        fold_batch_norm(network)
        _, spec = export_streaming(
            network,
            origin.recipe.streaming,
            name="encoder.onnx",
            opset=opset,
            max_frames=most,
            n_mels=width,
        )
        reverse = hasattr(network.decoder, "right_decoder") and network.reverse_weight > 0
        metadata = wenet.wenet_metadata(
            spec, sos=int(network.sos), eos=int(network.eos), bidirectional=reverse
        )
        chunks = export_chunks(network, opset=opset, max_frames=most, n_mels=width, hidden=True)
        decoder = export_decoder(network, opset=opset, reverse=reverse)
    if origin.ranges is not None:
        operators, ranges = origin.recipe.export.operators, origin.ranges
        encoder_ranges = ranges.part(PARAMETERS, inside=False)
        chunks = quantize_graph(chunks, encoder_ranges, operators=operators, whole=False)
        if origin.recipe.decoding.uses_decoder:
            decoder = quantize_graph(decoder, ranges.part(PARAMETERS), operators=operators)
    encoder, ctc = wenet.encoder_and_ctc(chunks, _cmvn(features), spec, metadata)
    graphs = {
        "encoder.onnx": encoder,
        "ctc.onnx": ctc,
        "decoder.onnx": wenet.rescoring_decoder(decoder, metadata, reverse=reverse),
    }
    return graphs, metadata, spec


def _cmvn(features: FeatureSpec) -> FrontEnd:
    """CMVN in the graph: WeNet's runtime leaves it to the encoder."""
    from asrcompress.export.sherpa import FrontEnd

    mean = np.asarray(features.cmvn_mean or np.zeros(features.width), np.float64)
    istd = np.asarray(features.cmvn_istd or np.ones(features.width), np.float64)
    return FrontEnd(
        conversion=None,
        log_floor=features.log_floor,
        scale=istd.astype(np.float32),
        shift=(-mean * istd).astype(np.float32),
    )


def _check_same(draft: Path, run: Run, spec: StreamingModel, features: FeatureSpec) -> None:
    """The two halves give what the graph gives that the gate measured.

    Raises:
        ParityFailed: they do not.
    """
    whole = U2ChunkModel(run.streaming_model, run.streaming_spec())
    halves = WenetModel(draft, spec)
    rng, ours, theirs = np.random.default_rng(0), whole.start(), halves.start()
    mean = np.asarray(features.cmvn_mean or np.zeros(features.width))
    istd = np.asarray(features.cmvn_istd or np.ones(features.width))
    for _ in range(spec.left_chunks + 2):
        normal = rng.standard_normal((spec.window_frames, features.width))
        expected = whole.step(normal.astype(np.float32), ours)
        seen, theirs = halves.step((normal / istd + mean).astype(np.float32), theirs)
        ours = expected.state
        gap = float(np.abs(seen - expected.log_probs).mean())
        if gap > _TOLERANCE_NATS:
            raise ParityFailed(
                f"encoder.onnx: {gap:.2g} nats off {run.streaming_model.name} on average, "
                f"expected at most {_TOLERANCE_NATS:g}"
            )


class WenetModel:
    """A folder's encoder and head in ONNX Runtime, fed as WeNet feeds them."""

    def __init__(self, folder: Path, spec: StreamingModel) -> None:
        self._encoder = OnnxGraph(folder / "encoder.onnx")
        self._ctc = OnnxGraph(folder / "ctc.onnx")
        self._spec, self._cached = spec, spec.left_chunks * spec.chunk_size

    def start(self) -> tuple[int, np.ndarray, np.ndarray]:
        """Offset and caches before the first chunk: ``OnnxAsrModel::Reset``."""
        inputs = {item.name: item for item in self._encoder.inputs}
        attention, convolution = (
            np.zeros([d if isinstance(d, int) else self._cached for d in inputs[name].dims])
            for name in ("att_cache", "cnn_cache")
        )
        return self._cached, attention.astype(np.float32), convolution.astype(np.float32)

    def step(
        self, frames: np.ndarray, state: tuple[int, np.ndarray, np.ndarray]
    ) -> tuple[np.ndarray, tuple[int, np.ndarray, np.ndarray]]:
        """Log-probabilities (frames', vocabulary) of a chunk: ``ForwardEncoderFunc``."""
        offset, attention, convolution = state
        mask = np.ones((1, 1, self._cached + self._spec.chunk_size), bool)
        mask[..., : max(0, 2 * self._cached - offset)] = False
        feed = {
            "chunk": frames[None],
            "offset": np.array(offset, np.int64),
            "required_cache_size": np.array(self._cached, np.int64),
            "att_cache": attention,
            "cnn_cache": convolution,
            "att_mask": mask,
        }
        hidden, attention, convolution = self._encoder.run(feed)
        (log_probs,) = self._ctc.run({"hidden": hidden})
        return log_probs[0], (offset + hidden.shape[1], attention, convolution)


def _refuse_replacing(folder: Path, *, force: bool) -> None:
    """Only ever replace a folder of this kind, and only with `force`."""
    refuse_overwrite(folder, force)
    ours = os.path.isfile(folder / PARAMETERS_FILE) and not folder.is_symlink()
    if os.path.lexists(folder) and not ours and not _is_empty(folder):
        raise OutputExists(
            f"{folder}: is no folder of this kind, and only such a one is replaced",
            hint="choose a new folder",
        )


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())
