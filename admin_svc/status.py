"""How far each site is, and how large the tables are."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import psycopg
from footfall.admin.v1 import admin_pb2

from admin_svc.job_runs import ALL_SITES, last_runs
from admin_svc.site_gate import DONE
from common.tables import metadata
from common.timestamps import duration_micros, to_duration, to_timestamp

_MOST_DELTAS = 100_000

# A page of sites after a slug, or one site.
_SITES = f"""
SELECT s.site_id, s.slug, s.raw_from, s.hours_from, s.days_from, p.events, p.oldest,
       (SELECT count(*) FROM failed_events f WHERE f.site_id = s.site_id) AS failed,
       (SELECT count(*) FROM (SELECT FROM rollup_shards r WHERE r.site_id = s.site_id AND r.shard > 0
                              LIMIT {_MOST_DELTAS}) AS part) AS deltas,
       EXISTS (SELECT FROM rebuilds b WHERE b.site_id = s.site_id AND b.phase < {DONE}) AS rebuilding
FROM sites s CROSS JOIN LATERAL (
    SELECT coalesce(sum(last_ord - first_ord + 1), 0)::bigint AS events, min(received_at) AS oldest
    FROM pending_batches WHERE site_id = s.site_id
) AS p
WHERE s.slug > %(after)s AND (%(slug)s = '' OR s.slug = %(slug)s)
ORDER BY s.slug LIMIT %(rows)s
"""

# The suite's tables, as large as the catalogue and the statistics say: nothing is scanned.
_TABLES = """
SELECT c.relname, c.reltuples::bigint, pg_table_size(c.oid), pg_indexes_size(c.oid), pg_stat_get_dead_tuples(c.oid)
FROM pg_class c WHERE c.oid = ANY(ARRAY(SELECT to_regclass(name)::oid FROM unnest(%(names)s::text[]) AS name))
ORDER BY pg_total_relation_size(c.oid) DESC, c.relname
"""

Connection = psycopg.Connection[Any]


def site_rows(connection: Connection, slug: str, after: str, count: int) -> list[Any]:
    """The first `count` sites with slugs over `after`, or only the one of that `slug`."""
    return connection.execute(_SITES, {"slug": slug, "after": after, "rows": count}).fetchall()


def site_states(connection: Connection, rows: Sequence[Any], now: datetime) -> list[admin_pb2.SiteState]:
    """What is told of the sites."""
    runs = last_runs(connection, [row[0] for row in rows])
    states = []
    for site_id, slug, raw_from, hours_from, days_from, pending, oldest, failed, deltas, rebuilding in rows:
        state = admin_pb2.SiteState(
            site=slug,
            pending_events=pending,
            failed_events=failed,
            unfolded_deltas=deltas,
            rebuilding=rebuilding,
            jobs=runs[site_id],
        )
        if oldest is not None:
            state.oldest_pending_age.CopyFrom(to_duration(max(0, duration_micros(now - oldest))))
        for name, floor in (("raw_from", raw_from), ("hours_from", hours_from), ("days_from", days_from)):
            if floor is not None:
                getattr(state, name).CopyFrom(to_timestamp(floor))
        states.append(state)
    return states


def table_states(connection: Connection) -> list[admin_pb2.TableState]:
    """The suite's tables, the largest first."""
    return [
        admin_pb2.TableState(
            name=name, estimated_rows=rows, table_bytes=table_bytes, index_bytes=index_bytes, dead_rows=dead
        )
        for name, rows, table_bytes, index_bytes, dead in connection.execute(
            _TABLES, {"names": sorted(metadata.tables)}
        )
    ]


def common_runs(connection: Connection) -> list[admin_pb2.JobRun]:
    """The last runs of the jobs that are not of one site."""
    return last_runs(connection, [ALL_SITES])[ALL_SITES]
