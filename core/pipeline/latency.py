"""How fast a network would be if it were exported as it is: graphs against each other, interleaved.

Weights and ranges change no number of operations, so a network that is not trained yet is as fast
as it will be; its ranges come from a few utterances.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from asrcompress.checkpoints.attention_decoder import PARAMETERS
from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.checkpoints.network import PaddleAcousticModel, build_network
from asrcompress.recipe import Recipe
from asrcompress.runtime.session import OnnxAcousticModel
from asrcompress.targets import find_target

_ROUNDS, _WARM_UP = 9, 2


class LatencyProbe:
    """Measures networks against the one that they come from.

    Args:
        checkpoint: the network before pruning.
        some: features of a few utterances, to set ranges by.
    """

    def __init__(self, recipe: Recipe, checkpoint: Checkpoint, some: Sequence[np.ndarray]) -> None:
        self._recipe, self._some = recipe, some
        frames = int(recipe.prune.budget_seconds * 1000 / checkpoint.features.frame_shift_ms)
        shape = (frames, checkpoint.features.width)
        self._input = np.random.default_rng(0).standard_normal(shape, np.float32)
        self._reference = self._exported(checkpoint)
        self._reference_times: list[float] = []

    def rtf(self, checkpoint: Checkpoint | None = None) -> float:
        """Real-time factor of the exported network on one thread, features and text not counted.

        The machine drifts by more than what is to be seen, so both networks run in turn, and the
        median ratio of neighbouring runs is applied to the median time of the unpruned one.

        Args:
            checkpoint: None for the unpruned network itself.
        """
        candidate = self._reference if checkpoint is None else self._exported(checkpoint)
        ratios = []
        for index in range(_WARM_UP + _ROUNDS):
            times = [self._time(model) for model in (self._reference, candidate)]
            if index >= _WARM_UP:
                self._reference_times.append(times[0])
                ratios.append(times[1] / times[0])
        seconds = float(np.median(self._reference_times)) * float(np.median(ratios))
        return seconds / self._recipe.prune.budget_seconds

    def _time(self, model: OnnxAcousticModel) -> float:
        start = time.perf_counter()
        model.log_probs([self._input])
        return time.perf_counter() - start

    def _exported(self, checkpoint: Checkpoint) -> OnnxAcousticModel:
        """The network's graph, loaded on one thread."""
        from asrcompress.compress.quantized_network import QuantizedNetwork
        from asrcompress.export.int8 import quantize_graph
        from asrcompress.export.onnx_graph import save_graph
        from asrcompress.pipeline.quantize import export_checkpoint

        recipe = self._recipe
        graph, _ = export_checkpoint(checkpoint, recipe)
        if recipe.prune.budget_precision == "int8":
            quantized = QuantizedNetwork(
                build_network(checkpoint),
                replace(recipe.quantization, observer="min_max"),
                recipe.decoding,
                weight_top=find_target(recipe.export.target).weight_top,
            )
            PaddleAcousticModel(quantized.network).log_probs(self._some)
            quantized.finish_calibration()
            ranges = quantized.ranges().part(PARAMETERS, inside=False)
            graph = quantize_graph(graph, ranges, operators=recipe.export.operators)
        with tempfile.TemporaryDirectory(prefix="asrcompress-") as folder:
            path = Path(folder) / "model.onnx"
            save_graph(graph, path)
            return OnnxAcousticModel(path)
