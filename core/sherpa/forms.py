"""A bundle's graphs as files for sherpa-onnx: which slot, what is in the folder, what to expect."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from asrcompress.audio import read_audio
from asrcompress.bundles.bundle import Bundle, BundleManifest
from asrcompress.errors import BadBundle, BadRecipe
from asrcompress.features import FeatureSpec
from asrcompress.pipeline.recognizer import Recognizer, StreamingRecognizer
from asrcompress.runtime.chunk_model import ChunkedAcousticModel
from asrcompress.runtime.decode import greedy
from asrcompress.runtime.features import Fbank
from asrcompress.runtime.fixed_cache import FixedCacheModel
from asrcompress.runtime.session import OnnxAcousticModel
from asrcompress.runtime.sherpa_fbank import SherpaFbank, is_empty, mel_conversion
from asrcompress.sherpa.process import SherpaJob
from asrcompress.sherpa.record import FIRE_RED, TOKENS, WENET, WENET_STREAM, SherpaRecord
from asrcompress.tokens import WORD_BOUNDARY, Vocabulary

if TYPE_CHECKING:
    from asrcompress.export.sherpa import FrontEnd

_STEM = {FIRE_RED: "model", WENET: "model", WENET_STREAM: "model-streaming"}


def slot_of(manifest: BundleManifest, *, streaming: bool) -> str:
    """The slot that a bundle's graph is for.

    Args:
        streaming: the graph for streams, not the one for whole recordings.
    Raises:
        BadRecipe: sherpa-onnx computes no such features, or takes no such streams.
    """
    features = manifest.features
    plain = replace(features, cmvn_mean=(), cmvn_istd=())
    if replace(plain, n_mels=FeatureSpec().n_mels) != FeatureSpec():
        raise BadRecipe(
            "--format: got sherpa-onnx, which computes Kaldi's filter bank of 16-bit samples only, "
            f"and this network was trained on others ({features.kind})",
            hint="ship it as onnx",
        )
    if streaming:
        if manifest.streaming is None or manifest.streaming.kind != "u2":
            raise BadRecipe(f"--target: sherpa-onnx takes no streams of {manifest.family}")
        return WENET_STREAM
    return FIRE_RED if plain == FeatureSpec() else WENET


def model_name(slot: str, precision: str) -> str:
    """File name as sherpa-onnx's own models have it."""
    return f"{_STEM[slot]}.int8.onnx" if precision == "int8" else f"{_STEM[slot]}.onnx"


def folder_name(manifest: BundleManifest, slot: str, vocabulary: Vocabulary) -> Path:
    """``sherpa-onnx-<network>-<language>-<today>``, the way its own models are called."""
    letters = "".join(symbol for symbol in vocabulary.symbols if not symbol.startswith("<"))
    spoken = []
    if any("\u4e00" <= letter <= "\u9fff" for letter in letters):
        spoken.append("zh")
    if sum(letter.isascii() and letter.isalpha() for letter in letters) > 20 or not spoken:
        spoken.append("en")
    network = manifest.family.removeprefix("u2-")
    network = f"streaming-{network}" if slot == WENET_STREAM else network
    today = datetime.datetime.now(datetime.timezone.utc).date()
    return Path(f"sherpa-onnx-{network}-{'-'.join(spoken)}-{today.isoformat()}")


def front_of(features: FeatureSpec) -> FrontEnd:
    """From what the wenet_ctc slots are fed to what the network was trained on."""
    from asrcompress.export.sherpa import FrontEnd

    mean = np.asarray(features.cmvn_mean or np.zeros(features.width), np.float64)
    istd = np.asarray(features.cmvn_istd or np.ones(features.width), np.float64)
    # A bin that never changed has a huge factor: its constant is put in place, not computed.
    empty = is_empty(features)
    constant = (np.log(np.float64(np.float32(features.log_floor))) - mean) * istd
    return FrontEnd(
        conversion=mel_conversion(features),
        log_floor=features.log_floor,
        scale=np.where(empty, 0.0, istd).astype(np.float32),
        shift=np.where(empty, constant, -mean * istd).astype(np.float32),
    )


def write_form(
    path: Path, graph: Path, manifest: BundleManifest, slot: str, *, vocabulary: int
) -> str:
    """Write `graph` of a bundle in the form of `slot` to `path`.

    Returns:
        digest of the computation that was verified, see
        `asrcompress.export.sherpa.computation_digest`.
    """
    from asrcompress.export import sherpa
    from asrcompress.export.onnx_graph import save_graph

    model = sherpa.load_whole(graph)
    subsampling = manifest.subsampling_factor
    if slot == FIRE_RED:
        form = sherpa.fire_red_form(model, manifest.features, subsampling=subsampling)
    elif slot == WENET:
        form = sherpa.wenet_form(
            model, front_of(manifest.features), subsampling=subsampling, vocabulary=vocabulary
        )
    else:
        assert manifest.streaming is not None
        form = sherpa.wenet_stream_form(
            model, front_of(manifest.features), manifest.streaming, vocabulary=vocabulary
        )
    save_graph(form, path)
    return sherpa.computation_digest(model)


