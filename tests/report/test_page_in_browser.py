"""The report in a real browser: it renders, fits a phone, follows the theme, runs no script."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
PHONE, DESK = 390, 1280


class Page:
    """A tab of headless Chromium, driven over its debugging pipe: no network, no library.

    Attributes:
        problems: what the page logged or threw, and every request that it made.
    """

    def __init__(self, program: str, profile: Path) -> None:
        to_child, self._write = os.pipe()
        self._read, from_child = os.pipe()
        pipes = f"exec 3<&{to_child} 4>&{from_child}; exec"
        command = [program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", f'{pipes} "$@"', "bash", *command],
            pass_fds=(to_child, from_child),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_child)
        os.close(from_child)
        self._buffer, self._number, self._session = b"", 0, ""
        self.problems: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the DevTools protocol, and its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            data = os.read(self._read, 1 << 16)
            assert data, "chromium ended"
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, params: dict[str, Any]) -> None:
        if event in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.problems.append(json.dumps(params)[:400])
        if event == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(("file:", "data:", "about:")):
                self.problems.append(f"requested {url}")

    def open(self, path: Path, *, width: int, dark: bool = False) -> None:
        """Load a file at a width in CSS pixels; a phone's has a phone's pixel ratio."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=844 if width < 600 else 900,
            deviceScaleFactor=2 if width < 600 else 1,
            mobile=width < 600,
        )
        self.call("Page.navigate", url=path.resolve().as_uri())
        while self._next().get("method") != "Page.loadEventFired":
            pass

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """End the browser."""
        os.close(self._write)
        os.close(self._read)
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    program = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if program is None or shutil.which("bash") is None:
        pytest.skip(f"no browser to look at the report with: none of {', '.join(_NAMES)} is here")
    opened = Page(program, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


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
