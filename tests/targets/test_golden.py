"""The golden self-test: what it lets through, and what it catches with every digest right."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from asrcompress.bundles.bundle import Bundle, read_bundle
from asrcompress.bundles.golden import (
    CaseResult,
    Golden,
    GoldenCase,
    SelfTest,
    check_self_test,
    judge_case,
    mean_difference,
    most_stable,
    reference_bytes,
)
from asrcompress.bundles.golden_signals import N_SIGNALS, golden_signal
from asrcompress.cli.app import app
from asrcompress.errors import BadBundle, ExportFailed, SelfTestFailed
from asrcompress.pipeline.golden_recording import record_golden
from asrcompress.pipeline.recognizer import from_bundle
from asrcompress.runtime import Transcriber

Reseal = Callable[..., None]


def verify(bundle: Path, *flags: str) -> Any:
    return CliRunner().invoke(app, ["verify", str(bundle), *flags])


def test_a_fresh_bundle_agrees_to_the_bit(golden_bundle: Bundle) -> None:
    result = Transcriber(golden_bundle.path).self_test()
    assert result is not None and result.passed
    assert [item.difference_nats for item in result.results] == [0.0] * 5
    assert any(item.text for item in result.results)
    check_self_test(result, item="bundle")


def test_verify_says_so(golden_bundle: Bundle) -> None:
    done = verify(golden_bundle.path, "--json")
    assert done.exit_code == 0
    said = json.loads(done.stdout)
    assert said["self_test"]["passed"] is True
    assert said["signature"] == {"signer": None, "checked": False}
    assert "passed, 5 recordings" in verify(golden_bundle.path).stdout


def test_the_recordings_are_made_not_spoken(golden_bundle: Bundle) -> None:
    golden = golden_bundle.manifest.golden
    assert golden is not None
    made = {golden_signal(index).tobytes() for index in range(N_SIGNALS)}
    assert len(made) == N_SIGNALS
    for case in golden.cases:
        samples, rate = soundfile.read(golden_bundle.path / case.audio, dtype="int16")
        assert rate == 16000 and 0.6 <= len(samples) / rate <= 1.5
        assert samples.tobytes() in made


def test_another_weight_with_every_digest_right_fails(
    golden_bundle: Bundle, reseal: Reseal, make_graph: Callable[..., Path]
) -> None:
    shutil.copyfile(make_graph(seed=1), golden_bundle.model_path)
    reseal(golden_bundle.path)
    read_bundle(golden_bundle.path)  # the digests have nothing against it
    done = verify(golden_bundle.path, "--json")
    assert done.exit_code == 4
    assert "golden-" in done.stderr and "this device does not compute" in done.stderr
    assert json.loads(done.stdout)["self_test"]["passed"] is False


def test_one_bit_of_one_weight_fails(golden_bundle: Bundle, reseal: Reseal) -> None:
    import onnx

    model = onnx.load(golden_bundle.model_path)
    (weights,) = [item for item in model.graph.initializer if item.name == "B"]
    data = bytearray(weights.raw_data)
    data[3] ^= 0x80  # the sign of the first
    weights.raw_data = bytes(data)
    onnx.save(model, str(golden_bundle.model_path))
    reseal(golden_bundle.path)
    assert verify(golden_bundle.path).exit_code == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree["features"].update(cmvn_mean=[12.5] * 80),
        lambda tree: tree["features"].update(high_freq_hz=7600.0),
        lambda tree: tree["golden"]["cases"][0].update(text="关灯关灯"),
    ],
    ids=["CMVN", "mel bins", "text"],
)
def test_another_front_end_or_text_fails(
    golden_bundle: Bundle, reseal: Reseal, change: Callable[[dict[str, Any]], object]
) -> None:
    reseal(golden_bundle.path, change)
    assert verify(golden_bundle.path).exit_code == 4


def test_swapped_tokens_fail(golden_bundle: Bundle, reseal: Reseal) -> None:
    path = golden_bundle.path / "tokens.txt"
    text = path.read_text(encoding="utf-8")
    path.write_text(
        text.replace("开", "?").replace("关", "开").replace("?", "关"), encoding="utf-8"
    )
    reseal(golden_bundle.path)
    done = verify(golden_bundle.path)
    assert done.exit_code == 4 and "gives the text" in done.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda g: g.update(tolerance_nats=9.0), "golden.tolerance_nats: out of range"),
        (lambda g: g.update(cases=g["cases"][:1]), "golden.cases: got 1, expected at least 5"),
        (lambda g: g["cases"][0].update(frames=3), "expected 3 frames of 6"),
        (lambda g: g["cases"][0].update(frames=0), "frames is not allowed, got 0"),
        (lambda g: g["cases"][0].update(audio="no.wav"), "no.wav is not among its files"),
        (lambda g: g["cases"][0].update(audio="../a.wav"), "file name is not allowed"),
    ],
)
def test_a_golden_part_that_could_not_fail_is_refused(
    golden_bundle: Bundle, reseal: Reseal, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    reseal(golden_bundle.path, lambda tree: change(tree["golden"]))
    done = verify(golden_bundle.path)
    assert done.exit_code == 3 and said in done.stderr


def test_references_that_are_not_finite_are_refused(golden_bundle: Bundle, reseal: Reseal) -> None:
    path = golden_bundle.path / "golden-1.f16"
    path.write_bytes(b"\xff\xff" * (path.stat().st_size // 2))
    reseal(golden_bundle.path)
    done = verify(golden_bundle.path)
    assert done.exit_code == 3 and "not finite" in done.stderr


def test_a_bundle_without_a_golden_part_says_so(golden_bundle: Bundle, reseal: Reseal) -> None:
    for path in golden_bundle.path.glob("golden-*"):
        path.unlink()

    def drop(tree: dict[str, Any]) -> None:
        tree["golden"] = None
        tree["files"] = {n: r for n, r in tree["files"].items() if not n.startswith("golden")}

    tree = json.loads((golden_bundle.path / "bundle.json").read_text(encoding="utf-8"))
    drop(tree)
    (golden_bundle.path / "bundle.json").write_text(json.dumps(tree), encoding="utf-8")
    reseal(golden_bundle.path)
    done = verify(golden_bundle.path)
    assert done.exit_code == 0 and "none in this bundle" in done.stdout


def test_version_1_of_the_schema_is_still_read(golden_bundle: Bundle, reseal: Reseal) -> None:
    later = ("streaming", "lite", "decoder", "golden", "target")
    manifest = golden_bundle.path / "bundle.json"

    def to_version_1(tree: dict[str, Any]) -> None:
        tree["schema_version"] = 1
        for key in later:
            tree.pop(key, None)

    tree = json.loads(manifest.read_text(encoding="utf-8"))
    tree["files"] = {n: r for n, r in tree["files"].items() if not n.startswith("golden")}
    manifest.write_text(json.dumps(tree), encoding="utf-8")
    for path in golden_bundle.path.glob("golden-*"):
        path.unlink()
    reseal(golden_bundle.path, to_version_1)
    done = verify(golden_bundle.path)
    assert done.exit_code == 0 and "none in this bundle" in done.stdout
    reseal(golden_bundle.path, lambda tree: tree.update(target="ort-arm64"))
    done = verify(golden_bundle.path)
    assert done.exit_code == 3 and "unknown key target in schema_version 1" in done.stderr


def _results(*differences: float, text: str = "开") -> SelfTest:
    return SelfTest(
        results=tuple(
            CaseResult(audio=f"golden-{i}.wav", expected="开", text=text, difference_nats=d)
            for i, d in enumerate(differences)
        ),
        tolerance_nats=0.01,
    )


@pytest.mark.parametrize(
    ("differences", "passes"),
    [
        ((0, 0, 0, 0, 0), True),
        ((1e-9, 0.08, 0.05, 0.07, 1e-8), True),  # rounding flips, as seen on aarch64
        ((0.08, 0.05, 0.07, 0.06, 1e-8), False),
        ((0.107, 0.186, 0.197, 0.130, 0.171), False),  # saturation, as seen on AVX2
        ((float("inf"),) * 5, False),
    ],
)
def test_what_passes(differences: tuple[float, ...], passes: bool) -> None:
    result = _results(*differences)
    assert result.passed is passes
    if passes:
        check_self_test(result, item="bundle")
    else:
        with pytest.raises(SelfTestFailed) as caught:
            check_self_test(result, item="bundle")
        assert caught.value.exit_code == 4


def test_a_wrong_text_fails_whatever_the_numbers_are() -> None:
    with pytest.raises(SelfTestFailed, match="gives the text '关', expected '开'"):
        check_self_test(_results(0, 0, 0, 0, 0, text="关"), item="bundle")


def test_the_reference_keeps_what_the_tolerance_needs() -> None:
    log_probs = np.log(np.random.default_rng(0).dirichlet([0.02] * 50, 20) + 1e-30)
    stored = np.frombuffer(reference_bytes(log_probs), "<f2").reshape(20, 50)
    assert np.isfinite(stored).all()
    assert mean_difference(stored, log_probs) < 0.02
    log_probs[0, 0] = -np.inf
    case = GoldenCase(audio="a.wav", log_probs="a.f16", frames=20, text="")
    stored = np.frombuffer(reference_bytes(log_probs), "<f2").reshape(20, 50)
    same = judge_case(case, reference=stored, log_probs=log_probs, text="")
    assert same.difference_nats == 0
    shorter = judge_case(case, reference=stored, log_probs=log_probs[:-1], text="")
    assert shorter.difference_nats == np.inf


def test_stable_candidates_come_first() -> None:
    assert most_stable([0.3, 0.0, np.inf, 0.1, 0.0], ["", "a", "abc", "", "ab"], 3) == [1, 3, 4]
    assert most_stable([0.0] * 4, ["", "a", "abc", "ab"], 2) == [2, 3]


def test_fewer_cases_than_are_judged_are_refused() -> None:
    case = GoldenCase(audio="a.wav", log_probs="a.f16", frames=1, text="")
    with pytest.raises(BadBundle, match=r"golden.cases: got 4"):
        Golden(cases=(case,) * 4)


def test_a_network_for_a_blink_has_no_room_for_them(golden_bundle: Bundle, tmp_path: Path) -> None:
    recognizer = dataclasses.replace(from_bundle(golden_bundle.path), max_frames=20)
    with pytest.raises(ExportFailed, match="takes 20 frames only"):
        record_golden(recognizer, tmp_path)


@pytest.mark.parametrize(
    ("target", "asked"), [("ort-x86-vnni", "1"), ("ort-x86-avx2", "0"), ("", "1")]
)
def test_exact_sums_are_asked_for_unless_weights_have_seven_bits(
    golden_bundle: Bundle,
    reseal: Reseal,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    asked: str,
) -> None:
    import onnxruntime

    seen: dict[str, str] = {}

    class Recording(onnxruntime.SessionOptions):  # type: ignore[misc]
        def add_session_config_entry(self, key: str, value: str) -> None:
            seen[key] = value
            super().add_session_config_entry(key, value)

    reseal(golden_bundle.path, lambda tree: tree.update(target=target))
    monkeypatch.setattr(onnxruntime, "SessionOptions", Recording)
    Transcriber(golden_bundle.path)
    assert seen["session.x64quantprecision"] == asked


def test_an_unknown_target_is_refused(golden_bundle: Bundle, reseal: Reseal) -> None:
    reseal(golden_bundle.path, lambda tree: tree.update(target="tpu"))
    done = verify(golden_bundle.path)
    assert done.exit_code == 3 and "target is not allowed, got tpu" in done.stderr
