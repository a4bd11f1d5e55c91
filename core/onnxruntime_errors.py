"""What ONNX Runtime raises; its exceptions have no common base but Exception, and each release adds
some.
"""

from __future__ import annotations

from onnxruntime.capi import onnxruntime_pybind11_state

ORT_ERRORS = tuple(
    item
    for item in vars(onnxruntime_pybind11_state).values()
    if isinstance(item, type) and issubclass(item, Exception)
)
