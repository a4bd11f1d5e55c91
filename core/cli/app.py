"""The command line: one verb per stage of the user's journey.

Exit codes: 0 ok, 1 a bug, 2 wrong usage, 3 an error of the user's input or environment, 4 a gate
failed, 130 interrupted by Ctrl-C. Results go to stdout, everything else to stderr; ``--json``
prints one object.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Any

import typer
import typer.core

from asrcompress.cli import analyse as cli_analyse
from asrcompress.cli import compress as cli_compress
from asrcompress.cli import prepare as cli_prepare
from asrcompress.cli import search as cli_search
from asrcompress.cli import ship as cli_ship
from asrcompress.errors import AsrCompressError, MissingExtra
from asrcompress.files import refused


class _Commands(typer.core.TyperGroup):
    """Turns our errors into their exit code; anything else is a bug and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except AsrCompressError as error:
            code = self._report(error)
            if isinstance(error, MissingExtra):
                _name_suspects()
            raise code from error
        except ImportError as error:
            if (error.name or "").partition(".")[0] == "asrcompress":  # a bug
                raise
            typer.echo(f"error: {error}", err=True)
            _name_suspects()
            raise typer.Exit(AsrCompressError.exit_code) from error
        except OSError as error:
            if error.filename is None:  # a closed pipe, or a bug
                raise
            raise self._report(refused(error, str(error.filename), "used")) from error

    @staticmethod
    def _report(error: AsrCompressError) -> typer.Exit:
        typer.echo(f"error: {error}", err=True)
        if error.hint:
            typer.echo(f"hint: {error.hint}", err=True)
        return typer.Exit(error.exit_code)


def _name_suspects() -> None:
    """What the doctor has against this environment, after an import failed."""
    from asrcompress.doctor import diagnosis as doctor

    for line in doctor.lines(doctor.suspects()):
        typer.echo(line, err=True)
    typer.echo("hint: asrcompress doctor looks at everything", err=True)


app = typer.Typer(
    cls=_Commands,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compress a trained PaddleSpeech model to INT8, prove its accuracy, and ship it.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"asrcompress {version('asrcompress')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="print the version"),
    ] = False,
) -> None:
    pass


# Each module's commands appear as this program's own, in this order.
for _commands in (cli_prepare.app, cli_compress.app, cli_analyse.app, cli_search.app, cli_ship.app):
    app.registered_commands += _commands.registered_commands


def main() -> None:
    """Entry point of the ``asrcompress`` script."""
    app()
