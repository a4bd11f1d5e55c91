"""The acoustic model of a bundle for Paddle Lite: the smallest length that holds the audio.

Paddle Lite's predictor lives in a process of its own Python (`asrcompress.lite.process`), which
gets features and gives log-probabilities. What is longer than the longest length goes in pieces:

* U2: windows that overlap. An output frame is taken from the window where it has the most context
  on its worse side. Attention sees one window only, so the text may differ from that of a longer
  bucket where windows meet.
* DeepSpeech2: one piece after the other, the states of the recurrent layers carried along. That is
  exact.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from asrcompress.bundles.manifest import BundleManifest, TensorSpec
from asrcompress.checkpoints.attention_decoder import EncodedUtterance
from asrcompress.errors import BadBundle, SidecarFailed
from asrcompress.lite.environment import Sidecar, sidecar_python
from asrcompress.lite.manifest import LiteBucket, LiteModel
from asrcompress.lite.process import LiteProcess

Run = Callable[[LiteBucket, Mapping[str, np.ndarray]], list[np.ndarray]]
"""Outputs of the network of one length for inputs by name."""

_MACHINES = {"x86": ("x86_64", "amd64"), "arm": ("aarch64", "arm64", "armv8l", "armv7l")}
# Share of a window's output frames, at each end, that the neighbouring window gives instead.
_CONTEXT = 8


class BucketedModel:
    """Networks of fixed lengths as one of any length.

    Args:
        run: runs one of them.
        inputs: of any of them: features, then the mask or the states.
        subsampling: feature frames per output frame.
        min_frames: fewest feature frames that give an output frame.
    """

    def __init__(
        self,
        lite: LiteModel,
        run: Run,
        *,
        inputs: Sequence[TensorSpec],
        subsampling: int,
        min_frames: int,
    ) -> None:
        self._lite, self._run, self._inputs = lite, run, tuple(inputs)
        self._subsampling, self._min_frames = subsampling, min_frames

    def log_probs(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        """CTC log-probabilities of some recordings, one after the other.

        Args:
            batch: features, float32, each of shape (n_frames, n_mels).
        Returns:
            float32 arrays (n_output_frames, vocab_size), natural log, in the order of `batch`.
        Raises:
            BadBundle: the network gives NaN.
        """
        one = self._windows if self._lite.kind == "u2" else self._chunks
        results = [one(features) for features in batch]
        if any(np.isnan(result).any() for result in results):
            raise BadBundle(f"{self._lite.files[0]}: gave NaN, expected log-probabilities")
        return results

    def encode(self, batch: Sequence[np.ndarray]) -> list[EncodedUtterance]:
        """As `log_probs`; there are no hidden states."""
        return [EncodedUtterance(log_probs=item) for item in self.log_probs(batch)]

    def _outputs(self, frames: int) -> int:
        """Output frames of `frames` feature frames."""
        return (frames - self._min_frames) // self._subsampling + 1

    def _bucket(self, frames: int) -> LiteBucket:
        """The smallest that holds `frames`, or the longest."""
        buckets = self._lite.buckets
        return next((item for item in buckets if item.frames >= frames), buckets[-1])

    def _windows(self, features: np.ndarray) -> np.ndarray:
        total, parts, done = self._outputs(len(features)), [], 0
        context = self._lite.buckets[-1].outputs // _CONTEXT
        while done < total:
            first = max(0, done - context)
            rest = features[first * self._subsampling :]
            bucket = self._bucket(len(rest))
            log_probs = self._masked(bucket, rest[: bucket.frames])
            ends = first + len(log_probs) == total
            part = log_probs[done - first : None if ends else len(log_probs) - context]
            parts.append(part)
            done += len(part)
        return np.concatenate(parts)

    def _masked(self, bucket: LiteBucket, features: np.ndarray) -> np.ndarray:
        kept = self._outputs(len(features))
        mask = np.zeros((1, bucket.outputs, 1), np.float32)
        mask[:, :kept] = 1.0
        x, keep = (item.name for item in self._inputs)
        return self._run(bucket, {x: _padded(features, bucket), keep: mask})[0][0, :kept]

    def _chunks(self, features: np.ndarray) -> np.ndarray:
        x, *states = self._inputs
        held = {s.name: np.zeros([int(size) for size in s.dims], np.float32) for s in states}
        parts = []
        while len(features) >= self._min_frames:
            bucket = self._bucket(len(features))
            feeds = {x.name: _padded(features[: bucket.frames], bucket), **held}
            log_probs, *following = self._run(bucket, feeds)
            parts.append(log_probs[0, : self._outputs(min(len(features), bucket.frames))])
            held = dict(zip(held, following, strict=True))
            features = features[bucket.outputs * self._subsampling :]
        return np.concatenate(parts)


class LiteAcousticModel(BucketedModel):
    """The network of a bundle in Paddle Lite's predictor."""

    def __init__(
        self,
        folder: Path,
        manifest: BundleManifest,
        *,
        threads: int = 1,
        sidecar: Sidecar | None = None,
    ) -> None:
        """Load every length.

        Args:
            folder: of the bundle, checked.
            threads: of Paddle Lite's kernels.
            sidecar: where Paddle Lite is; looked up where it is None.
        Raises:
            BadBundle: made for other hardware, or not loadable.
            SidecarFailed: Paddle Lite cannot be had here.
        """
        lite = manifest.lite
        if lite is None:
            raise BadBundle(f"{folder}: has no Paddle Lite model")
        if platform.machine().lower() not in _MACHINES[lite.hardware]:
            raise BadBundle(
                f"{folder}: holds kernels for {lite.hardware}, got a {platform.machine()} here",
                hint="run it on the device, or export --format paddle-lite for this machine",
            )
        self._process = LiteProcess(sidecar_python(sidecar), threads=threads)
        try:
            for bucket in lite.buckets:
                self._process.load(bucket.file, folder / bucket.file)
        except SidecarFailed as error:
            self._process.close()
            raise BadBundle(f"{folder}: cannot be loaded, {error}") from error
        super().__init__(
            lite,
            self._in_process,
            inputs=manifest.inputs,
            subsampling=manifest.subsampling_factor,
            min_frames=manifest.min_frames,
        )

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def __del__(self) -> None:
        if process := getattr(self, "_process", None):
            process.close()

    def _in_process(self, bucket: LiteBucket, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        try:
            return self._process.run(bucket.file, feeds)
        except SidecarFailed as error:
            raise BadBundle(f"{bucket.file}: cannot be run, {error}") from error


def _padded(features: np.ndarray, bucket: LiteBucket) -> np.ndarray:
    padded = np.zeros((1, bucket.frames, features.shape[1]), np.float32)
    padded[0, : len(features)] = features
    return padded
