"""Size, speed and memory of what a run would ship, measured against the checkpoint in FP32.

Both are bundles, each in a process of its own, and take turns with each recording, as
``asrcompress bench`` has it: the ratio of their times stands still where the machine does not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asrcompress.audio import SAMPLE_RATE_HZ, read_audio
from asrcompress.console import Console
from asrcompress.manifests.manifest import Utterance
from asrcompress.pipeline.shipping import weigh_run
from asrcompress.recipe import Recipe
from asrcompress.run import Run
from asrcompress.runtime.benchmark import Measurement, compare
from asrcompress.search import Weight

_ROUNDS = 21  # the median of fewer wanders by a tenth on a busy machine
_MEGA = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The checkpoint in FP32, and the machine that it was measured on."""

    weight: Weight
    cpu: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales:
    """What candidates are weighed with.

    Attributes:
        bundle: the checkpoint in FP32.
        recordings: audio files to transcribe.
        reference: what the first process of the search measured of `bundle`.
    """

    bundle: Path
    recordings: tuple[Path, ...]
    reference: Reference

    def weigh(self, run: Run, recipe: Recipe, console: Console) -> Weight:
        """The artifact of a run as a bundle, on one thread.

        Raises:
            BadBundle: it cannot be loaded, or its process died.
        """
        with tempfile.TemporaryDirectory(prefix="asrcompress-") as folder:
            bundle = weigh_run(run, recipe, Path(folder) / "bundle")
            with console.progress("size, speed, memory") as advance:
                measured = compare(
                    [self.bundle, bundle.path],
                    self.recordings,
                    threads=1,
                    rounds=_ROUNDS,
                    loads=1,
                    progress=advance,
                )
        return _weight(measured.measurements[1], fp32_rtf=self.reference.weight.rtf)


def measure_reference(bundle: Path, recordings: Sequence[Path], console: Console) -> Reference:
    """The FP32 bundle by itself."""
    with console.progress("speed of the checkpoint") as advance:
        measured = compare(
            [bundle], recordings, threads=1, rounds=_ROUNDS, loads=1, progress=advance
        )
    (alone,) = measured.measurements
    return Reference(weight=_weight(alone, fp32_rtf=alone.rtf), cpu=measured.cpu)


def _weight(measured: Measurement, *, fp32_rtf: float) -> Weight:
    return Weight(
        size_mb=measured.size_bytes / _MEGA,
        rtf=fp32_rtf / measured.speedup,
        speedup=measured.speedup,
        memory_mb=measured.peak_rss_bytes / _MEGA,
    )


def write_recordings(utterances: Sequence[Utterance], folder: Path) -> tuple[Path, ...]:
    """Three utterances, short, middling and long, as files of their own in `folder`.

    Raises:
        BadAudio: one cannot be read.
    """
    import soundfile

    folder.mkdir(exist_ok=True)
    known = sorted(utterances, key=lambda item: (_seconds(item), item.utt))
    chosen = [known[index * (len(known) - 1) // 2] for index in range(min(3, len(known)))]
    paths = []
    for index, item in enumerate(chosen):
        samples = read_audio(item.audio, start_s=item.start_s, end_s=item.end_s)
        path = folder / f"{index}.wav"
        soundfile.write(path, samples.astype(np.float32), SAMPLE_RATE_HZ, subtype="PCM_16")
        paths.append(path)
    return tuple(paths)


def _seconds(item: Utterance) -> float:
    if item.start_s is not None and item.end_s is not None:
        return item.end_s - item.start_s
    return item.duration_s or 0.0
