"""What a person sees while a command works: progress and messages, all on stderr.

Results go to stdout and are the command's own business, so that ``--json`` and pipes stay clean.
rich leaves out colours and bars by itself where stderr is not a terminal, and honours NO_COLOR.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import rich.console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_LONGEST_TITLE = 28  # of 80 columns: the rest is for counts and times
Advance = Callable[[int, int], None]
"""Called with what is done and the total."""


class Console:
    """Progress on stderr.

    Args:
        quiet: say nothing but warnings.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._rich = rich.console.Console(stderr=True, highlight=False)

    def say(self, message: str) -> None:
        """One line of news."""
        if not self.quiet:
            self._rich.print(message, markup=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        """One line that must not be missed."""
        self._rich.print(f"warning: {message}", style="yellow", markup=False, soft_wrap=True)

    @contextmanager
    def progress(self, title: str) -> Iterator[Advance]:
        """A bar for a loop; the body calls what it is given with (done, total)."""
        if self.quiet or not self._rich.is_terminal:
            self.say(title)
            yield lambda done, total: None
            return
        columns = (
            TextColumn("{task.description:<16}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._rich, transient=True) as bars:
            shown = title if len(title) <= _LONGEST_TITLE else f"{title[: _LONGEST_TITLE - 1]}…"
            task = bars.add_task(shown, total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)

    def status(self, title: str) -> AbstractContextManager[object]:
        """A spinner for work without a known length."""
        if self.quiet or not self._rich.is_terminal:
            self.say(title)
            return _nothing()
        return self._rich.status(title)


@contextmanager
def _nothing() -> Iterator[None]:
    yield
