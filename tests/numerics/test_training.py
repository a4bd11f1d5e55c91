"""Training: batches, losses, and that a resumed run ends where an undisturbed one does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asrcompress.checkpoints.acoustic import TRAINING_CONTEXT
from asrcompress.checkpoints.front_end import SpecAugment
from asrcompress.errors import BadManifest, TrainingFailed
from asrcompress.manifests.manifest import Utterance
from asrcompress.recipe import Quantization, Training

pytest.importorskip("paddle", reason="needs the [compress] extra")
from asrcompress.checkpoints.network import PaddleAcousticModel, build_network
from asrcompress.compress.batches import TrainingSet
from asrcompress.compress.quantized_network import QuantizedNetwork
from asrcompress.compress.trainer import Trainer

pytestmark = pytest.mark.paddle

TEXTS = ["开灯", "关灯", "开空调", "音乐", "天气", "一二三", "四五", "七八"]


def utterances(count: int = 8) -> list[Utterance]:
    return [
        Utterance(
            utt=f"u{i}",
            audio=Path("/nowhere"),
            text=TEXTS[i % len(TEXTS)],
            duration_s=0.8 + 0.1 * (i % 5),
        )
        for i in range(count)
    ]


def load_features(utterance: Utterance) -> np.ndarray:
    """Noise that depends on the utterance only."""
    rng = np.random.default_rng(int(utterance.utt[1:]))
    assert utterance.duration_s is not None
    return rng.standard_normal((int(utterance.duration_s * 100), 80)).astype(np.float32)


def training_set(checkpoint: Any, items: list[Utterance], **changes: Any) -> TrainingSet:
    settings: dict[str, Any] = {
        "load_features": load_features,
        "frame_shift_ms": 10.0,
        "tokenizer": checkpoint.tokenizer,
        "subsampling": 4,
        "max_duration_s": 5.0,
        "batch_frames": 250,
        "spec_augment": None,
        "seed": 0,
    }
    return TrainingSet(items, **{**settings, **changes})


def trainer(checkpoint: Any, *, teacher: bool = True, **changes: Any) -> Trainer:
    settings = dataclasses.replace(
        Training(epochs=2, learning_rate=1e-3, warmup_steps=2), **changes
    )
    quantized = QuantizedNetwork(build_network(checkpoint), Quantization(observer="min_max"))
    model = PaddleAcousticModel(quantized.network)
    for item in utterances(4):
        model.log_probs([load_features(item)])
    quantized.finish_calibration()
    data = training_set(checkpoint, utterances(), seed=settings.seed)
    return Trainer(quantized, build_network(checkpoint) if teacher else None, settings, data)


def weights(made: Trainer) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in made.state()["network"].items()}


def test_batches_hold_everything_once_and_fit(checkpoint: Any) -> None:
    data = training_set(checkpoint, utterances(20))
    for epoch in (0, 1):
        groups = data.groups(epoch)
        assert sorted(index for group in groups for index in group) == list(range(20))
    for batch in data.batches(0):
        assert batch.features.shape[0] * batch.features.shape[1] <= 250
        for row, length in zip(batch.features, batch.lengths, strict=True):
            assert not row[length:].any()
            assert row[:length].any(axis=1).all()
        for row, length in zip(batch.tokens, batch.token_lengths, strict=True):
            assert (row[length:] == -1).all()
            assert (row[:length] > 1).all()


def test_data_order_depends_on_seed_and_epoch_only(checkpoint: Any) -> None:
    a, b = training_set(checkpoint, utterances(20)), training_set(checkpoint, utterances(20))
    assert a.groups(3) == b.groups(3)
    assert a.groups(3) != a.groups(4)
    assert a.groups(3) != training_set(checkpoint, utterances(20), seed=1).groups(3)
    late = list(a.batches(1, first=2))
    assert np.array_equal(late[0].features, list(b.batches(1))[2].features)


def test_features_are_made_once_while_they_fit(checkpoint: Any) -> None:
    asked: list[str] = []

    def load(utterance: Utterance) -> np.ndarray:
        asked.append(utterance.utt)
        return load_features(utterance)

    masks = SpecAugment(freq_masks=2, freq_mask_width=30, time_masks=0, time_mask_width=0)
    plain = training_set(checkpoint, utterances(4), spec_augment=masks)
    cached = training_set(
        checkpoint, utterances(4), spec_augment=masks, load_features=load, cache_mb=1
    )
    for epoch in range(3):  # masking must not reach what is kept
        for a, b in zip(plain.batches(epoch), cached.batches(epoch), strict=True):
            assert a is not None and b is not None
            assert np.array_equal(a.features, b.features)
    assert sorted(asked) == ["u0", "u1", "u2", "u3"]
    asked.clear()
    long = [dataclasses.replace(item, duration_s=4.9) for item in utterances(8)]  # 157 kB each
    small = training_set(checkpoint, long, load_features=load, cache_mb=1, batch_frames=500)
    for epoch in range(2):
        list(small.batches(epoch))
    assert len(asked) == 10  # six fit into a megabyte, two are made twice


def test_what_fails_in_a_batch_fails_in_training(checkpoint: Any) -> None:
    def broken(utterance: Utterance) -> np.ndarray:
        raise BadManifest("u0: cannot be read")

    with pytest.raises(BadManifest, match="u0: cannot be read"):
        list(training_set(checkpoint, utterances(2), load_features=broken).batches(0))


def test_spec_augment_masks_bands_and_is_reproducible(checkpoint: Any) -> None:
    masks = SpecAugment(freq_masks=1, freq_mask_width=30, time_masks=1, time_mask_width=30)
    plain = next(training_set(checkpoint, utterances()).batches(0)).features
    masked = [
        next(training_set(checkpoint, utterances(), spec_augment=masks).batches(0)).features
        for _ in range(2)
    ]
    assert np.array_equal(*masked)
    changed = masked[0] != plain
    assert 0 < changed.mean() < 0.6
    assert (masked[0][changed] == 0).all()


def test_unusable_utterances_are_counted_not_hidden(checkpoint: Any) -> None:
    items = utterances(4)
    items += [dataclasses.replace(items[0], utt="u90", duration_s=60.0)]
    items += [dataclasses.replace(items[0], utt="u91", text="")]
    items += [dataclasses.replace(items[0], utt="u92", text="开" * 30)]
    data = training_set(checkpoint, items)
    assert len(data) == 4
    assert str(data.skipped) == (
        "1 too long, 1 without text, 1 with more labels than output frames"
    )
    with pytest.raises(BadManifest, match="no usable utterance, 1 too long"):
        training_set(checkpoint, items[4:5])


def test_loss_falls(checkpoint: Any) -> None:
    made = trainer(checkpoint, epochs=6)
    losses = []
    while made.progress.epoch < 6:
        losses.append(np.mean([step.losses.ctc for step in made.steps()]))
    assert losses[-1] < 0.7 * losses[0]


def test_teacher_of_an_unquantized_student_has_nothing_to_say(checkpoint: Any) -> None:
    made = trainer(checkpoint)
    batch = next(made._data.batches(0))
    made._network.eval()
    distance = made._losses(batch, TRAINING_CONTEXT)[0].distillation
    assert distance is not None
    assert distance > 0
    made._network = made._teacher
    same = made._losses(batch, TRAINING_CONTEXT)[0].distillation
    assert same == pytest.approx(0.0, abs=1e-4)
    assert distance > 10 * abs(same or 0.0)


def test_without_teacher_there_is_no_distillation(checkpoint: Any) -> None:
    made = trainer(checkpoint, teacher=False)
    losses = made._losses(next(made._data.batches(0)), TRAINING_CONTEXT)[0]
    assert losses.distillation is None
    assert losses.attention is not None
    assert losses.total == pytest.approx(0.3 * losses.ctc + 0.7 * losses.attention, rel=1e-5)


def test_accumulated_batches_make_one_step(checkpoint: Any) -> None:
    made = trainer(checkpoint, accumulate=2, epochs=1)
    batches = len(made._data.groups(0))
    assert sum(1 for _ in made.steps()) == -(-batches // 2) == made.total_steps


def test_schedule_warms_up_and_falls_to_one_percent(checkpoint: Any) -> None:
    made = trainer(checkpoint, learning_rate=0.01, warmup_steps=2)
    rates = [made._learning_rate(step) for step in range(made.total_steps + 1)]
    assert rates[0] == pytest.approx(0.005)
    assert max(rates) == pytest.approx(0.01)
    assert rates[-1] == pytest.approx(0.0001)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_a_resumed_run_is_bit_equal_to_an_undisturbed_one(checkpoint: Any, tmp_path: Path) -> None:
    from asrcompress.checkpoints.weights import read_state
    from asrcompress.paddle_imports import import_paddle

    whole = trainer(checkpoint)
    while whole.progress.epoch < 2:
        list(whole.steps())
    cut = trainer(checkpoint)
    for step in cut.steps():
        if step.number == 2:  # in the middle of the first epoch
            break
    import_paddle().save(cut.state(), str(tmp_path / "state"))
    resumed = trainer(checkpoint)
    resumed.restore(read_state(tmp_path / "state"))
    assert resumed.progress.step == 2
    while resumed.progress.epoch < 2:
        list(resumed.steps())
    expected, found = weights(whole), weights(resumed)
    for name, value in expected.items():
        assert np.array_equal(value, found[name]), name


def test_a_loss_that_is_not_finite_stops_training(checkpoint: Any) -> None:
    made = trainer(checkpoint)
    weight = made._network.ctc.ctc_lo.weight
    weight.set_value(np.full(weight.shape, np.nan, np.float32))
    with pytest.raises(TrainingFailed, match="epoch 0, batch 0: loss is nan"):
        list(made.steps())


def test_a_gpu_that_is_not_there_is_refused(checkpoint: Any) -> None:
    from asrcompress.errors import BadRecipe
    from asrcompress.paddle_imports import import_paddle

    if import_paddle().is_compiled_with_cuda():
        pytest.skip("this Paddle can use GPUs")
    with pytest.raises(BadRecipe, match=r"training\.device: gpu:0 cannot be used, "):
        build_network(checkpoint, device="gpu:0")


def test_mixed_precision_on_a_cpu_is_refused_instead_of_ignored() -> None:
    from asrcompress.errors import BadRecipe
    from asrcompress.recipe import Recipe

    with pytest.raises(BadRecipe, match=r"training\.amp: got true with device cpu"):
        Recipe(training=Training(amp=True))
    Recipe(training=Training(amp=True, device="gpu:0"))
