"""kaldi-native-fbank against PaddleSpeech's own transform, and both against float64.

The bounds are the largest differences that were measured, rounded up; the measured numbers stand
beside them. All differences are in nats before CMVN, and in standard deviations after it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kaldi_native_fbank
import numpy as np
import pytest

from asrcompress.audio import read_audio, to_int16
from asrcompress.features import FeatureSpec
from asrcompress.runtime.features import Fbank
from asrcompress.runtime.kaldi_fbank import kaldi_options

Matrices = dict[str, np.ndarray]

KALDI_FLOOR = 1.1920929e-07  # FLT_EPSILON
SILENT = "d14-01-19"  # of dsp20's training split: 38 % of its frames are digital silence

# PaddleSpeech in a process of its own: it has to come after h5py, and it writes exp/log where it
# is started.
_PADDLE = """
import h5py, json, sys
import numpy as np
from paddlespeech.audio.transform.transformation import Transformation
fbank = {"type": "fbank_kaldi", "fs": 16000, "n_mels": 80, "n_shift": 160, "win_length": 400,
         "dither": 0.1}
plain = Transformation({"process": [fbank]})
normal = Transformation({"process": [fbank, {"type": "cmvn_json", "cmvn_path": "mean_std.json"}]})
found = {}
with np.load("signals.npz") as signals:
    for name in signals:
        found["plain/" + name] = plain(signals[name], train=False)
        found["normal/" + name] = normal(signals[name], train=False)
np.savez("features.npz", **found)
"""


INVENTED_STATS = {
    "mean_stat": (np.linspace(8.0, 11.0, 80) * 1000).tolist(),
    "var_stat": ((np.linspace(8.0, 11.0, 80) ** 2 + np.linspace(3.0, 9.0, 80)) * 1000).tolist(),
    "frame_num": 1000,
}


@dataclass(frozen=True)
class Case:
    """Signals with PaddleSpeech's features of them, before and after CMVN.

    `spec` is what PaddleSpeech was set to, CMVN included.
    """

    signals: Matrices
    plain: Matrices
    normal: Matrices
    spec: FeatureSpec


def by_paddlespeech(folder: Path, signals: Matrices, stats: dict[str, Any]) -> Case:
    """Run PaddleSpeech's transform on int16 signals, with the CMVN of a ``mean_std.json``."""
    pytest.importorskip("paddlespeech")
    np.savez(folder / "signals.npz", **signals)
    (folder / "mean_std.json").write_text(json.dumps(stats))
    subprocess.run([sys.executable, "-c", _PADDLE], cwd=folder, check=True, capture_output=True)
    with np.load(folder / "features.npz") as found:
        plain = {name: found[f"plain/{name}"] for name in signals}
        normal = {name: found[f"normal/{name}"] for name in signals}
    mean = np.asarray(stats["mean_stat"]) / stats["frame_num"]
    variance = np.asarray(stats["var_stat"]) / stats["frame_num"] - mean**2
    spec = FeatureSpec(cmvn_mean=tuple(mean.tolist()), cmvn_istd=tuple((variance**-0.5).tolist()))
    return Case(signals=signals, plain=plain, normal=normal, spec=spec)


@pytest.fixture(scope="module")
def real(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """24 clips of three corpora, and a trained checkpoint's CMVN."""
    text = (shared / "checkpoints/dsp20-conformer/data/mean_std.json").read_text()
    clips = real_clips(shared, per_corpus=8)
    clips[SILENT] = to_int16(read_audio(shared / f"data/dsp20/audio/d14/{SILENT}.opus"))
    return by_paddlespeech(tmp_path_factory.mktemp("real"), clips, json.loads(text))


def in_float64(samples: np.ndarray) -> np.ndarray:
    """The same features in float64 from the formulas, shape (n_frames, 80). The oracle."""
    hop, length, n_fft = 160, 400, 512
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), length)[::hop]
    frames = frames - frames.mean(axis=1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / (length - 1))) ** 0.85
    power = np.abs(np.fft.rfft((frames - 0.97 * before) * window, n_fft)) ** 2

    def mel(hz: np.ndarray | float) -> np.ndarray:
        return 1127.0 * np.log1p(np.asarray(hz) / 700.0)

    step = (mel(8000.0) - mel(20.0)) / 81
    left = mel(20.0) + step * np.arange(80)[:, None]
    bins = mel(np.arange(n_fft // 2) * 16000 / n_fft)
    weights = np.clip(np.minimum((bins - left) / step, (left + 2 * step - bins) / step), 0, None)
    return np.log(np.maximum(power[:, :-1] @ weights.T, 1e-7))


def synthetic() -> Matrices:
    """int16 signals that real recordings are not: silent, quiet, loud, offset, of one tone."""
    rng = np.random.default_rng(7)
    t = np.arange(32000) / 16000
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * t)) / 16000
    glottis = sum(np.sin(k * phase) / k for k in range(1, 20))
    voice = (5000 * np.clip(np.sin(5 * np.pi * t), 0, None) * glottis).astype(np.int16)
    voice += rng.integers(-20, 21, len(voice)).astype(np.int16)
    t = t[:16000]
    pauses = voice.copy()
    pauses[8000:20000] = 0
    return {
        "voice": voice,
        "pauses": pauses,
        "silence": np.zeros(16000, np.int16),
        "one bit": rng.integers(-1, 2, 16000).astype(np.int16),
        "noise": (3000 * rng.standard_normal(16000)).clip(-32768, 32767).astype(np.int16),
        "clipped": (32767 * np.sign(np.sin(2 * np.pi * 310 * t))).astype(np.int16),
        "offset": np.full(16000, 12345, np.int16),
        "tone": (20000 * np.sin(2 * np.pi * 1000 * t)).astype(np.int16),
        "one frame": voice[4000:4400],
        "odd length": voice[:4719],
    }


