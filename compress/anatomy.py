"""What a checkpoint is made of: parameters, operations, and what INT8 can take."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import Any

from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.checkpoints.network import build_network
from asrcompress.checkpoints.unused_layers import belongs_to, unused_layers
from asrcompress.compress.families import attentions_of, layers_of, recurrent_of
from asrcompress.compress.macs import count_macs

# The block of parameters that a checkpoint has and no utterance meets.
_UNUSED = "unused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block of the network.

    Attributes:
        parameters: numbers in its weights, buffers not counted.
        macs: multiply-accumulates for the audio that was asked for.
        int8_parameters, int8_macs: the part that gets an integer kernel.
        shipped: whether an exported model contains it.
        layers: names that ``quantization.skip`` matches.
    """

    name: str
    parameters: int
    macs: int
    int8_parameters: int
    int8_macs: int
    shipped: bool
    layers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """A checkpoint's blocks and what to expect of it."""

    name: str
    family: str
    vocabulary: int
    seconds: float
    blocks: tuple[Block, ...]

    @property
    def fp32_bytes(self) -> int:
        """Expected size of the FP32 export, 4 bytes per shipped parameter."""
        return sum(4 * block.parameters for block in self.blocks if block.shipped)

    @property
    def int8_bytes(self) -> int:
        """Expected size of the INT8 export: 1 byte where INT8 can take it."""
        return sum(
            block.int8_parameters + 4 * (block.parameters - block.int8_parameters)
            for block in self.blocks
            if block.shipped
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "fp32_bytes": self.fp32_bytes, "int8_bytes": self.int8_bytes}


def dissect(checkpoint: Checkpoint, *, seconds: float) -> Anatomy:
    """Take a checkpoint apart.

    Args:
        seconds: length of the audio to count operations for.
    Raises:
        BadCheckpoint, MissingExtra: see `asrcompress.checkpoints.network`.
    """
    network = build_network(checkpoint)
    frames = int(seconds * 1000 / checkpoint.features.frame_shift_ms)
    macs = count_macs(network, frames=frames, n_mels=checkpoint.features.width)
    int8_layers = {edges.name for edges in layers_of(network)}
    int8_layers |= {edges.name for edges in attentions_of(network)}
    int8_layers |= {edges.name for edges in recurrent_of(network)}
    unused = unused_layers(network)
    parameters: dict[str, list[tuple[str, int]]] = {}
    for name, tensor in network.named_parameters():
        block = _UNUSED if belongs_to(name, unused) else _block_of(name)
        parameters.setdefault(block, []).append((name, math.prod(tensor.shape)))
    blocks = []
    for block, items in parameters.items():
        names = [name for name in macs if _block_of(name + ".") == block]
        quantized = [name for name in names if name in int8_layers]
        # A recurrent layer has several, weight_ih_l0 and weight_hh_l0 of each direction.
        weights = tuple(f"{name}.weight" for name in quantized)
        blocks.append(
            Block(
                name=block,
                parameters=sum(count for _, count in items),
                macs=sum(macs[name] for name in names),
                int8_parameters=sum(count for name, count in items if name.startswith(weights)),
                int8_macs=sum(macs[name] for name in quantized),
                shipped=block != _UNUSED
                and (not block.startswith("decoder") or block == "decoder.ctc_lo"),
                layers=tuple(quantized),
            )
        )
    return Anatomy(
        name=checkpoint.name,
        family=checkpoint.family,
        vocabulary=len(checkpoint.vocabulary),
        seconds=seconds,
        blocks=tuple(blocks),
    )


def _block_of(name: str) -> str:
    """``encoder.encoders.3`` of ``encoder.encoders.3.self_attn.linear_q.weight``."""
    found = re.match(r"(encoder|decoder)\.\w+\.\d+(?=\.)", name)
    if found and any(f".{kind}." in name + "." for kind in ("encoders", "decoders", "rnn")):
        return found.group()
    return ".".join(name.split(".")[:2])
