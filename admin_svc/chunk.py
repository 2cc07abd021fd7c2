"""A chunk: one bounded unit of maintenance work, done in one transaction. Every job works in chunks.

RPCs and the schedule call the same functions. Each takes a psycopg connection in autocommit, a site, the time and a
limit of rows, and returns a Chunk. A function that can go on where a chunk has stopped also takes a position.
"""

from typing import Any, Generic, NamedTuple, TypeVar

Counts = TypeVar("Counts", bound=tuple[int, ...], covariant=True)

Position = tuple[Any, ...]
"""Where the next chunk goes on: integers, texts and times. Only the function that returned it interprets it."""


class Chunk(NamedTuple, Generic[Counts]):
    """The result of one chunk."""

    done: Counts
    """Numbers of rows, by what was done with them: a NamedTuple of the job."""
    has_more: bool
    """Whether another chunk may find work now."""
    position: Position = ()
    """Where that chunk goes on; () = at the beginning, or where there is work."""
