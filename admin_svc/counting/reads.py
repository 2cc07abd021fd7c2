"""The reads of aggregation. A generator yields them, so that those of several sites can be sent together.

A generator of type Reads yields one read at a time and is sent its result. It writes nothing. For one site each read
is a round trip to the server. For several sites the next read of each is sent in one pipeline, so that a hundred sites
with an event each wait for a few answers instead of hundreds.
"""

from collections.abc import Generator, Mapping
from typing import Any, NamedTuple, TypeVar

import psycopg

from admin_svc.counting.visitor_numbers import VisitorNumbers

Result = TypeVar("Result")


class Statement(NamedTuple):
    """A statement to execute. The result is the list of its rows."""

    sql: str
    parameters: dict[str, Any]


class NewNumbers(NamedTuple):
    """A request for numbers of new visitors. The result is the list of the numbers."""

    wanted: int


Read = Statement | NewNumbers
Reads = Generator[Read, list[Any], Result]
Connection = psycopg.Connection[Any]


def read_one(connection: Connection, numbers: VisitorNumbers, site_id: int, reads: Reads[Result]) -> Result:
    """Does the reads of one site, one after the other. Returns the generator's result."""
    with connection.cursor(binary=True) as cursor:
        try:
            read = next(reads)
            while True:
                if isinstance(read, NewNumbers):
                    read = reads.send(numbers.take({site_id: read.wanted})[site_id])
                else:
                    read = reads.send(cursor.execute(read.sql, read.parameters).fetchall())
        except StopIteration as stop:
            result: Result = stop.value
            return result


def read_several(
    connection: Connection, numbers: VisitorNumbers, reads: Mapping[int, Reads[Result]]
) -> dict[int, Result]:
    """Does the reads of several sites (by number) side by side. Returns the results by site.

    Raises the error of the first read or generator that fails.
    """
    done: dict[int, Result] = {}
    asked: dict[int, Read] = {}

    def go_on(site_id: int, answer: list[Any] | None) -> None:
        try:
            # The first call must send None.
            asked[site_id] = reads[site_id].send(answer)  # type: ignore[arg-type]
        except StopIteration as stop:
            asked.pop(site_id, None)
            done[site_id] = stop.value

    for site_id in reads:
        go_on(site_id, None)
    while asked:
        statements = {site_id: read for site_id, read in asked.items() if isinstance(read, Statement)}
        wanted = {site_id: read.wanted for site_id, read in asked.items() if isinstance(read, NewNumbers)}
        answers: dict[int, list[Any]] = {**rows_of(connection, statements), **(numbers.take(wanted) if wanted else {})}
        for site_id, answer in answers.items():
            go_on(site_id, answer)
    return done


def rows_of(connection: Connection, statements: Mapping[int, Statement]) -> dict[int, list[Any]]:
    """Sends a statement of each site in one pipeline. Returns their rows by site."""
    if not statements:
        return {}
    with connection.pipeline():
        cursors = {
            site_id: connection.cursor(binary=True).execute(statement.sql, statement.parameters)
            for site_id, statement in statements.items()
        }
    return {site_id: cursor.fetchall() for site_id, cursor in cursors.items()}
