"""The attention decoder of a bundle: an ONNX graph behind the protocol of decoders."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from asrcompress.bundles.manifest import DecoderModel
from asrcompress.errors import BadBundle
from asrcompress.runtime.graph import OnnxGraph


class OnnxAttentionDecoder:
    """See `asrcompress.checkpoints.attention_decoder.AttentionDecoder`.

    Attributes:
        sos, eos: ids that begin and end a text.
        reverse: texts can be read back to front, too.
    """

    def __init__(self, path: Path, declared: DecoderModel, *, threads: int = 1) -> None:
        """Load the graph.

        Args:
            declared: what the graph has to be.
        Raises:
            BadBundle: not loadable, or not what was declared.
        """
        self._graph = OnnxGraph(path, threads=threads)
        self._graph.check_against(declared.inputs, declared.outputs)
        self.sos, self.eos, self.reverse = declared.sos, declared.eos, declared.reverse

    def log_probs(
        self, hidden: np.ndarray, tokens: np.ndarray, reversed_tokens: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """See the protocol.

        Raises:
            BadBundle: the graph fails, or gives NaN.
        """
        values = [hidden[None], tokens]
        if self.reverse:
            # Where nobody asks for it, the other direction reads one token.
            nothing = np.full((1, 1), self.sos, np.int64)
            values.append(nothing if reversed_tokens is None else reversed_tokens)
        names = [tensor.name for tensor in self._graph.inputs]
        left, *right = self._graph.run(dict(zip(names, values, strict=True)))
        if any(np.isnan(scores).any() for scores in (left, *right)):
            raise BadBundle(f"{self._graph.path}: gave NaN, expected log-probabilities")
        if reversed_tokens is None:
            return left, None
        return left, right[0]
