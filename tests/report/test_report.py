"""What the report says, that it is one file, and that hostile names and transcripts are inert."""

from __future__ import annotations

import html.parser
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from asrcompress.accuracy.cer import score_utterance
from asrcompress.cli.app import app
from asrcompress.errors import BadRun
from asrcompress.report.diff import align
from asrcompress.report.page import render_report, write_report
from asrcompress.report.tables import heat, heat_table
from asrcompress.run import read_run

pytest.importorskip("matplotlib", reason="draws the report")
pytest.importorskip("jinja2", reason="writes the report")


class _Tags(html.parser.HTMLParser):
    """Every element with its attributes, and the text outside of style."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., Path]) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "qat-0123456789", hostile=True)


@pytest.fixture(scope="module")
def page(failed: Path) -> str:
    return render_report(read_run(failed))


@pytest.fixture(scope="module")
def tags(page: str) -> _Tags:
    return _Tags(page)


def test_a_script_in_a_transcript_is_text(page: str, tags: _Tags, hostile: tuple[str, ...]) -> None:
    elements = [tag for tag, _ in tags.found]
    assert not {"script", "img", "iframe", "object", "embed", "form", "base"} & set(elements)
    assert not [name for _, found in tags.found for name in found if name.startswith("on")]
    assert hostile[0] in tags.text
    assert hostile[1] in tags.text
    assert "{{ 7 * 7 }}" in tags.text  # not 49: a value is never a template
    assert "default-src 'none'" in page
    assert elements.count("style") == 1  # none was closed early
    assert elements.count("title") == 1


def test_nothing_is_fetched_from_anywhere(tags: _Tags) -> None:
    for _, attributes in tags.found:
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            target = attributes.get(name)
            assert target is None or target.startswith(("#", "data:,")), target
    assert not [tag for tag, found in tags.found if tag == "link" and found.get("rel") != "icon"]


def test_no_address_and_no_import_in_the_styles(page: str) -> None:
    styles = re.findall(r"<style>(.*?)</style>", page, re.DOTALL) + re.findall(
        r'style="(.*?)"', page
    )
    assert not [style for style in styles if "@import" in style or re.search(r"url\((?!#)", style)]


def test_ids_are_unique_and_links_lead_somewhere(tags: _Tags) -> None:
    ids = [found["id"] for _, found in tags.found if "id" in found]
    assert len(ids) == len(set(ids))
    links = [found["href"] for tag, found in tags.found if tag == "a"]
    used = [found["xlink:href"] for tag, found in tags.found if tag == "use"]
    assert links
    assert {str(link)[1:] for link in [*links, *used]} <= set(ids)


def test_each_drawing_says_what_it_shows(tags: _Tags) -> None:
    drawings = [found for _, found in tags.found if found.get("role") == "img"]
    assert len(drawings) >= 8
    assert all(len(str(found["aria-label"])) > 15 for found in drawings)


def test_drawings_follow_the_theme(page: str) -> None:
    assert "var(--before)" in page
    assert "#0a00" not in page.lower()  # every stand-in was replaced
    assert page.count("prefers-color-scheme: dark") == 1


def test_it_says_what_the_run_says(tags: _Tags, failed: Path) -> None:
    text = re.sub(r"\s+", " ", tags.text)
    verdict = read_run(failed).read_json("verdict.json")
    for part in (
        "Failed",
        verdict["reason"],
        "Only 90.0 % of the multiply-accumulates run in integer kernels",
        "4.00× smaller",
        ">= 20 s",
        "20 of 20",
        "pip install 'asrcompress[compress]==0.1.0'",
        "asrcompress qat --recipe asrcompress.toml",
        "ab" * 32,
        "encoder.encoders.5.feed_forward.w_2:input",
        "# momentum = 0.95",
    ):
        assert part in text


def test_a_passing_run_says_so(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    page = render_report(read_run(make_run(tmp_path / "run", passed=True)))
    assert 'class="banner passed"' in page
    assert 'class="banner failed"' not in page


def test_the_same_run_gives_the_same_bytes(failed: Path, page: str) -> None:
    assert render_report(read_run(failed)) == page


def test_half_a_surrogate_pair_can_be_written(failed: Path, tmp_path: Path) -> None:
    path = write_report(read_run(failed), tmp_path / "page.html")
    assert "half ? pair" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "missing",
    [
        ("sqnr.json",),
        ("histograms.json",),
        ("metrics.jsonl",),
        ("verdict.json", "after.json"),
        ("model.int8.onnx", "integer_share.json", "parity.json", "verdict.json", "after.json"),
        ("ranges.json", "sqnr.json", "weights.pdparams", "histograms.json"),
    ],
)
def test_what_is_not_there_yet_is_left_out(
    tmp_path: Path, make_run: Callable[..., Path], missing: tuple[str, ...]
) -> None:
    run = read_run(make_run(tmp_path / "run", leave_out=missing))
    run.update(status="unfinished")
    page = render_report(run)
    assert "Not finished" in page
    assert ("Noise by layer" in page) is ("ranges.json" not in missing)
    assert ("<h2>Training</h2>" in page) is ("metrics.jsonl" not in missing)
    assert ("<h2>Utterances</h2>" in page) is ("after.json" not in missing)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("parity.json", '{"steps": [{"first": 3}]}'),
        ("parity.json", "[]"),
        ("integer_share.json", '{"kernels": 3}'),
        ("histograms.json", '{"schema_version": 1, "edges": [3]}'),
        ("histograms.json", "{"),
        ("sqnr.json", '{"layers": 1}'),
        ("before.json", '{"backend": "paddle"}'),
        ("verdict.json", "{}"),
    ],
)
def test_a_broken_file_is_named(
    tmp_path: Path, make_run: Callable[..., Path], name: str, content: str
) -> None:
    run = read_run(make_run(tmp_path / "run"))
    (run.path / name).write_text(content)
    with pytest.raises(BadRun):
        render_report(run)


def test_the_line_that_was_being_written_is_left_out(
    tmp_path: Path, make_run: Callable[..., Path]
) -> None:
    run = read_run(make_run(tmp_path / "run"))
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 201, "epo')
    assert "200 optimizer steps over 2 epochs" in render_report(run)


def test_a_benchmark_is_shown_where_there_is_one(
    tmp_path: Path, make_run: Callable[..., Path]
) -> None:
    run = read_run(make_run(tmp_path / "run"))
    assert "Speed, benchmarked" not in render_report(run)
    rows: list[Any] = [
        {"precision": "fp32", "rtf": 0.02, "speedup": 1.0},
        {"precision": "int8", "rtf": 0.01, "speedup": 2.0},
    ]
    run.write_json("bench.json", {"measurements": rows})
    assert "0.0100 (2.00×)" in render_report(run)


def test_the_command_writes_in_the_run_and_refuses_to_overwrite_elsewhere(
    tmp_path: Path, make_run: Callable[..., Path]
) -> None:
    folder = make_run(tmp_path / "run")
    for _ in range(2):  # its own page is replaced
        result = CliRunner().invoke(app, ["report", str(folder), "--quiet"])
        assert (result.exit_code, result.stdout) == (0, f"{folder / 'report.html'}\n")
    other = tmp_path / "mine.html"
    other.write_text("mine")
    result = CliRunner().invoke(app, ["report", str(folder), "-o", str(other)])
    assert result.exit_code == 3
    assert other.read_text() == "mine"
    result = CliRunner().invoke(app, ["report", str(folder), "-o", str(other), "--force"])
    assert result.exit_code == 0
    assert other.read_text().startswith("<!DOCTYPE html>")


def test_no_run_no_report(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 3
    assert "run.json" in result.output


def _rows(reference: str, before: str, after: str) -> tuple[str, str, str]:
    change = align(score_utterance("u", reference, before), score_utterance("u", reference, after))
    return (
        "".join(column.reference or "_" for column in change.columns),
        "".join(
            {"del": "-", "none": "_"}.get(c.before.kind, c.before.text) for c in change.columns
        ),
        "".join({"del": "-", "none": "_"}.get(c.after.kind, c.after.text) for c in change.columns),
    )


@pytest.mark.parametrize(
    ("texts", "aligned"),
    [
        (("开灯", "开灯", "开灯"), ("开灯", "开灯", "开灯")),
        (("开灯", "开等", "开"), ("开灯", "开等", "开-")),
        (("ABC", "AXBC", "ABC"), ("A_BC", "AXBC", "A_BC")),
        (("ABC", "AXBC", "AYZBC"), ("A__BC", "AX_BC", "AYZBC")),
        (("ABC", "ABCX", ""), ("ABC_", "ABCX", "---_")),
        (("", "A", ""), ("_", "A", "_")),
    ],
)
def test_both_hypotheses_stand_under_their_reference(
    texts: tuple[str, str, str], aligned: tuple[str, str, str]
) -> None:
    assert _rows(*texts) == aligned


def test_layers_are_arranged_by_block() -> None:
    table = heat_table(
        "t", {"enc.0.a.q": 41.0, "enc.0.a.k": 14.9, "enc.1.a.q": None, "ctc.out": 20.0}
    )
    assert table.groups == (("a", 2),)
    assert table.columns == ("q", "k")
    assert [block for block, _ in table.rows] == ["enc.0", "enc.1"]
    assert [cell.level for cell in table.rows[0][1]] == [5, 0]
    assert [cell.text for cell in table.rows[1][1]] == ["–", "–"]
    assert table.others == (("ctc.out", heat(20.0)),)


def test_an_unknown_key_of_a_later_version_is_no_obstacle(
    tmp_path: Path, make_run: Callable[..., Path]
) -> None:
    run = read_run(make_run(tmp_path / "run"))
    tree = json.loads((run.path / "parity.json").read_text())
    tree["steps"][0]["new"] = 1
    run.write_json("parity.json", tree)
    assert "20 of 20" in render_report(run)
