"""``asrcompress report``: a run as one self-contained page, for people.

The page has no script and no external resource, and a Content-Security-Policy that forbids both.
Names and transcripts are hostile input: every value is escaped by Jinja2, and the only markup that
is not comes from matplotlib, which escapes what it draws. The same run gives the same bytes.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from asrcompress import recipe as recipes
from asrcompress.errors import MissingExtra
from asrcompress.files import refuse_overwrite, write_atomically
from asrcompress.report.data import Findings, collect, percent
from asrcompress.run import FAILED, MEASURED, PASSED, Run

REPORT_NAME = "report.html"
_WORST = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A number that people look for first."""

    label: str
    value: str
    detail: str
    state: str = ""


def write_report(run: Run, output: Path | None = None, *, force: bool = False) -> Path:
    """Write the page and say where.

    Args:
        output: default: `REPORT_NAME` in the run directory, which is replaced by each new one.
        force: overwrite a file at `output`.
    Raises:
        BadRun: a file of the run is broken.
        OutputExists: there is something at `output`.
        MissingExtra: matplotlib, Jinja2 or jiwer is not installed.
    """
    path = output or run.path / REPORT_NAME
    if output is not None:
        refuse_overwrite(output, force)
    # A transcript may hold half of a surrogate pair, which is no UTF-8.
    write_atomically(path, render_report(run).encode("utf-8", errors="replace"))
    return path


def render_report(run: Run) -> str:
    """The page, for a run that has passed, failed, or is not finished."""
    try:
        from jinja2 import Environment, StrictUndefined

        from asrcompress.report.sections import sections
    except ImportError as error:
        raise MissingExtra(error.name or "jinja2", "compress") from error
    folder = resources.files("asrcompress.report")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_read(folder, "page.html.j2"))
    found = collect(run)
    return template.render(
        css=_read(folder, "page.css"),
        state=_state(found),
        reason=_reason(found),
        name=run.name,
        kind=str(found.record.get("kind", "")).upper(),
        checkpoint=found.record.get("checkpoint", {}),
        started=_moment(found.record.get("started")),
        finished=_moment(found.record.get("finished")),
        tiles=tiles(found),
        warnings=found.verdict.warnings if found.verdict else (),
        tools=found.record.get("tools", {}),
        toml=_toml(found),
        commands=commands(found),
        **sections(found, worst=_WORST),
    )


def _read(folder: Any, name: str) -> str:
    text: str = folder.joinpath(name).read_text(encoding="utf-8")
    return text


def _state(found: Findings) -> str:
    status = str(found.record.get("status", ""))
    return status if status in (PASSED, FAILED, MEASURED) else "unfinished"


def _reason(found: Findings) -> str:
    if _state(found) == MEASURED:
        return "This run measures; there is no gate to pass."
    if found.verdict is None:
        return "The gate has not been measured yet; this is what there is so far."
    short = _share_too_small(found)
    return f"{short} {found.verdict.reason}" if short else found.verdict.reason


def _share_too_small(found: Findings) -> str:
    if found.kernels is None or found.recipe is None:
        return ""
    least = found.recipe.gate.min_integer_share
    if found.kernels.share >= least:
        return ""
    return (
        f"Only {percent(found.kernels.share, 1)} of the multiply-accumulates run in integer "
        f"kernels, at least {percent(least, 1)} are wanted."
    )


def tiles(found: Findings) -> list[Tile]:
    """The numbers at the top, as far as they are known."""
    shown = []
    verdict = found.verdict
    if verdict is not None:
        shown.append(
            Tile(
                label="CER",
                value=percent(float(verdict.after_cer), 2),
                detail=f"was {percent(float(verdict.before_cer), 2)}",
            )
        )
        high = verdict.upper_bound
        unit = "of the CER before" if verdict.relative else "points"
        shown.append(
            Tile(
                label="CER increase, at most",
                value="unknown" if high is None else f"{100 * float(high):+.2f}",
                detail=f"{unit}, 95 % sure; allowed {100 * float(verdict.max_increase):.2f}",
                state="good" if high is not None and high <= verdict.max_increase else "bad",
            )
        )
    if found.sizes:
        fp32, int8 = found.sizes
        detail = f"{int8 / 1e6:.1f} MB, was {fp32 / 1e6:.1f} MB"
        shown.append(Tile(label="Size", value=f"{fp32 / int8:.2f}× smaller", detail=detail))
    if found.kernels is not None:
        shown.append(
            Tile(
                label="Integer kernels",
                value=percent(found.kernels.share, 1),
                detail="of the multiply-accumulates",
                state="bad" if _share_too_small(found) else "",
            )
        )
    return shown


def commands(found: Findings) -> list[str]:
    """What to type to get this run again, its recipe being saved as asrcompress.toml."""
    tools: Mapping[str, str] = found.record.get("tools", {})
    version = tools.get("asrcompress", "")
    pinned = f"=={version}" if version else ""
    folder = found.recipe.runs if found.recipe else Path("runs")
    run = shlex.quote(str(folder / found.run.name))
    again = [
        f"pip install 'asrcompress[compress]{pinned}'",
        f"asrcompress {found.record.get('kind', 'qat')} --recipe {recipes.FILE_NAME}",
        f"asrcompress report {run}",
    ]
    if _state(found) == MEASURED:  # there is nothing to ship
        return again
    return [*again, f"asrcompress export {run} --output bundle", "asrcompress verify bundle"]


def _toml(found: Findings) -> str:
    if found.recipe is not None:
        return recipes.format_toml(found.recipe)
    return str(found.record.get("recipe", "not recorded"))


def _moment(seconds: object) -> str:
    """UTC, or nothing."""
    if not isinstance(seconds, int | float):
        return ""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
