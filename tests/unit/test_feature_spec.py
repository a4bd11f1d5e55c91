"""A front end that cannot be is refused by name."""

from __future__ import annotations

import math
from typing import Any

import pytest

from asrcompress.errors import BadBundle, BadRecipe
from asrcompress.features import FeatureSpec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "mfcc"}, "features.kind: out of range, got 'mfcc', expected one of fbank_kaldi"),
        ({"window": "hann"}, "features.window"),
        ({"sample_rate_hz": 0}, "features.sample_rate_hz"),
        ({"n_mels": 3}, "features.n_mels: out of range, got 3, expected 4 to 512"),
        ({"frame_shift_ms": 0.0}, "features.frame_shift_ms"),
        ({"frame_length_ms": 9.0}, "features.frame_length_ms"),
        ({"low_freq_hz": 8000.0}, "features.low_freq_hz"),
        ({"high_freq_hz": 8001.0}, "features.high_freq_hz"),
        ({"preemphasis": 1.5}, "features.preemphasis"),
        ({"sample_scale": 1.0}, "expected 32768, or round_samples = false"),
        ({"log_floor": 0.0}, "features.log_floor"),
        ({"log_floor": math.nan}, "features.log_floor"),
        ({"cmvn_mean": (0.0,) * 80}, "features.cmvn_istd: out of range, got 0 values, expected 80"),
        ({"cmvn_istd": (1.0,) * 80}, "features.cmvn_mean: out of range, got 0 values"),
        ({"cmvn_mean": (math.nan,) * 80, "cmvn_istd": (1.0,) * 80}, "features.cmvn_mean"),
        ({"cmvn_mean": (0.0,) * 80, "cmvn_istd": (0.0,) * 80}, "features.cmvn_istd"),
    ],
)
def test_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRecipe) as caught:
        FeatureSpec(**change)
    assert message in str(caught.value)


def test_json_raises_the_error_that_its_reader_wants() -> None:
    tree = {**FeatureSpec().to_json(), "n_mels": 3}
    with pytest.raises(BadBundle, match=r"x\.json: features\.n_mels: out of range"):
        FeatureSpec.from_json(tree, item="x.json", error=BadBundle)
    with pytest.raises(BadRecipe, match="unknown key fft"):
        FeatureSpec.from_json({"fft": 512})
    with pytest.raises(BadRecipe, match="features: got 3, expected an object"):
        FeatureSpec.from_json(3)


def test_whole_numbers_are_floats_and_booleans_are_no_numbers() -> None:
    assert FeatureSpec.from_json({"low_freq_hz": 20}).low_freq_hz == 20.0
    with pytest.raises(BadRecipe, match="n_mels: got true, expected int"):
        FeatureSpec.from_json({"n_mels": True})
    with pytest.raises(BadRecipe, match=r"n_mels: got 80\.0, expected int"):
        FeatureSpec.from_json({"n_mels": 80.0})


def test_defaults_are_paddlespeechs() -> None:
    spec = FeatureSpec()
    assert (spec.frame_samples, spec.shift_samples, spec.has_cmvn) == (400, 160, False)
    assert [spec.n_frames(n) for n in (0, 399, 400, 559, 560)] == [0, 0, 1, 1, 2]
