"""Weights files that are no weights, do not fit, or are programs."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asrcompress import plain_pickle

pytest.importorskip("yaml", reason="needs the [compress] extra")

OWNED = "touch owned"


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._made = (function, arguments)

    def __reduce__(self) -> Any:
        return self._made


def weights(place: Any, content: object, protocol: int = 4) -> list[Any]:
    """Other weights: bytes as they are, anything else pickled."""
    data = content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol)
    place.write(place.experiment / "checkpoints/best.pdparams", data)
    return ["evaluate", "asr", "--manifest", place.manifest, "--quiet"]


def cut(place: Any, share: float) -> list[Any]:
    """The first part of valid weights."""
    whole = (place.experiment / "checkpoints/best.pdparams").read_bytes()
    return weights(place, whole[: int(len(whole) * share)])


def array(*, shape: object = (2,), dtype: object = "f4", raw: object = b"\0" * 8) -> Any:
    """What pickles as an array with these parts, fitting or not."""

    class Forged:
        def __reduce__(self) -> Any:
            empty = (np.ndarray, (0,), b"b")
            state = (1, shape, np.dtype(dtype) if isinstance(dtype, str) else dtype, False, raw)
            return np.core.multiarray._reconstruct, empty, state

    return {"w": Forged()}


def dtype(code: str, state: object = None) -> Any:
    """What pickles as a dtype with a state."""

    class Forged:
        def __reduce__(self) -> Any:
            made = np.dtype, (code, False, True)
            return made if state is None else (*made, state)

    return Forged()


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    return stream.getvalue()


def npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ones(3))
    return stream.getvalue()


def nested(opening: bytes, closing: bytes, depth: int = 100_000) -> bytes:
    return b"\x80\x04" + opening * depth + closing + b"."


FLAGS = ("f8", (3, "<", None, None, None, -1, -1, 63))
METADATA = ("f8", (4, "<", None, None, None, -1, -1, 0, {"evil": 1}))
FIELDS = ("f8", (3, "<", None, ("a",), {"a": (np.dtype("f4"), 0)}, 8, 4, 0))

CASES: list[tuple[str, Callable[[Any], list[Any]], str]] = [
    ("empty", lambda p: weights(p, b""), "?"),
    ("text", lambda p: weights(p, b"not weights at all\n"), "?"),
    ("cut in half", lambda p: cut(p, 0.5), "?"),
    ("cut before the last byte", lambda p: cut(p, 0.999), "?"),
    ("PyTorch's zip", lambda p: weights(p, zipped()), "?"),
    ("gzip", lambda p: weights(p, gzip.compress(pickle.dumps({}), mtime=0)), "?"),
    ("numpy's .npy", lambda p: weights(p, npy()), "?"),
    ("zeros", lambda p: weights(p, bytes(1000)), "?"),
    ("a list", lambda p: weights(p, [np.ones(3)]), "?"),
    ("an array", lambda p: weights(p, np.ones(3)), "?"),
    ("an empty dict", lambda p: weights(p, {}), "?"),
    ("only a name table", lambda p: weights(p, {"StructuredToParameterName@@": {}}), "?"),
    ("numbers for names", lambda p: weights(p, {7: np.ones(3)}), "?"),
    ("text for a tensor", lambda p: weights(p, {"w": "ones"}), "?"),
    ("an optimizer's state", lambda p: weights(p, {"LR_Scheduler": {"last_lr": 0.1}}), "?"),
    ("slices", lambda p: weights(p, {"w@@.0": np.ones(3), "UnpackBigParamInfor@@": {}}, 2), "?"),
    ("os.system", lambda p: weights(p, {"w": Call(os.system, OWNED)}), "?"),
    ("os.system, protocol 2", lambda p: weights(p, {"w": Call(os.system, OWNED)}, 2), "?"),
    ("os.system as an instruction of 1996", lambda p: weights(p, b"cos\nsystem\n(S'id'\ntR."), "?"),
    ("INST", lambda p: weights(p, b"(S'touch owned'\nios\nsystem\n."), "?"),
    ("OBJ", lambda p: weights(p, b"(cos\nsystem\nS'touch owned'\no."), "?"),
    ("eval", lambda p: weights(p, Call(eval, f"__import__('os').system('{OWNED}')")), "?"),
    ("exec", lambda p: weights(p, Call(exec, f"import os; os.system('{OWNED}')")), "?"),
    ("getattr", lambda p: weights(p, Call(getattr, "", "format")), "?"),
    ("subprocess", lambda p: weights(p, {"w": Call(subprocess.Popen, OWNED)}), "?"),
    (
        "a call in an object array",
        lambda p: weights(p, {"w": np.array([Call(os.system, OWNED)])}),
        "?",
    ),
    ("an object array", lambda p: weights(p, {"w": np.array([None, "a"])}), "?"),
    ("numpy.load", lambda p: weights(p, Call(np.load, "evil.npy", None, True)), "?"),
    ("numpy.memmap", lambda p: weights(p, Call(np.memmap, "owned", "u1", "w+", 0, (9,))), "?"),
    ("numpy.ndarray called", lambda p: weights(p, {"w": Call(np.ndarray, (9,), "f4")}), "?"),
    ("a subclass in numpy.dtype", lambda p: weights(p, {"w": Call(np.dtype, "O")}), "?"),
    ("a dtype of 2 GB", lambda p: weights(p, array(dtype=dtype("V2147483647"))), "?"),
    ("a dtype of text", lambda p: weights(p, {"w": np.array(["a"])}), "?"),
    ("a dtype of complex numbers", lambda p: weights(p, {"w": np.ones(2, "c8")}), "?"),
    ("a dtype of dates", lambda p: weights(p, {"w": np.zeros(2, "M8[s]")}), "?"),
    ("a big-endian dtype", lambda p: weights(p, {"w": np.ones(2, ">f4")}), "?"),
    ("a dtype with fields", lambda p: weights(p, {"w": np.zeros(2, [("a", "f4")])}), "?"),
    ("a dtype that says it holds objects", lambda p: weights(p, array(dtype=dtype(*FLAGS))), "?"),
    ("a dtype with metadata", lambda p: weights(p, array(dtype=dtype(*METADATA))), "?"),
    ("a dtype that gets fields", lambda p: weights(p, array(dtype=dtype(*FIELDS))), "?"),
    ("a dtype that is no dtype", lambda p: weights(p, array(dtype=5)), "?"),
    ("a shape of 2**60", lambda p: weights(p, array(shape=(2**60,))), "?"),
    ("a shape of 4 GB", lambda p: weights(p, array(shape=(2**30,))), "?"),
    ("a negative shape", lambda p: weights(p, array(shape=(-1,))), "?"),
    ("a shape with a fraction", lambda p: weights(p, array(shape=(2.0,))), "?"),
    ("a shape of 1000 dimensions", lambda p: weights(p, array(shape=(1,) * 1000)), "?"),
    ("an array of a list", lambda p: weights(p, array(raw=[1.0, 2.0])), "?"),
    ("an array with a byte too few", lambda p: weights(p, array(raw=b"\0" * 7)), "?"),
    (
        "a text that states 2**60 bytes",
        lambda p: weights(p, b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"a."),
        "?",
    ),
    (
        "bytes that state 2**62 bytes",
        lambda p: weights(p, b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"a."),
        "?",
    ),
    ("a memo of 2**31 entries", lambda p: weights(p, b"\x80\x02}r\xff\xff\xff\x7f."), "?"),
    ("a memo that is empty", lambda p: weights(p, b"\x80\x02h\x05."), "?"),
    ("a stack that is empty", lambda p: weights(p, b"\x80\x02\x85."), "?"),
    ("a mark that is missing", lambda p: weights(p, b"\x80\x02t."), "?"),
    ("a mark at the end", lambda p: weights(p, b"\x80\x02(."), "?"),
    ("tuples nested 100,000 deep", lambda p: weights(p, nested(b")", b"\x85" * 100_000, 1)), "?"),
    (
        "such tuples for a key",
        lambda p: weights(p, b"\x80\x02}" + nested(b")", b"\x85" * 100_000, 1)[2:-1] + b"Ns."),
        "?",
    ),
    ("lists nested 100,000 deep", lambda p: weights(p, nested(b"]", b"a" * 99_999)), "?"),
    ("a list in itself", lambda p: weights(p, b"\x80\x04]\x94h\x00a."), "?"),
    ("a persistent id", lambda p: weights(p, b"\x80\x02Pevil\n."), "?"),
    ("an extension code", lambda p: weights(p, b"\x80\x02\x82\x01."), "?"),
    ("protocol 9", lambda p: weights(p, b"\x80\x09}."), "?"),
    ("a set", lambda p: weights(p, {"w": {1, 2}}), "?"),
    ("an instance", lambda p: weights(p, {"w": Path("/etc/passwd")}), "?"),
    (
        "an attribute of a name that is allowed",
        lambda p: weights(p, b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93."),
        "?",
    ),
    ("a name that is no text", lambda p: weights(p, b"\x80\x04]]\x93."), "?"),
    (
        "a codec that is none of latin1",
        lambda p: weights(
            p,
            b"\x80\x02}X\x01\x00\x00\x00wc_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86Rs.",
        ),
        "?",
    ),
]

TRAINED: list[tuple[str, Callable[[Any], list[Any]], str]] = [
    (
        "a tensor is missing",
        lambda p: trained(p, lambda w: w.pop("encoder.after_norm.weight")),
        "?",
    ),
    ("a tensor is unknown", lambda p: trained(p, lambda w: w.update(extra=np.ones(3))), "?"),
    ("another shape", lambda p: trained(p, lambda w: w.update({BIAS: np.ones(9, "f4")})), "?"),
    ("NaN", lambda p: trained(p, lambda w: w.update({BIAS: np.full(16, np.nan, "f4")})), "?"),
    ("infinity", lambda p: trained(p, lambda w: w.update({BIAS: np.full(16, np.inf, "f4")})), "?"),
    ("whole numbers", lambda p: trained(p, lambda w: w.update({BIAS: np.ones(16, "i8")})), "?"),
    (
        "everything is missing",
        lambda p: trained(p, lambda w: [w.clear(), w.update(a=np.ones(99))]),
        "?",
    ),
    ("another vocabulary", lambda p: vocabulary(p), "?"),
    ("a billion blocks", lambda p: encoder(p, num_blocks=10**9), "?"),
    ("a width of a billion", lambda p: encoder(p, output_size=10**9), "?"),
    ("two blocks for one", lambda p: encoder(p, num_blocks=2), "?"),
    ("no attention heads", lambda p: encoder(p, attention_heads=0), "?"),
    ("three heads for a width of 16", lambda p: encoder(p, attention_heads=3), "?"),
    ("an even kernel", lambda p: encoder(p, cnn_module_kernel=14), "?"),
    ("a setting that nobody knows", lambda p: encoder(p, colour="red"), "?"),
    ("an activation that nobody knows", lambda p: encoder(p, activation_type="wish"), "?"),
    ("no decoder_conf", lambda p: settings(p, decoder_conf=None), "?"),
    ("a decoder that nobody knows", lambda p: settings(p, decoder="lstm"), "?"),
    ("model_conf that is text", lambda p: settings(p, model_conf="fast"), "?"),
    (
        "cmvn_file that is missing",
        lambda p: settings(p, cmvn_file="no.json", cmvn_file_type="json"),
        "?",
    ),
    ("cmvn_file that is a number", lambda p: settings(p, cmvn_file=5, cmvn_file_type="json"), "?"),
    ("a Transformer", lambda p: settings(p, encoder="transformer"), "?"),
]
BIAS = "encoder.after_norm.bias"


def trained(place: Any, change: Callable[[Any], object]) -> list[Any]:
    """Weights of a real network, changed."""
    from asrcompress.weights import read_weights, write_weights

    path = place.trained / "checkpoints/best.pdparams"
    tensors = read_weights(path)
    change(tensors)
    write_weights(path, tensors)
    return ["inspect", "trained"]


def settings(place: Any, **changes: Any) -> list[Any]:
    """A real network's YAML, changed."""
    place.edit_yaml(place.trained / "conf/conformer.yaml", **changes)
    return ["inspect", "trained"]


