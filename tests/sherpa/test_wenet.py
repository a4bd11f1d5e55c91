"""WeNet's three graphs against PaddleSpeech's own forward, fed as WeNet's runtime feeds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("paddle", reason="needs the [compress] extra")
import onnx
import onnxruntime

from asrcompress.checkpoints.checkpoint import read_checkpoint
from asrcompress.checkpoints.network import build_network
from asrcompress.paddle_imports import import_paddle
from asrcompress.sherpa.wenet import WenetModel

pytestmark = pytest.mark.paddle
CHUNK, LEFT, CONTEXT = 8, 4, 7
# What onnx_asr_model.cc reads from the encoder.
KEYS = {
    "output_size", "num_blocks", "head", "cnn_module_kernel", "subsampling_rate", "right_context",
    "sos_symbol", "eos_symbol", "is_bidirectional_decoder", "chunk_size", "left_chunks",
}  # fmt: skip


@pytest.fixture(scope="module")
def exact(streaming: Path, command: Any) -> Path:
    """FP32, of the checkpoint."""
    output = streaming / "wenet-fp32"
    recipe = ("--recipe", streaming / "asrcompress.toml", "--precision", "fp32")
    command("export", streaming / "checkpoint", *recipe, "--format", "wenet", "-o", output)
    return output


@pytest.fixture(scope="module")
def network(streaming: Path) -> Any:
    """PaddleSpeech's own."""
    return build_network(read_checkpoint(streaming / "checkpoint"))


@pytest.fixture(scope="module")
def spec(streaming: Path, run_of: Any) -> Any:
    """How the run's streaming graph is fed."""
    from asrcompress.run import read_run

    return read_run(run_of(streaming)).streaming_spec()


def features(frames: int) -> np.ndarray:
    """Log-mel energies, before CMVN."""
    rng = np.random.default_rng(frames)
    return (13 + 4 * rng.standard_normal((frames, 80))).astype(np.float32)


def windows(x: np.ndarray) -> list[np.ndarray]:
    """Windows of WeNet's runtime; the last is as short as it is."""
    size, hop = (CHUNK - 1) * 4 + CONTEXT, CHUNK * 4
    return [x[at : at + size] for at in range(0, len(x) - CONTEXT + 1, hop)]


def test_names_and_metadata_are_wenet_s(exact: Path) -> None:
    encoder = onnxruntime.InferenceSession(str(exact / "encoder.onnx"))
    assert [i.name for i in encoder.get_inputs()] == [
        "chunk", "offset", "required_cache_size", "att_cache", "cnn_cache", "att_mask",
    ]  # fmt: skip
    assert [o.name for o in encoder.get_outputs()] == ["output", "r_att_cache", "r_cnn_cache"]
    assert [len(i.shape) for i in encoder.get_inputs()] == [3, 0, 0, 4, 4, 3]
    found = encoder.get_modelmeta().custom_metadata_map
    assert found.keys() >= KEYS
    assert (found["chunk_size"], found["left_chunks"]) == ("8", "4")
    assert (found["output_size"], found["head"], found["cnn_module_kernel"]) == ("32", "4", "7")
    lines = (exact / "param.onnx").read_text().splitlines()
    assert dict(line.split("=") for line in lines) == {key: found[key] for key in KEYS}
    ctc = onnxruntime.InferenceSession(str(exact / "ctc.onnx"))
    assert ([i.name for i in ctc.get_inputs()], [o.name for o in ctc.get_outputs()]) == (
        ["hidden"],
        ["probs"],
    )
    decoder = onnxruntime.InferenceSession(str(exact / "decoder.onnx"))
    assert [i.name for i in decoder.get_inputs()] == ["hyps", "hyps_lens", "encoder_out"]
    assert [o.name for o in decoder.get_outputs()] == ["score", "r_score"]
    units = (exact / "units.txt").read_text(encoding="utf-8").splitlines()
    assert units[0] == "<blank> 0"
    assert units[-1] == f"<sos/eos> {len(units) - 1}"


