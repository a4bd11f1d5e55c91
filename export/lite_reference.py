"""A program run by Paddle itself, operator by operator: what Paddle Lite's kernels have to give."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from asrcompress.export.lite_program import Program
from asrcompress.paddle_imports import import_paddle

import_paddle()

from paddle import inference  # noqa: E402  (after h5py, see paddle_imports)


class PaddleProgram:
    """A program in Paddle's own predictor, with no operator fused.

    Of a quantized program this computes the simulation: values rounded to the learned grids,
    multiplied in float.
    """

    def __init__(self, program: Program) -> None:
        with tempfile.TemporaryDirectory(prefix="asrcompress-") as folder:
            model, params = program.write(Path(folder) / "program")
            config = inference.Config(str(model), str(params))
            config.switch_ir_optim(False)
            config.disable_glog_info()
            config.set_cpu_math_library_num_threads(1)
            self._predictor = inference.create_predictor(config)

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Outputs for inputs by name."""
        for name, value in feeds.items():
            self._predictor.get_input_handle(name).copy_from_cpu(np.ascontiguousarray(value))
        self._predictor.run()
        names = self._predictor.get_output_names()
        return [self._predictor.get_output_handle(name).copy_to_cpu() for name in names]
