"""Counters and distinct visitors of buckets, read in one snapshot."""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from operator import add
from typing import Any, NamedTuple

import psycopg
from pyroaring import BitMap

from common.calls.stopping import check_stop
from common.dimensions import OVERVIEW, Dimension, EventDimension
from common.visitor_sets import HEAD_BYTES, cardinality_of, positive_of_counts, union_of_sets
from query_svc import report_sql
from query_svc.range_plan import Piece, RangePlan

Connection = psycopg.Connection[Any]


class Counters(NamedTuple):
    """Sums over a bucket or a key."""

    events: int
    pageviews: int
    sessions: int
    bounces: int
    duration_us: int
    new_visitors: int


NOTHING = Counters(0, 0, 0, 0, 0, 0)


def measure_buckets(connection: Connection, site_id: int, plan: RangePlan) -> dict[int, tuple[Counters, int]]:
    """Counters and distinct visitors of each bucket of the plan that is not empty, by its number."""
    sums: defaultdict[int, list[int]] = defaultdict(lambda: [0] * len(NOTHING))
    rows: Counter[int] = Counter()
    heads: dict[int, bytes | None] = {}
    if plan.days or plan.hours:
        bucket_at = _finder(plan)
        for _, at, head, *counters in _binary(connection, _counters, site_id, plan):
            bucket = bucket_at(at)
            rows[bucket] += 1
            heads[bucket] = head
            sums[bucket] = [*map(add, sums[bucket], counters)]
    edges = {piece.bucket for piece in plan.edges}
    if edges:
        parameters = report_sql.parameters(site_id, OVERVIEW, plan)
        for bucket, *counters in connection.execute(report_sql.edge_counters(OVERVIEW), parameters):
            sums[bucket] = [*map(add, sums[bucket], counters)]
    # A bucket of one row has as many visitors as the set of that row. The sets of other buckets must be united.
    alone = {bucket for bucket, count in rows.items() if count == 1} - edges
    visitors = _cardinalities({bucket: heads[bucket] for bucket in alone})
    visitors |= _bucket_visitors(connection, site_id, _only(plan, sums.keys() - visitors.keys()))
    return {bucket: (Counters(*counters), visitors.get(bucket, 0)) for bucket, counters in sums.items()}


def _cardinalities(heads: Mapping[int, bytes | None]) -> dict[int, int]:
    """Distinct visitors of buckets of one row each, from the heads of their sets. A bucket is left out if the head does
    not tell the size of its set."""
    found = {bucket: cardinality_of(head) if head else 0 for bucket, head in heads.items()}
    return {bucket: count for bucket, count in found.items() if count is not None}


def _bucket_visitors(connection: Connection, site_id: int, plan: RangePlan) -> dict[int, int]:
    """Distinct visitors of the buckets of the plan."""
    sets: defaultdict[int, list[bytes]] = defaultdict(list)
    loose: defaultdict[int, list[int]] = defaultdict(list)
    if plan.days or plan.hours:
        bucket_at = _finder(plan)
        for _, at, visitors in _binary(connection, _sets, site_id, plan):
            sets[bucket_at(at)].append(visitors)
    if plan.edges:
        parameters = report_sql.parameters(site_id, OVERVIEW, plan)
        for bucket, _, visitor in connection.execute(report_sql.edge_visitors(OVERVIEW, some_keys=False), parameters):
            loose[bucket].append(visitor)
    return {
        bucket: count_visitors(OVERVIEW, sets.get(bucket, ()), loose.get(bucket, ()))
        for bucket in sets.keys() | loose.keys()
    }


def _counters(plan: RangePlan) -> str:
    return report_sql.rollup_counters(plan, head=HEAD_BYTES)


def _sets(plan: RangePlan) -> str:
    return report_sql.visitor_rows(plan)


def _binary(
    connection: Connection, statement: Callable[[RangePlan], str], site_id: int, plan: RangePlan
) -> Iterator[Any]:
    """The rows of a statement over the plan's rollups. Adjacent pieces are read as one, so a row's n need not be the
    number of its bucket."""
    joined = RangePlan(_joined(plan.days), _joined(plan.hours), [])
    with connection.cursor(binary=True) as cursor:
        yield from cursor.execute(statement(joined), report_sql.parameters(site_id, OVERVIEW, joined))


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    found: list[Piece] = []
    for piece in pieces:
        if found and found[-1].end == piece.start:
            found[-1] = found[-1]._replace(end=piece.end)
        else:
            found.append(piece)
    return found


def _finder(plan: RangePlan) -> Callable[[datetime], int]:
    """A function that finds the bucket of a rollup row by the start of the row's interval."""
    pieces = sorted([*plan.days, *plan.hours], key=lambda piece: piece.start)
    starts = [piece.start for piece in pieces]
    return lambda at: pieces[bisect_right(starts, at) - 1].bucket


def _only(plan: RangePlan, buckets: Collection[int]) -> RangePlan:
    return RangePlan(*([piece for piece in pieces if piece.bucket in buckets] for pieces in plan))


def count_visitors(dimension: Dimension, rows: Collection[bytes], loose: Sequence[int]) -> int:
    """How many distinct visitors are in rollup rows or among single visitor numbers."""
    check_stop()
    if not rows:
        return len(set(loose))
    united = union_of_sets(rows) if isinstance(dimension, EventDimension) else positive_of_counts(rows)
    return len(united | BitMap(loose)) if loose else len(united)
