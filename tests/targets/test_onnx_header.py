"""The opset of an ONNX file, read without onnx, against what onnx itself says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asrcompress.bundles.onnx_header import read_opset
from asrcompress.errors import BadBundle

onnx = pytest.importorskip("onnx", reason="makes the graphs")
MakeGraph = Callable[..., Path]


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_it_is_what_onnx_reads(make_graph: MakeGraph, opset: int) -> None:
    assert read_opset(make_graph(opset=opset)) == opset


def test_other_domains_are_no_opset(make_graph: MakeGraph, tmp_path: Path) -> None:
    model = onnx.load(make_graph())
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BadBundle, match="imports no opset"):
        read_opset(path)
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx", 15))
    path.write_bytes(model.SerializeToString())
    assert read_opset(path) == 15


def test_files_that_are_no_model(make_graph: MakeGraph, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    whole = make_graph().read_bytes()
    rng = np.random.default_rng(0)
    endless = b"\x0a" + b"\xff" * 9 + b"\x7f"
    for data in (b"", b"\x0b", endless, b"\xff" * 64, whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(data)
        with pytest.raises(BadBundle):
            read_opset(path)
    for _ in range(300):  # never anything but an answer or a BadBundle
        path.write_bytes(rng.bytes(int(rng.integers(1, 80))))
        try:
            read_opset(path)
        except BadBundle:
            continue
    with pytest.raises(BadBundle, match="cannot be read"):
        read_opset(tmp_path / "nowhere.onnx")
