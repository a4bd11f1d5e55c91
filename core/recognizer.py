"""Anything that can be evaluated: a checkpoint, a run, or a bundle, behind one interface.

All of them get the same features from the same code and the same greedy decoder; only the network
between the two differs. So a difference in CER is a difference of the network.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from asrcompress.audio import read_audio
from asrcompress.bundle import read_bundle
from asrcompress.bundle_manifest import MANIFEST_NAME
from asrcompress.checkpoint import Checkpoint, read_checkpoint
from asrcompress.errors import BadAudio, BadBundle, BadRun
from asrcompress.features import FeatureSpec
from asrcompress.files import sha256_file
from asrcompress.manifest import Utterance
from asrcompress.recipe import Recipe
from asrcompress.run import Run, read_run
from asrcompress.runtime.decode import greedy
from asrcompress.runtime.features import Fbank
from asrcompress.runtime.session import OnnxAcousticModel
from asrcompress.tokens import Vocabulary


class AcousticModel(Protocol):
    """Features to CTC log-probabilities."""

    def log_probs(self, batch: Sequence[np.ndarray], /) -> list[np.ndarray]:
        """(frames, mels) arrays -> (output frames, vocabulary) arrays, natural log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognizer:
    """A network with the features it wants and the symbols it emits.

    Attributes:
        name: for reports.
        backend: ``paddle`` or ``onnxruntime``.
        max_frames: most feature frames that the network takes; None where nothing says so.
    """

    name: str
    backend: str
    model: AcousticModel
    fbank: Fbank
    vocabulary: Vocabulary
    max_frames: int | None = None

    def check_length(self, n_samples: int) -> None:
        """Refuse audio that is longer than the network takes.

        Raises:
            BadAudio: too long.
        """
        spec = self.fbank.spec
        if self.max_frames is not None and spec.n_frames(n_samples) > self.max_frames:
            most = self.max_frames * spec.frame_shift_ms / 1000
            raise BadAudio(
                f"too long, got {n_samples / spec.sample_rate_hz:.1f} s, "
                f"expected at most {most:.1f} s",
                hint="split it at pauses, or export with a larger export.max_seconds",
            )

    def features(self, utterance: Utterance) -> np.ndarray:
        """Features of an utterance, float32 (frames, mels).

        Raises:
            BadAudio: the audio cannot be used.
        """
        samples = read_audio(utterance.audio, start_s=utterance.start_s, end_s=utterance.end_s)
        return self.fbank(samples)

    def text(self, log_probs: np.ndarray) -> str:
        """Greedy CTC transcript of one utterance's log-probabilities."""
        return self.vocabulary.ids_to_text(greedy(log_probs, self.vocabulary.blank_id))


def from_checkpoint(checkpoint: Checkpoint, *, device: str = "cpu") -> Recognizer:
    """PaddleSpeech's own network and forward.

    Raises:
        BadCheckpoint, MissingExtra: see `asrcompress.network`.
    """
    from asrcompress.network import PaddleAcousticModel, build_network

    return Recognizer(
        name=checkpoint.name,
        backend="paddle",
        model=PaddleAcousticModel(build_network(checkpoint, device=device)),
        fbank=Fbank(checkpoint.features),
        vocabulary=checkpoint.vocabulary,
    )


def from_onnx(
    path: Path,
    *,
    name: str,
    features: FeatureSpec,
    vocabulary: Vocabulary,
    threads: int = 1,
    max_frames: int | None = None,
) -> Recognizer:
    """An ONNX graph in the runtime.

    Raises:
        BadBundle: the graph cannot be loaded.
    """
    return Recognizer(
        name=name,
        backend="onnxruntime",
        model=OnnxAcousticModel(path, threads=threads),
        fbank=Fbank(features),
        vocabulary=vocabulary,
        max_frames=max_frames,
    )


def from_bundle(path: Path, *, threads: int = 1) -> Recognizer:
    """A bundle, every hash checked.

    Raises:
        BadBundle: it was tampered with or cannot be loaded.
    """
    bundle = read_bundle(path)
    return from_onnx(
        bundle.model_path,
        name=path.name,
        features=bundle.manifest.features,
        vocabulary=bundle.tokens,
        threads=threads,
        max_frames=bundle.manifest.max_frames,
    )


def from_run(run: Run, checkpoint: Checkpoint, *, threads: int = 1) -> Recognizer:
    """The INT8 artifact of a run.

    Raises:
        BadRun: the artifact is missing, or is not the one that the run measured.
    """
    recorded = run.read_json("run.json").get("model_sha256")
    if recorded is None or not run.model.is_file():
        raise BadRun(f"{run.path}: has no INT8 model yet", hint="repeat the command of the run")
    if sha256_file(run.model) != recorded:
        raise BadRun(f"{run.model}: was changed after the run measured it")
    return from_onnx(
        run.model,
        name=run.name,
        features=checkpoint.features,
        vocabulary=checkpoint.vocabulary,
        threads=threads,
        max_frames=run.read_json("run.json").get("max_frames"),
    )


def open_recognizer(
    path: Path,
    *,
    config: Path | None = None,
    weights: Path | None = None,
    threads: int = 1,
    device: str = "cpu",
) -> Recognizer:
    """Whatever lies at `path`: a bundle, a run directory, or a checkpoint.

    Raises:
        BadBundle, BadRun, BadCheckpoint: it is none of them, or a broken one.
    """
    # os.path, because pathlib raises where a name is too long or a folder may not be entered.
    if os.path.isfile(path / MANIFEST_NAME):
        return from_bundle(path, threads=threads)
    if os.path.isfile(path / "run.json"):
        run = read_run(path)
        return from_run(run, checkpoint_of(run), threads=threads)
    if path.suffix == ".onnx":
        raise BadBundle(f"{path}: is a bare graph", hint="give the bundle folder that holds it")
    return from_checkpoint(read_checkpoint(path, config=config, weights=weights), device=device)


def checkpoint_of(run: Run) -> Checkpoint:
    """The checkpoint that a run compressed.

    Raises:
        BadRun: its weights have changed since.
        BadCheckpoint: it is gone.
    """
    recipe = Recipe.from_dict(
        run.field("run.json", "recipe", kind=dict), source=str(run.path), folder=Path()
    )
    source = recipe.checkpoint
    if source.path is None:
        raise BadRun(f"{run.path}: names no checkpoint")
    checkpoint = read_checkpoint(source.path, config=source.config, weights=source.weights)
    if checkpoint.sha256 != run.field("run.json", "checkpoint", "sha256", kind=str):
        raise BadRun(f"{checkpoint.weights_path}: has changed since {run.name} compressed it")
    return checkpoint
