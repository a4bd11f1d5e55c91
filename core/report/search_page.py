"""The page of a search: the Pareto plot, the one chosen and why, what each stage cost and gained.

One file, without script or external resource, in the style of a run's page.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from asrcompress import recipe as recipes
from asrcompress.errors import BadRecipe, MissingExtra
from asrcompress.files import refuse_overwrite, write_atomically
from asrcompress.pareto import misses, nearest
from asrcompress.recipe import Recipe
from asrcompress.report.search_rows import focus_of, limits, row, sorted_candidates, steps, tiles
from asrcompress.report.sparsity import sparsity_of
from asrcompress.run import Run
from asrcompress.search import PAGE, RESULT, SearchResult, read_search

_NEAREST = 3


def write_search_report(run: Run, output: Path | None = None, *, force: bool = False) -> Path:
    """Write the page and say where.

    Args:
        output: default: `PAGE` in the search's directory, which is replaced by each new one.
        force: overwrite a file at `output`.
    Raises:
        BadRun: search.json is missing or broken.
        OutputExists: there is something at `output`.
        MissingExtra: matplotlib or Jinja2 is not installed.
    """
    path = output or run.path / PAGE
    if output is not None:
        refuse_overwrite(output, force)
    write_atomically(path, render_search(run).encode("utf-8", errors="replace"))
    return path


def render_search(run: Run) -> str:
    """The page of a finished search."""
    try:
        from jinja2 import Environment, StrictUndefined

        from asrcompress.report.pareto import pareto_charts
    except ImportError as error:
        raise MissingExtra(error.name or "jinja2", "compress") from error
    result, record = read_search(run.path / RESULT), run.read_json("run.json")
    folder = resources.files("asrcompress.report")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(folder.joinpath("search.html.j2").read_text("utf-8"))
    sparsity, why_not = sparsity_of(run, result, record)
    return template.render(
        css=folder.joinpath("page.css").read_text("utf-8"),
        result=result,
        name=run.name,
        finished=_moment(record.get("finished")),
        tiles=tiles(result),
        charts=pareto_charts(result),
        rows=[row(item, result) for item in sorted_candidates(result)],
        steps=steps(result),
        stages=focus_of(result).stages if result.candidates else (),
        focus=focus_of(result) if result.candidates else None,
        nearest=[
            (item, [miss.text for miss in misses(item, result.goal)])
            for item in nearest(result.candidates, result.goal, _NEAREST)
        ],
        sparsity=sparsity,
        no_sparsity=why_not,
        limits=limits(result),
        commands=_commands(run, result, record),
        toml=_toml(record, run),
        tools=record.get("tools", {}),
    )


def _commands(run: Run, result: SearchResult, record: Mapping[str, Any]) -> list[str]:
    version = record.get("tools", {}).get("asrcompress", "")
    pinned = f"=={version}" if version else ""
    lines = [
        f"pip install 'asrcompress[compress,search]{pinned}'",
        f"asrcompress search --recipe {recipes.FILE_NAME}",
    ]
    if result.best is not None:
        chosen = shlex.quote(str(run.path.parent / result.best.run))
        lines += [f"asrcompress export {chosen} --output bundle", "asrcompress verify bundle"]
    return lines


def _toml(record: Mapping[str, Any], run: Run) -> str:
    try:
        recipe = Recipe.from_dict(record["recipe"], source=str(run.path), folder=run.path)
    except (BadRecipe, KeyError):
        return str(record.get("recipe", "not recorded"))
    return recipes.format_toml(recipe)


def _moment(seconds: object) -> str:
    """UTC, or nothing."""
    if not isinstance(seconds, int | float):
        return ""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
