"""Recipe files, settings and options that are wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# How CPython words its limit on digits; 3.10 leaves the unit out.
DIGITS = "4300 digits" if sys.version_info >= (3, 11) else "4300"


def toml(place: Any, content: str | bytes) -> list[Any]:
    """asrcompress.toml with this content."""
    place.write("asrcompress.toml", content)
    return ["ptq"]


def flags(*words: str) -> Callable[[Any], list[Any]]:
    """ptq with these flags."""
    return lambda place: ["ptq", *words]


def command(*words: str) -> Callable[[Any], list[Any]]:
    """This command line."""
    return lambda place: list(words)


def recipe_folder(place: Any) -> list[Any]:
    (place.path / "folder.toml").mkdir()
    return ["ptq", "--recipe", "folder.toml"]


CASES: list[tuple[str, Callable[[Any], list[Any]], str]] = [
    (
        "TOML that breaks off",
        lambda p: toml(p, "[training"),
        "TMP/asrcompress.toml: is not TOML, Expected ']' at the end of a table declaration (at end of document)",
    ),
    (
        "TOML without quotes",
        lambda p: toml(p, "runs = here"),
        "TMP/asrcompress.toml: is not TOML, Invalid value (at line 1, column 8)",
    ),
    (
        "TOML that is not UTF-8",
        lambda p: toml(p, b"runs = '\xff'"),
        "TMP/asrcompress.toml: is not TOML, 'utf-8' codec can't decode byte 0xff in position 8: invalid start byte",
    ),
    (
        "TOML with a BOM",
        lambda p: toml(p, b"\xef\xbb\xbfruns = 'a'"),
        "TMP/asrcompress.toml: is not TOML, Invalid statement (at line 1, column 1)",
    ),
    (
        "TOML with a NUL",
        lambda p: toml(p, "runs = 'a\0'"),
        "TMP/asrcompress.toml: is not TOML, Found invalid character '\\x00' (at line 1, column 10)",
    ),
    (
        "TOML with an escaped NUL",
        lambda p: toml(p, 'runs = "a\\u0000"'),
        "TMP/asrcompress.toml: runs is 'a\\x00', expected a path",
    ),
    (
        "TOML with a key twice",
        lambda p: toml(p, "[gate]\ndraws = 100\ndraws = 200"),
        "TMP/asrcompress.toml: is not TOML, Cannot overwrite a value (at end of document)",
    ),
    (
        "TOML with a table twice",
        lambda p: toml(p, "[gate]\n[gate]\n"),
        "TMP/asrcompress.toml: is not TOML, Cannot declare ('gate',) twice (at line 2, column 6)",
    ),
    (
        "TOML nested without end",
        lambda p: toml(p, "a = " + "[" * 5000),
        "TMP/asrcompress.toml: is not TOML, nested too deeply",
    ),
    (
        "a number of 5,000 digits",
        lambda p: toml(p, "[training]\nseed = " + "1" * 5000),
        f"TMP/asrcompress.toml: is not TOML, Exceeds the limit ({DIGITS}) for integer string conversion: value has 5000 digits; use sys.set_int_max_str_digits() to increase the limit",
    ),
    (
        "JSON for TOML",
        lambda p: toml(p, '{"training": {"epochs": 1}}'),
        "TMP/asrcompress.toml: is not TOML, Invalid statement (at line 1, column 1)",
    ),
    (
        "--recipe that is missing",
        command("ptq", "--recipe", "no.toml"),
        "no.toml: cannot be read, No such file or directory",
    ),
    ("--recipe that is a folder", recipe_folder, "folder.toml: cannot be read, Is a directory"),
    (
        "a table that is unknown",
        lambda p: toml(p, "[trainign]\nepochs = 1"),
        "TMP/asrcompress.toml: trainign is not a setting, expected one of checkpoint, data, prune, sensitivity, quantization, training, decoding, gate, streaming, search, export, runs",
    ),
    (
        "a setting that is unknown",
        lambda p: toml(p, "[export]\nopsets = 1"),
        "TMP/asrcompress.toml: export.opsets is not a setting, expected one of target, operators, opset, max_seconds",
    ),
    (
        "a table that is a number",
        lambda p: toml(p, "training = 1"),
        "TMP/asrcompress.toml: training is 1, expected a table",
    ),
    (
        "a table that is a list of tables",
        lambda p: toml(p, "[[training]]\nepochs = 1"),
        "TMP/asrcompress.toml: training is [{'epochs': 1}], expected a table",
    ),
    (
        "a path that is a table",
        lambda p: toml(p, "[runs]\na = 1"),
        "TMP/asrcompress.toml: runs is {'a': 1}, expected a path",
    ),
    (
        "a path that is a number",
        lambda p: toml(p, "runs = 3"),
        "TMP/asrcompress.toml: runs is 3, expected a path",
    ),
    (
        "a path that is empty",
        lambda p: toml(p, "runs = ''"),
        "TMP/asrcompress.toml: runs is '', expected a path",
    ),
    (
        "a number in quotes",
        lambda p: toml(p, "[training]\nepochs = '3'"),
        "TMP/asrcompress.toml: training.epochs is '3', expected a whole number",
    ),
    (
        "true for a number",
        lambda p: toml(p, "[training]\nepochs = true"),
        "TMP/asrcompress.toml: training.epochs is True, expected a whole number",
    ),
    (
        "half an epoch",
        lambda p: toml(p, "[training]\nepochs = 0.5"),
        "TMP/asrcompress.toml: training.epochs is 0.5, expected a whole number",
    ),
    (
        "a date for a number",
        lambda p: toml(p, "[training]\nlearning_rate = 2026-01-01"),
        "TMP/asrcompress.toml: training.learning_rate is datetime.date(2026, 1, 1), expected a number",
    ),
    (
        "1 for true",
        lambda p: toml(p, "[training]\nspec_augment = 1"),
        "TMP/asrcompress.toml: training.spec_augment is 1, expected true or false",
    ),
    (
        "text for a list",
        lambda p: toml(p, "[quantization]\nskip = 'encoder.*'"),
        "TMP/asrcompress.toml: quantization.skip is 'encoder.*', expected a list of texts",
    ),
    (
        "a list of numbers",
        lambda p: toml(p, "[quantization]\nskip = [1, 2]"),
        "TMP/asrcompress.toml: quantization.skip is [1, 2], expected a list of texts",
    ),
    (
        "texts among numbers",
        lambda p: toml(p, "[sensitivity]\nratios = [0.5, '0.7']"),
        "TMP/asrcompress.toml: sensitivity.ratios is [0.5, '0.7'], expected a list of numbers",
    ),
    (
        "a number of a list that is too large",
        lambda p: toml(p, "[sensitivity]\nratios = [0.5, 1.0]"),
        "TMP/asrcompress.toml: sensitivity.ratios: got 1.0, expected at most 0.95",
    ),
    (
        "two things at once",
        lambda p: toml(p, "[gate]\ndraws = 'many'\nrelative = 0"),
        "TMP/asrcompress.toml: gate.draws is 'many', expected a whole number; gate.relative is 0, expected true or false",
    ),
    (
        "NaN",
        lambda p: toml(p, "[training]\nlearning_rate = nan"),
        "TMP/asrcompress.toml: training.learning_rate: got nan, expected at least 1e-08",
    ),
    (
        "infinity",
        lambda p: toml(p, "[gate]\nmax_cer_increase = inf"),
        "TMP/asrcompress.toml: gate.max_cer_increase: got inf, expected at most 1.0",
    ),
    (
        "a value in the file that is out of range",
        lambda p: toml(p, "[gate]\ndraws = 1"),
        "TMP/asrcompress.toml: gate.draws: got 1, expected at least 100",
    ),
    ("--epochs -1", flags("--epochs", "-1"), "training.epochs: got -1, expected at least 0"),
    (
        "--epochs 100000",
        flags("--epochs", "100000"),
        "training.epochs: got 100000, expected at most 10000",
    ),
    (
        "--learning-rate 0",
        flags("--learning-rate", "0"),
        "training.learning_rate: got 0.0, expected at least 1e-08",
    ),
    (
        "--learning-rate 10",
        flags("--learning-rate", "10"),
        "training.learning_rate: got 10.0, expected at most 1.0",
    ),
    (
        "--learning-rate nan",
        flags("--learning-rate", "nan"),
        "training.learning_rate: got nan, expected at least 1e-08",
    ),
    (
        "--warmup-steps -1",
        flags("--warmup-steps", "-1"),
        "training.warmup_steps: got -1, expected at least 0",
    ),
    (
        "--batch-frames 1",
        flags("--batch-frames", "1"),
        "training.batch_frames: got 1, expected at least 100",
    ),
    (
        "--accumulate 0",
        flags("--accumulate", "0"),
        "training.accumulate: got 0, expected at least 1",
    ),
    (
        "--gradient-clip 0",
        flags("--gradient-clip", "0"),
        "training.gradient_clip: got 0.0, expected at least 1e-06",
    ),
    (
        "--weight-decay 2",
        flags("--weight-decay", "2"),
        "training.weight_decay: got 2.0, expected at most 1.0",
    ),
    (
        "--distillation 1.5",
        flags("--distillation", "1.5"),
        "training.distillation: got 1.5, expected at most 1.0",
    ),
    (
        "--temperature 0",
        flags("--temperature", "0"),
        "training.temperature: got 0.0, expected at least 0.1",
    ),
    ("--seed -1", flags("--seed", "-1"), "training.seed: got -1, expected at least 0"),
    (
        "--seed 2**31",
        flags("--seed", str(2**31)),
        "training.seed: got 2147483648, expected at most 2147483647",
    ),
    (
        "--device cuda",
        flags("--device", "cuda"),
        "training.device: got 'cuda', expected cpu or gpu:N",
    ),
    (
        "--device gpu:x",
        flags("--device", "gpu:x"),
        "training.device: got 'gpu:x', expected cpu or gpu:N",
    ),
    (
        "--observer magic",
        flags("--observer", "magic"),
        "quantization.observer: got 'magic', expected one of min_max, moving_average, percentile, mse",
    ),
    (
        "--range-update never",
        flags("--range-update", "never"),
        "quantization.range_update: got 'never', expected one of frozen, moving_average, learned",
    ),
    (
        "--percentile 99.9",
        flags("--percentile", "99.9"),
        "quantization.percentile: got 99.9, expected at most 1.0",
    ),
    (
        "--momentum 1",
        flags("--momentum", "1"),
        "quantization.momentum: got 1.0, expected at most 0.9999",
    ),
    (
        "--max-cer-increase -0.1",
        flags("--max-cer-increase", "-0.1"),
        "gate.max_cer_increase: got -0.1, expected at least 0.0",
    ),
    (
        "--max-cer-increase 5",
        flags("--max-cer-increase", "5"),
        "gate.max_cer_increase: got 5.0, expected at most 1.0",
    ),
    (
        "--min-integer-share 95",
        flags("--min-integer-share", "95"),
        "gate.min_integer_share: got 95.0, expected at most 1.0",
    ),
    ("--draws 1", flags("--draws", "1"), "gate.draws: got 1, expected at least 100"),
    ("--opset 9", flags("--opset", "9"), "export.opset: got 9, expected at least 13"),
    ("--opset 99", flags("--opset", "99"), "export.opset: got 99, expected at most 17"),
    (
        "--max-seconds 0",
        flags("--max-seconds", "0"),
        "export.max_seconds: got 0.0, expected at least 1.0",
    ),
    (
        "--max-seconds 9999",
        flags("--max-seconds", "9999"),
        "export.max_seconds: got 9999.0, expected at most 190.0",
    ),
    (
        "--calibration-utterances 0",
        flags("--calibration-utterances", "0"),
        "data.calibration_utterances: got 0, expected at least 1",
    ),
    (
        "--train-utterances -1",
        flags("--train-utterances", "-1"),
        "data.train_utterances: got -1, expected at least 0",
    ),
    (
        "--max-duration-s 0",
        flags("--max-duration-s", "0"),
        "data.max_duration_s: got 0.0, expected at least 0.1",
    ),
    (
        "no checkpoint",
        flags(),
        "checkpoint.path: not set, and no asrcompress.toml in this folder or above it",
    ),
    (
        "--target int4",
        command("ptq", "--target", "int4"),
        "export.target: got 'int4', expected one of ort-x86-vnni, ort-x86-avx2, ort-arm64, lite-arm, lite-x86, sherpa-offline, sherpa-stream, int8, arm, x86",
    ),
    (
        "qat without epochs",
        command("qat", "--epochs", "0"),
        "training.epochs: got 0, expected at least 1",
    ),
    (
        "export --format tflite",
        command("export", "--format", "tflite"),
        "--format: got tflite, expected onnx, paddle-lite, sherpa-onnx or wenet",
    ),
    (
        "export --precision int4",
        command("export", "--precision", "int4"),
        "--precision: got int4, expected int8 or fp32",
    ),
    (
        "export --precision fp32 of nothing",
        command("export", "--precision", "fp32"),
        "checkpoint.path: not set, and no asrcompress.toml in this folder or above it",
    ),
    ("export without a run", command("export"), "runs: no run has passed its gate, got no runs"),
]

USAGE: list[tuple[str, Callable[[Any], list[Any]], str]] = [
    ("a command that is unknown", command("squash"), "No such command 'squash'."),
    ("an option that is unknown", command("ptq", "--colour", "1"), "No such option: --colour"),
    (
        "an option without its value",
        command("ptq", "--epochs"),
        "Option '--epochs' requires an argument.",
    ),
    ("a word too many", command("verify", "a", "b"), "Got unexpected extra argument(s) (b)"),
    ("init without a checkpoint", command("init"), "Missing argument 'checkpoint'."),
    ("evaluate without a manifest", command("evaluate", "a"), "Missing option '--manifest'."),
    ("transcribe without audio", command("transcribe", "a"), "Missing argument 'audio'."),
    (
        "--epochs x",
        command("ptq", "--epochs", "x"),
        "Invalid value for '--epochs': Input should be a valid integer, unable to parse string as an integer",
    ),
    (
        "--learning-rate fast",
        command("ptq", "--learning-rate", "fast"),
        "Invalid value for '--learning-rate': Input should be a valid number, unable to parse string as a number",
    ),
    (
        "--threads 0",
        command("transcribe", "a", "b", "--threads", "0"),
        "Invalid value for '--threads': Input should be greater than or equal to 1",
    ),
    (
        "--threads 1.5",
        command("transcribe", "a", "b", "--threads", "1.5"),
        "Invalid value for '--threads': Input should be a valid integer, unable to parse string as an integer",
    ),
    (
        "--beam 0",
        command("transcribe", "a", "b", "--beam", "0"),
        "Invalid value for '--beam': Input should be greater than or equal to 1",
    ),
    (
        "--worst -1",
        command("evaluate", "a", "--manifest", "b", "--worst", "-1"),
        "Invalid value for '--worst': Input should be greater than or equal to 0",
    ),
    (
        "--seconds 0",
        command("inspect", "a", "--seconds", "0"),
        "Invalid value for '--seconds': Input should be greater than or equal to 0.1",
    ),
    (
        "--rounds 1",
        command("bench", "a", "--rounds", "1"),
        "Invalid value for '--rounds': Input should be greater than or equal to 3",
    ),
]


@pytest.mark.parametrize(("make", "message"), [pytest.param(*c[1:], id=c[0]) for c in CASES])
def test_is_refused(check: Any, make: Any, message: str, tmp_path: Path) -> None:
    check(make, message)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("make", "message"), [pytest.param(*c[1:], id=c[0]) for c in USAGE])
def test_is_wrong_usage(check: Any, make: Any, message: str) -> None:
    check(make, message, 2)
