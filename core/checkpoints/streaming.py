"""Which checkpoints can take speech chunk by chunk: only those that were trained to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asrcompress.checkpoints.acoustic import FULL_CONTEXT, Context
from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.errors import BadCheckpoint
from asrcompress.recipe import Streaming

_OFFLINE = (
    "leave out --chunk-size (streaming.chunk_size = 0), and the model is for whole utterances"
)


def check_streamable(checkpoint: Checkpoint, settings: Streaming) -> None:
    """Refuse to stream a network that looks at what has not been said yet.

    Nothing would fail otherwise, but the text: attention and convolutions that were trained with
    the future in view give other outputs without it.

    Raises:
        BadCheckpoint: names the setting of the checkpoint that rules it out.
    """
    if not settings.wanted:
        return
    if checkpoint.family == "deepspeech2":
        _check_deepspeech2(checkpoint)
        return
    if checkpoint.family not in ("u2-conformer", "u2-transformer"):
        _refuse(checkpoint, f"family {checkpoint.family} has no streaming form")
    encoder = checkpoint.network["encoder_conf"]
    static = _number(encoder, "static_chunk_size")
    dynamic = bool(encoder.get("use_dynamic_chunk", False))
    if not dynamic and static <= 0:
        _refuse(
            checkpoint,
            "encoder_conf.use_dynamic_chunk is false and static_chunk_size 0, so that the network "
            "was not trained for chunks, expected one of them",
        )
    if not dynamic and settings.chunk_size != static:
        _refuse(
            checkpoint,
            f"was trained for chunks of {static} (encoder_conf.static_chunk_size), "
            f"got a chunk size of {settings.chunk_size}",
        )
    convolutions = checkpoint.family == "u2-conformer" and encoder.get("use_cnn_module", True)
    if convolutions and not encoder.get("causal", False):
        _refuse(checkpoint, "encoder_conf.causal is false: its convolutions look ahead")


def contexts_of(settings: Streaming) -> tuple[Context, ...]:
    """The contexts that a network is used in: whole utterances, and where it streams, chunks."""
    if not settings.wanted:
        return (FULL_CONTEXT,)
    return (FULL_CONTEXT, chunk_context(settings))


def chunk_context(settings: Streaming) -> Context:
    """What a U2 encoder sees in a stream."""
    return Context(chunk_size=settings.chunk_size, left_chunks=settings.left_chunks)


def _check_deepspeech2(checkpoint: Checkpoint) -> None:
    direction = checkpoint.network.get("rnn_direction")
    if direction != "forward":
        _refuse(checkpoint, f"rnn_direction is {direction}, expected forward")


def _number(settings: Mapping[str, Any], key: str) -> int:
    value = settings.get(key, 0)
    return value if type(value) is int else 0


def _refuse(checkpoint: Checkpoint, problem: str) -> None:
    raise BadCheckpoint(f"{checkpoint.config_path}: {problem}", hint=_OFFLINE)