def ours(signals: Matrices, spec: FeatureSpec) -> Matrices:
    fbank = Fbank(spec)
    return {name: fbank(x / np.float32(32768)) for name, x in signals.items()}


def differences(a: Matrices, b: Matrices) -> np.ndarray:
    """All absolute differences, after the shapes were found equal."""
    for name in a:
        got = np.atleast_2d(a[name])  # PaddleSpeech squeezes a single frame
        assert got.shape == np.atleast_2d(b[name]).shape, name
    return np.concatenate([np.abs(a[n].astype(np.float64) - b[n]).ravel() for n in a])


@pytest.mark.paddle
def test_synthetic_signals(tmp_path: Path) -> None:
    case = by_paddlespeech(tmp_path, synthetic(), INVENTED_STATS)
    raw, final = ours(case.signals, FeatureSpec()), ours(case.signals, case.spec)
    for name in ("silence", "offset"):  # nothing but the floor
        assert np.array_equal(raw[name], case.plain[name])
        assert np.array_equal(raw[name], np.full((98, 80), np.log(np.float32(1e-7))))
    # A pure tone leaves most bins with nothing but the rounding noise of a float32 FFT.
    tone = {"tone": raw.pop("tone")}, {"tone": final.pop("tone")}
    assert differences(tone[0], case.plain).max() < 0.03  # 0.018
    assert differences(tone[1], case.normal).max() < 0.02  # 0.009
    before, after = differences(raw, case.plain), differences(final, case.normal)
    assert before.mean() < 1e-5  # 6e-6
    assert before.max() < 5e-4  # 2.1e-4
    assert after.max() < 2.5e-4  # 1e-4, with this invented CMVN


@pytest.mark.paddle
@pytest.mark.shared
def test_real_speech(real: Case) -> None:
    """Over all 634 test clips of the three corpora: mean 1.3e-6, largest 0.0196, after CMVN."""
    raw, final = ours(real.signals, FeatureSpec()), ours(real.signals, real.spec)
    before, after = differences(raw, real.plain), differences(final, real.normal)
    print(f"\nlargest difference after CMVN, in standard deviations: {after.max():.2g}")
    assert before.mean() < 1e-5  # 6.5e-6
    assert before.max() < 0.015  # 0.0073
    assert np.quantile(before, 0.9999) < 1e-3  # 3.2e-4
    assert after.mean() < 2e-6  # 1.2e-6
    assert after.max() < 0.003  # 0.0011
    truth = {name: in_float64(samples) for name, samples in real.signals.items()}
    assert differences(real.plain, truth).mean() == pytest.approx(4e-6, rel=0.3)
    assert differences(raw, truth).mean() == pytest.approx(4.7e-6, rel=0.3)


@pytest.mark.paddle
@pytest.mark.shared
def test_the_floor_was_the_difference(real: Case, shared: Path) -> None:
    """A clip of which 38 % is digital silence, with Kaldi's floor and with PaddleSpeech's."""
    samples = read_audio(shared / f"data/dsp20/audio/d14/{SILENT}.opus")
    theirs = real.plain[SILENT]
    gap = np.abs(Fbank(FeatureSpec(log_floor=KALDI_FLOOR))(samples) - theirs)
    assert gap.max() == pytest.approx(np.log(KALDI_FLOOR / 1e-7), abs=1e-5)  # 0.1757
    assert gap.mean() > 0.05
    assert np.abs(Fbank(FeatureSpec())(samples) - theirs).max() < 5e-4
    # Unrounded, the decoder's 1e-6 in place of zero comes out eight nats louder.
    unrounded = Fbank(FeatureSpec(round_samples=False))(samples)
    assert np.abs(unrounded - theirs).max() > 5


