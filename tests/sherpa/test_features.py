"""What sherpa-onnx feeds its wenet_ctc slots, and how near the graph brings it to training's."""

from __future__ import annotations

import kaldi_native_fbank
import numpy as np
import pytest

from asrcompress.bundles.golden_signals import golden_signal
from asrcompress.features import FeatureSpec
from asrcompress.runtime.features import Fbank
from asrcompress.runtime.sherpa_fbank import SherpaFbank, is_empty, mel_conversion, sherpa_spec


def _signal(index: int = 0) -> np.ndarray:
    samples: np.ndarray = golden_signal(index).astype(np.float32) / np.float32(32768)
    return samples


def test_features_are_those_of_sherpa_s_own_library() -> None:
    """kaldi-native-fbank with the options of sherpa-onnx's ``features.cc``, without dither."""
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.snip_edges = False
    options.frame_opts.samp_freq = 16000
    options.mel_opts.num_bins = 80
    options.mel_opts.low_freq = 20
    options.mel_opts.high_freq = -400
    for length in (8000, 8079, 8080, 8160, 9601):
        samples = np.resize(_signal(), length)
        extractor = kaldi_native_fbank.OnlineFbank(options)
        extractor.accept_waveform(16000, samples * np.float32(32768))
        extractor.input_finished()
        expected = np.stack([extractor.get_frame(i) for i in range(extractor.num_frames_ready)])
        seen = SherpaFbank(FeatureSpec())(samples)
        assert seen.shape == expected.shape
        np.testing.assert_allclose(seen, expected, atol=2e-3)


@pytest.mark.parametrize("n_mels", [80, 161])
def test_the_conversion_brings_mel_bins_back(n_mels: int) -> None:
    """On the same frames, so that only the edges of the bins differ."""
    spec = FeatureSpec(n_mels=n_mels)
    conversion = mel_conversion(spec)
    assert (conversion >= 0).all()
    samples = np.concatenate([_signal(index) for index in range(6)])
    wanted, given = Fbank(spec)(samples), Fbank(sherpa_spec(spec))(samples)
    converted = np.log(np.maximum(np.exp(given) @ conversion.T, spec.log_floor))
    audible = ~is_empty(spec)
    before, after = (np.abs(x - wanted)[:, audible].mean() for x in (given, converted))
    assert after < before / 2


def test_empty_bins_stay_empty() -> None:
    """Triangles 4, 9 and 16 of DeepSpeech2's bank lie between two bins of the FFT."""
    spec = FeatureSpec(n_mels=161)
    assert np.flatnonzero(is_empty(spec)).tolist() == [4, 9, 16]
    assert not mel_conversion(spec)[is_empty(spec)].any()
    assert (mel_conversion(spec)[~is_empty(spec)].sum(axis=1) > 0).all()
