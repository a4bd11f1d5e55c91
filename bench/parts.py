"""Where our own time goes beside the network: features, decoding, importing."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from asrcompress.audio import read_audio
from asrcompress.runtime.decode import greedy
from asrcompress.runtime.session import OnnxAcousticModel
from bench.inputs import Input
from bench.subject import Subject

_ROUNDS, _WARM_UPS = 15, 2
_IMPORTS = 5
_IMPORT = (
    "import time; start = time.perf_counter(); import asrcompress.runtime; "
    "print(time.perf_counter() - start)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Median seconds of one recording, one thread.

    Attributes:
        audio_s: of the recording.
        features_s, network_s, decoding_s: of our INT8 bundle, greedy.
    """

    audio_s: float
    features_s: float
    network_s: float
    decoding_s: float

    @property
    def beside_network(self) -> float:
        """Share of the whole that is not the network."""
        rest = self.features_s + self.decoding_s
        return rest / (rest + self.network_s)


def measure_parts(subject: Subject, item: Input) -> Parts:
    """Of the graph that ships, by the functions that the runtime calls."""
    fbank, vocabulary = subject.fbank, subject.checkpoint.vocabulary
    model = OnnxAcousticModel(subject.int8, threads=1)
    samples = read_audio(Path(f"{item.path}.wav"))
    features = fbank(samples)
    (log_probs,) = model.log_probs([features])
    steps: tuple[Callable[[], object], ...] = (
        lambda: fbank(samples),
        lambda: model.log_probs([features]),
        lambda: vocabulary.ids_to_text(greedy(log_probs, vocabulary.blank_id)),
    )
    times: list[list[float]] = [[] for _ in steps]
    for number in range(_ROUNDS + _WARM_UPS):
        for step, found in zip(steps, times, strict=True):
            start = time.perf_counter()
            step()
            if number >= _WARM_UPS:
                found.append(time.perf_counter() - start)
    features_s, network_s, decoding_s = (statistics.median(found) for found in times)
    return Parts(
        audio_s=item.seconds,
        features_s=features_s,
        network_s=network_s,
        decoding_s=decoding_s,
    )


def runtime_import_s() -> float:
    """Time of ``import asrcompress.runtime`` in a fresh process, numpy included; the median."""
    command = [sys.executable, "-I", "-c", _IMPORT]
    return statistics.median(
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(_IMPORTS)
    )
