"""The events of a page of aggregation, read a few batches at a time until there are enough of them or of their text."""

from collections.abc import Iterator, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import psycopg

from admin_svc.pending import PendingBatch
from admin_svc.sessionize import Event

MOST_TEXT = 50_000_000
"""Characters, about. Events of common length have a fifth of that in a whole page; those of a sender with the longest
paths allowed would take a gigabyte, and again after each restart."""

_EVENTS_A_READ = 5_000
_SAMPLED = 16
"""One event in so many is measured."""

# The events of the claimed parts of batches.
_READ = """
SELECT e.occurred_at, e.event_id::text, e.type, e.visitor_id, coalesce(e.session_id, ''), e.user_id, e.name, e.path,
       e.referrer, e.device, e.browser, e.os, e.country, e.utm_source, e.utm_medium, e.utm_campaign, e.source,
       CASE WHEN e.type = 3 THEN e.properties END
FROM unnest(%(batch_ids)s::bigint[], %(firsts)s::int[], %(lasts)s::int[]) AS p (batch_id, first_ord, last_ord)
JOIN events e ON e.site_id = %(site_id)s AND e.batch_id = p.batch_id AND e.ord BETWEEN p.first_ord AND p.last_ord
"""

_BY_TIME = attrgetter("occurred_at", "event_id", "session_id")


def read_events(
    connection: psycopg.Connection[Any], site_id: int, claimed: Sequence[PendingBatch]
) -> tuple[list[Event], int]:
    """The events of the first claimed batches by time, event id and session id, and how many batches these are: all
    of them, unless their texts are long."""
    rows: list[tuple[Any, ...]] = []
    taken = text = 0
    with connection.cursor(binary=True) as cursor:
        for part in _parts(claimed):
            cursor.execute(
                _READ,
                {
                    "site_id": site_id,
                    "batch_ids": [batch.batch_id for batch in part],
                    "firsts": [batch.first_ord for batch in part],
                    "lasts": [batch.last_ord for batch in part],
                },
            )
            read = cursor.fetchall()
            rows += read
            taken += len(part)
            text += _SAMPLED * sum(map(_text, read[::_SAMPLED]))
            if text >= MOST_TEXT:
                break
    # As Event._make, without a call of Python for each.
    return sorted(map(partial(tuple.__new__, Event), rows), key=_BY_TIME), taken


def _parts(claimed: Sequence[PendingBatch]) -> Iterator[list[PendingBatch]]:
    part: list[PendingBatch] = []
    events = 0
    for batch in claimed:
        part.append(batch)
        events += batch.events
        if events >= _EVENTS_A_READ:
            yield part
            part, events = [], 0
    if part:
        yield part


def _text(row: tuple[Any, ...]) -> int:
    *values, traits = row
    return sum([len(value) for value in values if type(value) is str]) + (len(str(traits)) if traits else 0)
