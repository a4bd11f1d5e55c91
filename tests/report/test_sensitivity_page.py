"""The section on sensitivity: what it shows, where it appears, and that hostile names are inert."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asrcompress import strict_json
from asrcompress.errors import BadRun, BadSensitivity
from asrcompress.mixed_precision import GateLook, MixedPrecision, MixedStep
from asrcompress.report.page import render_report
from asrcompress.report.sensitivity import level, nats, panels, points_text, write_picture
from asrcompress.run import Run, read_run
from asrcompress.sensitivity import EVERYTHING, PRUNE, QUANTIZE, Probe, ProbeResult, Sensitivity

pytest.importorskip("matplotlib", reason="draws the report")
pytest.importorskip("jinja2", reason="writes the report")

PLACES = ("self_attn.linear_q", "self_attn", "feed_forward.w_1", "conv_module.depthwise_conv")


def result(action: str, target: str, kl: float, *, ratio: float = 1.0, edits: int = 5) -> Any:
    probe = Probe(action=action, target=target, ratio=ratio)
    return ProbeResult(probe=probe, share=ratio, kl=kl, edits=edits, cer=edits / 100)


def measurement(checkpoint: str = "conformer/avg", more: tuple[str, ...] = ()) -> Sensitivity:
    layers = [f"encoder.encoders.{n}.{place}" for n in range(3) for place in PLACES]
    layers += ["encoder.embed.conv.0", "decoder.decoders.0.feed_forward.w_1", "ctc.ctc_lo", *more]
    results = [result(QUANTIZE, EVERYTHING, 0.4, edits=9)]
    results += [
        result(QUANTIZE, name, 10.0 ** -(index % 7), edits=5 + (index == 4))
        for index, name in enumerate(layers)
    ]
    results += [
        result(PRUNE, f"block {n} {kind}", 0.1 * ratio * (n + 1), ratio=ratio)
        for ratio in (0.25, 0.5)
        for n in range(3)
        for kind in ("heads", "feed_forward")
    ]
    return Sensitivity(
        checkpoint=checkpoint, checkpoint_sha256="a" * 64, dataset_sha256="b" * 64, utterances=4,
        frames=90, reference_chars=100, edits=5, cer=0.05, criterion="taylor",
        results=tuple(results),
    )  # fmt: skip


def page_of(folder: Path, found: Sensitivity, mixed: MixedPrecision | None = None) -> str:
    run = Run(path=folder)
    run.write_json("sensitivity.json", strict_json.to_json(found))
    if mixed is not None:
        run.write_json("mixed.json", strict_json.to_json(mixed))
    return render_report(read_run(folder))


@pytest.fixture
def measuring(tmp_path: Path) -> Path:
    """A run that measured, and has nothing else."""
    folder = tmp_path / "sensitivity-0123456789"
    folder.mkdir()
    Run(path=folder).write_json(
        "run.json",
        {
            "schema_version": 1,
            "kind": "sensitivity",
            "status": "measured",
            "recipe": {},
            "checkpoint": {"name": "conformer/avg", "sha256": "ab" * 32},
            "tools": {"asrcompress": "0.1.0"},
        },
    )
    return folder


def test_blocks_go_down_and_places_across() -> None:
    inside, outside, quarter, half = panels(measurement())
    assert inside.rows == ("0", "1", "2", "decoder 0")
    assert inside.columns == (
        "self_attn.linear_q", "self_attn products", "feed_forward.w_1",
        "conv_module.depthwise_conv",
    )  # fmt: skip
    assert inside.cells["2", "self_attn products"].probe.target == "encoder.encoders.2.self_attn"
    assert ("decoder 0", "self_attn products") not in inside.cells
    assert outside.columns == ("embed.conv.0", "ctc_lo")
    assert quarter.rows == ("0", "1", "2")
    assert half.columns == ("heads", "feed_forward")
    # Of one action one scale, and what everything does together is not on it.
    assert inside.largest == outside.largest == 1.0
    assert quarter.largest == half.largest == pytest.approx(0.15)
    assert inside.points(inside.cells["1", "self_attn.linear_q"]) == pytest.approx(1.0)


def test_values_are_short_and_their_classes_are_shares_of_the_largest() -> None:
    assert [nats(value) for value in (0.0, 0.314, 0.0042, 6.84e-6)] == [
        "0", "0.31", "0.0042", "6.8e-6",
    ]  # fmt: skip
    values = (0.0, 0.0009, 0.0011, 0.011, 0.031, 0.11, 0.31, 1.0)
    assert [level(1e-6 * value, 1e-6) for value in values] == [5, 5, 4, 3, 2, 1, 0, 0]
    assert level(0.0, 0.0) == 5
    assert [points_text(value) for value in (0.0, 1.0, -0.5)] == ["", "+1.00", "−0.50"]


def test_a_measuring_run_is_neither_passed_nor_unfinished(measuring: Path) -> None:
    page = page_of(measuring, measurement())
    assert 'class="banner measured"' in page
    assert "Not finished" not in page
    assert page.count("<svg") == 4
    assert 'href="#sensitivity"' in page
    assert "<image" not in page  # a raster would be an external resource to the page's policy
    assert "asrcompress sensitivity --recipe" in page
    assert "asrcompress export" not in page
    assert page == page_of(measuring, measurement())


def test_the_section_is_part_of_any_run_that_has_the_file(
    tmp_path: Path, make_run: Callable[..., Path]
) -> None:
    folder = make_run(tmp_path / "qat-0123456789", passed=True)
    assert "Sensitivity" not in render_report(read_run(folder))
    step = MixedStep(
        kept_float=1, run="ptq-1", utterances=60, passed=True, reason="so it is", before_cer=0.05,
        after_cer=0.06, upper_bound=0.011, integer_share=0.93, float_macs=7_000_000,
        float_bytes=120_000, model_bytes=1_000_000, seconds=9.0,
    )  # fmt: skip
    steps = (replace(step, kept_float=0, passed=False, utterances=30), step)
    look = GateLook(
        kept_float=1, run="ptq-1", passed=True, reason="so it is", before_cer=0.02,
        after_cer=0.03, upper_bound=0.0123,
    )  # fmt: skip
    mixed = MixedPrecision(
        order=("ctc.ctc_lo", "x"), utterances=60, steps=steps, looks=(look,), chosen=1
    )
    page = page_of(folder, measurement(), mixed)
    assert "1 (chosen)" in page
    assert "failed, hopeless after 30" in page
    assert "+1.10" in page and "+1.23" in page
    assert "the gate was asked once" in page
    assert '<span class="mono">ctc.ctc_lo</span>' in page
    refused = replace(mixed, looks=(replace(look, passed=False),) * 2, chosen=None)
    page = page_of(folder, measurement(), refused)
    assert "the gate was asked 2 times" in page and page.count("<td>refused</td>") == 2
    assert "Nothing was chosen" in page
    page = page_of(folder, measurement(), replace(refused, looks=()))
    assert "The gate was not asked" in page


def test_hostile_names_are_inert(measuring: Path, hostile: tuple[str, ...]) -> None:
    names = tuple(text for text in hostile if "\ud800" not in text)
    page = page_of(measuring, measurement(names[0], names))
    assert "<script" not in page
    assert "<img" not in page
    assert "{{ 7 * 7 }}" in page


def test_damaged_files_are_named(measuring: Path) -> None:
    (measuring / "sensitivity.json").write_text("[]")
    with pytest.raises(BadSensitivity, match=r"sensitivity\.json"):
        render_report(read_run(measuring))
    page_of(measuring, measurement())
    (measuring / "mixed.json").write_text(
        json.dumps({"order": [], "utterances": 30, "steps": [], "chosen": 3})
    )
    with pytest.raises(BadRun, match="chosen: got 3"):
        render_report(read_run(measuring))


def test_the_picture_is_one(tmp_path: Path) -> None:
    write_picture(measurement(), tmp_path / "map.png")
    data = (tmp_path / "map.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    assert width >= 1000 and height >= 1000
    write_picture(measurement(), tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == data
