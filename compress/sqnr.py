"""Where the noise comes from: the quantized network beside its own weights in float.

Both networks hear the same few utterances. The error of a layer's output is measured against the
float network, so it holds everything that went wrong up to there; the error of an edge is measured
across its own rounding, so it holds nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from asrcompress.checkpoints.attention_decoder import PARAMETERS
from asrcompress.checkpoints.network import PaddleAcousticModel
from asrcompress.compress.quantized_network import QuantizedNetwork
from asrcompress.ranges import Ranges
from asrcompress.sqnr import EdgeNoise, NoiseReport, sqnr_db, weight_noise


@dataclass(slots=True)
class _Energy:
    """Sums over all utterances."""

    signal: float = 0.0
    noise: float = 0.0
    values: int = 0
    clipped: int = 0

    def add(self, exact: np.ndarray, rounded: np.ndarray) -> None:
        self.signal += float(np.square(exact, dtype=np.float64).sum())
        self.noise += float(np.square(exact - rounded, dtype=np.float64).sum())


def measure_noise(
    network: Any,
    quantized: QuantizedNetwork,
    features: Sequence[np.ndarray],
    *,
    progress: Callable[[int, int], None],
) -> NoiseReport:
    """SQNR of every weight, edge and layer output.

    Args:
        network: the weights of `quantized`, batch norms folded, in a network without quantizers.
        features: float32 (frames, mels) of each utterance.
        progress: called with utterances done and in all.
    """
    # An attention decoder reads texts, and there are none here.
    ranges = quantized.ranges().part(PARAMETERS, inside=False)
    unsigned = {
        item.parameter.removesuffix(".weight"): item.output is not None
        and ranges.activations[item.output].unsigned
        for item in ranges.weights
    }
    unsigned |= {item.layer: False for item in ranges.recurrent}
    exact: dict[str, np.ndarray] = {}
    layers = {name: _Energy() for name in unsigned}
    quanters = {name: quantized.edges[name] for name in ranges.activations}
    edges = {name: _Energy() for name in quanters}
    with (
        _watch(_named(network, unsigned), lambda name, _, output: exact.update({name: output})),
        _watch(_named(quantized.network, unsigned), _compare(exact, layers, unsigned)),
        _watch(quanters, _round_off(edges, ranges)),
    ):
        for index, item in enumerate(features):
            PaddleAcousticModel(network).log_probs([item])
            PaddleAcousticModel(quantized.network).log_probs([item])
            progress(index + 1, len(features))
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    return _report(ranges, weights, layers, edges, utterances=len(features))


_Seen = Callable[[str, np.ndarray, np.ndarray], object]


def _compare(
    exact: Mapping[str, np.ndarray], layers: Mapping[str, _Energy], unsigned: Mapping[str, bool]
) -> _Seen:
    def see(name: str, _: np.ndarray, output: np.ndarray) -> None:
        # The ReLU after such a layer is part of its output's grid.
        wanted = np.maximum(exact[name], 0.0) if unsigned[name] else exact[name]
        layers[name].add(wanted, output)

    return see


def _round_off(edges: Mapping[str, _Energy], ranges: Ranges) -> _Seen:
    def see(name: str, values: np.ndarray, rounded: np.ndarray) -> None:
        grid, energy = ranges.activations[name], edges[name]
        wanted = np.maximum(values, 0.0) if grid.unsigned else values
        energy.add(wanted, rounded)
        energy.values += wanted.size
        energy.clipped += int((np.abs(wanted) > grid.absmax).sum())

    return see


def _report(
    ranges: Ranges,
    weights: Mapping[str, np.ndarray],
    layers: Mapping[str, _Energy],
    edges: Mapping[str, _Energy],
    *,
    utterances: int,
) -> NoiseReport:
    return NoiseReport(
        layers=tuple(
            replace(item, output_db=sqnr_db(layers[item.name].signal, layers[item.name].noise))
            for item in weight_noise(weights, ranges)
        ),
        edges=tuple(
            EdgeNoise(
                name=name,
                db=sqnr_db(energy.signal, energy.noise),
                clipped=energy.clipped / max(1, energy.values),
            )
            for name, energy in edges.items()
        ),
        utterances=utterances,
    )


def _named(network: Any, names: Mapping[str, bool]) -> dict[str, Any]:
    placed = dict(network.named_sublayers())
    return {name: placed[name] for name in names}


@contextmanager
def _watch(layers: Mapping[str, Any], see: _Seen) -> Iterator[None]:
    """Call `see` with name, input and output of each of `layers` as it runs."""
    hooks = []
    for name, layer in layers.items():

        def watch(_: Any, inputs: Any, output: Any, own: str = name) -> None:
            # A recurrent layer returns its final states too.
            values = output[0] if isinstance(output, tuple) else output
            see(own, inputs[0].detach().numpy(), values.detach().numpy())

        hooks.append(layer.register_forward_post_hook(watch))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
