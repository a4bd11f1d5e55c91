"""The command that picks the recipe: search."""

from __future__ import annotations

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from asrcompress.cli.compress import ExportTo, checkpoint_of, finish
from asrcompress.cli.options import COMPRESS, Force, Json, Quiet
from asrcompress.cli.recipe_options import with_recipe
from asrcompress.console import Console
from asrcompress.pareto import misses, pareto_front
from asrcompress.recipe import Recipe
from asrcompress.search import MEASURED, Candidate, SearchResult

app = typer.Typer()


@app.command(rich_help_panel=COMPRESS)
@with_recipe
def search(
    *,
    recipe: Recipe,
    export_to: ExportTo = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Try recipes until one keeps the CER and every budget, and have the gate judge it.

    Candidates are chosen by data.dev, never by the gate's manifest. The same command goes on where
    it was, and several processes share one search. Exit code 4 where nothing keeps every limit.
    """
    from asrcompress.cli import render
    from asrcompress.files import refuse_overwrite
    from asrcompress.pipeline.search import search as search_recipes
    from asrcompress.targets import check_target

    if export_to is not None:
        refuse_overwrite(export_to, force)
    checkpoint, console = checkpoint_of(recipe), Console(quiet=quiet or json)
    for warning in check_target(recipe, checkpoint):
        console.warn(warning)
    outcome = search_recipes(recipe, checkpoint, console)
    paths = [f"search: {outcome.run.path}"]
    paths += [f"run: {outcome.chosen.path}"] if outcome.chosen else []
    paths += [f"report: {outcome.report}"] if outcome.report else []
    render.show(outcome.to_json(), rendered(outcome.result, paths), json=json)
    finish(outcome.chosen, outcome.failure, export_to, force=force, json=json)


def rendered(result: SearchResult, paths: list[str]) -> RenderableType:
    """The candidates within 80 columns, and what was decided."""
    table = Table(box=None, pad_edge=False)
    for index, name in enumerate(("", "candidate", "CER", "at most", "MB", "speed", "RAM MB")):
        table.add_column(name, justify="left" if index < 2 else "right", overflow="fold")
    table.add_row("", "checkpoint in FP32", f"{result.cer:.2%}", *_weight_cells(None, result))
    front = {item.number for item in pareto_front(result.candidates)}
    for item in result.candidates:
        cer, bound = "-", "-"
        if item.heard is not None:
            cer = f"{item.heard.cer:.2%}"
            bound = "-" if item.heard.upper is None else f"{100 * item.heard.upper:+.2f}"
        cells = (cer, bound, *_weight_cells(item, result)[1:])
        name = f"#{item.number} {item.choice.words}{_remark(item, result)}"
        table.add_row(_mark(item, result, front), name, *cells)
    passed = result.chosen is not None
    state = Text("PASSED: " if passed else "FAILED: ", style="bold green" if passed else "bold red")
    state.append(result.why)
    legend = "* chosen  + on the Pareto front  CER on the search set, increase in points"
    if result.goal.relative:
        legend = legend.replace("in points", "in % of the CER before")
    where = [Text(path, no_wrap=True, overflow="ignore") for path in paths]
    return Group(table, Text(legend), state, *where)


def _weight_cells(item: Candidate | None, result: SearchResult) -> tuple[str, str, str, str]:
    weight = result.reference if item is None else item.weight
    if weight is None:
        return "", "-", "-", "-"
    return "", f"{weight.size_mb:.2f}", f"{weight.speedup:.2f}x", f"{weight.memory_mb:.0f}"


def _mark(item: Candidate, result: SearchResult, front: set[int]) -> str:
    if item.number == result.chosen:
        return "*"
    return "+" if item.number in front else ""


def _remark(item: Candidate, result: SearchResult) -> str:
    """What is wrong with a candidate, in a word or two."""
    if item.state != MEASURED:
        return f" ({item.state})"
    missed = [miss.name for miss in misses(item, result.goal)]
    return f" (misses {', '.join(missed)})" if missed else ""
