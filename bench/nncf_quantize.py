"""NNCF's post-training quantization of an ONNX graph; a script for OpenVINO's environment.

python nncf_quantize.py model.fp32.onnx calibration.npz model.xml
"""

from __future__ import annotations

import sys

import nncf
import numpy as np
import openvino
from nncf.quantization.advanced_parameters import (
    AdvancedQuantizationParameters,
    QuantizationParameters,
)


def main() -> None:
    """Quantize and save."""
    source, calibration, output = sys.argv[1:]
    features = list(np.load(calibration).values())
    data = nncf.Dataset(
        features, lambda item: {"x": item[None], "x_lens": np.array([len(item)], np.int64)}
    )
    # Per channel, NNCF puts the grids of a depthwise convolution's input across the time axis of
    # what is in front of its transposition, and OpenVINO refuses the shapes.
    per_tensor = QuantizationParameters(per_channel=False)
    quantized = nncf.quantize(
        openvino.Core().read_model(source),
        data,
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(features),
        advanced_parameters=AdvancedQuantizationParameters(
            activations_quantization_params=per_tensor
        ),
    )
    openvino.save_model(quantized, output, compress_to_fp16=False)


if __name__ == "__main__":
    main()
