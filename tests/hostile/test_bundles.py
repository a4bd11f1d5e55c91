"""Bundles that were damaged, mixed up, forged, or are none."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest

VERIFY = ["verify", "bundle"]


def flip(place: Any, name: str) -> list[Any]:
    """A bit of the last byte but one."""
    place.flip(place.bundle / name, -2)
    return VERIFY


def seal(place: Any, **changes: Any) -> list[Any]:
    """bundle.json changed, and every digest right."""
    place.reseal(**changes)
    return VERIFY


def without(place: Any, key: str) -> list[Any]:
    """bundle.json without a key."""
    place.edit_json(place.bundle / "bundle.json", **{key: None})
    place.reseal()
    return VERIFY


def manifest(place: Any, content: bytes | str) -> list[Any]:
    """Another bundle.json altogether."""
    place.write(place.bundle / "bundle.json", content)
    return VERIFY


def content(place: Any, name: str, data: bytes | str) -> list[Any]:
    """Another file, and every digest right."""
    place.write(place.bundle / name, data)
    place.reseal()
    return VERIFY


def shell(place: Any, change: Callable[[Any], object]) -> list[Any]:
    """Anything done to the folder."""
    change(place.bundle)
    return VERIFY


def named(place: Any, name: str) -> list[Any]:
    """A file of this name is listed."""
    record = {"sha256": "0" * 63 + "1", "size_bytes": 1}
    files = json.loads((place.bundle / "bundle.json").read_text())["files"]
    return seal(place, files={**files, name: record})


def record(place: Any, **changes: Any) -> list[Any]:
    """The record of tokens.txt, changed."""
    files = json.loads((place.bundle / "bundle.json").read_text())["files"]
    return seal(place, files={**files, "tokens.txt": {**files["tokens.txt"], **changes}})


def features(place: Any, **changes: Any) -> list[Any]:
    """The front end, changed."""
    current = json.loads((place.bundle / "bundle.json").read_text())["features"]
    return seal(place, features={**current, **changes})


def graph(
    place: Any, *, op: str = "LogSoftmax", gain: float = 0.1, n_mels: int = 80, n: int = 6
) -> list[Any]:
    """Another graph, and every digest right."""
    import numpy as np
    import onnx
    from onnx import TensorProto as Kind
    from onnx import helper

    value = helper.make_tensor_value_info
    weight = np.full((n_mels, n), gain, np.float32)
    made = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["y"]),
            helper.make_node(op, ["y"], ["log_probs"]),
            helper.make_node("Identity", ["x_lens"], ["n_out"]),
        ],
        "other",
        [value("x", Kind.FLOAT, ["N", "T", n_mels]), value("x_lens", Kind.INT64, ["N"])],
        [value("log_probs", Kind.FLOAT, ["N", "T", n]), value("n_out", Kind.INT64, ["N"])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return content(place, "model.onnx", model.SerializeToString())


def swapped(place: Any) -> list[Any]:
    """Two files of the bundle in each other's place."""
    names = [place.bundle / name for name in ("model.onnx", "tokens.txt", "x")]
    for source, target in ((0, 2), (1, 0), (2, 1)):
        names[source].rename(names[target])
    return VERIFY


def linked(place: Any, name: str) -> list[Any]:
    """A file moved out of the bundle, with a link in its place."""
    (place.bundle / name).rename(place.path / "outside")
    (place.bundle / name).symlink_to(place.path / "outside")
    return VERIFY


