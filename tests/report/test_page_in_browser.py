"""The report in a real browser: it renders, fits a phone, follows the theme, runs no script."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PHONE, DESK = 390, 1280
Page = Any  # see conftest.py


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., Path]) -> Path:
    from asrcompress.report.page import write_report
    from asrcompress.run import read_run

    folder = tmp_path_factory.mktemp("report") / "qat-0123456789"
    return write_report(read_run(make_run(folder, hostile=True)))


def _colour(page: Page, selector: str, what: str = "backgroundColor") -> tuple[int, ...]:
    text = page.value(f"getComputedStyle(document.querySelector({selector!r})).{what}")
    return tuple(int(part) for part in text.partition("(")[2].rstrip(")").split(",")[:3])


def _luminance(colour: tuple[int, ...]) -> float:
    """Relative luminance as WCAG 2 defines it."""
    parts = [value / 255 for value in colour]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("dark", [False, True])
def test_it_renders_within_the_screen(
    page: Page, report: Path, width: int, dark: bool, tmp_path: Path
) -> None:
    page.problems.clear()
    page.open(report, width=width, dark=dark)
    assert page.value("document.documentElement.scrollWidth") == width
    assert page.value("innerWidth") == width
    assert page.value("document.querySelectorAll('.chart svg').length") >= 7
    charts = "[...document.querySelectorAll('.chart svg')]"
    assert page.value(f"{charts}.every(chart => chart.getBoundingClientRect().height > 60)")
    page.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 50_000
    assert page.problems == []


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_the_banner_says_by_colour_and_word_that_the_gate_failed(
    page: Page, report: Path, dark: bool
) -> None:
    page.open(report, width=DESK, dark=dark)
    assert page.value("document.querySelector('.verdict').innerText").endswith("Failed")
    red, green, _ = _colour(page, ".banner")
    assert red > green + 15
    assert (_luminance(_colour(page, "body")) < 0.05) is dark


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(
    ("text", "ground"),
    [
        (".reason", ".banner"),
        (".verdict", ".banner"),
        (".tile dt", ".tile"),
        (".tile.bad b", ".tile"),
        ("nav a", "body"),
        ("figcaption", ".card"),
        ("td .heat", "td .heat"),
        (".diff .sub", ".diff .sub"),
        (".diff .del", ".diff .del"),
        (".diff .ins", ".diff .ins"),
    ],
)
def test_text_stands_out(page: Page, report: Path, dark: bool, text: str, ground: str) -> None:
    page.open(report, width=DESK, dark=dark)
    assert _contrast(_colour(page, text, "color"), _colour(page, ground)) >= 4.5


@pytest.mark.slow
def test_no_script_of_a_transcript_runs(page: Page, report: Path) -> None:
    page.problems.clear()
    page.open(report, width=DESK)
    assert page.value("window.broken === undefined")
    assert page.value("document.scripts.length") == 0
    assert page.value("document.querySelectorAll('img, iframe, object, form').length") == 0
    assert "<script>" in page.value("document.body.innerText")
    assert page.problems == []


@pytest.mark.slow
def test_a_browser_reports_a_broken_page(page: Page, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text("<script>console.error('x'); throw Error()</script><p style='width:900px'>x")
    page.problems.clear()
    page.open(broken, width=PHONE)
    assert len(page.problems) >= 2
    assert page.value("document.documentElement.scrollWidth") > PHONE
    page.problems.clear()
