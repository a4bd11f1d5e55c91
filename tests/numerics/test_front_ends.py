"""Every front end of PaddleSpeech's recipes against PaddleSpeech's own classes.

`fbank_kaldi` with 80 bins is in test_features.py. Measured numbers stand beside the bounds: largest
and mean difference after CMVN, in standard deviations; over 12 clips of real speech and the
synthetic signals.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asrcompress.audio import read_audio, to_int16
from asrcompress.checkpoints.checkpoint import Checkpoint, read_checkpoint
from asrcompress.errors import BadBundle
from asrcompress.features import FeatureSpec
from asrcompress.runtime.feature_stream import FeatureStream
from asrcompress.runtime.features import Fbank
from asrcompress.runtime.mel_filters import kaldi_filters, slaney_filters

Make = Callable[..., Path]


@dataclass(frozen=True)
class Recipe:
    """A front end as a configuration has it, and how near ours comes."""

    width: int
    largest: float
    mean: float
    step: dict[str, Any] | None = None
    settings: dict[str, Any] | None = None


KALDI = {"type": "fbank_kaldi", "fs": 16000, "n_shift": 160, "win_length": 400, "dither": 0.1}
LIBROSA = {"type": "fbank", "fs": 16000, "n_shift": 160}
OLD = {"preprocess_config": None, "mean_std_filepath": "data/stats.json", "stride_ms": 10.0}
RECIPES = {
    # examples/aishell/asr0 of 1.x; 1.9e-3, 1.5e-6
    "kaldi, 161 bins": Recipe(161, 4e-3, 3e-6, step={**KALDI, "n_mels": 161}),
    # 0, 0: the same numbers
    "librosa, 80 bins": Recipe(
        80, 1e-6, 1e-7, step={**LIBROSA, "n_mels": 80, "n_fft": 1024, "win_length": 400}
    ),
    "librosa, 161 bins": Recipe(161, 1e-6, 1e-7, step={**LIBROSA, "n_mels": 161, "n_fft": 2048}),
    # 5e-6, 5e-9
    "magnitudes": Recipe(
        161, 2e-5, 1e-7, step={"type": "spectrogram", "n_fft": 320, "n_shift": 160}
    ),
    # examples/aishell/asr0 up to 0.2; 0, 0
    "linear": Recipe(
        161, 1e-6, 1e-7, settings={**OLD, "spectrum_type": "linear", "window_ms": 20.0}
    ),
    "linear, level as it is": Recipe(
        161,
        1e-6,
        1e-7,
        settings={**OLD, "spectrum_type": "linear", "use_dB_normalization": False},
    ),
    # 5.6e-4, 2.7e-6
    "levelled kaldi": Recipe(
        80,
        2e-3,
        3e-6,
        settings={**OLD, "spectrum_type": "fbank", "feat_dim": 80, "window_ms": 25.0},
    ),
}


def synthetic() -> dict[str, np.ndarray]:
    """int16 signals: voiced, with digital pauses, noisy, loud, barely audible, short."""
    rng = np.random.default_rng(7)
    t = np.arange(24000) / 16000
    voice = sum(np.sin(2 * np.pi * k * 130 * t) / k for k in range(1, 20))
    voice = 4000 * np.clip(np.sin(5 * np.pi * t), 0, None) * voice + rng.integers(-9, 10, len(t))
    pauses = voice.copy()
    pauses[8000:16000] = 0
    signals = {
        "voice": voice,
        "pauses": pauses,
        "noise": 3000 * rng.standard_normal(16000),
        "clipped": 32767 * np.sign(np.sin(2 * np.pi * 310 * t)),
        "quiet": rng.integers(-2, 3, 16000),
        "short": voice[4000:4720],
        "odd": voice[:4719],
    }
    return {name: x.clip(-32768, 32767).astype(np.int16) for name, x in signals.items()}


def experiment(make: Make, folder: Path, recipe: Recipe) -> Checkpoint:
    """An experiment with this front end, and invented CMVN of its width."""
    mean, variance = np.linspace(-3, 9, recipe.width), np.linspace(2, 9, recipe.width)
    if recipe.step and recipe.step["type"] == "spectrogram":
        mean, variance = mean * 1e4, variance * 1e8  # magnitudes of 16-bit samples
    stats = {"mean_stat": mean * 100, "var_stat": (variance + mean**2) * 100, "frame_num": 100}
    cmvn = {"type": "cmvn_json", "cmvn_path": "data/stats.json"}
    steps = [recipe.step, cmvn] if recipe.step else None
    make(folder, steps=steps, settings=recipe.settings)
    (folder / "data/stats.json").write_text(json.dumps(stats, default=lambda a: a.tolist()))
    return read_checkpoint(folder)


def real_speech(shared: Path) -> dict[str, np.ndarray]:
    clips = {}
    for corpus in ("dsp20", "commonvoice-zh", "librispeech-mini"):
        folder = shared / "data" / corpus
        lines = (folder / "test.jsonl").read_text(encoding="utf-8").splitlines()
        for line in lines[:: max(1, len(lines) // 4)][:4]:
            row = json.loads(line)
            clips[row["utt"]] = to_int16(read_audio(folder / row["audio"]))
    return clips


def gaps(checkpoint: Checkpoint, signals: dict[str, np.ndarray]) -> np.ndarray:
    """All absolute differences from PaddleSpeech's features."""
    from asrcompress.checkpoints.network import PaddleFrontEnd

    reference, fbank = PaddleFrontEnd(checkpoint), Fbank(checkpoint.features)
    found = []
    for name, counts in signals.items():
        samples = counts.astype(np.float32) / 32768
        theirs, mine = reference(samples.copy()), fbank(samples)
        assert mine.dtype == np.float32
        assert mine.shape == theirs.shape, name
        assert len(mine) == checkpoint.features.n_frames(len(samples)), name
        found.append(np.abs(theirs.astype(np.float64) - mine).ravel())
    return np.concatenate(found)


