"""Paddle Lite's own Python, small networks, and ranges for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asrcompress.checkpoints.checkpoint import Checkpoint, read_checkpoint
from asrcompress.errors import SidecarFailed
from asrcompress.lite.environment import sidecar_python
from asrcompress.ranges import ActivationRange, Ranges, WeightRange

SYMBOLS = ("开", "关", "灯", "空", "调", "一", "二", "三")


@pytest.fixture(scope="session")
def sidecar() -> Path:
    """An interpreter with Paddle Lite."""
    try:
        return sidecar_python()
    except SidecarFailed as error:
        pytest.skip(f"no Paddle Lite here: {error}")


@pytest.fixture(scope="session")
def checkpoint(make_experiment: Any, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """One Conformer block of width 32, batch norms that are not the identity."""
    folder = tmp_path_factory.mktemp("experiment")
    make_experiment(
        folder, blocks=1, width=32, heads=4, feed_forward=64, kernel=7, symbols=SYMBOLS, seed=3
    )
    return read_checkpoint(folder)


@pytest.fixture(scope="session")
def ranges(checkpoint: Checkpoint) -> Ranges:
    """Weights by their largest value, every edge from -4 to 4."""
    from asrcompress.checkpoints.batch_norm import fold_batch_norm
    from asrcompress.checkpoints.network import build_network

    network = build_network(checkpoint)
    fold_batch_norm(network)
    return _ranges_of(network)


@pytest.fixture(scope="session")
def ranges_of() -> Callable[[Any], Ranges]:
    """As `ranges`, of any folded network."""
    return _ranges_of


def _ranges_of(network: Any) -> Ranges:
    from asrcompress.compress.u2 import layers_of

    weights, edges = [], {}
    for item in layers_of(network):
        value = np.abs(item.layer.weight.numpy())
        others = tuple(axis for axis in range(value.ndim) if axis != item.axis)
        absmax = tuple(float(top) for top in value.max(axis=others))
        weights.append(
            WeightRange(
                parameter=f"{item.name}.weight",
                axis=item.axis,
                absmax=absmax,
                input=item.input,
                output=item.output,
            )
        )
        edges |= {edge: ActivationRange(absmax=4.0) for edge in (item.input, item.output) if edge}
    return Ranges(activations=edges, weights=tuple(weights))
