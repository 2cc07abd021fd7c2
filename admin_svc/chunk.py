"""A chunk: one bounded unit of maintenance work, done in one transaction. Every job does its work in chunks.

RPCs and the schedule call the same functions. Each takes a psycopg connection in autocommit, a site, the time and
a limit of rows, and returns a Chunk; one that goes on where another has stopped also takes a position.
"""

from typing import Any, Generic, NamedTuple, TypeVar

Counts = TypeVar("Counts", bound=tuple[int, ...], covariant=True)

Position = tuple[Any, ...]
"""Where the next chunk goes on: integers, texts and times, which only the function that returned it reads."""


class Chunk(NamedTuple, Generic[Counts]):
    """What one call did."""

    done: Counts
    """Rows, by what was done with them; a NamedTuple of the job's own."""
    has_more: bool
    """Whether another chunk may find work now."""
    position: Position = ()
    """Where that chunk goes on; () = at the beginning, or wherever there is work."""
