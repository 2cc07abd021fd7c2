"""Maintenance from a terminal: calls chunk after chunk until there is no more, and can be stopped any time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_PAUSE_SECONDS = 0.2
"""Between pages that found nothing they could do: others are at it, or an event waits for its next attempt."""

Ask = Callable[[str], Any]
"""One page after the given page token; its answer has has_more, and next_page_token where the RPC has one."""


class Bar:
    """A progress bar: `advance` by what a page did, with a total once it is known."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._done = 0

    def advance(self, count: int, remaining: int | None = None) -> None:
        """`count` more are done; `remaining` of them are left, if that is known."""
        self._done += count
        total = None if remaining is None else self._done + remaining
        self._progress.update(self._task, completed=self._done, total=total)


@contextmanager
def progress_bar(what: str, console: Console) -> Iterator[Bar]:
    """A bar that is shown while the block runs. Raises typer.Exit(130) on Ctrl-C, once it has said what that means."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console) as progress:
            yield Bar(progress, progress.add_task(what, total=None))
    except KeyboardInterrupt:
        typer.echo("Stopped. What was done stays done; run it again to go on.", err=True)
        raise typer.Exit(130) from None


def each_page(ask: Ask, worked: Callable[[Any], object], max_pages: int = 0) -> Iterator[Any]:
    """The answers of page after page, until one has no more or `max_pages` (0 = any number) were done.

    `worked` tells whether a page did anything; after one that did not there is a pause.
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