@pytest.mark.paddle
@pytest.mark.parametrize("name", RECIPES)
def test_synthetic_signals(make_plain_experiment: Make, tmp_path: Path, name: str) -> None:
    pytest.importorskip("paddlespeech")
    checkpoint = experiment(make_plain_experiment, tmp_path, RECIPES[name])
    assert checkpoint.features.width == checkpoint.network["input_dim"] == RECIPES[name].width
    assert checkpoint.features.has_cmvn
    found = gaps(checkpoint, synthetic())
    print(f"\n{name}: largest {found.max():.2g}, mean {found.mean():.2g}")
    assert found.max() < RECIPES[name].largest
    assert found.mean() < RECIPES[name].mean


@pytest.mark.paddle
@pytest.mark.shared
@pytest.mark.parametrize("name", RECIPES)
def test_real_speech(make_plain_experiment: Make, tmp_path: Path, shared: Path, name: str) -> None:
    pytest.importorskip("paddlespeech")
    checkpoint = experiment(make_plain_experiment, tmp_path, RECIPES[name])
    found = gaps(checkpoint, real_speech(shared))
    print(f"\n{name}: largest {found.max():.2g}, mean {found.mean():.2g}")
    assert found.max() < RECIPES[name].largest
    assert found.mean() < RECIPES[name].mean


@pytest.mark.paddle
@pytest.mark.shared
@pytest.mark.parametrize("name", ["kaldi, 161 bins", "linear"])
def test_no_best_token_changes(
    make_plain_experiment: Make, tmp_path: Path, shared: Path, name: str
) -> None:
    """DeepSpeech2 with random weights on PaddleSpeech's features and on ours."""
    pytest.importorskip("paddlespeech")
    from asrcompress.checkpoints.network import PaddleAcousticModel, PaddleFrontEnd
    from asrcompress.paddle_imports import import_deepspeech2, import_paddle

    checkpoint = experiment(make_plain_experiment, tmp_path, RECIPES[name])
    import_deepspeech2()
    import_paddle().seed(3)
    network = import_deepspeech2()(
        feat_size=161, dict_size=40, rnn_size=24, num_rnn_layers=2, use_gru=True
    )
    network.eval()
    model, reference = PaddleAcousticModel(network), PaddleFrontEnd(checkpoint)
    fbank = Fbank(checkpoint.features)
    for counts in list(real_speech(shared).values())[:6]:
        samples = counts.astype(np.float32) / 32768
        theirs, mine = (model.log_probs([f(samples.copy())])[0] for f in (reference, fbank))
        assert np.array_equal(theirs.argmax(1), mine.argmax(1))
        assert np.abs(theirs - mine).max() < 1e-4


