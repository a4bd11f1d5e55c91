"""Training batches: features of similar length together, masked by SpecAugment, padded.

Everything random is drawn from (seed, epoch, batch), never from a running state: a resumed run
sees the data that the undisturbed one would have seen.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from asrcompress.audio import SAMPLE_RATE_HZ, read_audio
from asrcompress.checkpoints.acoustic import subsampling_factor
from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.checkpoints.front_end import SpecAugment
from asrcompress.checkpoints.tokenizer import Tokenizer
from asrcompress.errors import BadManifest
from asrcompress.manifests.manifest import Utterance
from asrcompress.recipe import Recipe

T = TypeVar("T")

# PaddleSpeech's label for padding (paddlespeech/s2t/frontend/utility.py, IGNORE_ID).
_IGNORE_ID = -1
# Masks for a checkpoint whose preprocess.yaml has none: a light form of PaddleSpeech's.
_DEFAULT_MASKS = SpecAugment(freq_masks=2, freq_mask_width=10, time_masks=2, time_mask_width=20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One padded batch.

    Attributes:
        features: float32 (batch, frames, mels), zeros behind each utterance.
        lengths: int64 (batch,), valid frames.
        tokens: int64 (batch, labels), -1 behind each transcript.
        token_lengths: int64 (batch,).
        weight: this worker's share of the utterances of the batch, 1 where there is one worker.
    """

    features: np.ndarray
    lengths: np.ndarray
    tokens: np.ndarray
    token_lengths: np.ndarray
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """Training utterances that were left out, by reason."""

    too_long: int = 0
    no_text: int = 0
    more_labels_than_frames: int = 0

    def __str__(self) -> str:
        reasons = {
            "too long": self.too_long,
            "without text": self.no_text,
            "with more labels than output frames": self.more_labels_than_frames,
        }
        return ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)


