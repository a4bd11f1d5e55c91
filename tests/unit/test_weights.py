"""``.pdparams`` of every Paddle: read without Paddle, and without running anything."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrcompress.checkpoints.plain_pickle import read_plain_pickle
from asrcompress.checkpoints.weights import read_state, read_weights, write_weights
from asrcompress.errors import BadCheckpoint, FileFailed

TENSORS = {
    "encoder.w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "encoder.transposed": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "norm.batches": np.array(7, np.int64),
    "half": np.ones(3, np.float16),
    "empty": np.zeros((0, 4), np.float32),
    "mask": np.array([True, False]),
}


def same(seen: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert list(seen) == list(wanted)
    for name, array in wanted.items():
        assert seen[name].dtype == array.dtype and seen[name].shape == array.shape
        assert np.array_equal(seen[name], array)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_weights(tmp_path / "a.pdparams", TENSORS)
    same(read_weights(tmp_path / "a.pdparams"), TENSORS)


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_reads_what_paddle_2_writes(tmp_path: Path, protocol: int, kind: type) -> None:
    """``_legacy_save``: arrays by name, and a table of parameter names."""
    path = tmp_path / "a.pdparams"
    table = {name: f"linear_{i}.w_0" for i, name in enumerate(TENSORS)}
    saved = kind({**TENSORS, "StructuredToParameterName@@": table})
    path.write_bytes(pickle.dumps(saved, protocol=protocol))
    same(read_weights(path), TENSORS)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_reads_what_numpy_2_writes(tmp_path: Path, protocol: int) -> None:
    """Paddle 3 saves the same pickle, and its numpy says ``numpy._core``."""
    path = tmp_path / "a.pdparams"
    old = pickle.dumps(dict(TENSORS), protocol=protocol)
    if protocol == 4:  # text with its length in front
        written = old.replace(b"\x8c\x15numpy.core.multiarray", b"\x8c\x16numpy._core.multiarray")
        written = written.replace(b"\x95" + old[3:11], b"")  # the frame's length is no longer right
    else:
        written = old.replace(b"numpy.core.multiarray", b"numpy._core.multiarray")
    assert b"numpy._core" in written
    path.write_bytes(written)
    same(read_weights(path), TENSORS)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_reads_tensors_with_their_names(tmp_path: Path, protocol: int) -> None:
    """``_pickle_save``: ``(tuple, ((name, array),))`` for a tensor inside of other data."""

    class Tensor:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def __reduce__(self) -> Any:
            return tuple, (("linear_0.w_0", self.array),)

    path = tmp_path / "a.pdopt"
    state = {
        "network": {"w": Tensor(np.ones(2))},
        "optimizer": {"LR_Scheduler": {"last_lr": 0.5, "last_epoch": 3}, "m": [Tensor(np.ones(1))]},
        "progress": (1, 2, None, True),
        "scale": np.float64(0.25),
    }
    path.write_bytes(pickle.dumps(state, protocol=protocol))
    read = read_state(path)
    assert np.array_equal(read["network"]["w"], np.ones(2))
    assert read["optimizer"]["LR_Scheduler"] == {"last_lr": 0.5, "last_epoch": 3}
    assert np.array_equal(read["optimizer"]["m"][0], np.ones(1))
    assert read["progress"] == (1, 2, None, True) and read["scale"] == 0.25


def test_a_state_that_holds_itself_is_refused(tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    (tmp_path / "a").write_bytes(pickle.dumps(endless, protocol=4))
    with pytest.raises(BadCheckpoint, match="nested more than 8 deep"):
        read_state(tmp_path / "a")


@pytest.mark.paddle
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_reads_what_paddle_writes(tmp_path: Path, protocol: int) -> None:
    paddle = pytest.importorskip("paddle")
    path = str(tmp_path / "a.pdparams")
    layer = paddle.nn.Linear(3, 4)
    paddle.save(layer.state_dict(), path, protocol=protocol)
    same(read_weights(Path(path)), {k: v.numpy() for k, v in layer.state_dict().items()})
    optimizer = paddle.optimizer.AdamW(parameters=layer.parameters())
    layer(paddle.ones([1, 3])).sum().backward()
    optimizer.step()
    paddle.save({"opt": optimizer.state_dict(), "at": (1, 2)}, path, protocol=protocol)
    state = read_state(Path(path))
    assert state["at"] == (1, 2)
    optimizer.set_state_dict(state["opt"])


@pytest.mark.paddle
def test_paddle_reads_what_is_written(tmp_path: Path) -> None:
    paddle = pytest.importorskip("paddle")
    write_weights(tmp_path / "a.pdparams", {"w": TENSORS["encoder.w"]})
    loaded = paddle.load(str(tmp_path / "a.pdparams"))
    assert list(loaded) == ["w"] and np.array_equal(loaded["w"].numpy(), TENSORS["encoder.w"])


class _Calls:
    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.made = (function, arguments)

    def __reduce__(self) -> Any:
        return self.made


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"w": x}, lambda x: [(x, x)]])
def test_nothing_is_called(tmp_path: Path, protocol: int, wrap: Callable[[Any], Any]) -> None:
    sentinel = tmp_path / "owned"
    content = pickle.dumps(wrap(_Calls(os.mkdir, str(sentinel))), protocol=protocol)
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(BadCheckpoint, match="is not a Paddle state dict"):
        read_weights(tmp_path / "a")
    assert not sentinel.exists()
    pickle.loads(content)
    assert sentinel.exists()


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_weights(path, {"w": np.ones(2, np.float32)})
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(BadCheckpoint):
            read_weights(path)


@given(st.data())
def test_a_damaged_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever the bytes, the only exception is ours, and arrays are no larger than the file."""
    path = tmp_path_factory.mktemp("damaged") / "a"
    write_weights(path, {"w": np.ones((2, 3), np.float32), "b": np.ones(3, np.int64)})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        read = read_weights(path)
    except BadCheckpoint as error:
        assert str(error).startswith(f"{path}: ")
        return
    assert all(array.nbytes <= len(content) for array in read.values())


SCALARS = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats() | st.text()
PLAIN = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner),
)


@given(PLAIN)
def test_plain_data_is_read_as_python_does(
    tmp_path_factory: pytest.TempPathFactory, value: Any
) -> None:
    path = tmp_path_factory.mktemp("plain") / "a"
    for protocol in (2, 4):
        path.write_bytes(pickle.dumps(value, protocol=protocol))
        assert repr(read_plain_pickle(path)) == repr(value)


def test_a_missing_file_and_a_full_disk_name_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadCheckpoint, match=r"a: cannot be read, No such file"):
        read_weights(tmp_path / "a")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileFailed, match=r"a: cannot be written, No space") as caught:
        write_weights(tmp_path / "a", TENSORS)
    assert caught.value.hint == "free some space, then repeat the command"
    assert list(tmp_path.iterdir()) == []
