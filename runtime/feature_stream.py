"""Features of a recording that arrives in pieces: the same frames as of the whole."""

from __future__ import annotations

import numpy as np

from asrcompress.errors import BadBundle
from asrcompress.runtime.features import Fbank


class FeatureStream:
    """Gives each frame as soon as the audio that it needs has arrived.

    A centred kind (``fbank``, ``spectrogram``) needs ``n_fft / 2`` samples after the frame's
    middle: so late it is. Its first frames mirror the beginning, and wait for ``n_fft / 2 + 1``
    samples; its last ones mirror the end, and come with `finish`.

    Raises:
        BadBundle: the front end evens the level of whole recordings, so that no frame is known
            before the end.
    """

    def __init__(self, fbank: Fbank) -> None:
        if not fbank.spec.is_streamable:
            raise BadBundle(
                f"features.target_db: the level of a whole recording is brought to "
                f"{fbank.spec.target_db:g} dB, expected null for a stream",
                hint="transcribe the recording as a whole",
            )
        self._fbank = fbank
        self._mirrored = fbank.spec.mirrored_samples
        self._waiting = np.empty(0, np.float32)  # scaled, from the next frame's first sample on
        self._began = self._mirrored == 0

    def accept(self, samples: np.ndarray) -> np.ndarray:
        """Frames that are complete with these samples, float32 (n_frames, width); maybe none.

        Args:
            samples: float32, shape (n_samples,), in [-1, 1): what follows the samples before.
        """
        self._waiting = np.concatenate([self._waiting, self._fbank.scale(samples)])
        if not self._began:
            if len(self._waiting) <= self._mirrored:
                return self._no_frames()
            before = self._waiting[self._mirrored : 0 : -1]
            self._waiting = np.concatenate([before, self._waiting])
            self._began = True
        return self._complete_frames(keep=self._mirrored + 1 if self._mirrored else 0)

    def finish(self) -> np.ndarray:
        """The frames that only the end of the audio completes; the stream is empty after it."""
        if self._mirrored and self._waiting.size:
            sides = (0 if self._began else self._mirrored, self._mirrored)
            self._waiting = np.pad(self._waiting, sides, mode="reflect")
        frames = self._complete_frames(keep=0)
        self._waiting, self._began = np.empty(0, np.float32), self._mirrored == 0
        return frames

    def _complete_frames(self, *, keep: int) -> np.ndarray:
        """Frames in what is waiting; drops what later ones, and `keep` samples, do not need."""
        spec = self._fbank.spec
        count = max(0, 1 + (len(self._waiting) - spec.span_samples) // spec.shift_samples)
        # Enough must stay for the mirror of the end.
        count = min(count, max(0, (len(self._waiting) - keep) // spec.shift_samples))
        if not count:
            return self._no_frames()
        used = (count - 1) * spec.shift_samples + spec.span_samples
        frames = self._fbank.of_scaled(self._waiting[:used])
        self._waiting = self._waiting[count * spec.shift_samples :]
        return frames

    def _no_frames(self) -> np.ndarray:
        return np.empty((0, self._fbank.spec.width), np.float32)