def test_chunks_are_paddlespeech_s(exact: Path, network: Any, spec: Any) -> None:
    """``forward_encoder_chunk``, with a last chunk that is shorter than its mask."""
    paddle = import_paddle()
    x = features(32 * 7 + 23)
    normal = (x - 13.0) / 4.0
    model, offset = WenetModel(exact, spec), 0
    state = model.start()
    attention, convolution = paddle.zeros([0, 0, 0, 0]), paddle.zeros([0, 0, 0, 0])
    pairs = list(zip(windows(x), windows(normal), strict=True))
    assert len(pairs[-1][0]) < len(pairs[0][0])
    for ours, theirs in pairs:
        with paddle.no_grad():
            hidden, attention, convolution = network.forward_encoder_chunk(
                paddle.to_tensor(theirs[None]), offset, CHUNK * LEFT, attention, convolution
            )
            expected = network.ctc_activation(hidden).numpy()[0]
        offset += len(expected)
        seen, state = model.step(ours, state)
        np.testing.assert_allclose(seen, expected, atol=2e-4)


def test_a_stream_may_be_longer_than_the_positions(exact: Path, spec: Any) -> None:
    """60 s have positions; afterwards they stay where they are, and nothing breaks."""
    model, x = WenetModel(exact, spec), features(35)
    state = model.start()
    for _ in range(int(66 * 100 / 32)):
        seen, state = model.step(x, state)
    assert np.isfinite(seen).all()
    assert len(seen) == CHUNK
    again, state = model.step(x, state)
    np.testing.assert_allclose(again, seen, atol=1e-4)  # the same sound, the same places


def test_the_decoder_is_paddlespeech_s(exact: Path, network: Any) -> None:
    paddle = import_paddle()
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((1, 40, 32)).astype(np.float32)
    sos = int(network.sos)
    texts = [[2, 3, 4, 5], [6, 7]]
    padded = np.array([[sos, *text, *[0] * (4 - len(text))] for text in texts], np.int64)
    lengths = np.array([len(text) + 1 for text in texts], np.int64)
    session = onnxruntime.InferenceSession(str(exact / "decoder.onnx"))
    score, _ = session.run(None, {"hyps": padded, "hyps_lens": lengths, "encoder_out": hidden})
    with paddle.no_grad():
        expected = network.forward_attention_decoder(
            paddle.to_tensor(padded), paddle.to_tensor(lengths), paddle.to_tensor(hidden)
        )[0].numpy()
    for row, want, length in zip(score, expected, lengths, strict=True):
        np.testing.assert_allclose(row[:length], want[:length], atol=2e-4)


def test_int8_halves_are_the_graph_that_was_measured(
    streaming: Path, run_of: Any, command: Any, tmp_path: Path
) -> None:
    recipe = ("--recipe", streaming / "asrcompress.toml")
    found, output = run_of(streaming), tmp_path / "wenet"
    command("export", found, *recipe, "--format", "wenet", "-o", output)
    verified = onnx.load(found / "model-streaming.int8.onnx")
    weights = {
        item.name: item.raw_data
        for item in verified.graph.initializer
        if item.data_type == onnx.TensorProto.INT8
    }
    shipped: dict[str, bytes] = {}
    for name in ("encoder.onnx", "ctc.onnx"):
        for item in onnx.load(output / name).graph.initializer:
            if item.data_type == onnx.TensorProto.INT8:
                shipped[item.name] = item.raw_data
    assert shipped.keys() == weights.keys()
    assert all(shipped[name] == weights[name] for name in weights)
    command("export", found, *recipe, "--format", "wenet", "-o", output, expect=3)  # is there
    command("export", found, *recipe, "--format", "wenet", "-o", output, "--force")


def test_halves_that_differ_are_not_shipped(
    streaming: Path, run_of: Any, command: Any, tmp_path: Path
) -> None:
    """Sabotage: the ranges were changed after the gate measured the graph."""
    import shutil

    job = tmp_path / "run"
    shutil.copytree(run_of(streaming), job)
    ranges = json.loads((job / "ranges.json").read_text())
    for item in ranges["weights"]:
        item["absmax"] = [3 * value for value in item["absmax"]]
    (job / "ranges.json").write_text(json.dumps(ranges))
    recipe = ("--recipe", streaming / "asrcompress.toml")
    result = command(
        "export", job, *recipe, "--format", "wenet", "-o", tmp_path / "wenet", expect=3
    )
    assert "encoder.onnx" in result.stderr
    assert not (tmp_path / "wenet").exists()


def test_whole_recordings_have_no_chunks(offline: Path, run_of: Any, command: Any) -> None:
    recipe = ("--recipe", offline / "asrcompress.toml")
    result = command("export", run_of(offline), *recipe, "--format", "wenet", expect=3)
    assert "WeNet's graphs take chunks" in result.stderr