def check_computation(folder: Path, record: SherpaRecord, precision: str) -> None:
    """For whole recordings: the graph is the verified one but for what was put in front of it.

    Raises:
        BadBundle: it is another one.
    """
    from asrcompress.export import sherpa

    if record.slot == WENET_STREAM:  # its positions were changed as well; texts and CER speak
        return
    item = record.models[precision]
    bare = sherpa.without_front(sherpa.load_whole(folder / item.file))
    if sherpa.computation_digest(bare) != item.origin_sha256:
        raise BadBundle(f"{folder / item.file}: computes something else than what was verified")


def job_of(folder: Path, record: SherpaRecord, precision: str, *, threads: int = 1) -> SherpaJob:
    """How sherpa-onnx is started with a folder."""
    spec = record.streaming
    padding = 0 if spec is None else (spec.window_frames + 2) * record.features.shift_samples
    return SherpaJob(
        slot=record.slot,
        model=folder / record.models[precision].file,
        tokens=folder / TOKENS,
        width=record.features.width,
        chunk_size=0 if spec is None else spec.chunk_size,
        left_chunks=0 if spec is None else spec.left_chunks,
        padding_samples=padding,
        threads=threads,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """This project's runtime on the very file that ships, fed with what sherpa-onnx feeds it."""

    folder: Path
    record: SherpaRecord
    precision: str
    vocabulary: Vocabulary

    def text(self, audio: Path) -> str:
        """What sherpa-onnx has to print for a recording."""
        samples = read_audio(audio)
        path = self.folder / self.record.models[self.precision].file
        if self.record.streaming is not None:
            log_probs = self._stream(path, samples)
        else:
            exact = self.record.hears_training_features
            fbank = Fbank(self.record.features) if exact else SherpaFbank(self.record.features)
            log_probs = OnnxAcousticModel(path, exact_sums=False).log_probs([fbank(samples)])[0]
        return self._printed(greedy(log_probs, self.vocabulary.blank_id))

    def _stream(self, path: Path, samples: np.ndarray) -> np.ndarray:
        """Full windows only, and one frame more must be there, as in its ``IsReady``."""
        assert self.record.streaming is not None
        spec = self.record.streaming
        silence = job_of(self.folder, self.record, self.precision).padding_samples
        padded = np.concatenate([samples, np.zeros(silence, np.float32)])
        features = SherpaFbank(self.record.features)(padded)
        model = FixedCacheModel(path, spec, exact_sums=False)
        state, found, at = model.start(), [], 0
        while at + spec.window_frames < len(features):
            step = model.step(features[at : at + spec.window_frames], state)
            found.append(step.log_probs)
            state, at = step.state, at + spec.hop_frames
        return np.concatenate(found) if found else np.zeros((0, len(self.vocabulary)), np.float32)

    def _printed(self, ids: list[int]) -> str:
        """Every symbol as tokens.txt has it: sherpa-onnx prints ``<unk>``, too."""
        lines = self.vocabulary.to_tokens_txt().split("\n")
        said = "".join(lines[id_].rpartition(" ")[0] for id_ in ids)
        return said.replace(WORD_BOUNDARY, " ").strip()


def reference_of(
    folder: Path, record: SherpaRecord, precision: str, vocabulary: Vocabulary, scratch: Path
) -> Recognizer:
    """The network as it was verified: training's features, nothing in front of the graph.

    Args:
        scratch: folder for a graph without its front end.
    """
    from asrcompress.export import sherpa
    from asrcompress.export.onnx_graph import save_graph

    path = folder / record.models[precision].file
    if not record.hears_training_features:
        bare = sherpa.without_front(sherpa.load_whole(path))
        path = scratch / f"{precision}.onnx"
        save_graph(bare, path)
    fbank = Fbank(record.features)
    if record.streaming is None:
        return Recognizer(
            name=folder.name,
            backend="onnxruntime",
            model=OnnxAcousticModel(path),
            fbank=fbank,
            vocabulary=vocabulary,
            max_frames=record.max_frames,
        )
    chunks = FixedCacheModel(path, record.streaming)
    return StreamingRecognizer(
        name=folder.name,
        backend="onnxruntime, streaming",
        model=ChunkedAcousticModel(chunks),
        chunks=chunks,
        fbank=fbank,
        vocabulary=vocabulary,
    )


def bundle_graph(bundle: Bundle, slot: str) -> Path:
    """The graph of a bundle that the slot takes."""
    streaming = bundle.manifest.streaming
    if slot == WENET_STREAM and streaming is not None:
        return bundle.path / streaming.model
    return bundle.model_path