CENTRED = FeatureSpec(
    kind="fbank",
    n_fft=512,
    low_freq_hz=0.0,
    window="hann",
    preemphasis=0.0,
    log_floor=1e-10,
)
LINEAR = FeatureSpec(
    kind="linear",
    n_mels=0,
    frame_length_ms=20.0,
    low_freq_hz=0.0,
    window="hanning",
    preemphasis=0.0,
    sample_scale=1.0,
    round_samples=False,
    log_floor=1e-14,
)


@pytest.mark.parametrize("spec", [FeatureSpec(), FeatureSpec(n_mels=161), CENTRED, LINEAR])
@pytest.mark.parametrize("piece", [1, 37, 160, 1600, 100_000])
def test_a_stream_gives_what_the_whole_gives(spec: FeatureSpec, piece: int) -> None:
    fbank = Fbank(spec)
    samples = synthetic()["odd"][: 4719 if piece > 1 else 1200] / np.float32(32768)
    stream = FeatureStream(fbank)
    for _ in range(2):  # a stream can be used again
        parts = [
            stream.accept(samples[start : start + piece]) for start in range(0, len(samples), piece)
        ]
        late = stream.finish()
        frames = np.concatenate([*parts, late])
        assert frames.shape == (spec.n_frames(len(samples)), spec.width)
        # numpy's float32 product of matrices depends on their shapes, in the last bit.
        np.testing.assert_allclose(frames, fbank(samples), rtol=0, atol=1e-6)
        # What is left for the end: the frames that mirror it, and none where nothing is mirrored.
        waiting = -(-(spec.mirrored_samples + 1) // spec.shift_samples) if spec.is_centred else 0
        assert len(late) <= waiting + 1


def test_a_level_of_the_whole_cannot_be_streamed() -> None:
    fbank = Fbank(FeatureSpec(target_db=-20.0))
    with pytest.raises(BadBundle, match=r"features\.target_db: .* expected null for a stream"):
        FeatureStream(fbank)


@pytest.mark.parametrize("n_samples", [400, 401, 511, 512, 16000, 16159, 16160])
@pytest.mark.parametrize("spec", [FeatureSpec(n_mels=161), CENTRED, LINEAR])
def test_frames_are_counted_before_they_are_computed(spec: FeatureSpec, n_samples: int) -> None:
    found = Fbank(spec)(np.zeros(n_samples, np.float32))
    assert found.shape == (spec.n_frames(n_samples), spec.width)
    assert np.isfinite(found).all()


def test_silence_has_no_level() -> None:
    """PaddleSpeech raises there; a bundle is checked with a second of silence."""
    spec = FeatureSpec(target_db=-20.0)
    found = Fbank(spec)(np.zeros(800, np.float32))
    assert np.array_equal(found, Fbank(FeatureSpec())(np.zeros(800, np.float32)))


@pytest.mark.parametrize(("n_fft", "n_mels", "high_hz"), [(512, 80, 8000.0), (2048, 161, 7600.0)])
def test_librosas_filters(n_fft: int, n_mels: int, high_hz: float) -> None:
    librosa = pytest.importorskip("librosa")
    expected = librosa.filters.mel(sr=16000, n_fft=n_fft, n_mels=n_mels, fmin=60.0, fmax=high_hz)
    found = slaney_filters(
        sample_rate_hz=16000, n_fft=n_fft, n_mels=n_mels, low_hz=60.0, high_hz=high_hz
    )
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_kaldis_filters_have_holes_where_the_fft_is_coarse() -> None:
    """161 bins of 512 points, as examples/aishell/asr0 has them."""
    filters = kaldi_filters(sample_rate_hz=16000, n_fft=512, n_mels=161, low_hz=20, high_hz=8000)
    assert np.flatnonzero(filters.max(axis=1) == 0).tolist() == [4, 9, 16]


def test_numpy_takes_over_where_kaldi_native_fbank_refuses() -> None:
    """The two agree where both can: on 80 bins."""
    from asrcompress.runtime.kaldi_fbank import KaldiFbank, UnresolvedKaldiFbank, kaldi_fbank

    assert isinstance(kaldi_fbank(FeatureSpec()), KaldiFbank)
    assert isinstance(kaldi_fbank(FeatureSpec(n_mels=161)), UnresolvedKaldiFbank)
    for window in ("povey", "hamming", "hanning", "rectangular"):
        spec = FeatureSpec(window=window)
        samples = synthetic()["voice"].astype(np.float32)
        gap = np.abs(KaldiFbank(spec)(samples) - UnresolvedKaldiFbank(spec)(samples))
        assert gap.max() < 5e-3
        assert gap.mean() < 2e-5
