"""From a bundle and audio to text: batches, limits, and graphs that are not what they seem."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asrcompress import process_memory
from asrcompress.bundles import bundle as bundle_module
from asrcompress.bundles.bundle import Bundle, BundleManifest, TensorSpec
from asrcompress.checkpoints.attention_decoder import EncodedUtterance
from asrcompress.errors import BadAudio, BadBundle, BadRecipe
from asrcompress.features import FeatureSpec
from asrcompress.runtime import Transcriber, transcriber
from asrcompress.runtime.session import OnnxAcousticModel

MakeBundle = Callable[..., Bundle]
MakeModel = Callable[..., Path]
Speech = Callable[..., np.ndarray]


def test_text_tokens_duration_and_score(make_bundle: MakeBundle, speech: Speech) -> None:
    result = Transcriber(make_bundle().path).transcribe(speech(1.5))
    assert result.duration_s == 1.5
    assert result.score < 0
    assert result.text
    shown = "".join(t for t in result.tokens if t not in ("<unk>", "<eos>"))
    assert result.text == shown.replace("<space>", " ").strip()
    assert "<blank>" not in result.tokens
    assert "<" not in result.text


def test_files_and_samples_are_the_same(
    tmp_path: Path, make_bundle: MakeBundle, speech: Speech
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, speech(1.0), 16000, subtype="PCM_16")
    counts, _ = soundfile.read(path, dtype="int16")
    ready = Transcriber(make_bundle().path)
    from_file = ready.transcribe(path)
    assert from_file == ready.transcribe(str(path))
    assert from_file == ready.transcribe(counts)
    assert from_file == ready.transcribe(counts.astype(np.float32) / 32768)


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_batch_gives_what_each_gives_alone(
    make_bundle: MakeBundle, speech: Speech, beam: int, batch_size: int
) -> None:
    ready = Transcriber(make_bundle().path, beam=beam, batch_size=batch_size)
    lengths = (0.9, 2.1, 0.3, 1.7, 0.025, 4.0, 0.3)
    recordings = [speech(s, seed=i) for i, s in enumerate(lengths)]
    together = ready.transcribe_batch(recordings)
    assert [t.duration_s for t in together] == list(lengths)
    for one, alone in zip(together, map(ready.transcribe, recordings), strict=True):
        assert (one.text, one.tokens) == (alone.text, alone.tokens)
        assert one.score == pytest.approx(alone.score, rel=1e-5)
    assert len({t.text for t in together}) > 3


def test_a_stream_is_read_no_further_than_it_is_used(
    make_bundle: MakeBundle, speech: Speech, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcriber, "_WINDOW", 4)
    read: list[int] = []

    def recordings() -> object:
        for index in range(1000):
            read.append(index)
            yield speech(0.1 + 0.1 * (index % 3), seed=index)

    results = Transcriber(make_bundle().path).transcribe_stream(recordings())  # type: ignore[arg-type]
    durations = [next(results).duration_s for _ in range(6)]
    assert durations == pytest.approx([0.1, 0.2, 0.3, 0.1, 0.2, 0.3])
    assert len(read) == 8


def test_batches_are_bounded_by_their_padded_size(
    make_bundle: MakeBundle, speech: Speech, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcriber, "_MAX_BATCH_FRAMES", 200)
    ready = Transcriber(make_bundle().path)
    sizes: list[list[int]] = []
    real = ready._whole.encode

    def spy(batch: list[np.ndarray]) -> list[EncodedUtterance]:
        sizes.append([len(features) for features in batch])
        return real(batch)

    monkeypatch.setattr(ready._whole, "encode", spy)
    ready.transcribe_batch([speech(s) for s in (0.5, 3.0, 0.52, 0.9, 0.51, 0.2)])
    assert sizes == [[298], [88, 50], [49, 48, 18]]


def test_nothing_to_do(make_bundle: MakeBundle) -> None:
    assert Transcriber(make_bundle().path).transcribe_batch([]) == []


def test_too_long_and_too_short_audio(make_bundle: MakeBundle, speech: Speech) -> None:
    ready = Transcriber(make_bundle(max_frames=100, min_frames=7).path)
    ready.transcribe(speech(1.024))
    with pytest.raises(BadAudio, match=r"too long, got 1\.1 s, expected at most 1\.0 s") as caught:
        ready.transcribe(speech(1.1))
    assert "split it at pauses" in caught.value.hint
    ready.transcribe(speech(0.085))
    with pytest.raises(BadAudio, match="too short, got 6 frames of 10 ms, expected at least 7"):
        ready.transcribe(speech(0.08))


def test_a_bad_recording_is_named(make_bundle: MakeBundle, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "bad.wav", np.zeros(8000), 8000)
    with pytest.raises(BadAudio, match=r"bad\.wav: sample rate 8000 Hz"):
        Transcriber(make_bundle().path).transcribe_batch([tmp_path / "bad.wav"])


def test_refuses_a_bundle_that_was_tampered_with(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    content = bytearray(bundle.model_path.read_bytes())
    content[len(content) // 2] ^= 1
    bundle.model_path.write_bytes(content)
    with pytest.raises(BadBundle, match=r"model\.onnx: was changed"):
        Transcriber(bundle.path)


@pytest.mark.parametrize("setting", ["threads", "beam", "batch_size"])
def test_refuses_settings_below_one(make_bundle: MakeBundle, setting: str) -> None:
    with pytest.raises(BadRecipe, match=f"{setting}: .*got 0"):
        Transcriber(make_bundle().path, **{setting: 0})


def test_threads_change_nothing(make_bundle: MakeBundle, speech: Speech) -> None:
    path = make_bundle().path
    one, two = Transcriber(path, threads=1), Transcriber(path, threads=2)
    assert one.transcribe(speech(2.0)).tokens == two.transcribe(speech(2.0)).tokens


def test_silence_is_no_accident(make_bundle: MakeBundle) -> None:
    result = Transcriber(make_bundle().path).transcribe(np.zeros(16000, np.float32))
    assert np.isfinite(result.score)


def test_refuses_another_sample_rate(make_bundle: MakeBundle) -> None:
    bundle = make_bundle(features=FeatureSpec(sample_rate_hz=8000))
    with pytest.raises(BadBundle, match="wants 8000 Hz"):
        Transcriber(bundle.path)


def test_a_graph_with_another_vocabulary_than_its_tokens(make_bundle: MakeBundle) -> None:
    with pytest.raises(BadBundle, match=r"outputs are log_probs float32\['N', 'U', 9\]"):
        Transcriber(make_bundle(model={"vocab_size": 9}).path)


def test_a_graph_with_other_features_than_its_manifest(make_bundle: MakeBundle) -> None:
    with pytest.raises(BadBundle, match="features of size 80, expected 40"):
        Transcriber(make_bundle(features=FeatureSpec(n_mels=40)).path)


def test_names_of_free_dimensions_mean_nothing(
    make_bundle: MakeBundle, manifest: BundleManifest, speech: Speech
) -> None:
    renamed = tuple(
        dataclasses.replace(t, dims=tuple("?" if isinstance(d, str) else d for d in t.dims))
        for t in manifest.inputs
    )
    assert Transcriber(make_bundle(inputs=renamed).path).transcribe(speech()).text


def test_a_graph_with_other_types(make_bundle: MakeBundle) -> None:
    with pytest.raises(BadBundle, match=r"inputs are x tensor\(float\).*x_lens tensor\(int32\)"):
        Transcriber(make_bundle(model={"lengths": "INT32"}).path)


def test_a_graph_for_one_recording_at_a_time(
    make_bundle: MakeBundle, manifest: BundleManifest, speech: Speech
) -> None:
    def fixed(tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(dataclasses.replace(t, dims=(1, *t.dims[1:])) for t in tensors)

    recordings = [speech(s, seed=i) for i, s in enumerate((0.5, 1.0, 0.7))]
    free = Transcriber(make_bundle("free").path).transcribe_batch(recordings)
    one = make_bundle(
        "one",
        model={"batch": 1},
        inputs=fixed(manifest.inputs),
        outputs=fixed(manifest.outputs),
    )
    assert [t.text for t in Transcriber(one.path).transcribe_batch(recordings)] == [
        t.text for t in free
    ]


def test_a_graph_for_two_recordings_at_a_time(make_model: MakeModel) -> None:
    model = OnnxAcousticModel(make_model(batch=2))
    with pytest.raises(BadBundle, match="batch of 2 only, expected 1 or any number"):
        model.log_probs([np.zeros((10, 80), np.float32)])


def test_no_recordings_give_no_outputs(make_model: MakeModel) -> None:
    assert OnnxAcousticModel(make_model()).log_probs([]) == []


def test_a_graph_that_gives_nan(make_model: MakeModel) -> None:
    model = OnnxAcousticModel(make_model(gain=float("nan")))
    with pytest.raises(BadBundle, match="gave NaN, expected log-probabilities"):
        model.log_probs([np.zeros((10, 80), np.float32)])


def test_what_onnx_runtime_refuses_is_a_bad_bundle(tmp_path: Path, make_model: MakeModel) -> None:
    text, empty = tmp_path / "text.onnx", tmp_path / "empty.onnx"
    text.write_text("this is no graph")
    empty.touch()
    for path, reason in (
        (text, "is no ONNX model, or is damaged"),
        (tmp_path / "missing.onnx", "cannot be read, No such file"),
        (empty, "ONNX Runtime refuses it"),
    ):
        with pytest.raises(BadBundle, match=rf"{path.name}: {reason}"):
            OnnxAcousticModel(path)
    with pytest.raises(BadBundle, match=r"ONNX Runtime refuses it, .*Got invalid dimensions"):
        OnnxAcousticModel(make_model()).log_probs([np.zeros((10, 79), np.float32)])


# In a process of its own: what other tests did to memory is not this one's to measure.
MANY_LENGTHS = """
import os, sys
import numpy as np
from asrcompress.runtime import Transcriber

