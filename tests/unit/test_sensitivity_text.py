"""What sensitivity and mixed print: 80 columns, and nothing that was measured left out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import rich.console

from asrcompress.cli import render_analysis
from asrcompress.errors import CerGateFailed
from asrcompress.mixed_precision import GateLook, MixedPrecision, MixedStep
from asrcompress.sensitivity import EVERYTHING, PRUNE, QUANTIZE, Probe, ProbeResult, Sensitivity

NAME = "encoder.encoders.{}.feed_forward_macaron.w_1"


def printed(item: Any) -> str:
    console = rich.console.Console(width=80, no_color=True)
    with console.capture() as capture:
        console.print(item)
    text = capture.get()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    return text


def result(action: str, target: str, kl: float, *, ratio: float = 1.0, edits: int = 40) -> Any:
    probe = Probe(action=action, target=target, ratio=ratio)
    return ProbeResult(probe=probe, share=ratio, kl=kl, edits=edits, cer=edits / 400)


def test_the_worst_are_listed_and_the_others_counted(tmp_path: Path) -> None:
    results = [result(QUANTIZE, EVERYTHING, 0.5, edits=44)]
    results += [result(QUANTIZE, NAME.format(n), 1e-7 * (n + 1)) for n in range(13)]
    results += [
        result(PRUNE, f"block {n} feed_forward", n * ratio, ratio=ratio)
        for ratio in (0.25, 0.5, 0.75)
        for n in range(12)
    ]
    found = Sensitivity(
        checkpoint="conformer/avg_30", checkpoint_sha256="a" * 64, dataset_sha256="b" * 64,
        utterances=9, frames=900, reference_chars=400, edits=40, cer=0.1, criterion="l1",
        results=tuple(results),
    )  # fmt: skip
    there = tmp_path / "sensitivity.json"
    there.touch()
    outcome: Any = SimpleNamespace(
        sensitivity=found, path=there, picture=tmp_path / "none.png", report=None
    )
    console = rich.console.Console(width=80, no_color=True)
    with console.capture() as capture:
        console.print(render_analysis.sensitivity(outcome), crop=False)
    text = capture.get()
    assert "CER 10.00% in float" in text
    assert "KL 0.5 nats per frame, CER +1.00 points" in text
    assert text.index(NAME.format(12)) < text.index(NAME.format(11))
    assert NAME.format(2) not in text
    assert "3 more" in text
    assert "block 11 feed_forward" in text
    assert all(f"{ratio}%" in text for ratio in (25, 50, 75))
    assert "sensitivity.json" in text and "none.png" not in text
    tables = [line for line in text.splitlines() if str(tmp_path)[:5] not in line]
    assert max(len(line.rstrip()) for line in tables) <= 80


def step(kept_float: int, *, passed: bool, utterances: int = 420) -> MixedStep:
    return MixedStep(
        kept_float=kept_float, run="ptq", utterances=utterances, passed=passed, reason="so it is",
        before_cer=0.1, after_cer=0.2234, upper_bound=0.1534, integer_share=0.905,
        float_macs=1_234_500_000, float_bytes=12_345_000, model_bytes=139_900_000, seconds=12.0,
    )  # fmt: skip


def look(kept_float: int, *, passed: bool) -> GateLook:
    return GateLook(
        kept_float=kept_float, run="ptq", passed=passed, reason="so it is", before_cer=0.1,
        after_cer=0.3345, upper_bound=0.2534,
    )  # fmt: skip


def test_every_step_of_a_search_is_listed() -> None:
    order = tuple(NAME.format(n) for n in range(3))
    steps = (
        step(0, passed=False, utterances=30),
        step(1, passed=False),
        step(2, passed=True),
        step(3, passed=True),
    )
    looks = (look(2, passed=False), look(3, passed=True))
    found = MixedPrecision(order=order, utterances=420, steps=steps, looks=looks, chosen=3)
    outcome: Any = SimpleNamespace(
        found=found, failure=None, chosen=SimpleNamespace(path="runs/ptq-1"), report=None
    )
    text = printed(render_analysis.mixed(outcome))
    assert "PASSED with 3 layers in float" in text
    assert "chosen by 420 utterances of data.dev" in text
    assert text.count("hopeless") == text.count("failed") == text.count("refused") == 1
    assert text.count("passed") == 3
    assert "gate's manifest, asked 2 times" in text and "33.45%" in text and "+25.34" in text
    assert all(f'--skip "{name}"' in text for name in order)
    assert "1234.5" in text and "12.3" in text and "139.9" in text


def test_a_search_without_an_end_says_why() -> None:
    found = MixedPrecision(order=("a",), utterances=60, steps=(step(0, passed=False),))
    failure = CerGateFailed("CER on data.dev: fails even with all 1 layers in float")
    outcome: Any = SimpleNamespace(found=found, failure=failure, chosen=None, report=None)
    text = printed(render_analysis.mixed(outcome))
    assert "FAILED: CER on data.dev: fails even with all" in text
    assert "the gate was not asked" in text
    assert "--skip" not in text
