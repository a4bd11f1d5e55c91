"""Experiment folders, YAML, vocabularies and CMVN that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("yaml", reason="needs the [compress] extra")

NETWORK, STEPS = "conf/conformer.yaml", "conf/preprocess.yaml"
VOCABULARY, CMVN = "data/vocab.txt", "data/mean_std.json"
FBANK = {"type": "fbank_kaldi"}


def network(place: Any, **changes: Any) -> list[Any]:
    """Other settings in the network's YAML; None removes a key."""
    place.edit_yaml(place.experiment / NETWORK, **changes)
    return ["init", "asr"]


def steps(place: Any, *process: Any) -> list[Any]:
    """Other steps in preprocess.yaml."""
    place.edit_yaml(place.experiment / STEPS, process=list(process))
    return ["init", "asr"]


def file(place: Any, name: str, content: str | bytes) -> list[Any]:
    """Other content of one file."""
    place.write(place.experiment / name, content)
    return ["init", "asr"]


def cmvn(place: Any, **changes: Any) -> list[Any]:
    """Other statistics."""
    place.edit_json(place.experiment / CMVN, **changes)
    return ["init", "asr"]


def moved(place: Any, name: str, target: str) -> list[Any]:
    """A file that is somewhere else."""
    (place.experiment / target).parent.mkdir(parents=True, exist_ok=True)
    (place.experiment / name).rename(place.experiment / target)
    return ["init", "asr"]


def copied(place: Any, name: str, *targets: str) -> list[Any]:
    """A file that is there several times."""
    for target in targets:
        place.write(place.experiment / target, (place.experiment / name).read_bytes())
    return ["init", "asr"]


def folder(place: Any, name: str) -> list[Any]:
    """A folder in the place of a file."""
    (place.experiment / name).unlink()
    (place.experiment / name).mkdir()
    return ["init", "asr"]


def lone_weights(place: Any) -> list[Any]:
    content = (place.experiment / "checkpoints/best.pdparams").read_bytes()
    return ["init", place.write("elsewhere/best.pdparams", content)]


def empty_folder(place: Any) -> list[Any]:
    (place.path / "void").mkdir()
    return ["init", "void"]