def encoder(place: Any, **changes: Any) -> list[Any]:
    """A real network's encoder_conf, changed."""
    import yaml

    path = place.trained / "conf/conformer.yaml"
    current = yaml.safe_load(path.read_text(encoding="utf-8"))["encoder_conf"]
    return settings(place, encoder_conf={**current, **changes})


def vocabulary(place: Any) -> list[Any]:
    """A vocabulary with a symbol more."""
    path = place.trained / "data/vocab.txt"
    path.write_text("多\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    return ["inspect", "trained"]


@pytest.mark.parametrize(("make", "message"), [pytest.param(*c[1:], id=c[0]) for c in CASES])
def test_is_refused(check: Any, make: Any, message: str, tmp_path: Path) -> None:
    check(make, message)
    assert not (tmp_path / "owned").exists()


@pytest.mark.paddle
@pytest.mark.parametrize(("make", "message"), [pytest.param(*c[1:], id=c[0]) for c in TRAINED])
def test_does_not_fit(check: Any, make: Any, message: str) -> None:
    check(make, message)


def test_a_pickle_of_endless_instructions(
    check: Any, monkeypatch: pytest.MonkeyPatch, place: Any
) -> None:
    monkeypatch.setattr(plain_pickle, "_MOST_INSTRUCTIONS", 50)
    check(
        lambda p: weights(p, [None] * 100),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, has more than 50 instructions",
    )


def test_texts_that_are_encoded_again_and_again(check: Any) -> None:
    """Each call would make another megabyte of one that the file holds once."""
    text = b"X" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"q\x01"
    again = b"c_codecs\nencode\nh\x01X\x06\x00\x00\x00latin1\x86R" * 1000
    check(
        lambda p: weights(p, b"\x80\x02(" + text + again + b"t."),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, makes more data than it holds",
    )


def test_these_pickles_are_dangerous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof that the cases above would do harm: Python's own unpickler runs them."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps({"w": Call(os.system, OWNED)}))
    assert (tmp_path / "owned").exists()