class TrainingSet:
    """Utterances that can be trained on, and batches of them.

    Args:
        utterances: with transcripts.
        load_features: gives an utterance's features, float32 (frames, mels), CMVN applied.
        frame_shift_ms: of those features.
        tokenizer: of the transcripts.
        max_duration_s: longer ones are left out.
        subsampling: feature frames per output frame.
        batch_frames: most feature frames in a batch, padding included.
        spec_augment: None for none.
        cache_mb: megabytes of features to keep for the next epoch; what is above is made again.
    Raises:
        BadManifest: nothing is left to train on.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        *,
        load_features: Callable[[Utterance], np.ndarray],
        frame_shift_ms: float,
        tokenizer: Tokenizer,
        subsampling: int,
        max_duration_s: float,
        batch_frames: int,
        spec_augment: SpecAugment | None,
        seed: int,
        cache_mb: int = 0,
    ) -> None:
        self._load_features = load_features
        self._cache: dict[int, np.ndarray] = {}
        self._cache_left = cache_mb * 10**6
        self._batch_frames, self._spec_augment, self._seed = batch_frames, spec_augment, seed
        self._frames_per_s = 1000.0 / frame_shift_ms
        kept: list[tuple[Utterance, list[int], int]] = []
        too_long = no_text = too_dense = 0
        for utterance in utterances:
            tokens = tokenizer.text_to_ids(utterance.text)
            frames = int(duration_s(utterance) * self._frames_per_s)
            # CTC needs a frame per label and a blank between equal ones.
            needed = len(tokens) + sum(a == b for a, b in itertools.pairwise(tokens))
            if frames > max_duration_s * self._frames_per_s:
                too_long += 1
            elif not tokens:
                no_text += 1
            elif frames // subsampling - 1 < needed:
                too_dense += 1
            else:
                kept.append((utterance, tokens, frames))
        self.skipped = Skipped(
            too_long=too_long, no_text=no_text, more_labels_than_frames=too_dense
        )
        if not kept:
            raise BadManifest(f"training manifest: no usable utterance, {self.skipped or 'empty'}")
        self._items = kept

    def __len__(self) -> int:
        return len(self._items)

    def groups(self, epoch: int) -> list[list[int]]:
        """Indices of the utterances of each batch, in the order of this epoch."""
        rng = np.random.default_rng((self._seed, epoch))
        frames = np.array([item[2] for item in self._items], np.float64)
        # A little noise on the length mixes neighbours, so that batches differ between epochs.
        order = np.argsort(frames * rng.uniform(0.95, 1.05, len(frames)), kind="stable")
        groups: list[list[int]] = [[]]
        longest = 0
        for index in order.tolist():
            longest = max(longest, int(frames[index]))
            if groups[-1] and longest * (len(groups[-1]) + 1) > self._batch_frames:
                groups.append([])
                longest = int(frames[index])
            groups[-1].append(index)
        rng.shuffle(groups)
        return groups

    def batches(
        self, epoch: int, *, first: int = 0, share: Callable[[list[int]], list[int]] = list
    ) -> Iterator[Batch | None]:
        """Batches of an epoch, from number `first` on.

        Args:
            share: picks this worker's utterances out of a batch's.
        Yields:
            None where this worker has no share of a batch. The next one is made meanwhile.
        """
        return _ahead(self._made(epoch, first, share))

    def _made(
        self, epoch: int, first: int, share: Callable[[list[int]], list[int]]
    ) -> Iterator[Batch | None]:
        for number, group in enumerate(self.groups(epoch)):
            if number >= first:
                picked = share(group)
                weight = len(picked) / len(group)
                seed = (self._seed, epoch, number)
                yield self._batch(picked, seed, weight) if picked else None

    def _batch(self, group: list[int], seed: tuple[int, ...], weight: float) -> Batch:
        features, tokens = [], []
        for index in group:
            rng = np.random.default_rng((*seed, index))  # whichever worker it falls to
            features.append(self._mask(self._features(index), rng))
            tokens.append(self._items[index][1])
        lengths = np.array([len(item) for item in features], np.int64)
        token_lengths = np.array([len(item) for item in tokens], np.int64)
        padded = np.zeros((len(group), lengths.max(), features[0].shape[1]), np.float32)
        labels_padded = np.full((len(group), token_lengths.max()), _IGNORE_ID, np.int64)
        for row, (item, labels) in enumerate(zip(features, tokens, strict=True)):
            padded[row, : len(item)] = item
            labels_padded[row, : len(labels)] = labels
        return Batch(
            features=padded,
            lengths=lengths,
            tokens=labels_padded,
            token_lengths=token_lengths,
            weight=weight,
        )

    def _features(self, index: int) -> np.ndarray:
        """Features of an utterance, for the caller to change."""
        if index in self._cache:
            return self._cache[index].copy()
        features = self._load_features(self._items[index][0])
        if features.nbytes <= self._cache_left:
            self._cache_left -= features.nbytes
            self._cache[index] = features.copy()
        return features

    def _mask(self, features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """SpecAugment's bands, filled with zero: the mean, after CMVN."""
        masks = self._spec_augment
        if masks is None:
            return features
        frames, mels = features.shape
        for _ in range(masks.freq_masks):
            width = int(rng.integers(0, min(masks.freq_mask_width, mels) + 1))
            start = int(rng.integers(0, mels - width + 1))
            features[:, start : start + width] = 0.0
        for _ in range(masks.time_masks):
            # Never more than a sixth of a short command.
            width = int(rng.integers(0, min(masks.time_mask_width, frames // 6) + 1))
            start = int(rng.integers(0, frames - width + 1))
            features[start : start + width] = 0.0
        return features


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each made by a thread while the one before it is being used."""
    end = object()
    with ThreadPoolExecutor(max_workers=1) as worker:
        coming = worker.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = worker.submit(next, items, end)
            yield item  # type: ignore[misc]


def duration_s(utterance: Utterance) -> float:
    """Length of an utterance: as the manifest says, else from its span, else from the audio."""
    if utterance.duration_s is not None:
        return utterance.duration_s
    if utterance.end_s is not None:
        return utterance.end_s - (utterance.start_s or 0.0)
    return len(read_audio(utterance.audio, start_s=utterance.start_s)) / SAMPLE_RATE_HZ


def training_set(
    utterances: Sequence[Utterance],
    recipe: Recipe,
    checkpoint: Checkpoint,
    network: Any,
    load_features: Callable[[Utterance], np.ndarray],
) -> TrainingSet:
    """What `network` is trained on, as the recipe says.

    Args:
        checkpoint: whose transcripts' units, and masks where it has some, are used.
        load_features: as for `TrainingSet`.
    Raises:
        BadManifest: nothing is left to train on.
    """
    settings, own = recipe.training, checkpoint.spec_augment
    masks = own if own != SpecAugment() else _DEFAULT_MASKS
    return TrainingSet(
        utterances,
        load_features=load_features,
        frame_shift_ms=checkpoint.features.frame_shift_ms,
        tokenizer=checkpoint.tokenizer,
        subsampling=subsampling_factor(network),
        max_duration_s=recipe.data.max_duration_s,
        batch_frames=settings.batch_frames,
        spec_augment=masks if settings.spec_augment else None,
        seed=settings.seed,
        cache_mb=settings.cache_mb,
    )