TOKENS = "<blk> 0\n<unk> 1\n开 2\n关 3\n灯 4\n<eos> 5\n"
CASES: list[tuple[str, Callable[[Any], list[Any]], str]] = [
    ("missing", lambda p: ["verify", "nowhere"], "nowhere: no such folder, expected a bundle"),
    ("a file", lambda p: ["verify", p.wav], "TMP/good.wav: no such folder, expected a bundle"),
    (
        "a name that is too long",
        lambda p: ["verify", "b" * 300],
        "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb: cannot be used, File name too long",
    ),
    (
        "a folder of something else",
        lambda p: ["verify", p.experiment],
        "TMP/asr: has no bundle.json, expected a bundle",
    ),
    (
        "a bit of the graph",
        lambda p: flip(p, "model.onnx"),
        "bundle/model.onnx: was changed, got sha256 SHA256, expected SHA256",
    ),
    (
        "a bit of the tokens",
        lambda p: flip(p, "tokens.txt"),
        "bundle/tokens.txt: was changed, got sha256 SHA256, expected SHA256",
    ),
    (
        "a bit of bundle.json",
        lambda p: flip(p, "bundle.json"),
        "bundle/bundle.json: is not JSON, Expecting ',' delimiter: line 90 column 1 (char 1791)",
    ),
    (
        "a digit of bundle.json",
        lambda p: shell(
            p,
            lambda b: p.write(
                b / "bundle.json",
                (b / "bundle.json").read_text().replace('"max_frames": 500', '"max_frames": 501'),
            ),
        ),
        "bundle/bundle.json: was changed after it was written, got sha256 SHA256, expected SHA256",
    ),
    (
        "a graph that is cut off",
        lambda p: shell(p, lambda b: os.truncate(b / "model.onnx", 100)),
        "bundle/model.onnx: was changed, got 100 bytes, expected 2146",
    ),
    (
        "a file too many",
        lambda p: shell(p, lambda b: p.write(b / "evil.so", "")),
        "bundle: does not belong to the bundle, got evil.so",
    ),
    (
        "a folder too many",
        lambda p: shell(p, lambda b: (b / "more").mkdir()),
        "bundle/more: is no plain file, expected a file",
    ),
    (
        "a file too few",
        lambda p: shell(p, lambda b: (b / "tokens.txt").unlink()),
        "bundle: is missing tokens.txt",
    ),
    (
        "no graph",
        lambda p: shell(p, lambda b: (b / "model.onnx").unlink()),
        "bundle: is missing model.onnx",
    ),
    (
        "no bundle.json",
        lambda p: shell(p, lambda b: (b / "bundle.json").unlink()),
        "bundle: has no bundle.json, expected a bundle",
    ),
    (
        "a pipe for a file",
        lambda p: shell(p, lambda b: [(b / "tokens.txt").unlink(), os.mkfifo(b / "tokens.txt")]),
        "bundle/tokens.txt: is no plain file, expected a file",
    ),
    ("swapped files", swapped, "bundle/model.onnx: was changed, got 42 bytes, expected 2146"),
    (
        "a graph that is a link",
        lambda p: linked(p, "model.onnx"),
        "bundle/model.onnx: is a symbolic link, expected a file",
    ),
    (
        "bundle.json that is a link",
        lambda p: linked(p, "bundle.json"),
        "bundle/bundle.json: is a symbolic link, expected a file",
    ),
    (
        "bundle.json that is a folder",
        lambda p: shell(p, lambda b: [(b / "bundle.json").unlink(), (b / "bundle.json").mkdir()]),
        "bundle: has no bundle.json, expected a bundle",
    ),
    (
        "bundle.json that is empty",
        lambda p: manifest(p, ""),
        "bundle/bundle.json: is not JSON, Expecting value: line 1 column 1 (char 0)",
    ),
    (
        "bundle.json that is binary",
        lambda p: manifest(p, bytes(range(256))),
        "bundle/bundle.json: is not JSON, 'utf-8' codec can't decode byte 0x80 in position 128: invalid start byte",
    ),
    (
        "bundle.json that is a list",
        lambda p: manifest(p, "[]"),
        "bundle/bundle.json: unknown schema_version, got None, expected 1 or 2",
    ),
    (
        "bundle.json nested without end",
        lambda p: manifest(p, "[" * 100_000),
        "bundle/bundle.json: is not JSON, nested too deeply",
    ),
    (
        "bundle.json with NaN",
        lambda p: manifest(p, '{"schema_version": NaN}'),
        "bundle/bundle.json: is not JSON, NaN is not JSON",
    ),
    (
        "bundle.json with a key twice",
        lambda p: manifest(p, '{"a": 1, "a": 2}'),
        "bundle/bundle.json: is not JSON, key a stands twice",
    ),
    (
        "bundle.json without a digest",
        lambda p: manifest(p, '{"schema_version": 1}'),
        "bundle/bundle.json: has 0 digests of its own, expected 1",
    ),
    (
        "bundle.json with two digests",
        lambda p: seal(p, quality={"bundle_sha256": "1" * 64}),
        "bundle/bundle.json: has 2 digests of its own, expected 1",
    ),
    (
        "schema 3",
        lambda p: seal(p, schema_version=3),
        "bundle/bundle.json: unknown schema_version, got 3, expected 1 or 2",
    ),
    (
        "schema true",
        lambda p: seal(p, schema_version=True),
        "bundle/bundle.json: unknown schema_version, got True, expected 1 or 2",
    ),
    (
        "schema 1.0.0",
        lambda p: seal(p, schema_version="1.0.0"),
        "bundle/bundle.json: unknown schema_version, got '1.0.0', expected 1 or 2",
    ),
    (
        "no schema",
        lambda p: without(p, "schema_version"),
        "bundle/bundle.json: unknown schema_version, got None, expected 1 or 2",
    ),
    ("no model", lambda p: without(p, "model"), "bundle/bundle.json: key model is missing"),
    (
        "no features",
        lambda p: without(p, "features"),
        "bundle/bundle.json: key features is missing",
    ),
    (
        "a key that is unknown",
        lambda p: seal(p, script="rm -rf /"),
        "bundle/bundle.json: unknown key script, expected schema_version, family, precision, model, tokens, inputs, outputs, features, blank_id, vocab_size, subsampling_factor, min_frames, max_frames, streaming, lite, decoder, opset, source, tools, integer_share, target, golden, quality, files, bundle_sha256",
    ),
    (
        "a name that climbs",
        lambda p: named(p, "../../etc/passwd"),
        "bundle/bundle.json: file name is not allowed, got '../../etc/passwd', expected letters, digits and . _ - only, no folder",
    ),
    (
        "a name that is absolute",
        lambda p: named(p, "/etc/passwd"),
        "bundle/bundle.json: file name is not allowed, got '/etc/passwd', expected letters, digits and . _ - only, no folder",
    ),
    (
        "a name with a backslash",
        lambda p: named(p, "..\\evil"),
        "bundle/bundle.json: file name is not allowed, got '..\\\\evil', expected letters, digits and . _ - only, no folder",
    ),
    (
        "a name that is hidden",
        lambda p: named(p, ".hidden"),
        "bundle/bundle.json: file name is not allowed, got '.hidden', expected letters, digits and . _ - only, no folder",
    ),
    (
        "a name with a NUL",
        lambda p: named(p, "a\0b"),
        "bundle/bundle.json: file name is not allowed, got 'a\\x00b', expected letters, digits and . _ - only, no folder",
    ),
    (
        "a name that is empty",
        lambda p: named(p, ""),
        "bundle/bundle.json: file name is not allowed, got '', expected letters, digits and . _ - only, no folder",
    ),
    (
        "a model that climbs",
        lambda p: seal(p, model="../model.onnx"),
        "bundle/bundle.json: file name is not allowed, got '../model.onnx', expected letters, digits and . _ - only, no folder",
    ),
    (
        "tokens that are absolute",
        lambda p: seal(p, tokens="/etc/hostname"),
        "bundle/bundle.json: file name is not allowed, got '/etc/hostname', expected letters, digits and . _ - only, no folder",
    ),
    (
        "a model that is not listed",
        lambda p: seal(p, model="other.onnx"),
        "bundle/bundle.json: other.onnx is not among its files",
    ),
    (
        "tokens that are bundle.json",
        lambda p: seal(p, tokens="bundle.json"),
        "bundle/bundle.json: file name is not allowed, got 'bundle.json', expected letters, digits and . _ - only, no folder",
    ),
    (
        "a digest in capitals",
        lambda p: record(p, sha256="A" * 64),
        "bundle/bundle.json: files.tokens.txt: sha256 is not allowed, got AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA, expected 64 lower-case hexadecimal digits",
    ),
    (
        "a digest that is too short",
        lambda p: record(p, sha256="ab"),
        "bundle/bundle.json: files.tokens.txt: sha256 is not allowed, got ab, expected 64 lower-case hexadecimal digits",
    ),
    (
        "a size below 0",
        lambda p: record(p, size_bytes=-1),
        "bundle/bundle.json: files.tokens.txt: size_bytes is not allowed, got -1, expected >= 0",
    ),
    (
        "a size in words",
        lambda p: record(p, size_bytes="big"),
        'bundle/bundle.json: files.tokens.txt: size_bytes: got "big", expected int',
    ),
    (
        "a precision of 4 bits",
        lambda p: seal(p, precision="int4"),
        "bundle/bundle.json: precision is not allowed, got int4, expected int8 or fp32",
    ),
    (
        "a blank past the end",
        lambda p: seal(p, blank_id=6),
        "bundle/bundle.json: blank_id is not allowed, got 6, expected 0 to 5",
    ),
    (
        "another blank",
        lambda p: seal(p, blank_id=1),
        "bundle/tokens.txt: blank has id 0, expected 1",
    ),
    (
        "another vocabulary size",
        lambda p: seal(p, vocab_size=7),
        "bundle/tokens.txt: 6 symbols, expected 7",
    ),
    (
        "a subsampling of 0",
        lambda p: seal(p, subsampling_factor=0),
        "bundle/bundle.json: subsampling_factor is not allowed, got 0, expected >= 1",
    ),
    (
        "no frames at all",
        lambda p: seal(p, max_frames=0),
        "bundle/bundle.json: min_frames is not allowed, got 7, expected 1 to max_frames 0",
    ),
    (
        "frames in words",
        lambda p: seal(p, max_frames="many"),
        'bundle/bundle.json: max_frames: got "many", expected int',
    ),
    (
        "an integer share of 2",
        lambda p: seal(p, integer_share=2.0),
        "bundle/bundle.json: integer_share is not allowed, got 2.0, expected 0 to 1",
    ),
    (
        "no inputs",
        lambda p: seal(p, inputs=[]),
        "bundle/bundle.json: inputs is not allowed, got [], expected a float32 tensor and its int64 lengths",
    ),
    (
        "an input of text",
        lambda p: seal(p, inputs=[{"name": "x", "dtype": "string", "dims": []}]),
        "bundle/bundle.json: inputs[0]: x.dtype is not allowed, got string, expected float32 or int64 or bool",
    ),
    (
        "another input's name",
        lambda p: seal(
            p,
            inputs=[
                {"name": "speech", "dtype": "float32", "dims": ["N", "T", 80]},
                {"name": "x_lens", "dtype": "int64", "dims": ["N"]},
            ],
        ),
        "bundle/model.onnx: inputs are x float32['N', 'T', 80], x_lens int64['N'], expected speech float32['N', 'T', 80], x_lens int64['N']",
    ),
    (
        "a source without digest",
        lambda p: seal(p, source={"checkpoint_name": "a", "checkpoint_sha256": ""}),
        "bundle/bundle.json: source: checkpoint_sha256 is not allowed, got , expected 64 hexadecimal digits",
    ),
    (
        "features of 8 kHz",
        lambda p: features(p, sample_rate_hz=8000),
        "bundle: wants 8000 Hz, expected 16000 Hz",
    ),
    (
        "features of no kind",
        lambda p: features(p, kind="mfcc"),
        "bundle/bundle.json: features: features.kind: out of range, got 'mfcc', expected one of fbank_kaldi, fbank, spectrogram, linear",
    ),
    (
        "features of 40 bins",
        lambda p: features(p, n_mels=40),
        "bundle/model.onnx: features of size 80, expected 40",
    ),
    (
        "half a CMVN",
        lambda p: features(p, cmvn_mean=[1.0] * 80),
        "bundle/bundle.json: features: features.cmvn_istd: out of range, got 0 values, expected 80, or none in both",
    ),
    (
        "a CMVN of zeros",
        lambda p: features(p, cmvn_mean=[0.0] * 80, cmvn_istd=[0.0] * 80),
        "bundle/bundle.json: features: features.cmvn_istd: out of range, got a value that is not positive, expected > 0",
    ),
    (
        "a shift of 1e400 ms",
        lambda p: manifest(
            p,
            (p.bundle / "bundle.json")
            .read_text()
            .replace('"frame_shift_ms": 10.0', '"frame_shift_ms": 1e400'),
        ),
        "bundle/bundle.json: was changed after it was written, got sha256 SHA256, expected SHA256",
    ),
    (
        "tokens that are not UTF-8",
        lambda p: content(p, "tokens.txt", b"\xff 0\n"),
        "bundle/tokens.txt: is not UTF-8 at byte 0",
    ),
    (
        "tokens out of order",
        lambda p: content(p, "tokens.txt", TOKENS.replace("开 2", "开 3")),
        "bundle/tokens.txt: line 3 is wrong, got '开 3', expected a symbol, a space and 2",
    ),
    (
        "tokens without ids",
        lambda p: content(p, "tokens.txt", "<blk>\n开\n"),
        "bundle/tokens.txt: line 1 is wrong, got '<blk>', expected a symbol, a space and 0",
    ),
    (
        "a token twice",
        lambda p: content(p, "tokens.txt", TOKENS.replace("关", "开")),
        "bundle/tokens.txt: vocabulary: a symbol stands twice, got 开, expected each once",
    ),
    (
        "a token less",
        lambda p: content(p, "tokens.txt", TOKENS[:-8]),
        "bundle/tokens.txt: 5 symbols, expected 6",
    ),
    (
        "no blank",
        lambda p: content(p, "tokens.txt", TOKENS.replace("<blk>", "一")),
        "bundle/tokens.txt: vocabulary: has no <blank>, got 6 others",
    ),
    (
        "no tokens",
        lambda p: content(p, "tokens.txt", ""),
        "bundle/tokens.txt: vocabulary: has no <blank>, got 0 others",
    ),
    (
        "a graph that is text",
        lambda p: content(p, "model.onnx", "graph"),
        "bundle/model.onnx: is no ONNX model, or is damaged",
    ),
    (
        "a graph of 40 bins",
        lambda p: graph(p, n_mels=40),
        "bundle/model.onnx: inputs are x float32['N', 'T', 40], x_lens int64['N'], expected x float32['N', 'T', 80], x_lens int64['N']",
    ),
    (
        "a graph of 5 symbols",
        lambda p: graph(p, n=5),
        "bundle/model.onnx: outputs are log_probs float32['N', 'T', 5], n_out int64['N'], expected log_probs float32['N', 'T', 6], n_out int64['N']",
    ),
    (
        "a graph that gives NaN",
        lambda p: graph(p, gain=float("nan")),
        "bundle/model.onnx: gave NaN, expected log-probabilities",
    ),
    (
        "a graph with an unknown operator",
        lambda p: graph(p, op="Evil"),
        'bundle/model.onnx: ONNX Runtime refuses it, [ONNXRuntimeError] : 10 : INVALID_GRAPH : Load model from bundle/model.onnx failed:This is an invalid model. In Node, ("", Evil, "", -1) : ("y": tensor(float),) -> ("log_probs": tensor(float),) , Error No Op registered for Evil with domain_version of 13',
    ),
    (
        "--output that is a file",
        lambda p: ["export", p.run, "-o", p.wav, "--force"],
        "TMP/good.wav: is not a bundle, and only a bundle is replaced",
    ),
    (
        "--output that is full",
        lambda p: ["export", p.run, "-o", p.experiment],
        "TMP/asr: folder is not empty",
    ),
    (
        "--output that is something else",
        lambda p: ["export", p.run, "-o", p.experiment, "--force"],
        "TMP/asr: is not a bundle, and only a bundle is replaced",
    ),
]


@pytest.mark.parametrize(("make", "message"), [pytest.param(*c[1:], id=c[0]) for c in CASES])
def test_is_refused(check: Any, make: Any, message: str) -> None:
    check(make, message)


def test_a_copy_is_accepted(place: Any) -> None:
    """What the cases above spoil is good to begin with."""
    from typer.testing import CliRunner

    from asrcompress.cli.app import app

    shutil.copytree(place.bundle, place.path / "copy")
    assert CliRunner().invoke(app, ["verify", "copy"]).exit_code == 0
