"""Reads the events of a chunk, a few batches at a time, until all are read or their texts reach a bound."""

from collections.abc import Iterator, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from admin_svc.counting.queue import PendingBatch
from admin_svc.counting.reads import Reads, Statement
from admin_svc.counting.sessionize import Event

MOST_TEXT = 50_000_000
"""About how many characters of text a chunk reads at most. A whole chunk of events of common length has a fifth of
that. A whole chunk of events with the longest paths allowed would take a gigabyte of memory."""

_EVENTS_A_READ = 5_000
_SAMPLED = 16
"""The text of one event in 16 is measured."""

# The SQL of fields of Event that are not simply columns of `events`.
_EXPRESSIONS = {
    "event_id": "e.event_id::text",
    "session_id": "coalesce(e.session_id, '')",
    "traits": "CASE WHEN e.type = 3 THEN e.properties END",
}

# The events of the claimed parts of batches.
_READ = f"""
SELECT {", ".join(_EXPRESSIONS.get(field, f"e.{field}") for field in Event._fields)}
FROM unnest(%(batch_ids)s::bigint[], %(firsts)s::int[], %(lasts)s::int[]) AS p (batch_id, first_ord, last_ord)
JOIN events e ON e.site_id = %(site_id)s AND e.batch_id = p.batch_id AND e.ord BETWEEN p.first_ord AND p.last_ord
"""

_BY_TIME = attrgetter("occurred_at", "event_id", "session_id")


def read_events(site_id: int, claimed: Sequence[PendingBatch]) -> Reads[tuple[list[Event], int]]:
    """The events of the first claimed batches, sorted by time, event id and session id, and how many batches these are.

    These are all claimed batches, unless the texts of the events are long.
    """
    rows: list[tuple[Any, ...]] = []
    taken = text = 0
    for part in _parts(claimed):
        read = yield Statement(
            _READ,
            {
                "site_id": site_id,
                "batch_ids": [batch.batch_id for batch in part],
                "firsts": [batch.first_ord for batch in part],
                "lasts": [batch.last_ord for batch in part],
            },
        )
        rows += read
        taken += len(part)
        text += _SAMPLED * sum(map(_text, read[::_SAMPLED]))
        if text >= MOST_TEXT:
            break
    # The same as Event._make, without a Python call for each event.
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
