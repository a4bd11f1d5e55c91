"""The streaming form, fed as sherpa-onnx feeds it, is the streaming graph with a growing cache."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="changes graphs")
from asrcompress.errors import ExportFailed
from asrcompress.export import sherpa
from asrcompress.export.onnx_graph import save_graph
from asrcompress.run import Run, read_run
from asrcompress.runtime.chunk_model import ChunkWalk, U2ChunkModel
from asrcompress.runtime.fixed_cache import FixedCacheModel

pytestmark = pytest.mark.paddle


@pytest.fixture(scope="module")
def found(streaming: Path, run_of: Any) -> Run:
    """The run that made the streaming graph."""
    return read_run(run_of(streaming))


@pytest.fixture(scope="module")
def form(found: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its INT8 graph for sherpa-onnx, with CMVN of mean 2 and deviation 4."""
    front = sherpa.FrontEnd(
        conversion=None,
        log_floor=1e-7,
        scale=np.full(80, 0.25, np.float32),
        shift=np.full(80, -0.5, np.float32),
    )
    model = sherpa.wenet_stream_form(
        sherpa.load_whole(found.streaming_model), front, found.streaming_spec(), vocabulary=20
    )
    path = tmp_path_factory.mktemp("form") / "model.onnx"
    save_graph(model, path)
    return path


def outputs(model: Any, features: np.ndarray) -> np.ndarray:
    walk, found = ChunkWalk(model), []
    walk.push(features)
    while n_frames := walk.ready(ending=True):
        found.append(walk.step(n_frames).log_probs)
    return np.concatenate(found)


def test_positions_and_history_are_those_of_training(found: Run, form: Path) -> None:
    """Longer than the history, and with a short end."""
    spec = found.streaming_spec()
    normal = np.random.default_rng(0).standard_normal((32 * 9 + 21, 80)).astype(np.float32)
    expected = outputs(U2ChunkModel(found.streaming_model, spec), normal)
    seen = outputs(FixedCacheModel(form, spec), normal * 4 + 2)
    assert seen.shape == expected.shape
    # A value beside the edge of an int8 step may take the next one: the mean says what is right.
    assert np.abs(seen - expected).mean() < 1e-3
    assert (seen.argmax(-1) == expected.argmax(-1)).mean() > 0.98


def test_another_beginning_would_be_noticed(found: Run, form: Path) -> None:
    """Sabotage: an offset that begins elsewhere, so that other places and keys are seen."""
    spec = found.streaming_spec()

    class Late(FixedCacheModel):
        def start(self) -> Any:
            offset, *caches = super().start()
            return (offset + 400, *caches)

    normal = np.random.default_rng(0).standard_normal((32 * 9 + 21, 80)).astype(np.float32)
    expected = outputs(U2ChunkModel(found.streaming_model, spec), normal)
    assert np.abs(outputs(Late(form, spec), normal * 4 + 2) - expected).mean() > 1e-2


def test_a_stream_goes_on_behind_the_table(found: Run, form: Path) -> None:
    model = FixedCacheModel(form, found.streaming_spec())
    frames = np.random.default_rng(0).standard_normal((35, 80)).astype(np.float32)
    state = model.start()
    for _ in range(200):  # 64 s; the table has 60
        step = model.step(frames, state)
        state = step.state
    assert step.log_probs.shape[0] == 8
    assert np.isfinite(step.log_probs).all()


def test_all_history_is_refused(found: Run) -> None:
    spec = dataclasses.replace(found.streaming_spec(), left_chunks=-1)
    front = sherpa.FrontEnd(conversion=None, log_floor=1e-7, scale=np.ones(80), shift=np.zeros(80))
    model = sherpa.load_whole(found.streaming_model)
    with pytest.raises(ExportFailed, match=r"left_chunks: got -1"):
        sherpa.wenet_stream_form(model, front, spec, vocabulary=20)
