"""Write docs/recipe.md, the reference of asrcompress.toml, from the recipe's own metadata.

    python docs/make_recipe_reference.py            (or `make docs`)
    python docs/make_recipe_reference.py --check    exit 1 if the file is not up to date

Needs the base install only.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import typing
from pathlib import Path
from typing import Any

from asrcompress.recipe import FILE_NAME, Recipe, format_toml, settings_of

OUTPUT = Path(__file__).resolve().parent / "recipe.md"

_INTRODUCTION = f"""\
# The recipe

<!-- Made by docs/make_recipe_reference.py from core/recipe.py; edit those, then `make docs`. -->

All settings of a run, as a file and as flags.

- `asrcompress init CHECKPOINT` writes the file. `qat`, `ptq` and `export` read it.
- The file is `{FILE_NAME}` in the current folder or the nearest one above it. `--recipe FILE`
  names another one.
- A flag wins over the file, the file over the default.
- A path in the file is relative to the file. A path on the command line is relative to the current
  folder.
- An unknown key, a wrong type or a value out of range is an error (exit code 3). Nothing is
  ignored.
- The name of a run directory is a digest of the recipe and of the checkpoint's weights. A changed
  setting is another run; `runs` is the one setting that does not count. The manifests count by
  their paths, not by their content: after a change inside a manifest, remove the run directory, or
  give the manifest another name.
"""

_PATTERNS = """\
`skip` takes shell patterns (`*`, `?`, `[...]`) of layer names. `asrcompress inspect CHECKPOINT
--layers` lists the names. On the command line, repeat the flag:

```sh
asrcompress ptq --skip ctc.ctc_lo --skip 'encoder.encoders.0.conv_module.*'
```

The name of an attention layer (`encoder.encoders.0.self_attn`) stands for its three products; its
projections have names of their own. A skipped layer lowers the integer share, and the gate has a
floor for it: `gate.min_integer_share`."""

_NOTES = {
    "quantization": _PATTERNS,
    "training": "`asrcompress ptq` sets `epochs` to 0, whatever the file says. `gpu:N` was not run "
    "on a GPU by the authors.",
    "gate": "What the numbers mean: [concepts](concepts.md#the-gate).",
    "data": "Formats of manifests: [quick start](quickstart.md#manifests).",
}


def reference() -> str:
    """The whole page."""
    parts = [_INTRODUCTION, _section("", Recipe, _settings(""))]
    for table in dataclasses.fields(Recipe):
        kind = typing.get_type_hints(Recipe)[table.name]
        if dataclasses.is_dataclass(kind):
            parts.append(_section(table.name, typing.cast(type, kind), _settings(table.name)))
    parts.append(
        "## The file with every default\n\n"
        "What `asrcompress init` writes, here without a checkpoint. A line that starts with `#` "
        f"shows the default.\n\n```toml\n{format_toml(Recipe())}```\n"
    )
    return "\n".join(parts)


def _settings(table: str) -> list[dataclasses.Field[Any]]:
    return [field for (owner, _), field in settings_of(Recipe).items() if owner == table]


def _section(table: str, kind: type, settings: list[dataclasses.Field[Any]]) -> str:
    """Heading, a line on the table, its settings, and a note where there is one."""
    hints = typing.get_type_hints(kind)
    title = f"## [{table}]" if table else "## Outside of the tables"
    summary = (kind.__doc__ or "").partition("\n")[0]
    lines = [title, "", *([summary, ""] if table else [])]
    lines += [
        "| setting | flag | type | default | allowed | meaning |",
        "|---|---|---|---|---|---|",
    ]
    for field in settings:
        cells = (
            f"`{field.name}`",
            f"`{flag(field)}`",
            _type(hints[field.name]),
            _default(field.default),
            _allowed(field),
            field.metadata["help"],
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if table in _NOTES:
        lines += ["", _NOTES[table]]
    return "\n".join(lines) + "\n"


def flag(field: dataclasses.Field[Any]) -> str:
    """The command-line flag of a setting, as ``asrcompress qat --help`` shows it."""
    name = (field.metadata["flag"] or field.name).replace("_", "-")
    return f"--{name}`, `--no-{name}" if isinstance(field.default, bool) else f"--{name}"


def _type(hint: Any) -> str:
    """A Python type as a word of TOML."""
    kinds = [item for item in typing.get_args(hint) or (hint,) if item is not type(None)]
    if typing.get_origin(hint) is tuple:
        return "list of strings" if kinds[0] is str else "list of numbers"
    names = {Path: "path", bool: "boolean", int: "integer", float: "number", str: "string"}
    return names[kinds[0]]


def _default(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{list(value)}`" if isinstance(value, tuple) else f"`{value}`"


def _allowed(field: dataclasses.Field[Any]) -> str:
    meta = field.metadata
    if meta["one_of"]:
        return ", ".join(f"`{value}`" for value in meta["one_of"])
    if meta["low"] is not None and meta["high"] is not None:
        return f"{meta['low']} to {meta['high']}"
    return f"from {meta['low']}" if meta["low"] is not None else ""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if outdated")
    wanted = reference()
    if parser.parse_args().check:
        if not OUTPUT.is_file() or OUTPUT.read_text(encoding="utf-8") != wanted:
            sys.exit(f"{OUTPUT.name} is not up to date: make docs")
        return
    OUTPUT.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()
