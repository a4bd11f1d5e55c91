"""Weights files that are no weights, do not fit, or are programs."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asrcompress.checkpoints import plain_pickle

pytest.importorskip("yaml", reason="needs the [compress] extra")

OWNED = "touch owned"
# How CPython words a remainder of a division by zero.
NEW_WORDS = sys.version_info >= (3, 11)
MODULO = "integer modulo by zero" if NEW_WORDS else "integer division or modulo by zero"


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
    (
        "empty",
        lambda p: weights(p, b""),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, pickle exhausted before seeing STOP",
    ),
    (
        "text",
        lambda p: weights(p, b"not weights at all\n"),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, at position 0, opcode b'n' unknown",
    ),
    (
        "cut in half",
        lambda p: cut(p, 0.5),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, pickle exhausted before seeing STOP",
    ),
    (
        "cut before the last byte",
        lambda p: cut(p, 0.999),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, pickle exhausted before seeing STOP",
    ),
    (
        "PyTorch's zip",
        lambda p: weights(p, zipped()),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, no newline found when trying to read stringnl",
    ),
    (
        "gzip",
        lambda p: weights(p, gzip.compress(pickle.dumps({}), mtime=0)),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, at position 0, opcode b'\\x1f' unknown",
    ),
    (
        "numpy's .npy",
        lambda p: weights(p, npy()),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, takes more values than it has made",
    ),
    (
        "zeros",
        lambda p: weights(p, bytes(1000)),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, at position 0, opcode b'\\x00' unknown",
    ),
    (
        "a list",
        lambda p: weights(p, [np.ones(3)]),
        "asr/checkpoints/best.pdparams: holds list, expected a dict of tensors",
    ),
    (
        "an array",
        lambda p: weights(p, np.ones(3)),
        "asr/checkpoints/best.pdparams: holds ndarray, expected a dict of tensors",
    ),
    ("an empty dict", lambda p: weights(p, {}), "asr/checkpoints/best.pdparams: holds no tensor"),
    (
        "only a name table",
        lambda p: weights(p, {"StructuredToParameterName@@": {}}),
        "asr/checkpoints/best.pdparams: holds no tensor",
    ),
    (
        "numbers for names",
        lambda p: weights(p, {7: np.ones(3)}),
        "asr/checkpoints/best.pdparams: has the key 7, expected names of tensors",
    ),
    (
        "text for a tensor",
        lambda p: weights(p, {"w": "ones"}),
        "asr/checkpoints/best.pdparams: 'w' is str, expected a tensor",
    ),
    (
        "an optimizer's state",
        lambda p: weights(p, {"LR_Scheduler": {"last_lr": 0.1}}),
        "asr/checkpoints/best.pdparams: 'LR_Scheduler' is dict, expected a tensor",
    ),
    (
        "slices",
        lambda p: weights(p, {"w@@.0": np.ones(3), "UnpackBigParamInfor@@": {}}, 2),
        "asr/checkpoints/best.pdparams: is stored in slices (pickle protocol 2 or 3), expected whole tensors",
    ),
    (
        "os.system",
        lambda p: weights(p, {"w": Call(os.system, OWNED)}),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, names posix.system, which no state dict needs",
    ),
    (
        "os.system, protocol 2",
        lambda p: weights(p, {"w": Call(os.system, OWNED)}, 2),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, names posix.system, which no state dict needs",
    ),
    (
        "os.system as an instruction of 1996",
        lambda p: weights(p, b"cos\nsystem\n(S'id'\ntR."),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, names os.system, which no state dict needs",
    ),
    (
        "INST",
        lambda p: weights(p, b"(S'touch owned'\nios\nsystem\n."),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, has the instruction STRING at byte 1, which no state dict needs",
    ),
    (
        "OBJ",
        lambda p: weights(p, b"(cos\nsystem\nS'touch owned'\no."),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, names os.system, which no state dict needs",
    ),
    (
        "eval",
        lambda p: weights(p, Call(eval, f"__import__('os').system('{OWNED}')")),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, names builtins.eval, which no state dict needs",
    ),
    (
        "exec",
        lambda p: weights(p, Call(exec, f"import os; os.system('{OWNED}')")),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, names builtins.exec, which no state dict needs",
    ),
    (
        "getattr",
        lambda p: weights(p, Call(getattr, "", "format")),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, names builtins.getattr, which no state dict needs",
    ),
    (
        "subprocess",
        lambda p: weights(p, {"w": Call(subprocess.Popen, OWNED)}),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, names subprocess.Popen, which no state dict needs",
    ),
    (
        "a call in an object array",
        lambda p: weights(p, {"w": np.array([Call(os.system, OWNED)])}),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, holds an array of dtype O8, expected numbers",
    ),
    (
        "an object array",
        lambda p: weights(p, {"w": np.array([None, "a"])}),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, holds an array of dtype O8, expected numbers",
    ),
    (
        "numpy.load",
        lambda p: weights(p, Call(np.load, "evil.npy", None, True)),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, names numpy.load, which no state dict needs",
    ),
    (
        "numpy.memmap",
        lambda p: weights(p, Call(np.memmap, "owned", "u1", "w+", 0, (9,))),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, names numpy.memmap, which no state dict needs",
    ),
    (
        "numpy.ndarray called",
        lambda p: weights(p, {"w": Call(np.ndarray, (9,), "f4")}),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, calls what no state dict calls",
    ),
    (
        "a subclass in numpy.dtype",
        lambda p: weights(p, {"w": Call(np.dtype, "O")}),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, holds an array of dtype O, expected numbers",
    ),
    (
        "a dtype of 2 GB",
        lambda p: weights(p, array(dtype=dtype("V2147483647"))),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, holds an array of dtype V2147483647, expected numbers",
    ),
    (
        "a dtype of text",
        lambda p: weights(p, {"w": np.array(["a"])}),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, holds an array of dtype U1, expected numbers",
    ),
    (
        "a dtype of complex numbers",
        lambda p: weights(p, {"w": np.ones(2, "c8")}),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, holds an array of dtype c8, expected numbers",
    ),
    (
        "a dtype of dates",
        lambda p: weights(p, {"w": np.zeros(2, "M8[s]")}),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, holds an array of dtype M8, expected numbers",
    ),
    (
        "a big-endian dtype",
        lambda p: weights(p, {"w": np.ones(2, ">f4")}),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, holds an array of a dtype that is no little-endian number",
    ),
    (
        "a dtype with fields",
        lambda p: weights(p, {"w": np.zeros(2, [("a", "f4")])}),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, holds an array of dtype V4, expected numbers",
    ),
    (
        "a dtype that says it holds objects",
        lambda p: weights(p, array(dtype=dtype(*FLAGS))),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, holds an array of a dtype that is no little-endian number",
    ),
    (
        "a dtype with metadata",
        lambda p: weights(p, array(dtype=dtype(*METADATA))),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, holds an array of a dtype that is no little-endian number",
    ),
    (
        "a dtype that gets fields",
        lambda p: weights(p, array(dtype=dtype(*FIELDS))),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, holds an array of a dtype that is no little-endian number",
    ),
    (
        "a dtype that is no dtype",
        lambda p: weights(p, array(dtype=5)),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, holds an array that is not described as numpy does",
    ),
    (
        "a shape of 2**60",
        lambda p: weights(p, array(shape=(2**60,))),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, holds an array of an impossible shape",
    ),
    (
        "a shape of 4 GB",
        lambda p: weights(p, array(shape=(2**30,))),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, holds an array of shape [1073741824] with 8 bytes, expected 4294967296",
    ),
    (
        "a negative shape",
        lambda p: weights(p, array(shape=(-1,))),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, holds an array of an impossible shape",
    ),
    (
        "a shape with a fraction",
        lambda p: weights(p, array(shape=(2.0,))),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, holds an array of an impossible shape",
    ),
    (
        "a shape of 1000 dimensions",
        lambda p: weights(p, array(shape=(1,) * 1000)),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, holds an array of an impossible shape",
    ),
    (
        "an array of a list",
        lambda p: weights(p, array(raw=[1.0, 2.0])),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, holds an array that is not described as numpy does",
    ),
    (
        "an array with a byte too few",
        lambda p: weights(p, array(raw=b"\0" * 7)),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, holds an array of shape [2] with 7 bytes, expected 8",
    ),
    (
        "a text that states 2**60 bytes",
        lambda p: weights(p, b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"a."),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, expected 1152921504606846976 bytes in a unicodestring8, but only 2 remain",
    ),
    (
        "bytes that state 2**62 bytes",
        lambda p: weights(p, b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"a."),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, expected 4611686018427387904 bytes in a bytes8, but only 2 remain",
    ),
    (
        "a memo of 2**31 entries",
        lambda p: weights(p, b"\x80\x02}r\xff\xff\xff\x7f."),
        "asr/checkpoints/best.pdparams: holds no tensor",
    ),
    (
        "a memo that is empty",
        lambda p: weights(p, b"\x80\x02h\x05."),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, contradicts itself",
    ),
    (
        "a stack that is empty",
        lambda p: weights(p, b"\x80\x02\x85."),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, takes more values than it has made",
    ),
    (
        "a mark that is missing",
        lambda p: weights(p, b"\x80\x02t."),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, contradicts itself",
    ),
    (
        "a mark at the end",
        lambda p: weights(p, b"\x80\x02(."),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, contradicts itself",
    ),
    (
        "tuples nested 100,000 deep",
        lambda p: weights(p, nested(b")", b"\x85" * 100_000, 1)),
        "asr/checkpoints/best.pdparams: holds tuple, expected a dict of tensors",
    ),
    (
        "such tuples for a key",
        lambda p: weights(p, b"\x80\x02}" + nested(b")", b"\x85" * 100_000, 1)[2:-1] + b"Ns."),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, has a tuple as a key, expected text",
    ),
    (
        "lists nested 100,000 deep",
        lambda p: weights(p, nested(b"]", b"a" * 99_999)),
        "asr/checkpoints/best.pdparams: holds list, expected a dict of tensors",
    ),
    (
        "a list in itself",
        lambda p: weights(p, b"\x80\x04]\x94h\x00a."),
        "asr/checkpoints/best.pdparams: holds list, expected a dict of tensors",
    ),
    (
        "a persistent id",
        lambda p: weights(p, b"\x80\x02Pevil\n."),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, has the instruction PERSID at byte 2, which no state dict needs",
    ),
    (
        "an extension code",
        lambda p: weights(p, b"\x80\x02\x82\x01."),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, has the instruction EXT1 at byte 2, which no state dict needs",
    ),
    (
        "protocol 9",
        lambda p: weights(p, b"\x80\x09}."),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, is of protocol 9, expected 2 to 4",
    ),
    (
        "a set",
        lambda p: weights(p, {"w": {1, 2}}),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, has the instruction EMPTY_SET at byte 17, which no state dict needs",
    ),
    (
        "an instance",
        lambda p: weights(p, {"w": Path("/etc/passwd")}),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, names pathlib.PosixPath, which no state dict needs",
    ),
    (
        "an attribute of a name that is allowed",
        lambda p: weights(p, b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93."),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, names numpy.ndarray.tofile, which no state dict needs",
    ),
    (
        "a name that is no text",
        lambda p: weights(p, b"\x80\x04]]\x93."),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, names what is no text",
    ),
    (
        "a codec that is none of latin1",
        lambda p: weights(
            p,
            b"\x80\x02}X\x01\x00\x00\x00wc_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86Rs.",
        ),
        "asr/checkpoints/best.pdparams: is not a Paddle state dict, encodes text as no pickle of bytes does",
    ),
]

TRAINED: list[tuple[str, Callable[[Any], list[Any]], str]] = [
    (
        "a tensor is missing",
        lambda p: trained(p, lambda w: w.pop("encoder.after_norm.weight")),
        "trained/checkpoints/best.pdparams: does not fit the network, encoder.after_norm.weight is missing",
    ),
    (
        "a tensor is unknown",
        lambda p: trained(p, lambda w: w.update(extra=np.ones(3))),
        "trained/checkpoints/best.pdparams: does not fit the network, extra is unknown to the network",
    ),
    (
        "another shape",
        lambda p: trained(p, lambda w: w.update({BIAS: np.ones(9, "f4")})),
        "trained/checkpoints/best.pdparams: does not fit the network, encoder.after_norm.bias has shape [9], expected [16]",
    ),
    (
        "NaN",
        lambda p: trained(p, lambda w: w.update({BIAS: np.full(16, np.nan, "f4")})),
        "trained/checkpoints/best.pdparams: does not fit the network, encoder.after_norm.bias has values that are not finite",
    ),
    (
        "infinity",
        lambda p: trained(p, lambda w: w.update({BIAS: np.full(16, np.inf, "f4")})),
        "trained/checkpoints/best.pdparams: does not fit the network, encoder.after_norm.bias has values that are not finite",
    ),
    (
        "whole numbers",
        lambda p: trained(p, lambda w: w.update({BIAS: np.ones(16, "i8")})),
        "trained/checkpoints/best.pdparams: does not fit the network, encoder.after_norm.bias has dtype int64, expected float32",
    ),
    (
        "everything is missing",
        lambda p: trained(p, lambda w: [w.clear(), w.update(a=np.ones(99))]),
        "trained/checkpoints/best.pdparams: does not fit the network, encoder.embed.conv.0.weight is missing; encoder.embed.conv.0.bias is missing; encoder.embed.conv.2.weight is missing; encoder.embed.conv.2.bias is missing; encoder.embed.out.0.weight is missing; encoder.embed.out.0.bias is missing; encoder.after_norm.weight is missing; encoder.after_norm.bias is missing; and 77 more",
    ),
    (
        "another vocabulary",
        lambda p: vocabulary(p),
        "trained/checkpoints/best.pdparams: does not fit the network, decoder.embed.0.weight has shape [7, 16], expected [8, 16]; decoder.output_layer.weight has shape [16, 7], expected [16, 8]; decoder.output_layer.bias has shape [7], expected [8]; ctc.ctc_lo.weight has shape [16, 7], expected [16, 8]; ctc.ctc_lo.bias has shape [7], expected [8]",
    ),
    (
        "a billion blocks",
        lambda p: encoder(p, num_blocks=10**9),
        "trained/conf/conformer.yaml: encoder_conf.num_blocks is 1000000000, expected at most 84 for best.pdparams",
    ),
    (
        "a width of a billion",
        lambda p: encoder(p, output_size=10**9),
        "trained/conf/conformer.yaml: encoder_conf.output_size is 1000000000, expected at most 304 for best.pdparams",
    ),
    (
        "two blocks for one",
        lambda p: encoder(p, num_blocks=2),
        "trained/checkpoints/best.pdparams: does not fit the network, encoder.encoders.1.self_attn.pos_bias_u is missing; encoder.encoders.1.self_attn.pos_bias_v is missing; encoder.encoders.1.self_attn.linear_q.weight is missing; encoder.encoders.1.self_attn.linear_q.bias is missing; encoder.encoders.1.self_attn.linear_k.weight is missing; encoder.encoders.1.self_attn.linear_k.bias is missing; encoder.encoders.1.self_attn.linear_v.weight is missing; encoder.encoders.1.self_attn.linear_v.bias is missing; and 31 more",
    ),
    (
        "no attention heads",
        lambda p: encoder(p, attention_heads=0),
        "trained/conf/conformer.yaml: PaddleSpeech cannot build this network, "
        f"ZeroDivisionError('{MODULO}')",
    ),
    (
        "three heads for a width of 16",
        lambda p: encoder(p, attention_heads=3),
        "trained/conf/conformer.yaml: PaddleSpeech cannot build this network, AssertionError()",
    ),
    (
        "an even kernel",
        lambda p: encoder(p, cnn_module_kernel=14),
        "trained/conf/conformer.yaml: PaddleSpeech cannot build this network, AssertionError()",
    ),
    (
        "a setting that nobody knows",
        lambda p: encoder(p, colour="red"),
        "trained/conf/conformer.yaml: PaddleSpeech cannot build this network, TypeError(\"ConformerEncoder.__init__() got an unexpected keyword argument 'colour'\")",
    ),
    (
        "an activation that nobody knows",
        lambda p: encoder(p, activation_type="wish"),
        "trained/conf/conformer.yaml: PaddleSpeech cannot build this network, KeyError('wish')",
    ),
    (
        "no decoder_conf",
        lambda p: settings(p, decoder_conf=None),
        "trained/conf/conformer.yaml: PaddleSpeech cannot build this network, KeyError('decoder_conf')",
    ),
    (
        "a decoder that nobody knows",
        lambda p: settings(p, decoder="lstm"),
        "trained/conf/conformer.yaml: PaddleSpeech cannot build this network, ValueError('not support decoder type:lstm')",
    ),
    (
        "model_conf that is text",
        lambda p: settings(p, model_conf="fast"),
        "trained/conf/conformer.yaml: PaddleSpeech cannot build this network, AttributeError(\"'str' object has no attribute 'get'\")",
    ),
    (
        "cmvn_file that is missing",
        lambda p: settings(p, cmvn_file="no.json", cmvn_file_type="json"),
        "trained/conf/conformer.yaml: PaddleSpeech cannot build this network, FileNotFoundError(2, 'No such file or directory')",
    ),
    (
        "cmvn_file that is a number",
        lambda p: settings(p, cmvn_file=5, cmvn_file_type="json"),
        "trained/conf/conformer.yaml: PaddleSpeech cannot build this network, TypeError(\"unsupported operand type(s) for /: 'PosixPath' and 'int'\")",
    ),
    (
        "a Transformer",
        lambda p: settings(p, encoder="transformer"),
        "trained/conf/conformer.yaml: PaddleSpeech cannot build this network, TypeError(\"TransformerEncoder.__init__() got an unexpected keyword argument 'activation_type'\")",
    ),
]
BIAS = "encoder.after_norm.bias"


def trained(place: Any, change: Callable[[Any], object]) -> list[Any]:
    """Weights of a real network, changed."""
    from asrcompress.checkpoints.weights import read_weights, write_weights

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
