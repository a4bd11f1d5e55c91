"""A run directory with everything that a run writes, made without Paddle; and a browser."""

from __future__ import annotations

import base64
import json
import math
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asrcompress import strict_json
from asrcompress.accuracy.cer import CerReport, score_utterance
from asrcompress.accuracy.gate import judge
from asrcompress.checkpoints.weights import write_weights
from asrcompress.histogram import Histogram, write_histograms
from asrcompress.ranges import ActivationRange, Ranges, WeightRange, write_ranges
from asrcompress.recipe import Recipe
from asrcompress.run import Run
from asrcompress.sqnr import EdgeNoise, NoiseReport, weight_noise

# Markup, template code, terminal escapes, half a surrogate pair, text that runs right to left.
HOSTILE = (
    "<script>window.broken = 1</script>",
    "<img src=x onerror='window.broken = 1'>",
    "{{ 7 * 7 }}{% raw %} with some more text",
    "</style></svg></title>--><b>",
    "\x1b[31mred\x00\x07 and some more text to delete",
    "half \ud800 pair, and more of it to be deleted",
    "\u202eright to left",
    "$\\frac{1}{2}$ & 'quotes' \"too\"",
)


@pytest.fixture(scope="session")
def hostile() -> tuple[str, ...]:
    """Texts that mean harm."""
    return HOSTILE


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Path]:
    """Factory of run directories.

    Arguments: the folder to make; hostile (names and transcripts mean harm); passed; leave_out
    (files not to write).
    """
    pytest.importorskip("jiwer", reason="scores the utterances")

    def make(
        folder: Path, *, hostile: bool = False, passed: bool = False, leave_out: Any = ()
    ) -> Path:
        folder.mkdir(parents=True)
        run = Run(path=folder)
        _write_record(run, hostile=hostile, passed=passed)
        _write_scores(run, hostile=hostile, passed=passed)
        _write_measurements(run)
        _write_ranges(run)
        for name in leave_out:
            (folder / name).unlink()
        return folder

    return make


def _write_record(run: Run, *, hostile: bool, passed: bool) -> None:
    run.write_json(
        "run.json",
        {
            "schema_version": 1,
            "kind": "qat",
            "status": "passed" if passed else "failed",
            "started": 1_700_000_000.0,
            "finished": 1_700_003_600.0,
            "recipe": Recipe().to_dict(),
            "checkpoint": {
                "name": HOSTILE[0] if hostile else "conformer/avg_30",
                "sha256": "ab" * 32,
            },
            "tools": {"asrcompress": "0.1.0", "paddlepaddle": "2.6.2"},
        },
    )
    run.fp32_model.write_bytes(bytes(4_000_000))
    run.model.write_bytes(bytes(1_000_000))


def _write_scores(run: Run, *, hostile: bool, passed: bool) -> None:
    reports = {
        "before": _scores(0.05, hostile=hostile),
        "after": _scores(0.05 if passed else 0.2, hostile=hostile),
    }
    for name, report in reports.items():
        backend = "paddle" if name == "before" else "onnxruntime"
        tree = {"name": name, "backend": backend, "cer": report.to_json(), "rtf": 0.05}
        # Not run.write_json: half a surrogate pair can only be written escaped.
        (run.path / f"{name}.json").write_text(json.dumps(tree))
    verdict = judge(reports["before"], reports["after"], max_increase="0.01", draws=200)
    assert verdict.passed is passed
    run.write_json("verdict.json", verdict.to_json())


def _scores(error_rate: float, *, hostile: bool) -> CerReport:
    durations = (1.5, 3.0, 7.0, 12.0, 25.0)
    scores = []
    for index in range(200):
        chance = random.Random(index)
        duration_s = durations[index % len(durations)]
        reference = "".join(
            chance.choice("今天气很好我们一起去公园") for _ in range(int(4 * duration_s))
        )
        chance = random.Random(index)  # the same errors, and more of them where the rate is higher
        heard = "".join("错" if chance.random() < error_rate else char for char in reference)
        scores.append(score_utterance(f"utt{index:03d}", reference, heard, duration_s=duration_s))
    if hostile:
        worse = error_rate > 0.1
        scores += [
            score_utterance(f"{text}{index}", text, _mangled(text, index) if worse else text)
            for index, text in enumerate(HOSTILE)
        ]
    return CerReport(utterances=tuple(scores))


def _mangled(text: str, index: int) -> str:
    """Insertions or deletions, enough of them to be among the worst."""
    return text + "x" * 60 if index % 2 else text[:2]


def _write_measurements(run: Run) -> None:
    kernels = [
        {"kernel": "QLinearConv", "integer": True, "calls": 8, "macs": 900},
        {"kernel": "MatMul", "integer": False, "calls": 2, "macs": 100},
    ]
    run.write_json(
        "integer_share.json",
        {"kernels": kernels, "float_nodes": ["/out/MatMul"], "bytes_by_dtype": {"int8": 900_000},
         "frames": 1000, "share": 0.9, "macs": 1000},
    )  # fmt: skip
    step = {"first": "paddle_fp32", "second": "onnx_fp32", "largest": 1e-5, "mean": 1e-6,
            "agreement": 1.0, "same_texts": 20, "utterances": 20}  # fmt: skip
    run.write_json("parity.json", {"steps": [step], "texts": {}})
    for number in range(1, 201):
        run.append_metric(
            step=number, epoch=number // 101, learning_rate=1e-4 * math.exp(-number / 100),
            total=1 / number + 0.1, ctc=2 / number, attention=None, distillation=0.1,
        )  # fmt: skip


def _write_ranges(run: Run) -> None:
    rng = np.random.default_rng(0)
    names = [f"encoder.encoders.{n}.feed_forward.{w}" for n in range(6) for w in ("w_1", "w_2")]
    names.append("ctc.ctc_lo")
    weights = {f"{name}.weight": rng.normal(size=(16, 8)).astype(np.float32) for name in names}
    ranges = Ranges(
        activations={
            f"{name}:input": ActivationRange(absmax=3.0, unsigned=name.endswith("w_2"))
            for name in names
        },
        weights=tuple(
            WeightRange(
                parameter=name, axis=1, absmax=tuple(np.abs(weight).max(0).tolist()),
                input=f"{name.removesuffix('.weight')}:input",
            )
            for name, weight in weights.items()
        ),
    )  # fmt: skip
    write_ranges(run.ranges, ranges)
    write_weights(run.weights, weights)
    edges = tuple(
        EdgeNoise(name=edge, db=20.0 + index, clipped=index / 1e6)
        for index, edge in enumerate(ranges.activations)
    )
    noise = NoiseReport(layers=weight_noise(weights, ranges), edges=edges, utterances=8)
    run.write_json("sqnr.json", strict_json.to_json(noise))
    counts = tuple(int(1000 * math.exp(-(((bin_ - 31.5) / 9) ** 2))) for bin_ in range(64))
    write_histograms(
        run.path / "histograms.json",
        [Histogram(edge=edge, limit=4.0, absmax=3.5, counts=counts) for edge in ranges.activations],
    )


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


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A browser; the test is skipped where there is none."""
    program = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if program is None or shutil.which("bash") is None:
        pytest.skip(f"no browser to look at the report with: none of {', '.join(_NAMES)} is here")
    opened = Page(program, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()
