"""ONNX Runtime's own operators, which every build of it has, in a domain beside ONNX's."""

from __future__ import annotations

import onnx
from onnx import helper

DOMAIN = "com.microsoft"


def import_contrib(model: onnx.ModelProto) -> None:
    """Let `model` have operators of `DOMAIN`."""
    if all(item.domain != DOMAIN for item in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