def rss_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def run(first):
    for index in range(60):
        ready.transcribe(longest[: 48_000 - 160 * ((5 * index + first) % 250)])

ready = Transcriber(sys.argv[1])
longest = np.random.default_rng(0).standard_normal(48_000).astype(np.float32) / 10
run(0)
before = rss_bytes()
for first in range(1, 4):
    run(first)
print(rss_bytes() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_memory_is_flat_over_many_lengths(make_bundle: MakeBundle) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MANY_LENGTHS, str(make_bundle().path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 4_000_000


def test_the_bundle_may_move(make_bundle: MakeBundle, tmp_path: Path, speech: Speech) -> None:
    bundle = make_bundle()
    expected = Transcriber(bundle.path).transcribe(speech())
    shutil.move(bundle.path, tmp_path / "moved")
    assert Transcriber(tmp_path / "moved").transcribe(speech()) == expected


def test_loading_hashes_each_file_once_and_gives_memory_back(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_bundle().path
    hashed: list[str] = []
    returned: list[str] = []
    plain = bundle_module.sha256_file

    def sha256_file(file: Path) -> str:
        hashed.append(file.name)
        return plain(file)

    monkeypatch.setattr(bundle_module, "sha256_file", sha256_file)
    monkeypatch.setattr(process_memory, "give_back", lambda: returned.append("memory"))
    made = Transcriber(path)
    assert sorted(hashed) == sorted(made.bundle.manifest.files)
    assert returned == ["memory"]
    made.transcribe(np.zeros(16000, np.float32))
    assert (len(hashed), len(returned)) == (len(made.bundle.manifest.files), 1)