@pytest.mark.paddle
@pytest.mark.shared
@pytest.mark.slow
def test_no_text_changes(real: Case, shared: Path) -> None:
    """PaddleSpeech's network on either features. On all 240 clips of dsp20's test split, no
    frame's best token differs, and no log-probability by more than 6e-5."""
    from asrcompress.checkpoints.checkpoint import read_checkpoint
    from asrcompress.checkpoints.network import PaddleAcousticModel, build_network

    network = build_network(read_checkpoint(shared / "checkpoints/dsp20-conformer"))
    model = PaddleAcousticModel(network)
    final = ours(real.signals, real.spec)
    for name in real.signals:
        theirs, mine = (
            model.log_probs([features[name].astype(np.float32)])[0]
            for features in (real.normal, final)
        )
        assert np.array_equal(theirs.argmax(1), mine.argmax(1)), name
        assert np.abs(theirs - mine).max() < 1e-3  # 6e-5


def real_clips(shared: Path, *, per_corpus: int) -> Matrices:
    """int16 of clips that are spread evenly over the test splits."""
    clips = {}
    for corpus in ("dsp20", "commonvoice-zh", "librispeech-mini"):
        folder = shared / "data" / corpus
        lines = (folder / "test.jsonl").read_text(encoding="utf-8").splitlines()
        for line in lines[:: max(1, len(lines) // per_corpus)][:per_corpus]:
            row = json.loads(line)
            clips[row["utt"]] = to_int16(read_audio(folder / row["audio"]))
    return clips


def test_float64_agrees_without_paddle() -> None:
    """The oracle alone: this test needs nothing but the base install."""
    signals = synthetic()
    del signals["tone"]
    gaps = differences(ours(signals, FeatureSpec()), {n: in_float64(x) for n, x in signals.items()})
    assert gaps.mean() < 1e-5  # 4e-6
    assert gaps.max() < 5e-4  # 1.2e-4


@pytest.mark.parametrize("n_samples", [400, 401, 559, 560, 561, 16000, 48123])
def test_frames_are_counted_before_they_are_computed(n_samples: int) -> None:
    spec = FeatureSpec()
    assert len(Fbank(spec)(np.zeros(n_samples, np.float32))) == spec.n_frames(n_samples)


def test_a_frame_is_the_same_wherever_it_stands() -> None:
    samples = synthetic()["voice"] / np.float32(32768)
    whole = Fbank(FeatureSpec())(samples)
    part = Fbank(FeatureSpec())(samples[160 * 30 : 160 * 40 + 400])
    assert np.array_equal(part, whole[30:41])


@pytest.mark.parametrize("n_samples", [16_383, 16_384, 16_385, 50_000])
def test_pieces_make_no_difference(n_samples: int) -> None:
    """Samples are handed over in pieces; kaldi-native-fbank given all at once has the same bits."""
    samples = (3000 * np.random.default_rng(n_samples).standard_normal(n_samples)).astype(
        np.float32
    )
    spec = FeatureSpec(sample_scale=1.0, round_samples=False)
    extractor = kaldi_native_fbank.OnlineFbank(kaldi_options(spec))
    extractor.accept_waveform(16000, samples)
    extractor.input_finished()
    energies = [extractor.get_frame(i) for i in range(extractor.num_frames_ready)]
    expected = np.log(np.maximum(np.stack(energies), np.float32(spec.log_floor)))
    assert np.array_equal(Fbank(spec)(samples), expected)


def test_the_callers_samples_are_left_alone() -> None:
    samples = synthetic()["voice"] / np.float32(32768)
    before = samples.copy()
    first, second = (Fbank(FeatureSpec())(samples) for _ in range(2))
    assert np.array_equal(samples, before)
    assert np.array_equal(first, second)


def test_other_settings_reach_kaldi_native_fbank() -> None:
    samples = synthetic()["voice"] / np.float32(32768)
    spec = FeatureSpec(
        n_mels=40,
        frame_length_ms=32.0,
        frame_shift_ms=8.0,
        low_freq_hz=60.0,
        high_freq_hz=-400.0,
        window="hamming",
        preemphasis=0.9,
        sample_scale=1.0,
        round_samples=False,
        log_floor=KALDI_FLOOR,
    )
    options = kaldi_native_fbank.FbankOptions()
    frame, mel = options.frame_opts, options.mel_opts
    frame.dither, frame.frame_length_ms, frame.frame_shift_ms = 0.0, 32.0, 8.0
    frame.window_type, frame.preemph_coeff = "hamming", 0.9
    mel.num_bins, mel.low_freq, mel.high_freq = 40, 60.0, -400.0
    extractor = kaldi_native_fbank.OnlineFbank(options)
    extractor.accept_waveform(16000, samples)
    extractor.input_finished()
    expected = [extractor.get_frame(i) for i in range(extractor.num_frames_ready)]
    found = Fbank(spec)(samples)
    assert found.shape == (len(expected), 40)
    np.testing.assert_allclose(found, expected, atol=2e-6)
