"""The page of a search: what it says, of whom, and how it looks in a real browser."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asrcompress import strict_json
from asrcompress.checkpoints.weights import write_weights
from asrcompress.errors import BadRun, OutputExists
from asrcompress.recipe import Recipe, override
from asrcompress.run import Run
from asrcompress.search import (
    FAILED,
    MEASURED,
    RESULT,
    STOPPED,
    Candidate,
    Choice,
    Goal,
    Heard,
    SearchResult,
    StageCost,
    Verification,
    Weight,
)

pytest.importorskip("matplotlib", reason="needs the [compress] extra")
pytest.importorskip("yaml", reason="needs the [compress] extra")
from asrcompress.checkpoints.checkpoint import read_checkpoint
from asrcompress.report.search_page import render_search, write_search_report
from asrcompress.report.sparsity import left_of

PHONE, DESK = 390, 1280
PARTS = ("self_attn", "feed_forward", "feed_forward_macaron", "conv_module")


def tensors(blocks: int, width: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {
        f"encoder.encoders.{block}.{part}.w_1.weight": rng.standard_normal((8, width))
        for block in range(blocks)
        for part in PARTS
    }
    return {name: tensor.astype(np.float32) for name, tensor in found.items()}


def candidates() -> list[Candidate]:
    """Of every kind, at places as a real search has them."""
    rng = random.Random(2)
    found = []
    for number in range(18):
        choice = Choice(
            observer=("mse", "min_max", "percentile")[number % 3],
            epochs=3 * (number // 3 % 2),
            prune_amount=(0.0, 0.2, 0.4)[number // 6],
            float_layers=0,
        )
        upper = 0.002 + 0.012 * choice.prune_amount - 0.0005 * choice.epochs
        upper += rng.uniform(-0.001, 0.002)
        size = 4.2 * (1 - 0.8 * choice.prune_amount)
        made = Candidate(
            number=number, run=f"qat-{number:010}", state=MEASURED, choice=choice,
            heard=Heard(
                utterances=420, cer=0.09 + upper / 2, increase=upper / 2, lower=-0.001,
                upper=upper, keeps=upper <= 0.005, reason="",
            ),
            weight=Weight(
                size_mb=size, rtf=0.003 * size * rng.uniform(0.95, 1.05), speedup=2.2, memory_mb=80,
            ),
            integer_share=1.0,
            removed=choice.prune_amount or None,
            stages=(
                StageCost(name="calibration, export", seconds=21.5),
                StageCost(name="CER on the search set", seconds=8.25),
            ),
        )  # fmt: skip
        if number == 16:
            made = replace(made, state=STOPPED, weight=None, note="hopeless after 60 of 420")
        if number == 17:
            made = replace(
                made, state=FAILED, heard=None, weight=None, note="<script>window.broken=1</script>"
            )
        found.append(made)
    return found


@pytest.fixture(scope="module")
def make_search(
    tmp_path_factory: pytest.TempPathFactory, make_plain_experiment: Callable[..., Path]
) -> Callable[..., Run]:
    """Factory of search directories; `chosen` is the number of the one that passed."""

    def make(*, chosen: int | None = 9, hostile: bool = False, **changes: Any) -> Run:
        root = tmp_path_factory.mktemp("search")
        experiment = make_plain_experiment(root / "asr1", tensors=tensors(3, 16))
        made = root / "runs" / f"qat-{9:010}"
        made.mkdir(parents=True)
        write_weights(made / "weights.pdparams", tensors(2, 8))
        Run(path=made).write_json("pruning.json", {"dropped_blocks": [1]})
        run = Run(path=root / "runs" / "search-0123456789")
        run.path.mkdir()
        recipe = override(
            Recipe(runs=root / "runs"),
            {("checkpoint", "path"): experiment, ("search", "max_size_mb"): 4.0},
        )
        run.write_json(
            "run.json",
            {
                "schema_version": 1, "kind": "search", "status": "measured", "started": 1.0,
                "finished": 2.0, "recipe": recipe.to_dict(), "tools": {"asrcompress": "0.1.0"},
            },
        )  # fmt: skip
        verified = (Verification(number=13, passed=False, reason="The CER went up."),)
        if chosen is not None:
            verified += (Verification(number=chosen, passed=True, reason="The CER held."),)
        result = SearchResult(
            checkpoint="</style><b>{{ 7 * 7 }}" if hostile else "asr1/best",
            checkpoint_sha256=read_checkpoint(experiment).sha256,
            utterances=420, cer=0.09, cpu="Some CPU @ 2.0 GHz", candidates=tuple(candidates()),
            goal=Goal(
                max_cer_increase=0.005, relative=False, min_integer_share=0.95, max_size_mb=4.0,
                max_rtf=None, max_memory_mb=None, prefer="speed",
            ),
            reference=Weight(size_mb=15.5, rtf=0.034, speedup=1.0, memory_mb=104.0),
            verified=verified, chosen=chosen, why="Of 18 candidates, 9 keep every limit.",
        )  # fmt: skip
        run.write_json(RESULT, strict_json.to_json(replace(result, **changes)))
        return run

    return make


def test_it_says_who_was_chosen_and_why(make_search: Callable[..., Run]) -> None:
    page = render_search(make_search())
    assert "#9: QAT 3, mse, 20 % pruned" in page
    assert "Of 18 candidates, 9 keep every limit." in page
    assert "#13 refused." in page and "#9 passed." in page
    assert "The gate was asked 2 times." in page
    assert page.count('role="img"') == 2
    assert "size: at most 4 MB" in page
    assert "--output bundle" in page and "qat-0000000009" in page


def test_what_each_stage_gained_is_by_measured_candidates(make_search: Callable[..., Run]) -> None:
    from asrcompress.report.search_rows import steps
    from asrcompress.search import read_search

    shown = steps(read_search(make_search().path / RESULT))
    assert [step.name for step in shown] == [
        "Checkpoint in FP32", "INT8 by calibration", "Pruning", "Training",
    ]  # fmt: skip
    assert [step.number for step in shown] == ["", "#0", "#6", "#9"]
    assert "−16 %" in shown[2].cells[2]  # 4.2 MB to 3.53
    unmeasured = [item for item in candidates() if item.number != 0]
    found = read_search(make_search(candidates=tuple(unmeasured)).path / RESULT)
    assert steps(found)[1].cells[0] == "not measured"


def test_what_is_left_of_each_layer(make_search: Callable[..., Run]) -> None:
    page = render_search(make_search())
    assert "What #9 has left of the checkpoint's numbers" in page.replace("&#39;", "'")
    # Blocks 0 and 2 have half of their width, block 1 was dropped.
    assert page.count('class="heat h3">50<') == 8 and page.count('class="heat h0">0<') == 4


def test_zeros_are_as_good_as_gone() -> None:
    before = {(0, "self_attn"): 100, (1, "self_attn"): 100}
    found = left_of(before, {(0, "self_attn"): 25, (1, "self_attn"): 100}, dropped=[], number=1)
    assert found is not None
    assert [cells[0].text for _, cells in found.rows] == ["25", "100"]
    assert left_of({}, {}, dropped=[], number=1) is None


def test_a_search_without_a_winner_shows_the_nearest(make_search: Callable[..., Run]) -> None:
    page = render_search(make_search(chosen=None, verified=()))
    assert "Nothing keeps every limit" in page and "Nearest to the limits" in page
    assert "at most 0.50" in page and "asrcompress export" not in page


def test_a_search_in_which_nothing_was_measured(make_search: Callable[..., Run]) -> None:
    failed = tuple(item for item in candidates() if item.state == FAILED)
    page = render_search(make_search(chosen=None, verified=(), candidates=failed))
    assert "No candidate was measured." in page and "<svg" not in page


def test_a_checkpoint_that_is_gone_is_said(make_search: Callable[..., Run]) -> None:
    run = make_search(checkpoint_sha256="0" * 64)
    assert "The checkpoint has changed since the search." in render_search(run)


def test_names_are_not_markup(make_search: Callable[..., Run]) -> None:
    page = render_search(make_search(hostile=True))
    assert "</style><b>" not in page and "<script>" not in page
    assert "{{ 7 * 7 }}" in page


def test_files(make_search: Callable[..., Run], tmp_path: Path) -> None:
    run = make_search()
    assert write_search_report(run) == run.path / "search.html"
    assert write_search_report(run, tmp_path / "page.html").is_file()
    with pytest.raises(OutputExists):
        write_search_report(run, tmp_path / "page.html")
    assert render_search(run) == render_search(run)
    (run.path / RESULT).write_text("{")
    with pytest.raises(BadRun, match="is not JSON"):
        render_search(run)


@pytest.mark.slow
@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("dark", [False, True])
def test_in_a_browser(
    page: Any, make_search: Callable[..., Run], width: int, dark: bool, tmp_path: Path
) -> None:
    page.problems.clear()
    page.open(write_search_report(make_search(hostile=True)), width=width, dark=dark)
    assert page.value("document.documentElement.scrollWidth") == width
    assert page.value("document.querySelectorAll('.chart svg').length") == 2
    charts = "[...document.querySelectorAll('.chart svg')]"
    assert page.value(f"{charts}.every(chart => chart.getBoundingClientRect().height > 200)")
    assert page.value("window.broken === undefined")
    page.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 50_000
    assert page.problems == []
