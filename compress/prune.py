"""Structured pruning of a U2 encoder: score, choose, take away, train to recover.

PaddleSlim's structured pruners know the filters of Conv2D and change nothing else, without a word;
heads, feed-forward units, convolution modules and blocks are this project's. Its criteria and its
place in the work flow are kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from asrcompress.checkpoints.acoustic import encode, task_loss
from asrcompress.checkpoints.shapes import EncoderShape
from asrcompress.compress.batches import TrainingSet
from asrcompress.compress.groups import HEADS, Group, groups_of, shape_of, take
from asrcompress.compress.importance import MAGNITUDES, TaylorScores, score_magnitudes
from asrcompress.compress.posteriors import divergence, posteriors
from asrcompress.compress.prune_plan import Limits, PrunePlan, plan_pruning
from asrcompress.errors import BadRecipe
from asrcompress.paddle_imports import import_paddle

Progress = Callable[[int, int], None]

_BLOCK = re.compile(r"(encoder\.encoders\.)(\d+)(\..*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What pruning made.

    Attributes:
        shape: of the encoder that is left.
        weights: all of the network's, under PaddleSpeech's names.
        plan: what was removed inside the blocks.
        dropped: indices of the blocks that were removed whole.
    """

    shape: EncoderShape
    weights: dict[str, np.ndarray]
    plan: PrunePlan
    dropped: tuple[int, ...]


def score_units(
    network: Any,
    groups: Sequence[Group],
    *,
    criterion: str,
    speech: TrainingSet,
    batches: int,
    progress: Progress,
) -> list[np.ndarray]:
    """Importance of every unit of every group.

    Args:
        criterion: ``l1``, ``l2``, ``fpgm`` or ``taylor``.
        speech: for taylor, with transcripts.
        batches: most batches to look at.
    """
    if criterion in MAGNITUDES:
        state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
        return score_magnitudes(groups, state, criterion)
    paddle = import_paddle()
    gathered = TaylorScores(groups)
    network.eval()  # no dropout: the loss is that of the network as it is
    total = min(batches, len(speech.groups(0)))
    for index, batch in enumerate(speech.batches(0)):
        if index == total:
            break
        assert batch is not None  # one worker has a share of every batch
        lengths = paddle.to_tensor(batch.lengths)
        encoded = encode(network, paddle.to_tensor(batch.features), lengths)
        labels = paddle.to_tensor(batch.tokens), paddle.to_tensor(batch.token_lengths)
        task_loss(network, encoded, *labels).total.backward()
        gathered.add(network)
        network.clear_gradients()
        progress(index + 1, total)
    return gathered.scores()


def costs_of(
    network: Any, groups: Sequence[Group], *, measure: str, frames: int
) -> tuple[list[float], float]:
    """What a unit of each group costs, and the whole encoder.

    Args:
        measure: ``parameters`` or ``macs``.
        frames: output frames of a typical utterance; attention's products grow with it.
    """
    parameters = {
        name: tuple(tensor.shape)
        for name, tensor in network.named_parameters()
        if name.startswith("encoder.")
    }
    if measure == "parameters":
        total = float(sum(int(np.prod(shape)) for shape in parameters.values()))
        return [float(group.parameters) for group in groups], total
    if measure != "macs":
        raise BadRecipe(f"prune.measure: got {measure}, expected parameters or macs")
    width = network.encoder.encoders[0].self_attn.d_k
    costs = [
        group.macs_per_frame + (3.0 * frames * width if group.kind == HEADS else 0.0)
        for group in groups
    ]
    # What no group owns: the projection behind the subsampling; its convolutions stay as they are.
    fixed = sum(
        float(np.prod(shape))
        for name, shape in parameters.items()
        if len(shape) == 2 and name.startswith("encoder.embed.")
    )
    return costs, fixed + sum(c * g.units for c, g in zip(costs, groups, strict=True))