CASES: list[tuple[str, Callable[[Any], list[Any]], str]] = [
    (
        "no such folder",
        lambda p: ["init", "nowhere"],
        "nowhere: no such folder, expected a PaddleSpeech experiment",
    ),
    (
        "a file for a folder",
        lambda p: ["init", p.write("asr.txt", "asr")],
        "TMP/asr.txt: no such folder, expected a PaddleSpeech experiment",
    ),
    (
        "a name that is too long",
        lambda p: ["init", "a" * 300],
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa: no such folder, expected a PaddleSpeech experiment",
    ),
    (
        "empty folder",
        empty_folder,
        "void: got none, expected one YAML file that describes a network",
    ),
    (
        "weights without an experiment",
        lone_weights,
        "TMP/elsewhere/best.pdparams: no folder above it has conf/ or model.yaml",
    ),
    (
        "no network",
        lambda p: network(p, encoder_conf=None),
        "asr: got none, expected one YAML file that describes a network",
    ),
    (
        "two networks",
        lambda p: copied(p, NETWORK, "conf/other.yaml"),
        "asr: got conf/conformer.yaml, conf/other.yaml, expected one YAML file that describes a network",
    ),
    (
        "--config that is missing",
        lambda p: ["init", p.experiment, "--config", "no.yaml"],
        "no.yaml: cannot be read, No such file or directory",
    ),
    (
        "--config that is a folder",
        lambda p: ["init", p.experiment, "--config", "asr/conf"],
        "asr/conf: cannot be read, Is a directory",
    ),
    (
        "--config that is no network",
        lambda p: ["init", p.experiment, "--config", f"asr/{STEPS}"],
        "asr/conf/preprocess.yaml: describes no known network, expected the keys encoder and encoder_conf (U2) or rnn_layer_size (DeepSpeech2)",
    ),
    (
        "no weights",
        lambda p: moved(p, "checkpoints/best.pdparams", "best.pdparams"),
        "asr: got none, expected one .pdparams file",
    ),
    (
        "several weights",
        lambda p: [
            moved(p, "checkpoints/best.pdparams", "checkpoints/1.pdparams"),
            copied(p, "checkpoints/1.pdparams", "checkpoints/2.pdparams"),
        ][1],
        "asr: got checkpoints/1.pdparams, checkpoints/2.pdparams, expected one .pdparams file",
    ),
    (
        "--weights that is missing",
        lambda p: ["init", p.experiment, "--weights", "no.pdparams"],
        "no.pdparams: no such file, expected .pdparams weights",
    ),
    (
        "--weights that is a folder",
        lambda p: ["init", p.experiment, "--weights", "asr/data"],
        "asr/data: no such file, expected .pdparams weights",
    ),
    (
        "YAML that breaks off",
        lambda p: file(p, NETWORK, "encoder: {a: 1"),
        "asr/conf/conformer.yaml: is not YAML, while parsing a flow mapping in \"<unicode string>\", line 1, column 10: encoder: {a: 1 ^ expected ',' or '}', but got '<stream end>' in \"<unicode string>\", line 1, column 15: encoder: {a: 1 ^",
    ),
    (
        "YAML with a tab",
        lambda p: file(p, NETWORK, "encoder:\n\t- a\n"),
        "asr/conf/conformer.yaml: is not YAML, while scanning for the next token found character '\\t' that cannot start any token in \"<unicode string>\", line 2, column 1: - a ^",
    ),
    (
        "YAML that is a list",
        lambda p: file(p, NETWORK, "- a\n- b\n"),
        "asr/conf/conformer.yaml: holds list, expected settings by name",
    ),
    (
        "YAML that is empty",
        lambda p: file(p, NETWORK, ""),
        "asr/conf/conformer.yaml: holds NoneType, expected settings by name",
    ),
    (
        "YAML that is text",
        lambda p: file(p, NETWORK, "conformer"),
        "asr/conf/conformer.yaml: holds str, expected settings by name",
    ),
    (
        "YAML that is not UTF-8",
        lambda p: file(p, NETWORK, b"encoder: \xff\xfe"),
        "asr/conf/conformer.yaml: is not YAML, 'utf-8' codec can't decode byte 0xff in position 9: invalid start byte",
    ),
    (
        "YAML with a control character",
        lambda p: file(p, NETWORK, "encoder: \x00"),
        'asr/conf/conformer.yaml: is not YAML, unacceptable character #x0000: special characters are not allowed in "<unicode string>", position 9',
    ),
    (
        "YAML that calls a function",
        lambda p: file(
            p, NETWORK, "asr: got none, expected one YAML file that describes a network"
        ),
        "asr: got none, expected one YAML file that describes a network",
    ),
    (
        "YAML with a list for a key",
        lambda p: file(p, NETWORK, "[a, b]: 1"),
        'asr/conf/conformer.yaml: is not YAML, while constructing a mapping found unhashable key in "<unicode string>", line 1, column 1: [a, b]: 1 ^',
    ),
    (
        "YAML with an impossible date",
        lambda p: file(p, NETWORK, "date: 2026-13-45"),
        "asr/conf/conformer.yaml: is not YAML, month must be in 1..12",
    ),
    (
        "YAML nested without end",
        lambda p: file(p, NETWORK, "a: " + "[" * 5000),
        "asr/conf/conformer.yaml: is not YAML, nested too deeply",
    ),
    (
        "YAML with an unknown alias",
        lambda p: file(p, NETWORK, "a: *b"),
        "asr/conf/conformer.yaml: is not YAML, found undefined alias 'b' in \"<unicode string>\", line 1, column 4: a: *b ^",
    ),
    (
        "encoder_conf that is text",
        lambda p: network(p, encoder_conf="big"),
        "asr/conf/conformer.yaml: describes no known network, expected the keys encoder and encoder_conf (U2) or rnn_layer_size (DeepSpeech2)",
    ),
    (
        "encoder that is a number",
        lambda p: network(p, encoder=5),
        "asr/conf/conformer.yaml: describes no known network, expected the keys encoder and encoder_conf (U2) or rnn_layer_size (DeepSpeech2)",
    ),
    (
        "vocabulary that is missing",
        lambda p: network(p, vocab_filepath="data/no.txt"),
        "asr/conf/conformer.yaml: vocab_filepath names data/no.txt, which is not in asr",
    ),
    (
        "vocabulary that is a number",
        lambda p: network(p, vocab_filepath=7),
        "asr/conf/conformer.yaml: vocab_filepath is 7, expected a path",
    ),
    (
        "vocabulary of a name that is too long",
        lambda p: network(p, vocab_filepath="v" * 300),
        "asr/conf/conformer.yaml: vocab_filepath names vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv, which is not in asr",
    ),
    (
        "two vocabularies",
        lambda p: [
            network(p, vocab_filepath=None),
            copied(p, VOCABULARY, "data/lang_char/vocab.txt"),
        ][1],
        "asr: got data/lang_char/vocab.txt, data/vocab.txt, expected one vocab.txt",
    ),
    (
        "vocabulary that is a folder",
        lambda p: folder(p, VOCABULARY),
        "asr/conf/conformer.yaml: vocab_filepath names data/vocab.txt, which is not in asr",
    ),
    (
        "vocabulary that is not UTF-8",
        lambda p: file(p, VOCABULARY, "开\n关".encode("gbk")),
        "asr/data/vocab.txt: is not UTF-8 at byte 0",
    ),
    (
        "vocabulary with a symbol twice",
        lambda p: file(p, VOCABULARY, "开\n关\n开\n"),
        "asr/data/vocab.txt: vocabulary: a symbol stands twice, got 开, expected each once",
    ),
    (
        "vocabulary with an empty line",
        lambda p: file(p, VOCABULARY, "开\n\n关\n"),
        "asr/data/vocab.txt: vocabulary: symbol 2 is empty",
    ),
    (
        "vocabulary in two spellings",
        lambda p: file(p, VOCABULARY, "<space>\n▁\n"),
        "asr/data/vocab.txt: vocabulary: has both spellings of one symbol (<blank> and <blk>, or <space> and ▁), expected one",
    ),
    (
        "no preprocess_config",
        lambda p: network(p, preprocess_config=None),
        "asr/conf/conformer.yaml: preprocess_config is None, expected a path",
    ),
    (
        "preprocess_config that is missing",
        lambda p: network(p, preprocess_config="no.yaml"),
        "asr/conf/conformer.yaml: preprocess_config names no.yaml, which is not in asr",
    ),
    (
        "preprocess_config that is a list",
        lambda p: network(p, preprocess_config=["a"]),
        "asr/conf/conformer.yaml: preprocess_config is ['a'], expected a path",
    ),
    (
        "preprocess.yaml without steps",
        lambda p: file(p, STEPS, "a: 1"),
        "asr/conf/preprocess.yaml: process is not a list of steps",
    ),
    (
        "preprocess.yaml with text for steps",
        lambda p: file(p, STEPS, "process: fbank"),
        "asr/conf/preprocess.yaml: process is not a list of steps",
    ),
    (
        "steps that are text",
        lambda p: steps(p, "fbank_kaldi"),
        "asr/conf/preprocess.yaml: process is not a list of steps",
    ),
    (
        "a step that is unknown",
        lambda p: steps(p, FBANK, {"type": "utterance_cmvn"}),
        "asr/conf/preprocess.yaml: step 'utterance_cmvn' is not understood here, expected one of fbank_kaldi, fbank, spectrogram, then cmvn_json",
    ),
    (
        "a step of a type that is a list",
        lambda p: steps(p, {"type": ["fbank_kaldi"]}),
        "asr/conf/preprocess.yaml: step ['fbank_kaldi'] is not understood here, expected one of fbank_kaldi, fbank, spectrogram, then cmvn_json",
    ),
    (
        "no fbank step",
        lambda p: steps(p, {"type": "time_mask"}),
        "asr/conf/preprocess.yaml: has no step of features, expected fbank_kaldi, fbank, spectrogram",
    ),
    (
        "two steps of features",
        lambda p: steps(p, FBANK, FBANK),
        "asr/conf/preprocess.yaml: step 'fbank_kaldi' is not understood here, expected one of fbank_kaldi, fbank, spectrogram, then cmvn_json",
    ),
    (
        "a spectrum of complex numbers",
        lambda p: steps(p, {"type": "stft", "n_fft": 320, "n_shift": 160}),
        "asr/conf/preprocess.yaml: step 'stft' is not understood here, expected one of fbank_kaldi, fbank, spectrogram, then cmvn_json",
    ),
    (
        "an option that PaddleSpeech does not have",
        lambda p: steps(p, {**FBANK, "mels": 40}),
        "asr/conf/preprocess.yaml: fbank_kaldi has the option mels, expected some of dither, energy_floor, fs, n_mels, n_shift, win_length",
    ),
    (
        "an FFT shorter than the window",
        lambda p: steps(
            p, {"type": "spectrogram", "n_fft": 320, "n_shift": 160, "win_length": 400}
        ),
        "asr/conf/preprocess.yaml: features.n_fft: out of range, got 320, expected an even number from 400 to 65536",
    ),
    (
        "a window of another shape",
        lambda p: steps(
            p, {"type": "spectrogram", "n_fft": 320, "n_shift": 160, "window": "bartlett"}
        ),
        "asr/conf/preprocess.yaml: features.window: out of range, got 'bartlett', expected one of hann",
    ),
    (
        "librosa's features without a size",
        lambda p: steps(p, {"type": "fbank", "fs": 16000, "n_mels": 80, "n_shift": 160}),
        "asr/conf/preprocess.yaml: n_fft is None, expected a whole number from 0",
    ),
    (
        "old features that are MFCC",
        lambda p: network(p, spectrum_type="mfcc", preprocess_config=None),
        "asr/conf/conformer.yaml: spectrum_type is 'mfcc', expected linear or fbank",
    ),
    (
        "old features with differences",
        lambda p: network(p, spectrum_type="linear", preprocess_config=None, delta_delta=True),
        "asr/conf/conformer.yaml: delta_delta is True, expected False",
    ),
    (
        "old features of a part of the band",
        lambda p: network(p, spectrum_type="linear", preprocess_config=None, max_freq=4000),
        "asr/conf/conformer.yaml: max_freq is 4000, expected None",
    ),
    (
        "old features brought to a level above full scale",
        lambda p: network(p, spectrum_type="linear", preprocess_config=None, target_dB=3),
        "asr/conf/conformer.yaml: features.target_db: out of range, got 3.0, expected -100 to 0, or null in a centred kind",
    ),
    (
        "CMVN before features",
        lambda p: steps(p, {"type": "cmvn_json", "cmvn_path": CMVN}),
        "asr/conf/preprocess.yaml: step 'cmvn_json' is not understood here, expected one of fbank_kaldi, fbank, spectrogram, then cmvn_json",
    ),
    (
        "features of 8 kHz",
        lambda p: steps(p, {**FBANK, "fs": 8000}),
        "asr/conf/preprocess.yaml: fs is 8000 Hz, expected 16000 Hz",
    ),
    (
        "a rate that is text",
        lambda p: steps(p, {**FBANK, "fs": "16k"}),
        "asr/conf/preprocess.yaml: fs is '16k', expected a whole number from 0",
    ),
    (
        "a rate of 0",
        lambda p: steps(p, {**FBANK, "fs": 0}),
        "asr/conf/preprocess.yaml: fs is 0 Hz, expected 16000 Hz",
    ),
    (
        "no mel bins",
        lambda p: steps(p, {**FBANK, "n_mels": 0}),
        "asr/conf/preprocess.yaml: features.n_mels: out of range, got 0, expected 4 to 512",
    ),
    (
        "mel bins that are true",
        lambda p: steps(p, {**FBANK, "n_mels": True}),
        "asr/conf/preprocess.yaml: n_mels is True, expected a whole number from 0",
    ),
    (
        "too many mel bins",
        lambda p: steps(p, {**FBANK, "n_mels": 9999}),
        "asr/conf/preprocess.yaml: features.n_mels: out of range, got 9999, expected 4 to 512",
    ),
    (
        "a shift of 0",
        lambda p: steps(p, {**FBANK, "n_shift": 0}),
        "asr/conf/preprocess.yaml: features.frame_shift_ms: out of range, got 0.0, expected > 0",
    ),
    (
        "a shift that is negative",
        lambda p: steps(p, {**FBANK, "n_shift": -160}),
        "asr/conf/preprocess.yaml: n_shift is -160, expected a whole number from 0",
    ),
    (
        "frames with gaps",
        lambda p: steps(p, {**FBANK, "win_length": 100}),
        "asr/conf/preprocess.yaml: features.frame_length_ms: out of range, got 6.25, expected >= frame_shift_ms",
    ),
    (
        "units that PaddleSpeech does not have",
        lambda p: network(p, unit_type="phone"),
        "asr/conf/conformer.yaml: unit_type is 'phone', expected one of char, word, spm",
    ),
    (
        "pieces without a model",
        lambda p: network(p, unit_type="spm", spm_model_prefix=["a"]),
        "asr/conf/conformer.yaml: spm_model_prefix is ['a'], expected a path",
    ),
    (
        "masks in words",
        lambda p: steps(p, FBANK, {"type": "freq_mask", "n_mask": "two"}),
        "asr/conf/preprocess.yaml: n_mask is 'two', expected a whole number from 0",
    ),
    (
        "a mask of half a frame",
        lambda p: steps(p, FBANK, {"type": "time_mask", "T": 0.5}),
        "asr/conf/preprocess.yaml: T is 0.5, expected a whole number from 0",
    ),
    (
        "CMVN that is missing",
        lambda p: steps(p, FBANK, {"type": "cmvn_json", "cmvn_path": "no.json"}),
        "asr/conf/preprocess.yaml: cmvn_path names no.json, which is not in asr",
    ),
    (
        "CMVN without a path",
        lambda p: steps(p, FBANK, {"type": "cmvn_json"}),
        "asr/conf/preprocess.yaml: cmvn_path is None, expected a path",
    ),
    (
        "CMVN that is Kaldi's text",
        lambda p: file(p, CMVN, "[ 1 2 3 ]"),
        "asr/data/mean_std.json: is not JSON, Expecting ',' delimiter: line 1 column 5 (char 4)",
    ),
    (
        "CMVN that is a list",
        lambda p: file(p, CMVN, "[1, 2, 3]"),
        "asr/data/mean_std.json: is not CMVN statistics, expected JSON with mean_stat, var_stat and frame_num > 0",
    ),
    (
        "CMVN that is empty",
        lambda p: file(p, CMVN, ""),
        "asr/data/mean_std.json: is not JSON, Expecting value: line 1 column 1 (char 0)",
    ),
    (
        "CMVN that is not UTF-8",
        lambda p: file(p, CMVN, b"{\xff}"),
        "asr/data/mean_std.json: is not JSON, 'utf-8' codec can't decode byte 0xff in position 1: invalid start byte",
    ),
    (
        "CMVN nested without end",
        lambda p: file(p, CMVN, "[" * 200_000),
        "asr/data/mean_std.json: is not JSON, nested too deeply",
    ),
    (
        "CMVN without var_stat",
        lambda p: cmvn(p, var_stat=None),
        "asr/data/mean_std.json: is not CMVN statistics, expected JSON with mean_stat, var_stat and frame_num > 0",
    ),
    (
        "CMVN of no frames",
        lambda p: cmvn(p, frame_num=0),
        "asr/data/mean_std.json: frame_num is 0.0, expected JSON with mean_stat, var_stat and frame_num > 0",
    ),
    (
        "CMVN of fewer than no frames",
        lambda p: cmvn(p, frame_num=-10),
        "asr/data/mean_std.json: frame_num is -10.0, expected JSON with mean_stat, var_stat and frame_num > 0",
    ),
    (
        "CMVN of NaN frames",
        lambda p: cmvn(p, frame_num=float("nan")),
        "asr/data/mean_std.json: is not JSON, NaN is not JSON",
    ),
    (
        "CMVN of 1e400 frames",
        lambda p: cmvn(p, frame_num=10**400),
        "asr/data/mean_std.json: is not CMVN statistics, expected JSON with mean_stat, var_stat and frame_num > 0",
    ),
    (
        "CMVN of 40 bins",
        lambda p: cmvn(p, mean_stat=[1.0] * 40, var_stat=[1.0] * 40),
        "asr/data/mean_std.json: has 40 means and 40 variances, expected 80",
    ),
    (
        "CMVN of 80 means and 40 variances",
        lambda p: cmvn(p, var_stat=[1e4] * 40),
        "asr/data/mean_std.json: has 80 means and 40 variances, expected 80",
    ),
    (
        "CMVN that is ragged",
        lambda p: cmvn(p, mean_stat=[[1.0], [1.0, 2.0]]),
        "asr/data/mean_std.json: is not CMVN statistics, expected JSON with mean_stat, var_stat and frame_num > 0",
    ),
    (
        "CMVN in words",
        lambda p: cmvn(p, mean_stat=["one"] * 80),
        "asr/data/mean_std.json: is not CMVN statistics, expected JSON with mean_stat, var_stat and frame_num > 0",
    ),
    (
        "CMVN with a negative variance",
        lambda p: cmvn(p, var_stat=[1.0] * 80),
        "asr/data/mean_std.json: has a variance that is not positive and finite",
    ),
    (
        "CMVN with a variance of 0",
        lambda p: cmvn(p, var_stat=[1690.0] * 80),
        "asr/data/mean_std.json: has a variance that is not positive and finite",
    ),
    (
        "CMVN with infinity",
        lambda p: cmvn(p, mean_stat=[float("inf")] * 80),
        "asr/data/mean_std.json: is not JSON, Infinity is not JSON",
    ),
    (
        "CMVN with a number of 400 digits",
        lambda p: cmvn(p, var_stat=[10**400] * 80),
        "asr/data/mean_std.json: is not CMVN statistics, expected JSON with mean_stat, var_stat and frame_num > 0",
    ),
]


@pytest.mark.parametrize(("make", "message"), [pytest.param(*c[1:], id=c[0]) for c in CASES])
def test_is_refused(check: Any, make: Any, message: str, tmp_path: Path) -> None:
    check(make, message)
    assert not (tmp_path / "owned").exists()
    assert not (tmp_path / "asrcompress.toml").exists()
