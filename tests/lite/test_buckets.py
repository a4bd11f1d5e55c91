"""Lengths, padding, windows and states, with networks whose answer is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from asrcompress.bundles.manifest import TensorSpec
from asrcompress.errors import BadBundle
from asrcompress.lite.manifest import LiteBucket, LiteModel
from asrcompress.runtime.lite import BucketedModel

FACTOR, LEAST = 4, 7


def outputs(frames: int) -> int:
    return (frames - LEAST) // FACTOR + 1


def lite(*lengths: int, kind: str = "u2") -> LiteModel:
    buckets = tuple(
        LiteBucket(file=f"{n}.nb", frames=n, outputs=outputs(n), kernels={}) for n in lengths
    )
    return LiteModel(
        kind=kind,
        hardware="x86",
        version="2.13rc0",
        buckets=buckets,
        weight_share=0.0,
        executed=True,
        reference="a test",
    )


def spec(name: str, *dims: int) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", dims=dims)


def means(x: np.ndarray) -> np.ndarray:
    """A network that looks at the frames of one output frame: their mean."""
    steps = range(0, (outputs(x.shape[1]) - 1) * FACTOR + 1, FACTOR)
    return np.stack([x[0, at : at + LEAST].mean(0) for at in steps])


class Local:
    """Runs `means`, writes down which lengths it was asked for, and marks what is masked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, bucket: LiteBucket, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        self.asked.append(bucket.frames)
        assert feeds["x"].shape == (1, bucket.frames, 3)
        assert feeds["keep"].shape == (1, bucket.outputs, 1)
        return [np.where(feeds["keep"] > 0, means(feeds["x"])[None], np.float32(99))]


def model(run: Any, described: LiteModel, *inputs: TensorSpec) -> BucketedModel:
    return BucketedModel(described, run, inputs=inputs, subsampling=FACTOR, min_frames=LEAST)


@pytest.mark.parametrize(
    ("frames", "asked"),
    [(7, [40]), (40, [40]), (41, [100]), (100, [100]), (101, [100]), (104, [100, 40])],
)
def test_the_smallest_length_that_holds_the_audio_is_taken(frames: int, asked: list[int]) -> None:
    run = Local()
    features = np.random.default_rng(frames).standard_normal((frames, 3)).astype(np.float32)
    (seen,) = model(run, lite(40, 100), spec("x", 1, 100, 3), spec("keep", 1, 24, 1)).log_probs(
        [features]
    )
    np.testing.assert_allclose(seen, means(features[None]), rtol=1e-6)
    assert run.asked == asked


@pytest.mark.parametrize("frames", [150, 237, 401, 1000])
def test_windows_overlap_and_every_frame_is_there_once(frames: int) -> None:
    run = Local()
    features = np.random.default_rng(frames).standard_normal((frames, 3)).astype(np.float32)
    (seen,) = model(run, lite(40, 100), spec("x", 1, 100, 3), spec("keep", 1, 24, 1)).log_probs(
        [features]
    )
    assert len(seen) == outputs(frames)
    np.testing.assert_allclose(seen, means(features[None]), rtol=1e-6)
    # 24 output frames a window, 3 at each inner end left to the neighbour.
    assert len(run.asked) >= (outputs(frames) - 6) / 18


def test_states_are_handed_from_piece_to_piece() -> None:
    def run(bucket: LiteBucket, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """A running sum of `means`, which needs every earlier piece."""
        sums = feeds["h"][0] + np.cumsum(means(feeds["x"]), axis=0)
        return [sums[None], sums[None, -1:]]

    features = np.random.default_rng(0).standard_normal((333, 3)).astype(np.float32)
    chained = model(run, lite(40, kind="deepspeech2"), spec("x", 1, 40, 3), spec("h", 1, 1, 3))
    (seen,) = chained.log_probs([features])
    np.testing.assert_allclose(seen, np.cumsum(means(features[None]), axis=0), atol=1e-5)


def test_nan_is_refused() -> None:
    def run(bucket: LiteBucket, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return [np.full((1, bucket.outputs, 3), np.nan, np.float32)]

    broken = model(run, lite(40), spec("x", 1, 40, 3), spec("keep", 1, 9, 1))
    with pytest.raises(BadBundle, match="NaN"):
        broken.log_probs([np.zeros((20, 3), np.float32)])


@pytest.mark.parametrize("lengths", [(), (100, 40), (40, 40)])
def test_lengths_out_of_order_are_refused(lengths: tuple[int, ...]) -> None:
    with pytest.raises(BadBundle, match="buckets"):
        lite(*lengths)
