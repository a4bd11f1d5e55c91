"""What the families have in common: features to hidden states to CTC scores, and the loss.

PaddleSpeech's U2 and DeepSpeech2 classes name these differently; nothing but this module and the
graphs of `asrcompress.export` knows how. Every function runs PaddleSpeech's own layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from asrcompress.paddle_imports import import_paddle


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """How far a U2 encoder may look.

    Attributes:
        chunk_size: output frames per chunk; -1 is the whole utterance, 0 what training draws.
        left_chunks: chunks of history; -1 is all of it.
    """

    chunk_size: int = -1
    left_chunks: int = -1


FULL_CONTEXT = Context()
TRAINING_CONTEXT = Context(chunk_size=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """An encoder's output for a padded batch.

    Attributes:
        hidden: (batch, frames', width).
        lengths: valid output frames, int64 (batch,).
        mask: U2's own, bool (batch, 1, frames'), which its attention decoder takes; else None.
    """

    hidden: Any
    lengths: Any
    mask: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLoss:
    """The loss that the checkpoint was trained with, per utterance; `attention` may be absent."""

    total: Any
    ctc: Any
    attention: Any = None


def is_u2(network: Any) -> bool:
    """U2 (encoder, CTC head, attention decoder) as opposed to DeepSpeech2."""
    return hasattr(network, "ctc")


def encode(network: Any, speech: Any, lengths: Any, context: Context = FULL_CONTEXT) -> Encoded:
    """Hidden states of a padded batch.

    Args:
        speech: float32 tensor (batch, frames, features).
        lengths: int64 tensor (batch,).
        context: of a U2 encoder; DeepSpeech2 has none to choose.
    """
    if not is_u2(network):
        hidden, kept, _, _ = network.encoder(speech, lengths, None, None)
        return Encoded(hidden=hidden, lengths=kept)
    hidden, mask = network.encoder(
        speech,
        lengths,
        decoding_chunk_size=context.chunk_size,
        num_decoding_left_chunks=context.left_chunks,
    )
    return Encoded(hidden=hidden, lengths=mask.squeeze(1).astype("int64").sum(1), mask=mask)


def head_of(network: Any) -> Any:
    """The Linear from hidden states to CTC scores."""
    return network.ctc.ctc_lo if is_u2(network) else network.decoder.ctc_lo


def log_probs_of(network: Any, encoded: Encoded) -> Any:
    """CTC log-probabilities, (batch, frames', vocabulary)."""
    return import_paddle().nn.functional.log_softmax(head_of(network)(encoded.hidden), axis=-1)


def has_attention_loss(network: Any) -> bool:
    """Whether the checkpoint was trained with an attention decoder beside CTC."""
    return is_u2(network) and network.ctc_weight < 1.0


def task_loss(network: Any, encoded: Encoded, text: Any, text_lengths: Any) -> TaskLoss:
    """CTC, and for U2 the hybrid loss of arXiv:2012.05481, averaged over the batch.

    Args:
        text: int64 tensor (batch, labels), -1 behind each transcript.
        text_lengths: int64 tensor (batch,).
    """
    if not is_u2(network):
        # Paddle's CTC reads no label behind an utterance's length, but wants valid ones there.
        labels = import_paddle().clip(text, min=0)
        ctc = network.decoder(encoded.hidden, encoded.lengths, labels, text_lengths)
        return TaskLoss(total=ctc, ctc=ctc)
    ctc = network.ctc(encoded.hidden, encoded.lengths, text, text_lengths)
    if not has_attention_loss(network):
        return TaskLoss(total=ctc, ctc=ctc)
    attention, _ = network._calc_att_loss(
        encoded.hidden, encoded.mask, text, text_lengths, network.reverse_weight
    )
    total = network.ctc_weight * ctc + (1 - network.ctc_weight) * attention
    return TaskLoss(total=total, ctc=ctc, attention=attention)


def subsampling_factor(network: Any) -> int:
    """Feature frames per output frame: 1, 4, 6 or 8."""
    front = network.encoder.embed if is_u2(network) else network.encoder.conv
    return int(front.subsampling_rate)
