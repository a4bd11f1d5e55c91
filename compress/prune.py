"""Structured pruning of a network: score, choose, take away.

PaddleSlim's structured pruners know the filters of Conv2D and change nothing else, without a word;
heads, feed-forward units, convolution modules, blocks and the hidden units of recurrent layers are
this project's. Its criteria and its place in the work flow are kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from asrcompress.checkpoints.acoustic import encode, is_u2, task_loss
from asrcompress.checkpoints.network import twins_of
from asrcompress.checkpoints.shapes import EncoderShape, NetworkShape
from asrcompress.compress.batches import TrainingSet
from asrcompress.compress.costs import Costs
from asrcompress.compress.families import recurrent_of
from asrcompress.compress.groups import Group, groups_of, shape_of, take
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
        shape: of the network that is left.
        weights: all of the network's, under PaddleSpeech's names.
        plan: what was removed inside the blocks.
        dropped: indices of the blocks that were removed whole.
    """

    shape: NetworkShape
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
    for edges in recurrent_of(network):  # without dropout; else Paddle keeps nothing to go back by
        edges.layer.train()
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
    network.eval()
    return gathered.scores()


def prune(
    network: Any,
    scores: Sequence[np.ndarray],
    *,
    costs: Costs,
    amount: float,
    uniform: bool,
    limits: Limits,
    drop: tuple[int, ...] = (),
) -> Pruned:
    """Remove units, and blocks, from the weights of `network`, which is not changed.

    Args:
        scores: as `score_units` gives them.
        costs: of `network`.
        amount: share of the cost to remove, blocks included.
        drop: indices of blocks of a U2 encoder to remove whole.
    Raises:
        BadRecipe: `amount` cannot be reached.
    """
    groups = groups_of(network)
    plan = plan_pruning(
        groups,
        scores,
        costs.without(drop),
        total_cost=costs.total,
        amount=amount,
        uniform=uniform,
        limits=limits,
        fixed=[index for index, group in enumerate(groups) if group.block in drop],
    )
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    smaller = take(state, groups, plan.kept)
    # Paddle's second names of recurrent weights.
    smaller |= {name: smaller[first] for name, first in twins_of(network).items()}
    shape = shape_of(network, plan.kept)
    if isinstance(shape, EncoderShape):
        left = (block for index, block in enumerate(shape.blocks) if index not in drop)
        shape = EncoderShape(blocks=tuple(left))
    return Pruned(shape=shape, weights=drop_blocks(smaller, drop), plan=plan, dropped=drop)


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
        BadRecipe: fewer blocks than `count` + 1, or none at all.
    """
    if not is_u2(network):
        raise BadRecipe(f"prune.drop_blocks: got {count}, expected 0: only U2 encoders have blocks")
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