def prune(
    network: Any,
    scores: Sequence[np.ndarray],
    *,
    measure: str,
    frames: int,
    amount: float,
    uniform: bool,
    limits: Limits,
    drop: tuple[int, ...] = (),
) -> Pruned:
    """Remove units, and blocks, from the weights of `network`, which is not changed.

    Args:
        scores: as `score_units` gives them.
        amount: share of the encoder's cost to remove, blocks included.
        drop: indices of blocks to remove whole.
    Raises:
        BadRecipe: `amount` cannot be reached.
    """
    every = groups_of(network)
    costs, total = costs_of(network, every, measure=measure, frames=frames)
    inside = [index for index, group in enumerate(every) if group.block not in drop]
    groups = [every[index] for index in inside]
    if measure == "parameters":  # norms and what else no unit owns go with a block
        gone = _parameters_of_blocks(network, drop)
    else:
        gone = sum(c * g.units for c, g in zip(costs, every, strict=True) if g.block in drop)
    plan = plan_pruning(
        groups,
        [scores[index] for index in inside],
        [costs[index] for index in inside],
        total_cost=total,
        amount=max(0.0, amount - gone / total),
        uniform=uniform,
        limits=limits,
    )
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    smaller = take(state, groups, plan.kept)
    whole = {(g.kind, g.block): tuple(range(g.units)) for g in every} | dict(plan.kept)
    shape = shape_of(network, whole)
    blocks = tuple(block for index, block in enumerate(shape.blocks) if index not in drop)
    return Pruned(
        shape=EncoderShape(blocks=blocks),
        weights=drop_blocks(smaller, drop),
        plan=PrunePlan(kept=plan.kept, removed=plan.removed + gone / total),
        dropped=drop,
    )


def drop_blocks(state: Mapping[str, np.ndarray], drop: Sequence[int]) -> dict[str, np.ndarray]:
    """`state` without some encoder blocks; those behind them move up."""
    renamed = {}
    for name, tensor in state.items():
        found = _BLOCK.fullmatch(name)
        if found is None:
            renamed[name] = tensor
        elif int(found[2]) not in drop:
            index = int(found[2]) - sum(item < int(found[2]) for item in drop)
            renamed[f"{found[1]}{index}{found[3]}"] = tensor
    return renamed


def least_blocks(
    network: Any, features: Sequence[np.ndarray], count: int, *, progress: Progress
) -> tuple[int, ...]:
    """The blocks that change the frame posteriors least when they are left out, one by one.

    Greedy: after each removal the others are measured anew, since a block can stand in for its
    neighbour. The measure is KL(whole network || without the block), averaged over frames.

    Args:
        features: float32 (frames, mels) of some utterances.
    Raises:
        BadRecipe: fewer blocks than `count` + 1.
    """
    blocks = list(network.encoder.encoders)
    if not 0 <= count < len(blocks):
        raise BadRecipe(f"prune.drop_blocks: got {count}, expected less than {len(blocks)}")
    whole = posteriors(network, features)
    gone: list[int] = []
    done, total = 0, sum(len(blocks) - index for index in range(count))
    try:
        for _ in range(count):
            damage = {}
            for index in range(len(blocks)):
                if index in gone:
                    continue
                left = [b for i, b in enumerate(blocks) if i not in (*gone, index)]
                network.encoder.encoders = import_paddle().nn.LayerList(left)
                damage[index] = divergence(whole, posteriors(network, features))
                done += 1
                progress(done, total)
            gone.append(min(damage, key=damage.__getitem__))
    finally:
        network.encoder.encoders = import_paddle().nn.LayerList(blocks)
    return tuple(sorted(gone))


def _parameters_of_blocks(network: Any, blocks: Sequence[int]) -> float:
    prefixes = tuple(f"encoder.encoders.{index}." for index in blocks)
    return float(
        sum(
            int(np.prod(tensor.shape))
            for name, tensor in network.named_parameters()
            if name.startswith(prefixes)
        )
    )
