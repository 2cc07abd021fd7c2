"""Maintenance from a terminal: calls an RPC chunk after chunk until there is no more. It can be stopped at any time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_PAUSE_SECONDS = 0.2
"""The pause after a chunk that could do nothing: other workers are at work, or an event waits for its next attempt."""

Ask = Callable[[str], Any]
"""Does the chunk after a page token. Its response has has_more, and next_page_token if the RPC has one."""


class Bar:
    """A progress bar with a total, once that is known. It advances by the rows of each chunk."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._done = 0

    def advance(self, count: int, remaining: int | None = None) -> None:
        """`count` more rows are done, and `remaining` are left, if that is known."""
        self._done += count
        total = None if remaining is None else self._done + remaining
        self._progress.update(self._task, completed=self._done, total=total)


@contextmanager
def progress_bar(what: str, console: Console) -> Iterator[Bar]:
    """A bar that is shown while the block runs. On Ctrl-C prints what that means and raises typer.Exit(130)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console) as progress:
            yield Bar(progress, progress.add_task(what, total=None))
    except KeyboardInterrupt:
        typer.echo("Stopped. What was done stays done; run it again to go on.", err=True)
        raise typer.Exit(130) from None


def each_page(ask: Ask, worked: Callable[[Any], object], max_pages: int = 0) -> Iterator[Any]:
    """The responses of chunk after chunk, until there is no more or `max_pages` chunks (0 = any number) are done.

    `worked` tells whether a chunk did anything. After one that did not there is a pause.
    """
    token, pages = "", 0
    while True:
        page = ask(token)
        pages += 1
        yield page
        if not page.has_more or pages == max_pages:
            return
        token = getattr(page, "next_page_token", "")
        if not worked(page):
            time.sleep(_PAUSE_SECONDS)
