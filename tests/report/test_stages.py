"""stages.json: what it keeps, what it refuses, and its table on the page."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asrcompress.errors import BadRun
from asrcompress.report.page import render_report
from asrcompress.run import read_run
from asrcompress.stages import NAME, Stage, Stages

pytest.importorskip("matplotlib", reason="draws the report")
pytest.importorskip("jinja2", reason="writes the report")

STAGES = Stages(
    stages=(
        Stage(
            name="fp32", artifact="model.fp32.onnx", edits=20, reference_chars=852,
            parameters=2000, nonzero=2000, size_bytes=8_000_000, zipped_bytes=7_000_000,
        ),
        Stage(
            name="recovered", artifact="pruned", edits=32, reference_chars=852,
            parameters=1200, nonzero=600, size_bytes=4_800_000,
        ),
    )
)  # fmt: skip


def test_stages_come_back_as_they_were() -> None:
    assert Stages.from_json(json.loads(json.dumps(STAGES.to_json()))) == STAGES
    assert STAGES.stages[0].cer == 20 / 852


@pytest.mark.parametrize(
    "change", [{"schema_version": 2}, {"stages": [{"name": "fp32"}]}, {"x": 1}]
)
def test_other_files_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(BadRun, match=NAME):
        Stages.from_json({**STAGES.to_json(), **change})


def test_the_page_shows_each_stage(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    run = read_run(make_run(tmp_path / "qat-0123456789"))
    assert "What each stage cost" not in render_report(run)
    run.write_json(NAME, STAGES.to_json())
    page = render_report(run)
    assert "What each stage cost" in page
    for cell in ("2.35 %", "3.76 %", "pruned and recovered", "1,200", "50.0 %", "4.80", "7.00"):
        assert cell in page
    run.write_json(NAME, {"schema_version": 1})
    with pytest.raises(BadRun, match=NAME):
        render_report(run)


def test_zipped_is_what_a_zip_file_has(tmp_path: Path) -> None:
    pytest.importorskip("paddle", reason="the module measures networks")
    from asrcompress.pipeline.stages import zipped_bytes

    rng = np.random.default_rng(0)
    path = tmp_path / "weights"
    path.write_bytes(
        (rng.integers(-9, 9, 50_000) * rng.integers(0, 2, 50_000)).astype("i1").tobytes()
    )
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, path.name)
    assert zipped_bytes(path) == pytest.approx((tmp_path / "a.zip").stat().st_size, abs=32)
    assert zipped_bytes(path) < 40_000
