"""What ``bundle.json`` says. The format is specified in docs/bundle.md."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from asrcompress import strict_json
from asrcompress.bundles.golden import Golden
from asrcompress.errors import BadBundle
from asrcompress.features import FeatureSpec
from asrcompress.lite.manifest import LiteModel
from asrcompress.targets import TARGETS

# The one that is written, and all that are read. What version 1 does not know has a default here.
SCHEMA_VERSION = 2
READABLE_VERSIONS = (1, 2)
_SINCE_2 = ("streaming", "lite", "decoder", "golden", "target")
MANIFEST_NAME = "bundle.json"
SIGNATURE_NAME = "bundle.sig"
PRECISIONS = ("int8", "fp32")
# The first that knows a scale per channel.
MIN_INT8_OPSET = 13
DTYPES = ("float32", "int64", "bool")
DECODER_METHODS = ("rescoring", "attention")
STREAMING_KINDS = ("u2", "deepspeech2")

# One plain name: no folder, no leading dot, nothing that a shell or another system reads specially.
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """An input or output of the graph.

    Attributes:
        dims: sizes; a name such as ``N`` or ``T`` where the size is free.
    """

    name: str
    dtype: str
    dims: tuple[int | str, ...]

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            _refuse(f"{self.name}.dtype", self.dtype, " or ".join(DTYPES))


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """A file of the bundle as it was when the bundle was written."""

    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256):
            _refuse("sha256", self.sha256, "64 lower-case hexadecimal digits")
        if self.size_bytes < 0:
            _refuse("size_bytes", self.size_bytes, ">= 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The checkpoint that the bundle was made from."""

    checkpoint_name: str
    checkpoint_sha256: str

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.checkpoint_sha256):
            _refuse("checkpoint_sha256", self.checkpoint_sha256, "64 hexadecimal digits")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamingModel:
    """The graph that takes a stream chunk by chunk, and how it is fed.

    Attributes:
        kind: what its inputs mean: ``u2`` has attention and convolution caches, ``deepspeech2``
            the states of recurrent layers.
        model: file name of the graph; its weights may lie in the bundle's other graph.
        inputs, outputs: in order: features, then what earlier chunks left behind; log-probabilities
            (and where it is named ``hidden`` the encoder's output), then what to feed back.
        chunk_size: output frames per step.
        left_chunks: chunks of history that attention sees; -1 is all since the last restart.
        window_frames: feature frames that a step takes.
        hop_frames: feature frames by which the window moves.
        max_outputs: most output frames between two restarts; None where there is no such bound.
    """

    kind: str
    model: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    chunk_size: int
    left_chunks: int = -1
    window_frames: int
    hop_frames: int
    max_outputs: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in STREAMING_KINDS:
            _refuse("streaming.kind", self.kind, " or ".join(STREAMING_KINDS))
        check_file_name(self.model)
        if self.chunk_size < 1:
            _refuse("streaming.chunk_size", self.chunk_size, ">= 1")
        if self.left_chunks < -1:
            _refuse("streaming.left_chunks", self.left_chunks, ">= -1")
        if not 1 <= self.hop_frames <= self.window_frames:
            _refuse("streaming.hop_frames", self.hop_frames, f"1 to {self.window_frames}")
        if self.hop_frames % self.chunk_size:
            _refuse("streaming.hop_frames", self.hop_frames, f"a multiple of {self.chunk_size}")
        if self.context_frames < 1:
            _refuse("streaming.window_frames", self.window_frames, "more, or a smaller chunk_size")
        if self.max_outputs is not None and self.max_outputs < self.chunk_size:
            _refuse("streaming.max_outputs", self.max_outputs, f">= {self.chunk_size}")
        if len(self.inputs) < 2 or len(self.outputs) < 2:
            _refuse("streaming", "no state", "inputs and outputs for what chunks leave behind")

    @property
    def subsampling_factor(self) -> int:
        """Feature frames per output frame."""
        return self.hop_frames // self.chunk_size

    @property
    def context_frames(self) -> int:
        """Feature frames that one output frame is made of: no step can take fewer."""
        return self.window_frames - (self.chunk_size - 1) * self.subsampling_factor

    def with_chunks(self, chunk_size: int, left_chunks: int) -> StreamingModel:
        """The same graph, fed in chunks of another size.

        Raises:
            BadBundle: a size that it cannot be fed in.
        """
        window = (chunk_size - 1) * self.subsampling_factor + self.context_frames
        return replace(
            self,
            chunk_size=chunk_size,
            left_chunks=left_chunks,
            window_frames=window,
            hop_frames=chunk_size * self.subsampling_factor,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderModel:
    """The attention decoder, and the decoding that the bundle was judged with.

    Attributes:
        model: file name of the graph.
        inputs: hidden states float32 (1, T, D) of one utterance, texts behind sos int64 (N, L),
            and with a right-to-left decoder the texts back to front.
        outputs: log-probabilities of the token behind each token, one per direction.
        sos, eos: ids that begin and end a text.
        method: ``rescoring`` or ``attention``: what the gate measured.
        beam: hypotheses.
        ctc_weight: weight of CTC's score in rescoring.
        reverse_weight: share of the right-to-left decoder; 0 where there is none.
        integer_share: share of its multiply-accumulates that run in integer kernels.
    """

    model: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sos: int
    eos: int
    method: str
    beam: int
    ctc_weight: float
    reverse_weight: float = 0.0
    integer_share: float | None = None

    def __post_init__(self) -> None:
        check_file_name(self.model)
        if self.method not in DECODER_METHODS:
            _refuse("decoder.method", self.method, " or ".join(DECODER_METHODS))
        if self.beam < 1:
            _refuse("decoder.beam", self.beam, ">= 1")
        if self.ctc_weight < 0:
            _refuse("decoder.ctc_weight", self.ctc_weight, ">= 0")
        if not 0 <= self.reverse_weight <= (1 if self.reverse else 0):
            _refuse("decoder.reverse_weight", self.reverse_weight, "0 to 1, or 0 for one direction")
        if self.integer_share is not None and not 0 <= self.integer_share <= 1:
            _refuse("decoder.integer_share", self.integer_share, "0 to 1")
        texts = [("int64", 2)] * (2 if self.reverse else 1)
        for side, tensors, wanted in (
            ("inputs", self.inputs, [("float32", 3), *texts]),
            ("outputs", self.outputs, [("float32", 3) for _ in texts]),
        ):
            seen = [(tensor.dtype, len(tensor.dims)) for tensor in tensors]
            if seen != wanted:
                _refuse(f"decoder.{side}", seen, wanted)

    @property
    def reverse(self) -> bool:
        """Whether texts can be read back to front, too."""
        return len(self.inputs) == 3


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleManifest:
    """Everything that a runtime must know, and where it all came from.

    Attributes:
        family: kind of network, such as ``u2-conformer``; for reports, never for geometry.
        model: file name of the ONNX graph.
        inputs, outputs: of the graph, in order: features and their lengths, log-probabilities and
            theirs.
        blank_id: the output that is CTC's blank.
        vocab_size: number of outputs, which is the number of lines of `tokens`.
        subsampling_factor: feature frames per output frame.
        min_frames, max_frames: how many feature frames the graph accepts.
        streaming: the graph for streams, where there is one.
        decoder: the attention decoder, where there is one; the graph then has a third output, the
            hidden states that it reads.
        lite: the files for Paddle Lite in a bundle for it; `model` is the longest, `opset` 0.
        opset: of ONNX's own domain.
        tools: name -> version of what made the bundle.
        integer_share: share of the encoder's multiply-accumulates that run in integer kernels.
        target: contract that the network was compressed to, see `asrcompress.targets`; empty in
            bundles that are older than contracts.
        golden: recordings for the self-test on a device; None where there are none.
        quality: measured results as a JSON object, CER and verdict of the gate; not interpreted.
        files: every file but ``bundle.json``, by name; filled in by `write_bundle`.
        bundle_sha256: digest of ``bundle.json``; filled in by `write_bundle`.
    Raises:
        BadBundle: a value that no bundle of this schema can have.
    """

    schema_version: int = SCHEMA_VERSION
    family: str
    precision: str
    model: str
    tokens: str = "tokens.txt"
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    features: FeatureSpec
    blank_id: int
    vocab_size: int
    subsampling_factor: int
    min_frames: int = 1
    max_frames: int
    streaming: StreamingModel | None = None
    lite: LiteModel | None = None
    decoder: DecoderModel | None = None
    opset: int
    source: Source
    tools: dict[str, str]
    integer_share: float | None = None
    target: str = ""
    golden: Golden | None = None
    quality: dict[str, Any] | None = None
    files: dict[str, FileRecord] = field(default_factory=dict)
    bundle_sha256: str = "0" * 64

    def __post_init__(self) -> None:
        if self.schema_version not in READABLE_VERSIONS:
            _refuse("schema_version", self.schema_version, SCHEMA_VERSION)
        if self.precision not in PRECISIONS:
            _refuse("precision", self.precision, " or ".join(PRECISIONS))
        for name in (self.model, self.tokens, *self.files, *self.golden_files, *self.lite_files):
            check_file_name(name)
        if self.lite is None and self.precision == "int8" and self.opset < MIN_INT8_OPSET:
            _refuse("opset", self.opset, f">= {MIN_INT8_OPSET} for int8")
        if not 0 <= self.blank_id < self.vocab_size:
            _refuse("blank_id", self.blank_id, f"0 to {self.vocab_size - 1}")
        if self.subsampling_factor < 1:
            _refuse("subsampling_factor", self.subsampling_factor, ">= 1")
        if not 1 <= self.min_frames <= self.max_frames:
            _refuse("min_frames", self.min_frames, f"1 to max_frames {self.max_frames}")
        if self.target and self.target not in TARGETS:
            _refuse("target", self.target, f"one of {', '.join(TARGETS)}")
        if self.integer_share is not None and not 0 <= self.integer_share <= 1:
            _refuse("integer_share", self.integer_share, "0 to 1")
        for side, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            dtypes = [tensor.dtype for tensor in tensors]
            if self.lite is not None:
                if not dtypes or set(dtypes) != {"float32"}:
                    _refuse(side, dtypes, "float32 tensors for Paddle Lite")
            elif dtypes != ["float32", "int64"] and (side == "inputs" or self.decoder is None):
                _refuse(side, dtypes, "a float32 tensor and its int64 lengths")
        if self.decoder is not None:
            self._check_decoder(self.decoder)

    def _check_decoder(self, decoder: DecoderModel) -> None:
        """The decoder reads what the encoder gives, and writes the same symbols."""
        if [tensor.dtype for tensor in self.outputs] != ["float32", "int64", "float32"]:
            _refuse("outputs", len(self.outputs), "log-probabilities, lengths and hidden states")
        width = self.outputs[2].dims[-1]
        if decoder.inputs[0].dims[-1] != width:
            _refuse("decoder.inputs", decoder.inputs[0].dims, f"hidden states of width {width}")
        for tensor in decoder.outputs:
            if tensor.dims[-1] != self.vocab_size:
                _refuse("decoder.outputs", tensor.dims, f"{self.vocab_size} symbols")
        for key, id_ in (("sos", decoder.sos), ("eos", decoder.eos)):
            if not 0 <= id_ < self.vocab_size:
                _refuse(f"decoder.{key}", id_, f"0 to {self.vocab_size - 1}")

    @property
    def lite_files(self) -> tuple[str, ...]:
        """Names of the files for Paddle Lite."""
        return () if self.lite is None else self.lite.files

    @property
    def golden_files(self) -> tuple[str, ...]:
        """Names of the files of the self-test."""
        return () if self.golden is None else self.golden.files

    def to_json(self) -> dict[str, Any]:
        """All fields, as ``bundle.json`` has them."""
        tree: dict[str, Any] = strict_json.to_json(self)
        return tree

    @staticmethod
    def from_json(tree: object, *, item: str = MANIFEST_NAME) -> BundleManifest:
        """The inverse of `to_json`.

        Raises:
            BadBundle: an unknown or missing key, a wrong type, or a value out of range.
        """
        if isinstance(tree, dict) and tree.get("schema_version") == 1:
            later = [name for name in _SINCE_2 if name in tree]
            if later:
                raise BadBundle(f"{item}: unknown key {', '.join(later)} in schema_version 1")
        return strict_json.from_json(BundleManifest, tree, item=item, error=BadBundle)


def check_file_name(name: str) -> None:
    """Refuse names that could lead out of the bundle's folder.

    Raises:
        BadBundle: not a plain file name, or the name of the manifest or its signature.
    """
    if not _FILE_NAME.fullmatch(name) or name in (MANIFEST_NAME, SIGNATURE_NAME):
        _refuse("file name", repr(name), "letters, digits and . _ - only, no folder")


def _refuse(key: str, seen: object, allowed: object) -> None:
    raise BadBundle(f"{key} is not allowed, got {seen}, expected {allowed}")
