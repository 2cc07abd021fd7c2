"""The backlogs and floors of sites, and the sizes of tables, for GetStatus."""

from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import class_row

from common.rebuild_phase import under_way
from common.tables import metadata

_MOST_DELTAS = 100_000

# A page of sites after a slug, or one site. At most 100,000 deltas are counted.
_SITES = f"""
SELECT s.site_id, s.slug, s.raw_from, s.hours_from, s.days_from, p.events AS pending, p.oldest,
       (SELECT count(*) FROM failed_events f WHERE f.site_id = s.site_id) AS dead_letters,
       (SELECT count(*) FROM (SELECT FROM rollup_shards r WHERE r.site_id = s.site_id AND r.delta_no > 0
                              LIMIT {_MOST_DELTAS}) AS bounded) AS deltas,
       EXISTS (SELECT FROM rebuilds b WHERE b.site_id = s.site_id AND {under_way("b")}) AS rebuilding
FROM sites s CROSS JOIN LATERAL (
    SELECT coalesce(sum(last_ord - first_ord + 1), 0)::bigint AS events, min(received_at) AS oldest
    FROM pending_batches WHERE site_id = s.site_id
) AS p
WHERE s.slug > %(after)s AND (%(slug)s = '' OR s.slug = %(slug)s)
ORDER BY s.slug LIMIT %(rows)s
"""

# The sizes of Footfall's tables, from the catalog and the statistics. No table is scanned.
_TABLES = """
SELECT c.relname, c.reltuples::bigint, pg_table_size(c.oid), pg_indexes_size(c.oid), pg_stat_get_dead_tuples(c.oid)
FROM pg_class c WHERE c.oid = ANY(ARRAY(SELECT to_regclass(name)::oid FROM unnest(%(names)s::text[]) AS name))
ORDER BY pg_total_relation_size(c.oid) DESC, c.relname
"""

Connection = psycopg.Connection[Any]


class SiteState(NamedTuple):
    """The backlog and the floors of a site."""

    site_id: int
    slug: str
    raw_from: datetime | None
    hours_from: datetime | None
    days_from: datetime | None
    pending: int
    """How many events are pending."""
    oldest: datetime | None
    """When the oldest pending event was received; None = none is pending."""
    dead_letters: int
    deltas: int
    """How many deltas are not yet compacted; 100,000 if there are more."""
    rebuilding: bool


class TableState(NamedTuple):
    """The size of a table, in bytes and estimated rows."""

    name: str
    estimated_rows: int
    table_bytes: int
    index_bytes: int
    dead_rows: int


def site_states(connection: Connection, slug: str, after: str, count: int) -> list[SiteState]:
    """The first `count` sites with slugs after `after`, by slug. If `slug` is not "", only the site with that slug."""
    with connection.cursor(row_factory=class_row(SiteState)) as cursor:
        return cursor.execute(_SITES, {"slug": slug, "after": after, "rows": count}).fetchall()


def table_states(connection: Connection) -> list[TableState]:
    """Footfall's tables, the largest first."""
    rows = connection.execute(_TABLES, {"names": sorted(metadata.tables)})
    return [TableState._make(row) for row in rows]
