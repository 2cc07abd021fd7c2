"""Makes the compacted rollup rows of a dataset, one dimension after the other. numpy counts, the product encodes."""

from array import array
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import psycopg
from numpy.typing import NDArray

from bench.aggregated_dataset import KEY_TYPES
from bench.dataset import open_dataset
from common.dimensions import BY_NUMBER, ENTRY_PAGE, EXIT_PAGE, OVERVIEW, is_counted
from common.intervals import RollupInterval
from common.visitor_sets import encode_counts, encode_set

BY_COST = (2, ENTRY_PAGE.number, EXIT_PAGE.number, 3, *sorted({OVERVIEW.number, *BY_NUMBER} - {2, 3, 11, 12}))
"""The numbers of all dimensions, those with most rows first, so that two workers end at about the same time."""

_EVENT_FACTS = "SELECT hour, key_{0} AS key, visitor_no, pageview FROM event_facts WHERE key_{0} >= 0"
_SESSION_FACTS = """
SELECT hour, key_{0} AS key, visitor_no, events, pageviews, bounce, duration_us, new_visitor
FROM session_facts WHERE key_{0} >= 0
"""

_COPY = """
COPY rollup_shards (site_id, interval, dimension, delta_no, bucket_start, key, events, pageviews, sessions, bounces,
                    duration_us, new_visitors, visitors) FROM STDIN
"""
_ROWS_A_WRITE = 5_000
_VISITOR_BITS = 32

Numbers = NDArray[np.int64]


class Facts(NamedTuple):
    """The columns of event_facts or session_facts of one dimension, by name. All have the same length."""

    columns: dict[str, Numbers]

    def __getattr__(self, name: str) -> Numbers:
        return self.columns[name]


def copy_dimension(file: Path, database_url: str, site_id: int, dimension: int) -> None:
    """Makes and stores all hour and day rows of one dimension."""
    with open_dataset(file, threads=1) as source:
        events = None if is_counted(dimension) else _facts(source, _EVENT_FACTS.format(dimension))
        sessions = _facts(source, _SESSION_FACTS.format(dimension))
        row = source.execute(f"SELECT enum_range(NULL::{KEY_TYPES[dimension]})").fetchone()
    keys = [_copy_text(key) for key in row[0]] if row else []
    with (
        psycopg.connect(database_url, options="-c timezone=UTC -c synchronous_commit=off") as connection,
        connection.cursor() as cursor,
        cursor.copy(_COPY) as copy,
    ):
        for interval, hours in ((RollupInterval.HOUR, 1), (RollupInterval.DAY, 24)):
            head = f"{site_id}\t{interval}\t{dimension}\t0\t"
            rows = (head + row for row in _rows(events, sessions, keys, hours))
            while lines := "".join(islice(rows, _ROWS_A_WRITE)):
                copy.write(lines)


def _rows(events: Facts | None, sessions: Facts, keys: list[str], hours: int) -> Iterator[str]:
    """The row of each bucket and key, from `bucket_start` on, in the format of COPY. A bucket is `hours` long."""
    members = sessions if events is None else events
    if not len(members.hour):
        return
    first = int(members.hour.min()) // hours
    places = (int(members.hour.max()) // hours - first + 1) * len(keys)

    def place_of(facts: Facts) -> Numbers:
        return (facts.hour // hours - first) * len(keys) + facts.key

    def total(at: Numbers, values: Numbers) -> Numbers:
        # bincount adds floats. The sums are exact, because none of them is near 2^53.
        return np.bincount(at, weights=values, minlength=places).astype(np.int64)

    at, started = place_of(members), place_of(sessions)
    counters = [
        np.bincount(at, minlength=places) if events else total(at, sessions.events),
        total(at, events.pageview if events else sessions.pageviews),
        np.bincount(started, minlength=places),
        total(started, sessions.bounce),
        total(started, sessions.duration_us),
        total(started, sessions.new_visitor),
    ]
    encoded = _encoded_sets if events else _encoded_counts
    starts: dict[int, str] = {}
    for place, visitors in encoded(at, members.visitor_no):
        bucket, key = divmod(place, len(keys))
        if bucket not in starts:
            starts[bucket] = datetime.fromtimestamp((first + bucket) * hours * 3600, UTC).isoformat()
        sums = "\t".join([str(counter[place]) for counter in counters])
        yield f"{starts[bucket]}\t{keys[key]}\t{sums}\t\\\\x{visitors.hex()}\n"


def _encoded_sets(at: Numbers, visitors: Numbers) -> Iterator[tuple[int, bytes]]:
    codes = np.unique(at << _VISITOR_BITS | visitors)
    numbers = array("I", (codes & (1 << _VISITOR_BITS) - 1).astype(np.uint32).tobytes())
    for place, begin, end in _groups(codes):
        yield place, encode_set(numbers[begin:end])


def _encoded_counts(at: Numbers, visitors: Numbers) -> Iterator[tuple[int, bytes]]:
    codes, counts = np.unique(at << _VISITOR_BITS | visitors, return_counts=True)
    numbers, times = (codes & (1 << _VISITOR_BITS) - 1).tolist(), counts.tolist()
    for place, begin, end in _groups(codes):
        yield place, encode_counts(dict(zip(numbers[begin:end], times[begin:end], strict=True)))


def _groups(codes: Numbers) -> Iterator[tuple[int, int, int]]:
    """Place, begin and end of each run of codes with one place. `codes` must be sorted."""
    places, begins = np.unique(codes >> _VISITOR_BITS, return_index=True)
    ends = [*begins[1:].tolist(), len(codes)]
    return zip(places.tolist(), begins.tolist(), ends, strict=True)


def _facts(source: duckdb.DuckDBPyConnection, query: str) -> Facts:
    return Facts({name: np.asarray(values, np.int64) for name, values in source.execute(query).fetchnumpy().items()})


def _copy_text(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
